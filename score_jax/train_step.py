"""One training step: inner maximization, weight perturbation, outer minimization, update."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_jax import averaging, weight_perturbation
from score_jax.data import cutmix
from score_jax.mesh import Layout
from score_jax.metrics import Mean, correct
from score_jax.minimax import Batch, maximize, minimized
from score_jax.models import NormalizeBy
from score_jax.objectives import Views
from score_jax.recipe import PASSES, Recipe
from score_jax.train_state import TrainState
from score_jax.types import Array, Key, Params


def prepare(
    recipe: Recipe, batch: dict[str, Array], augment_key: Key, cutmix_key: Key, step: Array
) -> Batch:
    """Augments the loaded images and makes their targets.

    Args:
      batch: as in `train_step`.
      augment_key, cutmix_key: of this step.
      step: i32[], of training.
    """
    images, labels, generated = batch["images"], batch["labels"], batch.get("generated")
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    if recipe.augmented_views > 1:
        images, labels = (jnp.concatenate([x] * recipe.augmented_views) for x in (images, labels))
        generated = None if generated is None else jnp.tile(generated, recipe.augmented_views)
    images = recipe.augment(augment_key, images)
    targets = recipe.target_probs(labels, generated)
    if recipe.cutmix:
        images, own, other, weight = cutmix.cutmix(cutmix_key, images, targets, recipe.cutmix)
        targets = weight[:, None] * own + (1 - weight[:, None]) * other
        labels = jnp.tile(labels, recipe.cutmix)
    targets = targets.astype(images.dtype)
    return Batch(images=images, labels=labels, target_probs=targets, step=step)


def _measures(recipe: Recipe, loss: Array, gradients: Params, views: Views) -> dict[str, Mean]:
    values = {
        "train/loss": lambda: loss[None],
        "train/gradient_norm": lambda: optax.tree.norm(gradients)[None],
        "train/clean_accuracy": lambda: correct(views.clean_logits, views.labels),
        "train/adv_accuracy": lambda: correct(views.adv_logits, views.labels),
        "train/robust_steps": lambda: views.robust_steps.astype(jnp.float32),
    }
    return {name: Mean.of(values[name]()) for name in recipe.metric_names}


def train_step(
    recipe: Recipe, state: TrainState, batch: dict[str, Array], key: Key
) -> tuple[TrainState, dict[str, Mean]]:
    """One step; a pure function.

    Args:
      recipe: static.
      state: before the step.
      batch: 'images' u8[b, h, w, c] or f[b, h, w, c] in [0, 1], 'labels' i32[b]; 'generated'
        bool[b] where the recipe smooths only those; optionally 'start_noise' f[b, h, w, c], which
        replaces the attack's random draw.
      key: the run's; every draw folds in the step, so nothing random is in the state.

    Returns:
      The state after it, and the sums of metrics since the last multiple of log_every_steps.
    """
    augment_key, attack_key, cutmix_key, dropout_key = jax.random.split(
        jax.random.fold_in(key, state.step), 4
    )
    noise = batch.get("start_noise")
    prepared = prepare(recipe, batch, augment_key, cutmix_key, state.step)
    prepared, batch_stats = maximize(
        recipe, state.params, state.batch_stats, attack_key, prepared, noise
    )

    def loss_fn(params):
        return minimized(recipe, params, batch_stats, prepared, dropout_key)

    raised = _raised_weights(recipe, state, loss_fn)
    params = jax.tree.map(jnp.add, state.params, raised) if raised else state.params
    (loss, (batch_stats, views)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
    # At the perturbed weights too: momentum and weight decay see what the gradient saw.
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, params)
    params = optax.apply_updates(params, updates)
    if raised:
        params = jax.tree.map(jnp.subtract, params, raised)
    if "updated_clean" in recipe.update_order:
        update = prepared.updates + len(recipe.recorded)
        _, batch_stats = recipe.classifier.apply(
            params, batch_stats, prepared.images, normalize_by=NormalizeBy.BATCH,
            momentum=recipe.momentum(state.step, update),
            dropout_key=jax.random.fold_in(dropout_key, PASSES.index("updated_clean")),
        )  # fmt: skip
    step = state.step + 1
    decay = averaging.decay_at(step, recipe.ema_decay, recipe.ema_warmup_steps)

    fresh = state.step % recipe.log_every_steps == 0
    sums = {
        name: jax.tree.map(lambda old, new: jnp.where(fresh, new, old + new), state.sums[name], new)
        for name, new in _measures(recipe, loss, gradients, views).items()
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


def _raised_weights(recipe: Recipe, state: TrainState, loss_fn: Any) -> Params | None:
    """The weight perturbation of this step, 0 before its first epoch; None without one."""
    if not recipe.awp_gamma:
        return None

    gradients, _ = jax.grad(loss_fn, has_aux=True)(state.params)
    raised = weight_perturbation.perturbation(
        state.params, gradients, recipe.classifier.roles, recipe.awp_gamma
    )
    # Not a branch: inside one XLA leaves its fast convolutions on the CPU, which costs far more
    # over a run than these passes before the first epoch.
    begun = state.step // recipe.steps_per_epoch >= recipe.awp_start_epoch
    return jax.tree.map(lambda delta: jnp.where(begun, delta, 0), raised)


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
        prepared = prepare(recipe, batch, *jax.random.split(key), state.step)
        found, _ = maximize(recipe, state.params, state.batch_stats, key, prepared)
        return found.attacked

    return jax.jit(
        attack,
        in_shardings=(layout.replicated, layout.batch, layout.replicated),
        out_shardings=layout.batch,
    )
