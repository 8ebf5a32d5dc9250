"""The two halves of a step over a batch that is cut in parts, which come one after the other.

Memory holds the activations of one part. The update is that of the whole batch: augmentation,
targets and the noise that attacks start from are made for all of it before it is cut, weights that
depend on all of it between the two halves; parts consist of whole BatchNorm groups, and running
averages follow the first group, hence the first part. Only the noise of an attack's later steps and
the masks of dropout are other draws than those of an uncut batch. With one part nothing is cut.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from score_jax import minimax
from score_jax.mesh import Layout
from score_jax.metrics import correct
from score_jax.minimax import Batch
from score_jax.objectives import Views
from score_jax.recipe import Recipe
from score_jax.types import Array, BatchStats, Key, Params, UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Descent:
    """What the outer half of a step gives.

    Attributes:
      loss: f[], of the whole batch.
      gradients: like the parameters.
      batch_stats: as the passes of the outer loss left them.
      right: bool, whether each example is classified right, 'clean' and 'adversarial'; of the
        passes that there are.
    """

    loss: Array
    gradients: Params
    batch_stats: BatchStats
    right: dict[str, Array]


def check(config: ConfigDict, recipe: Recipe, num_devices: int = 1) -> None:
    """Refuses parts that would not give the update of the whole batch.

    Args:
      config: of the recipe.
      num_devices: that share each part.

    Raises:
      UserError: parts that are not equal on every device, or that cut a BatchNorm group.
    """
    parts, size, groups = recipe.microbatches, config.data.batch_size, config.batchnorm.groups
    if parts == 1:
        return
    views, together = recipe.augmented_views, _views_together(recipe)
    unit = math.lcm(parts * together, parts * num_devices)
    unit //= math.gcd(unit, views)
    if size % unit:
        low = size // unit * unit
        spread = f" on each of {num_devices} devices" if num_devices > 1 else ""
        raise UserError(
            f"config.data.batch_size={size} does not divide into config.data.microbatches={parts} "
            f"equal parts{spread}; use {f'{low} or ' if low else ''}{low + unit}, or fewer parts"
        )
    halves = 2 if "joint" in recipe.objective.forwards else together
    if recipe.classifier.batchnorm_momentum and groups % (parts * halves):
        why = f" x {halves}, whose images it pairs" if halves > 1 else ""
        raise UserError(
            f"config.batchnorm.groups={groups} must divide by config.data.microbatches={parts}"
            f"{why}: a part of the batch holds whole groups; set config.batchnorm.groups to "
            f"{-(-groups // (parts * halves)) * parts * halves} (other statistics), or fewer parts"
        )


def maximize(
    recipe: Recipe,
    params: Params,
    batch_stats: BatchStats,
    key: Key,
    batch: Batch,
    noise: Array | None = None,
    layout: Layout | None = None,
) -> tuple[Batch, BatchStats]:
    """`minimax.maximize` of each part of the batch.

    Args:
      batch: whole.
      layout: the devices on all of which each part shall lie.

    Returns:
      The batch, its arrays as [parts, examples, ...] where there is more than one, for `minimize`;
      and the statistics.
    """
    if recipe.microbatches == 1:
        return minimax.maximize(recipe, params, batch_stats, key, batch, noise)
    if noise is None:
        noises = minimax.start_noises(recipe, key, batch)
    else:
        noises = dict.fromkeys(recipe.objective.inners, noise)
    arrays = dict(images=batch.images, labels=batch.labels, target_probs=batch.target_probs)
    arrays, noises = _cut(recipe, (arrays, noises), layout)
    numbers = jnp.arange(recipe.microbatches)
    # One step for each part, so that a scan takes the batch as it is.
    parts = dataclasses.replace(
        batch, **arrays, step=jnp.full_like(numbers, batch.step), whole_size=len(batch.images)
    )
    if recipe.attack is None:
        return parts, batch_stats

    def attack(_, xs):
        number, part, noise = xs
        part_key = jax.random.fold_in(key, number)
        found, stats = minimax.maximize(recipe, params, batch_stats, part_key, part, noise)
        return None, (found.attacked, found.robust_steps, stats)

    _, (attacked, robust_steps, stats) = jax.lax.scan(attack, None, (numbers, parts, noises))
    found = dataclasses.replace(parts, attacked=attacked, robust_steps=robust_steps)
    views = minimax.views_of(recipe, dataclasses.replace(found, step=batch.step))
    found = dataclasses.replace(found, weights=recipe.objective.batch_weights(views))
    return found, jax.tree.map(lambda leaf: leaf[0], stats)


def minimize(
    recipe: Recipe, params: Params, batch_stats: BatchStats, batch: Batch, dropout_key: Key
) -> Descent:
    """`minimax.minimized` of each part of what `maximize` gave, and the gradients."""

    def descend(part, key):
        def loss_fn(params):
            return minimax.minimized(recipe, params, batch_stats, part, key)

        (loss, (stats, views)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return (loss, gradients), (stats, _right(views))

    if recipe.microbatches == 1:
        (loss, gradients), (stats, right) = descend(batch, dropout_key)
        return Descent(loss=loss, gradients=gradients, batch_stats=stats, right=right)

    def add(total, xs):
        number, part = xs
        more, seen = descend(part, jax.random.fold_in(dropout_key, number))
        return jax.tree.map(jnp.add, total, more), seen

    shapes, _ = jax.eval_shape(descend, jax.tree.map(lambda leaf: leaf[0], batch), dropout_key)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (loss, gradients), (stats, right) = jax.lax.scan(
        add, nothing, (jnp.arange(recipe.microbatches), batch)
    )
    first = jax.tree.map(lambda leaf: leaf[0], stats)
    return Descent(loss=loss, gradients=gradients, batch_stats=first, right=right)


def first_images(recipe: Recipe, batch: Batch) -> Array:
    """The clean images of what `maximize` gave that running averages follow."""
    return batch.images if recipe.microbatches == 1 else batch.images[0]


def _cut(recipe: Recipe, tree: Any, layout: Layout | None) -> Any:
    """Arrays [b, ...] as [parts, b / parts, ...].

    The parts are contiguous; where the objective compares augmented views, of each view, so that an
    image's views meet in one part.
    """
    views = _views_together(recipe)

    def cut(leaf):
        leaf = leaf.reshape(views, recipe.microbatches, -1, *leaf.shape[1:]).swapaxes(0, 1)
        leaf = leaf.reshape(recipe.microbatches, -1, *leaf.shape[3:])
        if layout is None:
            return leaf
        # Each part lies on all devices, from here on: nothing moves inside the loops.
        return jax.lax.with_sharding_constraint(leaf, layout.microbatches)

    return jax.tree.map(cut, tree)


def _views_together(recipe: Recipe) -> int:
    return recipe.augmented_views if recipe.objective.pairs_views else 1


def _right(views: Views) -> dict[str, Array]:
    logits = {"clean": views.clean_logits, "adversarial": views.adv_logits}
    return {
        name: correct(values, views.labels)
        for name, values in logits.items()
        if values is not None
    }
