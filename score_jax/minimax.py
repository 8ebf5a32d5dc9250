"""The two halves of a training step: the inner maximization and the outer loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from score_jax import divergences
from score_jax.attacks import PGD
from score_jax.metrics import correct
from score_jax.models import NormalizeBy
from score_jax.objectives import Moving, Views
from score_jax.recipe import PASSES, Recipe
from score_jax.types import Array, BatchStats, Key, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch as both halves see it.

    Attributes:
      images: f[b, h, w, c] in [0, 1], augmented.
      labels: i32[b].
      target_probs: f[b, k].
      step: i32[], of training, from 0.
      attacked: f[b, h, w, c] for each adversarial forward pass; empty before the maximization.
      robust_steps: i32[b], counted by the first attack.
      weights: f[b], `Objective.batch_weights`; None where this batch is whole and tells them.
      whole_size: examples of the whole batch, where this is a part of it; 0: this is whole.
    """

    images: Array
    labels: Array
    target_probs: Array
    step: Array | int = 0
    attacked: dict[str, Array] = dataclasses.field(default_factory=dict)
    robust_steps: Array | None = None
    weights: Array | None = None
    whole_size: int = dataclasses.field(default=0, metadata=dict(static=True))


def maximize(
    recipe: Recipe,
    params: Params,
    batch_stats: BatchStats,
    key: Key,
    batch: Batch,
    noise: Array | dict[str, Array] | None = None,
) -> tuple[Batch, BatchStats]:
    """The inner maximization.

    The weights are constants. Statistics move only where `update_order` names the attack.

    Args:
      noise: replaces the draw of the attack's start, see `PGD`; a dict by the attack's name.

    Returns:
      The batch with its adversarial images, constants to differentiation; and the statistics.
    """
    if recipe.attack is None:
        return batch, batch_stats
    objective, step = recipe.objective, jnp.asarray(batch.step)
    attack = _attack_at(recipe, step)
    records = "attack" in recipe.update_order

    def logits_fn(x, stats, update, dropout_key):
        return recipe.attack_classifier.apply(
            params, stats, x, normalize_by=recipe.attack_statistics,
            momentum=recipe.momentum(step, update),
            dropout_key=dropout_key if recipe.attack_dropout else None,
        )  # fmt: skip

    attack_keys, dropout_key, clean_key, attacked_key = _keys(key)
    clean_logits = clean_gradient = None
    if objective.needs_gradient:
        clean_gradient, (clean_logits, _) = _input_gradient(
            lambda x: logits_fn(x, batch_stats, 0, clean_key), batch.images, batch.labels
        )
    elif objective.needs_clean_logits:
        clean_logits, _ = logits_fn(batch.images, batch_stats, 0, clean_key)
    clean_logits, clean_gradient = jax.lax.stop_gradient((clean_logits, clean_gradient))

    attacked, robust_steps, updates = {}, None, 0
    for number, (name, inner) in enumerate(objective.inners.items()):
        masks_key = jax.random.fold_in(dropout_key, number)

        def loss_fn(
            x, index, stats, inner=inner, masks_key=masks_key, first=updates, fixed=batch_stats
        ):
            mask_key = jax.random.fold_in(masks_key, index)
            logits, new_stats = logits_fn(x, stats or fixed, first + index, mask_key)
            moving = Moving(
                logits=logits,
                clean_logits=clean_logits,
                labels=batch.labels,
                target_probs=batch.target_probs,
                images=x,
                clean_images=batch.images,
                clean_gradient=clean_gradient,
            )
            right = correct(logits, batch.labels)
            return inner(moving), (right, new_stats if records else stats)

        found = attack.watch(
            loss_fn, attack_keys(number), batch.images,
            noise.get(name) if isinstance(noise, dict) else noise,
            carry=batch_stats if records else {}, epoch=step // recipe.steps_per_epoch,
        )  # fmt: skip
        attacked[name] = found.images
        if robust_steps is None:
            robust_steps = found.robust_steps
        if records:
            batch_stats, updates = found.carry, updates + attack.num_steps
    if "attacked" in recipe.update_order:
        _, batch_stats = logits_fn(attacked["adversarial"], batch_stats, updates, attacked_key)
    found_batch = dataclasses.replace(batch, attacked=attacked, robust_steps=robust_steps)
    return found_batch, jax.lax.stop_gradient(batch_stats)


def _attack_at(recipe: Recipe, step: Array) -> PGD:
    """The attack of a step: its radius may still be growing."""
    attack = recipe.attack
    if not recipe.attack_warmup_steps:
        return attack
    grown = jnp.minimum(step / recipe.attack_warmup_steps, 1.0)
    threat = dataclasses.replace(attack.threat, eps=attack.threat.eps * grown)
    return dataclasses.replace(attack, threat=threat)


