"""The two halves of a training step: the inner maximization and the outer loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from score_jax import divergences
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
      updates: how many recordings of BatchNorm statistics came before in this step.
    """

    images: Array
    labels: Array
    target_probs: Array
    step: Array | int = 0
    attacked: dict[str, Array] = dataclasses.field(default_factory=dict)
    robust_steps: Array | None = None
    updates: int = dataclasses.field(default=0, metadata=dict(static=True))


def maximize(
    recipe: Recipe,
    params: Params,
    batch_stats: BatchStats,
    key: Key,
    batch: Batch,
    noise: Array | None = None,
) -> tuple[Batch, BatchStats]:
    """The inner maximization.

    The weights are constants. Statistics move only where `update_order` names the attack.

    Args:
      noise: replaces the draw of the attack's start, see `PGD`.

    Returns:
      The batch with its adversarial images, constants to differentiation; and the statistics.
    """
    if recipe.attack is None:
        return batch, batch_stats
    objective, attack = recipe.objective, recipe.attack
    records = "attack" in recipe.update_order
    step = jnp.asarray(batch.step)
    if recipe.attack_warmup_steps:
        grown = jnp.minimum(step / recipe.attack_warmup_steps, 1.0)
        threat = dataclasses.replace(attack.threat, eps=attack.threat.eps * grown)
        attack = dataclasses.replace(attack, threat=threat)

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
            loss_fn, attack_keys(number), batch.images, noise,
            carry=batch_stats if records else {}, epoch=step // recipe.steps_per_epoch,
        )  # fmt: skip
        attacked[name] = found.images
        if robust_steps is None:
            robust_steps = found.robust_steps
        if records:
            batch_stats, updates = found.carry, updates + attack.num_steps
    if "attacked" in recipe.update_order:
        _, batch_stats = logits_fn(attacked["adversarial"], batch_stats, updates, attacked_key)
        updates += 1
    found_batch = dataclasses.replace(
        batch, attacked=attacked, robust_steps=robust_steps, updates=updates
    )
    return found_batch, jax.lax.stop_gradient(batch_stats)


def minimized(
    recipe: Recipe,
    params: Params,
    batch_stats: BatchStats,
    batch: Batch,
    dropout_key: Key | None = None,
) -> tuple[Array, tuple[BatchStats, Views]]:
    """The outer loss f32[], the statistics it leaves, and the logits it saw."""
    objective, updates = recipe.objective, batch.updates
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
    views = Views(
        clean_logits=logits.pop("clean", None),
        adv_logits=logits.pop("adversarial", None),
        other_logits=logits,
        target_probs=batch.target_probs,
        labels=batch.labels,
        robust_steps=batch.robust_steps,
        num_steps=recipe.attack.num_steps if recipe.attack else 0,
        epoch=jnp.asarray(batch.step) // recipe.steps_per_epoch,
        num_epochs=recipe.num_epochs,
        perturbation=None if adversarial is None else adversarial - batch.images,
        clean_gradient=clean_gradient,
    )
    losses = objective.outer(views)
    loss = losses.sum() if recipe.loss_reduction == "sum" else losses.mean()
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
