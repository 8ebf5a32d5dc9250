"""APGD, projected gradient ascent without parameters: the step size follows the attack's progress.

Croce and Hein 2020, algorithm 1, with cross-entropy, the DLR loss (eq. 6) or its targeted form
(eq. 7); in L1 Croce and Hein 2021. Every image is attacked on its own, whatever its batch.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.attacks.apgd_walks import WALKS, Iterate, Walk, select
from score_jax.divergences import dlr, label_cross_entropy, targeted_dlr
from score_jax.types import Array, Key, UserError, lookup

Logits = Callable[[Array], Array]
LOSSES = {"ce": label_cross_entropy, "dlr": dlr}
# The smallest number of classes that a loss is defined for; 2 elsewhere.
SMALLEST_NUM_CLASSES = {"dlr": 3, "targeted_dlr": 4}
# L1 begins in larger balls: multiples of eps, and their shares of the steps.
L1_RADII = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))


def apgd(
    logits_fn: Logits,
    keys: Key,
    images: Array,
    labels: Array,
    *,
    norm: str,
    eps: float | Array,
    loss: str = "ce",
    num_steps: int = 100,
    num_restarts: int = 1,
) -> Array:
    """Attacks every image on its own.

    Costs a forward pass to see who is right, and for each restart num_steps gradients and a forward
    pass.

    Args:
      logits_fn: images f[b, h, w, c] -> logits f[b, k].
      keys: [b], one an image; draws its random starts.
      images: clean, f[b, h, w, c] in [0, 1].
      labels: i32[b].
      norm: 'linf', 'l2' or 'l1'.
      eps: radius in pixel units; may be traced.
      loss: 'ce' or 'dlr'.
      num_restarts: of images that still stand; stops where none does.

    Returns:
      f[b, h, w, c]: the last adversarial iterate, or the clean image where there was none.

    Raises:
      UserError: an unknown norm or loss, too few classes for the loss, num_steps below 1.
    """
    loss_fn = lookup(LOSSES, "APGD loss", loss)
    clean = logits_fn(images)
    _check_classes(loss, clean.shape[-1])

    def run(index, keys):
        del index
        return single_run(
            logits_fn, keys, images, labels, norm=norm, eps=eps, num_steps=num_steps,
            loss_fn=lambda logits: loss_fn(logits, labels),
        )  # fmt: skip

    return _union(run, num_restarts, keys, images, ~is_wrong(clean, labels))


def apgd_targeted(
    logits_fn: Logits,
    keys: Key,
    images: Array,
    labels: Array,
    *,
    norm: str,
    eps: float | Array,
    num_targets: int = 9,
    num_steps: int = 100,
) -> Array:
    """`apgd` with the targeted DLR loss towards each of the most probable other classes in turn.

    Args:
      num_targets: how many; at most one fewer than there are classes.

    Raises:
      UserError: fewer than 4 classes.
    """
    clean = logits_fn(images)
    _check_classes("targeted_dlr", clean.shape[-1])
    targets = likely_targets(clean, num_targets)

    def run(index, keys):
        target = jnp.take(targets, index, axis=1)
        return single_run(
            logits_fn, keys, images, labels, norm=norm, eps=eps, num_steps=num_steps,
            loss_fn=lambda logits: targeted_dlr(logits, labels, target),
        )  # fmt: skip

    return _union(run, targets.shape[1], keys, images, ~is_wrong(clean, labels))


def likely_targets(logits: Array, num_targets: int) -> Array:
    """The classes i32[b, t] from the second largest logit on; t is at most k - 1."""
    num_targets = min(num_targets, logits.shape[-1] - 1)
    return jax.lax.top_k(logits, num_targets + 1)[1][:, 1:].astype(jnp.int32)


def single_run(
    logits_fn: Logits,
    keys: Key,
    images: Array,
    labels: Array,
    *,
    norm: str,
    eps: float | Array,
    loss_fn: Callable[[Array], Array],
    num_steps: int = 100,
    start: Array | None = None,
) -> tuple[Array, Array]:
    """One random start: num_steps gradients and a forward pass, without a look at the clean images.

    Args:
      loss_fn: logits f[b, k] -> what to ascend, f[b].
      start: f[b, h, w, c] in the ball and [0, 1] (L1: any), for comparisons; None draws it.

    Returns:
      (the last adversarial iterate or the clean image, whether there was one bool[b]).

    Raises:
      UserError: an unknown norm, or num_steps below 1.
    """
    walk = lookup(WALKS, "norm", norm)(eps=eps)
    if num_steps < 1:
        raise UserError(f"num_steps={num_steps} is no attack; give 1 or more")
    stages = [(walk, num_steps)]
    if norm == "l1":
        walks = [WALKS[norm](eps=multiple * eps) for multiple, _ in L1_RADII]
        counts = [math.ceil(share * num_steps) for _, share in L1_RADII[:-1]]
        # Every stage takes a step, where so few are asked for that its share rounds to none.
        counts = [*counts, max(num_steps - sum(counts), 1)]
        stages = list(zip(walks, counts, strict=True))
    start = stages[0][0].start(keys, images) if start is None else start
    for walk, count in stages:
        start = walk.project(start, images)
        start, found, fooled = _ascend(logits_fn, start, images, labels, walk, loss_fn, count)
    return jax.lax.stop_gradient((select(fooled, found, images), fooled))


def _ascend(
    logits_fn: Logits, start: Array, images: Array, labels: Array, walk: Walk,
    loss_fn: Callable[[Array], Array], num_steps: int,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """(the point of the largest loss, the last misclassified one, whether there was one)."""

    def look(moved):
        logits = logits_fn(moved)
        loss = loss_fn(logits)
        # The sum, so that each image has its own gradient whatever the batch.
        return loss.sum(), (loss, is_wrong(logits, labels))

    def note(moved, wrong, found, fooled):
        return select(wrong, moved, found), fooled | wrong

    intervals = np.zeros(num_steps + 1, np.int32)
    steps = walk.checkpoints(num_steps)
    intervals[steps] = np.diff([0, *steps])

    def step(index, state):
        here, previous, found, fooled, best, best_gradient, best_loss, step_size, memory = state
        is_first = index == 0
        gradient, (loss, wrong) = jax.grad(look, has_aux=True)(here)
        gradient = finite(gradient)
        found, fooled = note(here, wrong, found, fooled)
        memory = walk.watch(memory, loss, is_first)
        better = loss > best_loss
        iterate = Iterate(
            images=here,
            gradient=gradient,
            loss=loss,
            best=select(better, here, best),
            best_gradient=select(better, gradient, best_gradient),
            best_loss=jnp.where(better, loss, best_loss),
            step_size=step_size,
        )
        interval = jnp.asarray(intervals)[index]
        review = functools.partial(_reviewed, walk, images, interval)
        iterate, memory = jax.lax.cond(
            interval > 0, review, lambda *unchanged: unchanged, iterate, memory
        )
        # Where a review goes back to the best point, the momentum holds that jump, as released.
        moved = walk.move(iterate, previous, images, memory, is_first)
        return (
            moved, iterate.images, found, fooled, iterate.best, iterate.best_gradient,
            iterate.best_loss, iterate.step_size, memory,
        )  # fmt: skip

    size = len(images)
    state = (
        start,
        start,
        images,
        jnp.zeros(size, bool),
        start,
        jnp.zeros_like(start),
        jnp.full(size, -jnp.inf, start.dtype),
        jnp.full(size, walk.first_step, start.dtype) * walk.eps,
        walk.memory(start, images),
    )
    last, _, found, fooled, best, _, best_loss, *_ = jax.lax.fori_loop(0, num_steps, step, state)
    _, (loss, wrong) = look(last)
    found, fooled = note(last, wrong, found, fooled)
    return select(loss > best_loss, last, best), found, fooled


def _reviewed(walk, images, interval, iterate, memory):
    step_size, from_best, memory = walk.review(iterate, memory, images, interval)
    images = select(from_best, iterate.best, iterate.images)
    gradient = select(from_best, iterate.best_gradient, iterate.gradient)
    changed = dict(images=images, gradient=gradient, step_size=step_size)
    return Iterate(**(vars(iterate) | changed)), memory


def _union(run, num_runs, keys, images, standing):
    """Runs on until no image stands; each keeps the first run's find."""

    def another(state):
        index, _, standing = state
        return (index < num_runs) & standing.any()

    def attack(state):
        index, found, standing = state
        adversarial, fooled = run(index, run_keys(keys, index))
        fooled = fooled & standing
        return index + 1, select(fooled, adversarial, found), standing & ~fooled

    return jax.lax.while_loop(another, attack, (jnp.int32(0), images, standing))[1]


def run_keys(keys: Key, index: int | Array) -> Key:
    """The keys [b] of one restart, target or query."""
    return jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)


def is_wrong(logits: Array, labels: Array) -> Array:
    """bool[b]: does another class win? Logits f[b, k] that are no numbers answer nothing."""
    other = logits.argmax(-1).astype(labels.dtype) != labels
    return other & jnp.isfinite(logits).all(-1)


def finite(gradient: Array) -> Array:
    """The gradient with 0 where it is no number: there the image stays."""
    return jnp.where(jnp.isfinite(gradient), gradient, 0)


def _check_classes(loss: str, num_classes: int) -> None:
    least = SMALLEST_NUM_CLASSES.get(loss, 2)
    if num_classes < least:
        raise UserError(f"loss {loss!r} needs {least} classes or more, there are {num_classes}")