def start_noises(recipe: Recipe, key: Key, batch: Batch) -> dict[str, Array]:
    """What `maximize` would draw with this key for the starts of its attacks, by name."""
    if recipe.attack is None or recipe.attack.start == "zero":
        return {}
    attack, attack_keys = _attack_at(recipe, jnp.asarray(batch.step)), _keys(key)[0]
    return {
        name: attack.start_noise(attack_keys(number), batch.images)
        for number, name in enumerate(recipe.objective.inners)
    }


def views_of(recipe: Recipe, batch: Batch) -> Views:
    """What the outer loss sees beside its forward passes."""
    return Views(
        clean_logits=None,
        adv_logits=None,
        target_probs=batch.target_probs,
        labels=batch.labels,
        robust_steps=batch.robust_steps,
        num_steps=recipe.attack.num_steps if recipe.attack else 0,
        epoch=jnp.asarray(batch.step) // recipe.steps_per_epoch,
        num_epochs=recipe.num_epochs,
        batch_size=batch.whole_size or len(batch.images),
        weights=batch.weights,
    )


def minimized(
    recipe: Recipe,
    params: Params,
    batch_stats: BatchStats,
    batch: Batch,
    dropout_key: Key | None = None,
) -> tuple[Array, tuple[BatchStats, Views]]:
    """The outer loss f32[], the statistics it leaves, and the logits it saw.

    Of a part of a batch: its share of the whole batch's loss.
    """
    objective, updates = recipe.objective, recipe.attack_updates
    inputs = {name: batch.images for name in ("clean", "clean_again", "unused_clean")}
    inputs |= batch.attacked
    if "joint" in objective.forwards:
        inputs["joint"] = jnp.concatenate([batch.images, batch.attacked["adversarial"]])
    if "opposite" in objective.forwards:
        inputs["opposite"] = 2 * batch.images - batch.attacked["adversarial"]
    recording = recipe.recorded
    logits: dict[str, Array] = {}
    clean_gradient = None
    for name in recording + tuple(n for n in objective.forwards if n not in recording):
        forward_key = None
        if dropout_key is not None and recipe.classifier.dropout:
            forward_key = jax.random.fold_in(dropout_key, PASSES.index(name))

        def forward(images, name=name, stats=batch_stats, updates=updates, key=forward_key):
            return recipe.classifier.apply(
                params, stats, images, normalize_by=NormalizeBy.BATCH,
                momentum=recipe.momentum(jnp.asarray(batch.step), updates), dropout_key=key,
            )  # fmt: skip

        if name == "unused_clean":
            new_stats = forward(batch.images)[1]
        elif name == "clean_again" and forward_key is None and "clean" in logits:
            # Without dropout the same logits; only the statistics move once more.
            logits[name], new_stats = logits["clean"], forward(inputs[name])[1]
        elif name == "clean" and objective.needs_gradient:
            clean_gradient, (logits[name], new_stats) = _input_gradient(
                forward, batch.images, batch.labels
            )
        else:
            logits[name], new_stats = forward(inputs[name])
        if name in recording:
            batch_stats, updates = new_stats, updates + 1
    if "joint" in logits:
        logits["clean"], logits["adversarial"] = jnp.split(logits.pop("joint"), 2)
    adversarial = batch.attacked.get("adversarial")
    views = views_of(recipe, batch)
    views = dataclasses.replace(
        views,
        clean_logits=logits.pop("clean", None),
        adv_logits=logits.pop("adversarial", None),
        other_logits=logits,
        weights=objective.batch_weights(views) if views.weights is None else views.weights,
        perturbation=None if adversarial is None else adversarial - batch.images,
        clean_gradient=clean_gradient,
    )
    loss = objective.outer(views).sum()
    if recipe.loss_reduction == "mean":
        loss = loss / views.batch_size
    return loss, (batch_stats, views)


def _keys(key: Key) -> tuple[Callable[[int], Key], Key, Key, Key]:
    """Independent keys: of each attack by its number, of its masks, of two passes beside it.

    The first attack has the key itself, which it splits in two: nothing else may.
    """
    later, dropout_key, clean_key, attacked_key = jax.random.split(key, 6)[2:]
    return (
        lambda number: jax.random.fold_in(later, number) if number else key,
        dropout_key,
        clean_key,
        attacked_key,
    )


def _input_gradient(forward: Callable[[Array], Any], images: Array, labels: Array):
    """The input gradient of the cross-entropy, differentiable, and what the forward pass gave."""

    def loss(x):
        logits, stats = forward(x)
        return divergences.label_cross_entropy(logits, labels).sum(), (logits, stats)

    return jax.grad(loss, has_aux=True)(images)
