"""How fast the logits change near given images (Yang et al. 2020, "empirical local Lipschitz").

The local Lipschitz constant at x is the largest ‖f(x) - f(x')‖₁ / ‖x - x'‖_∞ over x' within eps.
The released estimator goes the wrong way: it descends the ratio that it is to maximise. The papers'
columns were very probably made with it, so it is here beside a search that ascends, and each number
says which it is.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_jax.attacks import PGD
from score_jax.threat_models import Linf
from score_jax.types import Array, Key, lookup

# official: as released, x' moves to where the ratio is smaller. ascent: to where it is larger.
LIP_SIGNS = {"official": -1, "ascent": 1}
NUM_STEPS, STEP_SIZE = 10, 0.003  # The step is the same whatever eps.
OFFSET = 1e-6  # Added to each entry of x - x', inside the norm.

# Of `steepest`: half the constant of a network may lie in a small part of the ball, so the restarts
# take turns at these shares of eps; the steps of each reach from one side of its ball to the other.
SHARES = (1.0, 0.25, 0.0625)
SEARCH_STEPS, RESTARTS, REACH = 20, 3, 2.5


def local_lipschitz(
    logits_fn: Callable[[Array], Array],
    key: Key,
    images: Array,
    *,
    eps: float | Array,
    lip_sign: str = "official",
    steps: int | Array = NUM_STEPS,
    step_size: float | Array = STEP_SIZE,
    noise: Array | None = None,
) -> Array:
    """‖f(x) - f(x')‖₁ / ‖x - x' + 1e-6‖_∞ at the last x' of a sign-gradient walk, f[b].

    The walk starts at x + 0.001·N(0, 1) and stays within eps (L∞) and [0, 1].

    Args:
      logits_fn: images f[b, h, w, c] -> logits f[b, k], by running statistics.
      key: draws the start.
      images: f[b, h, w, c] in [0, 1].
      eps: radius, pixel units.
      lip_sign: one of `LIP_SIGNS`.
      steps: of the walk; may be traced.
      step_size: pixel units; may be traced.
      noise: replaces the N(0, 1) of the start, f[b, h, w, c].

    Raises:
      UserError: unknown lip_sign.
    """
    sign = lookup(LIP_SIGNS, "lip_sign", lip_sign)
    clean_logits = logits_fn(images)

    def ratio(moved):
        change = jnp.sum(jnp.abs(clean_logits - logits_fn(moved)), axis=-1)
        distance = jnp.max(jnp.abs(images - moved + OFFSET), axis=(1, 2, 3))
        return change / distance

    walk = PGD(threat=Linf(eps=eps), step_size=step_size, num_steps=steps, start="normal")
    return ratio(walk(lambda moved: sign * ratio(moved), key, images, noise))


def steepest(
    logits_fn: Callable[[Array], Array],
    keys: Key,
    images: Array,
    corners: Array,
    *,
    eps: float | Array,
    steps: int = SEARCH_STEPS,
    restarts: int = RESTARTS,
) -> Array:
    """The largest ‖f(x) - f(x')‖₁ / ‖x - x'‖_∞ that a search finds within eps and [0, 1], f[b].

    Guarantee: a slope that some x' of the ball has, so never above the local Lipschitz constant
    (but for rounding); every iterate counts, not only the last. Sign-gradient ascent of the change
    of the logits, whose steps reach the boundary of their ball; the balls are `SHARES` of the whole
    one in turn. The first search in each starts at its corner, those after it at random.

    Args:
      logits_fn: as in `local_lipschitz`.
      keys: [b], one an image.
      images: f[b, h, w, c] in [0, 1].
      corners: f[b, h, w, c] in [-1, 1], where to start: the steepest direction of the tangent.
      eps: radius, pixel units.
      steps: of each search.
      restarts: searches, 1 or more.
    """
    clean_logits = jax.lax.stop_gradient(logits_fn(images))
    shares = jnp.asarray(SHARES, images.dtype)

    def change(moved):
        return jnp.sum(jnp.abs(clean_logits - logits_fn(moved)), axis=-1)

    def slope(moved, changed):
        distance = jnp.max(jnp.abs(images - moved), axis=(1, 2, 3))
        return jnp.where(distance > 0, changed / jnp.where(distance > 0, distance, 1), 0)

    def search(number, best):
        radius = eps * shares[number % len(SHARES)]
        drawn = jax.vmap(
            lambda key: jax.random.uniform(
                jax.random.fold_in(key, number), images.shape[1:], images.dtype, -1, 1
            )
        )(keys)
        start = radius * jnp.where(number < len(SHARES), corners, drawn)

        def watched(moved, index, best):
            del index
            changed = change(moved)
            best = jnp.maximum(best, jax.lax.stop_gradient(slope(moved, changed)))
            return changed, (jnp.ones(images.shape[:1], bool), best)

        walk = PGD(threat=Linf(eps=radius), step_size=REACH * radius / steps, num_steps=steps)
        found = walk.watch(watched, jax.random.key(0), images, start, carry=best)
        return jnp.maximum(found.carry, slope(found.images, change(found.images)))

    return jax.lax.fori_loop(0, restarts, search, jnp.zeros(images.shape[:1], images.dtype))
