"""One training step: inner maximization, outer minimization, update."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_jax import averaging, divergences
from score_jax.attacks import PGD
from score_jax.mesh import Layout
from score_jax.metrics import Mean, correct
from score_jax.models import Classifier, NormalizeBy
from score_jax.objectives import Objective, Views
from score_jax.train_state import TrainState
from score_jax.types import Array, BatchStats, Key, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a step depends on besides the state, the batch and the key.

    Attributes:
      classifier: computes the outer forwards.
      attack_classifier: the same network at the attack's precision.
      attack: None for natural training.
      attack_statistics: what BatchNorm normalises by inside the attack; nothing is recorded there.
      update_order: the outer forwards that record statistics, in this order; the others
        normalise by their batch and record nothing.
      first_step_momentum: BatchNorm momentum of the very first step, or None for the network's
        own (1.0: the "Haiku init" of the SCORE code, which leaves the last forward's moments).
      augment: (key, images f32[b, h, w, c]) -> images.
      log_every_steps: how many steps one line of metrics covers.
    """

    classifier: Classifier
    attack_classifier: Classifier
    objective: Objective
    attack: PGD | None
    attack_statistics: NormalizeBy = NormalizeBy.BATCH
    update_order: tuple[str, ...] = ("clean", "adversarial")
    first_step_momentum: float | None = None
    optimizer: optax.GradientTransformation
    num_classes: int
    augment: Callable[[Key, Array], Array]
    ema_decay: float
    ema_warmup_steps: float
    log_every_steps: int = 1


def maximize(
    recipe: Recipe,
    params: Params,
    batch_stats: BatchStats,
    key: Key,
    images: Array,
    labels: Array,
    noise: Array | None = None,
) -> Array:
    """The inner maximization: adversarial images f32[b, h, w, c], constants to differentiation.

    The weights are constants and no statistics are recorded.
    """

    def logits_fn(x):
        logits, _ = recipe.attack_classifier.apply(
            params, batch_stats, x, normalize_by=recipe.attack_statistics
        )
        return logits

    clean_logits = jax.lax.stop_gradient(logits_fn(images))

    def loss_fn(x):
        return recipe.objective.inner(logits_fn(x), clean_logits, labels)

    return recipe.attack(loss_fn, key, images, noise)


def minimized(
    recipe: Recipe,
    params: Params,
    batch_stats: BatchStats,
    images: Array,
    adv_images: Array | None,
    labels: Array,
    momentum: Array | None = None,
) -> tuple[Array, tuple[BatchStats, Views]]:
    """The outer loss f32[], the statistics it leaves, and the logits it saw."""
    objective = recipe.objective
    inputs = {"clean": images, "adversarial": adv_images}
    if objective.forwards == ("joint",):
        inputs["joint"] = jnp.concatenate([images, adv_images])
        recording = ("joint",)
    else:
        recording = tuple(name for name in recipe.update_order if name in objective.forwards)
    logits: dict[str, Array] = {}
    for name in recording + tuple(n for n in objective.forwards if n not in recording):
        logits[name], new_stats = recipe.classifier.apply(
            params, batch_stats, inputs[name], normalize_by=NormalizeBy.BATCH, momentum=momentum
        )
        if name in recording:
            batch_stats = new_stats
    if "joint" in logits:
        logits["clean"], logits["adversarial"] = jnp.split(logits["joint"], 2)
    views = Views(
        clean_logits=logits.get("clean"),
        adv_logits=logits.get("adversarial"),
        target_probs=divergences.target_probs(
            labels, recipe.num_classes, objective.label_smoothing, objective.smoothing
        ).astype(next(iter(logits.values())).dtype),
    )
    return objective.outer(views).mean(), (batch_stats, views)


def _measures(loss: Array, gradients: Params, views: Views, labels: Array) -> dict[str, Mean]:
    measures = {
        "train/loss": Mean.of(loss[None]),
        "train/gradient_norm": Mean.of(optax.tree.norm(gradients)[None]),
    }
    for name, logits in (
        ("train/clean_accuracy", views.clean_logits),
        ("train/adv_accuracy", views.adv_logits),
    ):
        if logits is not None:
            measures[name] = Mean.of(correct(logits, labels))
    return measures


def train_step(
    recipe: Recipe, state: TrainState, batch: dict[str, Array], key: Key
) -> tuple[TrainState, dict[str, Mean]]:
    """One step; a pure function.

    Args:
      recipe: static.
      state: before the step.
      batch: 'images' u8[b, h, w, c] or f[b, h, w, c] in [0, 1], 'labels' i32[b]; optionally
        'start_noise' f[b, h, w, c], which replaces the attack's random draw.
      key: the run's; every draw folds in the step, so nothing random is in the state.

    Returns:
      The state after it, and the sums of metrics since the last multiple of log_every_steps.
    """
    augment_key, attack_key = jax.random.split(jax.random.fold_in(key, state.step))
    images, labels = batch["images"], batch["labels"]
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    images = recipe.augment(augment_key, images)

    adv_images = None
    if recipe.attack is not None:
        adv_images = maximize(
            recipe, state.params, state.batch_stats, attack_key, images, labels,
            batch.get("start_noise"),
        )  # fmt: skip

    momentum = None
    if recipe.first_step_momentum is not None:
        momentum = jnp.where(
            state.step == 0, recipe.first_step_momentum, recipe.classifier.batchnorm_momentum
        )

    def loss_fn(params):
        return minimized(recipe, params, state.batch_stats, images, adv_images, labels, momentum)

    (loss, (batch_stats, views)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params
    )
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    decay = averaging.decay_at(step, recipe.ema_decay, recipe.ema_warmup_steps)

    fresh = state.step % recipe.log_every_steps == 0
    measures = _measures(loss, gradients, views, labels)
    sums = {
        name: jax.tree.map(lambda old, new: jnp.where(fresh, new, old + new), state.sums[name], new)
        for name, new in measures.items()
    }
    new_state = TrainState(
        step=step,
        params=params,
        batch_stats=batch_stats,
        ema_params=averaging.update(state.ema_params, params, decay),
        opt_state=opt_state,
        sums=sums,
    )
    return new_state, sums


def compile_step(recipe: Recipe, layout: Layout) -> Any:
    """The jitted step: the state donated and replicated, the batch split over the devices."""

    return jax.jit(
        functools.partial(train_step, recipe),
        in_shardings=(layout.replicated, layout.batch, layout.replicated),
        out_shardings=(layout.replicated, layout.replicated),
        donate_argnums=0,
    )


def compile_attack(recipe: Recipe, layout: Layout) -> Any:
    """The step's attack alone, to time its share of the step."""

    def attack(state, batch, key):
        images = batch["images"].astype(jnp.float32) / 255
        return maximize(recipe, state.params, state.batch_stats, key, images, batch["labels"])

    return jax.jit(
        attack,
        in_shardings=(layout.replicated, layout.batch, layout.replicated),
        out_shardings=layout.batch,
    )
