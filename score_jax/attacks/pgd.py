"""Projected gradient ascent: the one loop of the project (Madry et al. 2018)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_jax import threat_models
from score_jax.threat_models import ThreatModel
from score_jax.types import Array, Key, UserError, lookup

# uniform: the threat model's own random start. normal: 0.001·N(0, 1), not projected (TRADES, MART).
# zero: the clean image (FGSM).
STARTS = ("uniform", "normal", "zero")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD:
    """Ascends a per-example loss inside a threat model and returns the last iterate.

    Attributes:
      threat: where it may go and how it moves.
      step_size: pixel units a step; may be traced.
      num_steps: gradient steps; may be traced. One step of size eps from 'zero' is FGSM.
      start: one of `STARTS`.
    """

    threat: ThreatModel
    step_size: float | Array
    num_steps: int | Array
    start: str = "uniform"

    def __call__(
        self,
        loss_fn: Callable[[Array], Array],
        key: Key,
        images: Array,
        noise: Array | None = None,
    ) -> Array:
        """Attacks every image on its own.

        Args:
          loss_fn: images f[b, h, w, c] -> what to ascend, f[b].
          key: draws the start (and the L2 rule for zero gradients).
          images: clean, f[b, h, w, c] in [0, 1].
          noise: replaces the start's draw, for comparisons with other programs: the values of
            U(-eps, eps) (L∞), of a random image (L2) or of N(0, 1) ('normal').

        Returns:
          f[b, h, w, c] in the threat set, a constant to differentiation.
        """
        start_key, step_key = jax.random.split(key)
        # The sum, so that each example has its own gradient whatever the batch.
        gradient = jax.grad(lambda x: loss_fn(x).sum())

        def ascend(index, adversarial):
            direction = self.threat.ascend(
                gradient(adversarial), jax.random.fold_in(step_key, index)
            )
            return self.threat.project(adversarial + self.step_size * direction, images)

        started = self._start(start_key, images, noise)
        return jax.lax.stop_gradient(jax.lax.fori_loop(0, self.num_steps, ascend, started))

    def _start(self, key, images, noise):
        if self.start == "zero":
            return images
        if self.start == "normal":
            if noise is None:
                noise = jax.random.normal(key, images.shape, images.dtype)
            return images + 0.001 * noise
        if noise is None:
            noise = self.threat.noise(key, images.shape, images.dtype)
        return self.threat.random_start(noise, images)


def create(
    *, norm: str, eps: float, step_size: float, num_steps: int, start: str = "uniform",
    zero_gradient: str = "stay",
) -> PGD:  # fmt: skip
    """Builds the attack that a config section describes.

    Raises:
      UserError: unknown norm, start or rule.
    """
    lookup(dict.fromkeys(STARTS), "config.attack.start", start)
    if num_steps < 1:
        raise UserError(f"config.attack.num_steps={num_steps} must be 1 or more")
    return PGD(
        threat=threat_models.create(norm, eps, zero_gradient),
        step_size=step_size,
        num_steps=num_steps,
        start=start,
    )


def epsilon_sweep(attack: PGD, eps: Array) -> PGD:
    """The same attack at another radius, its step scaled alike; eps may be traced."""
    ratio = eps / attack.threat.eps
    return dataclasses.replace(
        attack,
        threat=dataclasses.replace(attack.threat, eps=eps),
        step_size=jnp.asarray(attack.step_size) * ratio,
    )
