"""How steep the tangent of the logits is at an image: ‖J‖_(∞→1), J the Jacobian.

As x' nears x, ‖f(x) - f(x')‖₁ / ‖x - x'‖_∞ nears ‖J s‖₁ with s the direction, ‖s‖_∞ = 1. So the
largest of these is at most the local Lipschitz constant, whatever the radius. Where a pixel is 0 or
1 the image can go one way only, and so does s.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.types import Array, Key

# ‖J s‖₁ is the largest tᵀJ s over signs t of the logits: with few classes all of them are tried.
EXACT_CLASSES = 10
AT_ONCE = 16  # Of these sign vectors.
STARTS, ROUNDS, SMALL_STEP = 6, 4, 1e-3  # Of the search with more classes.


def tangent_slope(
    logits_fn: Callable[[Array], Array], keys: Key, images: Array
) -> tuple[Array, Array]:
    """(largest ‖J s‖₁, f[b]; the s that has it, f[b, h, w, c] in {-1, 0, 1}).

    Exact with up to `EXACT_CLASSES` classes, for the gradient as computed (at a kink one of
    several); else the best of `STARTS` alternating searches, a slope that the tangent has, and so
    never too large.

    Args:
      logits_fn: images f[b, h, w, c] -> logits f[b, k].
      keys: [b], one an image; draw the starts of the searches.
      images: f[b, h, w, c] in [0, 1].
    """
    num_classes = jax.eval_shape(logits_fn, images).shape[1]
    if num_classes > EXACT_CLASSES:
        return _alternate(logits_fn, keys, images, num_classes)
    _, pull_back = jax.vjp(logits_fn, images)
    # One class after another: the memory of one backward pass.
    rows = jnp.eye(num_classes, dtype=images.dtype)
    jacobians = jax.lax.map(lambda row: pull_back(jnp.tile(row, (len(images), 1)))[0], rows)
    return jax.vmap(_every_sign, in_axes=(0, 1))(images, jacobians)


def _direction(image: Array, gradient: Array) -> Array:
    """The s with the largest s · g among those that the image can go, f[..., h, w, c]."""
    signs = jnp.sign(gradient)
    blocked = ((signs > 0) & (image >= 1)) | ((signs < 0) & (image <= 0))
    return jnp.where(blocked, 0, signs)


def _every_sign(image: Array, jacobian: Array) -> tuple[Array, Array]:
    """Of one image f[h, w, c], by its Jacobian f[k, h, w, c]."""
    signs = np.array(list(itertools.product((1, -1), repeat=len(jacobian))))
    count = -(-len(signs) // AT_ONCE)
    signs = np.resize(signs, (count, AT_ONCE, len(jacobian)))  # Filled up by repetition.

    def try_signs(best, block):
        gradients = jnp.einsum("tk,khwc->thwc", block, jacobian)
        slopes = jnp.sum(gradients * _direction(image[None], gradients), axis=(1, 2, 3))
        top = jnp.argmax(slopes)
        found = (slopes[top], block[top])
        return jax.tree.map(lambda new, old: jnp.where(found[0] > best[0], new, old), found, best)

    start = (jnp.full((), -1, image.dtype), jnp.zeros(len(jacobian), image.dtype))
    (slope, row), _ = jax.lax.scan(
        lambda best, block: (try_signs(best, block), None), start, jnp.asarray(signs, image.dtype)
    )
    return slope, _direction(image, jnp.einsum("k,khwc->hwc", row, jacobian))


def _alternate(
    logits_fn: Callable[[Array], Array], keys: Key, images: Array, num_classes: int
) -> tuple[Array, Array]:
    """From random t: s is the best for t, then t the best for s, and so on.

    The t of an s is read off a small step along it, since our convolutions have no forward-mode
    derivative; tᵀJ s is at most ‖J s‖₁ whichever t it is.
    """
    logits, pull_back = jax.vjp(logits_fn, images)

    def draw(number):
        def one(key):
            key = jax.random.fold_in(key, number // ROUNDS)
            return jax.random.rademacher(key, (num_classes,), logits.dtype)

        return jax.vmap(one)(keys)

    def climb(number, state):
        rows, best = state
        rows = jnp.where(number % ROUNDS == 0, draw(number), rows)
        gradients = pull_back(rows)[0]
        directions = _direction(images, gradients)
        slopes = jnp.sum(gradients * directions, axis=(1, 2, 3))
        better = slopes > best[0]
        best = (
            jnp.where(better, slopes, best[0]),
            jnp.where(better[:, None, None, None], directions, best[1]),
        )
        change = logits_fn(images + SMALL_STEP * directions) - logits
        return jnp.where(change < 0, -1, 1).astype(logits.dtype), best

    start = (jnp.full(len(images), -1, logits.dtype), jnp.zeros_like(images))
    return jax.lax.fori_loop(0, STARTS * ROUNDS, climb, (jnp.ones_like(logits), start))[1]
