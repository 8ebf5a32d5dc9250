"""The shortest way to a hyperplane inside [0, 1], in each norm: what FAB solves twice a step.

A move δ from an image x has to gain `gap` along the normal w, Σ w_i δ_i = gap, and stay in [0, 1].
Each pixel then moves in its useful direction and has a room of its own, x_i or 1 - x_i, to do so.
Croce and Hein 2020, section 2 (box-constrained projections).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm:
    """What FAB asks of a norm; arrays are f[b, d].

    Attributes:
      move: (images in [0, 1], normal, gap f[b]) -> the shortest δ with Σ w_i δ_i = gap inside
        [0, 1]; the corner nearest to it where no δ gains as much; 0 where the normal is 0.
      length: f[b, d] -> f[b].
      dual: f[b, d] -> f[b], the length of a normal: |gap| / dual is the distance of its hyperplane.
      draw: the distribution of the directions of random starts.
    """

    move: Callable[[Array, Array, Array], Array]
    length: Callable[[Array], Array]
    dual: Callable[[Array], Array]
    draw: Callable[..., Array]


def _rooms(images: Array, normal: Array, gap: Array) -> tuple[Array, Array]:
    """(useful direction -1, 0 or 1, room in it), each f[b, d]."""
    direction = jnp.sign(normal) * jnp.where(gap < 0, -1, 1).astype(images.dtype)[:, None]
    room = jnp.where(direction > 0, 1 - images, images)
    return direction, jnp.where(direction == 0, 0, room)


def _fill(weight: Array, speed: Array, room: Array, gap: Array) -> Array:
    """The λ >= 0, f[b, 1], with Σ weight·min(λ·speed, room) = |gap|; infinity where there is none.

    The sum is concave and piecewise linear in λ, so Newton's method from 0 never goes beyond the
    root, leaves a linear piece at each step and is exact on the last one: nothing is sorted.
    """
    gap = jnp.abs(gap)[:, None]

    def newton(reached):
        is_full = reached * speed >= room
        filled = jnp.sum(jnp.where(is_full, weight * room, 0), axis=1, keepdims=True)
        slope = jnp.sum(jnp.where(is_full, 0, weight * speed), axis=1, keepdims=True)
        further = jnp.maximum(gap - filled, 0) / jnp.where(slope > 0, slope, 1)
        return jnp.where(slope > 0, jnp.maximum(further, reached), jnp.inf)

    def advance(state):
        _, reached = state
        return reached, newton(reached)

    nowhere = jnp.zeros_like(gap)
    # A reached λ that no longer grows is a fixed point, so the others of the batch may go on. A
    # NaN does not grow either.
    _, reached = jax.lax.while_loop(
        lambda state: jnp.any(state[1] > state[0]), advance, (nowhere, newton(nowhere))
    )
    return reached


def move_linf(images: Array, normal: Array, gap: Array) -> Array:
    """As `Norm.move`: every pixel goes equally far, or as far as it can."""
    direction, room = _rooms(images, normal, gap)
    weight = jnp.abs(normal)
    step = _fill(weight, jnp.ones_like(weight), room, gap)
    return direction * jnp.minimum(step, room)


def move_l2(images: Array, normal: Array, gap: Array) -> Array:
    """As `Norm.move`: along the normal, clipped to [0, 1]."""
    direction, room = _rooms(images, normal, gap)
    weight = jnp.abs(normal)
    step = _fill(weight, weight, room, gap)
    # ∞ · 0: a pixel that does not count stays.
    reach = jnp.where(weight > 0, step * jnp.where(weight > 0, weight, 1), 0)
    return direction * jnp.minimum(reach, room)


def move_l1(images: Array, normal: Array, gap: Array) -> Array:
    """As `Norm.move`: the pixels with the largest weights go all the way, the last one in part."""
    direction, room = _rooms(images, normal, gap)
    weight = jnp.abs(normal)
    order = jnp.argsort(-weight, axis=1)
    gains = jnp.take_along_axis(weight * room, order, axis=1)
    before = jnp.cumsum(gains, axis=1) - gains
    missing = jnp.clip(jnp.abs(gap)[:, None] - before, 0, gains)
    share = jnp.where(gains > 0, missing / jnp.where(gains > 0, gains, 1), 0)
    return direction * room * jnp.take_along_axis(share, jnp.argsort(order, axis=1), axis=1)


def _largest(x: Array) -> Array:
    return jnp.max(jnp.abs(x), axis=1)


def _sum(x: Array) -> Array:
    return jnp.sum(jnp.abs(x), axis=1)


def _euclidean(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=1))


def _uniform(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -1, 1)


NORMS = {
    "linf": Norm(move=move_linf, length=_largest, dual=_sum, draw=_uniform),
    "l2": Norm(move=move_l2, length=_euclidean, dual=_euclidean, draw=jax.random.normal),
    "l1": Norm(move=move_l1, length=_sum, dual=_largest, draw=jax.random.normal),
}
