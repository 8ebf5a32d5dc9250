"""One training step: inner maximization, weight perturbation, outer minimization, update."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_jax import averaging, microbatches, train_state, weight_perturbation
from score_jax.data import cutmix
from score_jax.mesh import Layout
from score_jax.metrics import Health, Mean
from score_jax.microbatches import Descent
from score_jax.minimax import Batch
from score_jax.models import NormalizeBy
from score_jax.recipe import PASSES, Recipe
from score_jax.train_state import TrainState
from score_jax.types import Array, Key, Params


def run_keys(seed: int) -> tuple[Key, Key, Key]:
    """The keys of a run: of the first weights, of the training steps, of validation."""
    return tuple(jax.random.split(jax.random.key(seed), 3))


def step_keys(key: Key, step: Array) -> tuple[Key, Key, Key, Key]:
    """The keys of one training step: of augmentation, attack, CutMix and dropout."""
    return tuple(jax.random.split(jax.random.fold_in(key, step), 4))


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
    if recipe.augmented_views > 1:
        images, labels = (jnp.concatenate([x] * recipe.augmented_views) for x in (images, labels))
        generated = None if generated is None else jnp.tile(generated, recipe.augmented_views)
    images = recipe.augment(augment_key, images)
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    targets = recipe.target_probs(labels, generated)
    if recipe.cutmix:
        images, own, other, weight = cutmix.cutmix(
            cutmix_key, images, targets, recipe.cutmix, recipe.emulated_workers or 1
        )
        targets = weight[:, None] * own + (1 - weight[:, None]) * other
        labels = jnp.tile(labels, recipe.cutmix)
    targets = targets.astype(images.dtype)
    return Batch(images=images, labels=labels, target_probs=targets, step=step)


def _measures(recipe: Recipe, descent: Descent, robust_steps: Array | None) -> dict[str, Mean]:
    values = {
        "train/loss": lambda: descent.loss[None],
        "train/gradient_norm": lambda: optax.tree.norm(descent.gradients)[None],
        "train/clean_accuracy": lambda: descent.right["clean"],
        "train/adv_accuracy": lambda: descent.right["adversarial"],
        "train/robust_steps": lambda: robust_steps.astype(jnp.float32),
    }
    return {name: Mean.of(values[name]()) for name in recipe.metric_names}


def _health(
    recipe: Recipe, state: TrainState, batch: dict[str, Array], prepared: Batch, descent: Descent,
    new: Any,
) -> Health:  # fmt: skip
    """Of one step. Counts rather than conjunctions: XLA adds them up with the other sums."""

    def none(*wrong: Array):
        return sum((each.sum(dtype=jnp.float32) for each in wrong), jnp.float32(0)) == 0

    def finite(tree):
        return none(*(~jnp.isfinite(leaf) for leaf in jax.tree.leaves(tree)))

    def measurable(tree):
        # Weights of 1e30 are numbers still; what they break first is the next step's attack.
        return none(*(~jnp.isfinite(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))

    images, labels = batch["images"], batch["labels"]
    wrong = [(labels < 0) | (labels >= recipe.num_classes)]
    if images.dtype != jnp.uint8:
        wrong.append(~((images >= 0) & (images <= 1)))  # So that NaN is wrong too.
    return Health.of(
        state.step,
        data=none(*wrong),
        attack=finite(prepared.attacked),
        loss=finite(descent.loss),
        gradient=finite(descent.gradients),
        update=measurable(new),
    )


def train_step(
    recipe: Recipe,
    state: TrainState,
    batch: dict[str, Array],
    key: Key,
    layout: Layout | None = None,
) -> tuple[TrainState, dict[str, Mean | Health]]:
    """One step; a pure function.

    Args:
      recipe: static.
      state: before the step.
      batch: 'images' u8[b, h, w, c] or f[b, h, w, c] in [0, 1], 'labels' i32[b]; 'generated'
        bool[b] where the recipe smooths only those; optionally 'start_noise' f[b, h, w, c], which
        replaces the attack's random draw.
      key: the run's; every draw folds in the step, so nothing random is in the state.
      layout: the devices; None where one has all. With a sharded state the weights are gathered
        once, before the attack.

    Returns:
      The state after it, and the sums of metrics since the last multiple of log_every_steps.
    """
    whole, sharded = (layout.whole, layout.sharded) if layout else (_as_it_is, _as_it_is)
    augment_key, attack_key, cutmix_key, dropout_key = step_keys(key, state.step)
    noise = batch.get("start_noise")
    prepared = prepare(recipe, batch, augment_key, cutmix_key, state.step)
    weights = whole(state.params)
    prepared, batch_stats = microbatches.maximize(
        recipe, weights, state.batch_stats, attack_key, prepared, noise, layout
    )

    def descend(weights):
        return microbatches.minimize(recipe, weights, batch_stats, prepared, dropout_key)

    params, raised = state.params, _raised_weights(recipe, state.step, weights, descend)
    if raised:
        weights = jax.tree.map(jnp.add, weights, raised)
        params = sharded(weights)
    descent = descend(weights)
    descent = dataclasses.replace(descent, gradients=sharded(descent.gradients))
    # At the perturbed weights too: momentum and weight decay see what the gradient saw.
    updates, opt_state = recipe.optimizer.update(descent.gradients, state.opt_state, params)
    params = optax.apply_updates(params, updates)
    if raised:
        params = jax.tree.map(jnp.subtract, params, sharded(raised))
    batch_stats = descent.batch_stats
    if "updated_clean" in recipe.update_order:
        update = recipe.attack_updates + len(recipe.recorded)
        _, batch_stats = recipe.classifier.apply(
            whole(params), batch_stats, microbatches.first_images(recipe, prepared),
            normalize_by=NormalizeBy.BATCH, momentum=recipe.momentum(state.step, update),
            dropout_key=jax.random.fold_in(dropout_key, PASSES.index("updated_clean")),
        )  # fmt: skip
    step = state.step + 1
    decay = averaging.decay_at(step, recipe.ema_decay, recipe.ema_warmup_steps)
    ema_params = averaging.update(state.ema_params, params, decay)

    fresh = state.step % recipe.log_every_steps == 0
    measures = _measures(recipe, descent, prepared.robust_steps)
    measures["health"] = _health(
        recipe, state, batch, prepared, descent, (params, ema_params, batch_stats)
    )
    sums = {
        name: jax.tree.map(functools.partial(jnp.where, fresh), new, state.sums[name] + new)
        for name, new in measures.items()
    }
    new_state = TrainState(
        step=step,
        params=params,
        batch_stats=batch_stats,
        ema_params=ema_params,
        opt_state=opt_state,
        sums=sums,
    )
    return new_state, sums


def _as_it_is(tree: Any) -> Any:
    return tree


def _raised_weights(
    recipe: Recipe, step: Array, weights: Params, descend: Callable[[Params], Descent]
) -> Params | None:
    """The weight perturbation of this step, 0 before its first epoch; None without one."""
    if not recipe.awp_gamma:
        return None

    raised = weight_perturbation.perturbation(
        weights, descend(weights).gradients, recipe.classifier.roles, recipe.awp_gamma
    )
    # Not a branch: inside one XLA leaves its fast convolutions on the CPU, which costs far more
    # over a run than these passes before the first epoch.
    begun = step // recipe.steps_per_epoch >= recipe.awp_start_epoch
    return jax.tree.map(lambda delta: jnp.where(begun, delta, 0), raised)


def compile_step(recipe: Recipe, layout: Layout) -> Any:
    """The jitted step: the state donated, the batch split over the devices."""

    def step(state, batch, key):
        return train_step(recipe, state, batch, key, layout)

    places = train_state.shardings(recipe, layout)
    return jax.jit(
        step,
        in_shardings=(places, layout.batch, layout.replicated),
        out_shardings=(places, layout.replicated),
        donate_argnums=0,
    )


def compile_attack(recipe: Recipe, layout: Layout) -> Any:
    """The step's attack alone, to time its share of the step."""

    def attack(state, batch, key):
        prepared = prepare(recipe, batch, *jax.random.split(key), state.step)
        weights = layout.whole(state.params)
        found, _ = microbatches.maximize(
            recipe, weights, state.batch_stats, key, prepared, layout=layout
        )
        return found.attacked

    places = train_state.shardings(recipe, layout)
    return jax.jit(
        attack,
        in_shardings=(places, layout.batch, layout.replicated),
        out_shardings=layout.batch if recipe.microbatches == 1 else layout.microbatches,
    )
