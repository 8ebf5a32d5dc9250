"""How fast the logits change near given images (Yang et al. 2020, "empirical local Lipschitz").

The released estimator goes the wrong way: it descends the ratio that it is to maximise. The papers'
columns were made with it, so both are here, and each number says which it is.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import evaluation, mesh
from score_jax.artifact import Artifact
from score_jax.attacks import PGD
from score_jax.metrics import Mean
from score_jax.threat_models import Linf
from score_jax.types import Array, Key, lookup

# official: as released, x' moves to where the ratio is smaller. ascent: to where it is larger.
LIP_SIGNS = {"official": -1, "ascent": 1}
NUM_STEPS, STEP_SIZE = 10, 0.003  # The step is the same whatever eps.
OFFSET = 1e-6  # Added to each entry of x - x', inside the norm.


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


def average(
    artifact: Artifact,
    images: np.ndarray,
    *,
    eps: float,
    lip_sign: str = "official",
    steps: int = NUM_STEPS,
    step_size: float = STEP_SIZE,
    batch_size: int = 500,
    seed: int = 0,
) -> float:
    """The mean of `local_lipschitz` over images u8[n, h, w, c], on every device.

    Each image has a start of its own, so the batch size changes nothing but rounding.
    """
    layout = mesh.create()

    def estimate(held, batch, key):
        pixels = batch["images"].astype(jnp.float32) / 255

        def draw(index):
            return jax.random.normal(jax.random.fold_in(key, index), pixels.shape[1:], jnp.float32)

        found = local_lipschitz(
            evaluation.logits_fn(artifact.classifier, held["params"], held["batch_stats"]),
            key, pixels, eps=eps, lip_sign=lip_sign, steps=steps, step_size=step_size,
            noise=jax.vmap(draw)(batch["labels"]),
        )  # fmt: skip
        mask = batch["mask"].astype(jnp.float32)
        return Mean((found * mask).sum(), mask.sum())

    whole = layout.replicated
    compiled = jax.jit(estimate, in_shardings=(whole, layout.batch, whole), out_shardings=whole)
    held = {"params": artifact.params, "batch_stats": artifact.batch_stats}
    held, key = jax.device_put((held, jax.random.key(seed)), whole)
    # In place of labels each image's number, which its start is drawn from.
    batches = evaluation.place(images, np.arange(len(images), dtype=np.int32), batch_size, layout)
    means = [compiled(held, batch, key) for batch in batches]
    return float(sum(means[1:], means[0]).compute())
