"""How fast the logits change near given images (Yang et al. 2020, "empirical local Lipschitz").

The released estimator goes the wrong way: it descends the ratio that it is to maximise. The papers'
columns were made with it, so both are here, and each number says which it is.
"""

from collections.abc import Callable

import jax.numpy as jnp

from score_jax.attacks import PGD
from score_jax.threat_models import Linf
from score_jax.types import Array, Key, lookup

# official: as released, x' moves to where the ratio is smaller. ascent: to where it is larger.
LIP_SIGNS = {"official": -1, "ascent": 1}
OFFSET = 1e-6  # Added to each entry of x - x', inside the norm.


def local_lipschitz(
    logits_fn: Callable[[Array], Array],
    key: Key,
    images: Array,
    *,
    eps: float | Array,
    lip_sign: str = "official",
    steps: int | Array = 10,
    step_size: float | Array = 0.003,
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
      steps: 10 in the released code.
      step_size: pixel units; 0.003 in the released code whatever eps.
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
