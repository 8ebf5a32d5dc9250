"""Projected gradient ascent: the one loop of the project (Madry et al. 2018).

It moves by the threat model's steepest step or by Adam, and counts on the way what training methods
ask for: how long each example stood (GAIRAT), and when to leave it where it is (FAT).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_jax import threat_models
from score_jax.threat_models import ThreatModel
from score_jax.types import Array, Key, UserError, lookup

# uniform: the threat model's own random start. normal: 0.001·N(0, 1), not projected (TRADES, MART).
# zero: the clean image (FGSM).
STARTS = ("uniform", "normal", "zero")
# How a gradient becomes a step: the threat model's direction, or Adam on the pixels (Gowal et al.
# 2020: b1 .9, b2 .999, eps 1e-9).
RULES = {
    "steepest": None,
    "adam": optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-9),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Attacked:
    """What an attack leaves.

    Attributes:
      images: the last iterates, f[b, h, w, c].
      robust_steps: i32[b], how many of the iterates x⁰ .. x^{K-1} were classified right, each
        tested before its step; x^K is not tested (κ of Zhang et al. 2021, as released).
      carry: what `loss_fn` handed on last.
    """

    images: Array
    robust_steps: Array
    carry: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD:
    """Ascends a per-example loss inside a threat model and returns the last iterate.

    Attributes:
      threat: where it may go and how it moves.
      step_size: pixel units a step; may be traced.
      num_steps: gradient steps; may be traced. One step of size eps from 'zero' is FGSM.
      start: one of `STARTS`.
      rule: one of `RULES`.
      step_schedule: multiples of step_size over equal shares of the steps, in order.
      step_noise: σ of the N(0, 1) added at every step (FAT's code: 0.001).
      patience: an example that is wrong stays where it is once it has been wrong that many times
        before (FAT's τ; Zhang et al. 2020). One entry for each stage of training; () never stops.
      patience_epochs: the epochs, from 0, at which the next entry begins.
    """

    threat: ThreatModel
    step_size: float | Array
    num_steps: int | Array
    start: str = "uniform"
    rule: str = "steepest"
    step_schedule: tuple[float, ...] = (1.0,)
    step_noise: float = 0.0
    patience: tuple[int, ...] = ()
    patience_epochs: tuple[int, ...] = ()

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

        def watched(adversarial, index, carry):
            del index
            return loss_fn(adversarial), (jnp.ones(images.shape[:1], bool), carry)

        return self.watch(watched, key, images, noise).images

    def watch(
        self,
        loss_fn: Callable[[Array, Array, Any], tuple[Array, tuple[Array, Any]]],
        key: Key,
        images: Array,
        noise: Array | None = None,
        *,
        carry: Any = (),
        epoch: Array | int = 0,
    ) -> Attacked:
        """As `__call__`, and tells what happened.

        Args:
          loss_fn: (images f[b, h, w, c], step i32[], carry) -> (f[b], (right bool[b], carry)):
            what to ascend, whether each image is classified right, and what to hand on.
          carry: the first one.
          epoch: of training, from 0; chooses the patience.
        """
        start_key, step_key = jax.random.split(key)
        rule = RULES[self.rule]

        def ascended(adversarial, index, carry):
            loss, seen = loss_fn(adversarial, index, carry)
            # The sum, so that each example has its own gradient whatever the batch.
            return loss.sum(), seen

        def ascend(index, state):
            adversarial, moments, active, left, robust_steps, carry = state
            gradient, (right, carry) = jax.grad(ascended, has_aux=True)(adversarial, index, carry)
            ascend_key, noise_key = jax.random.split(jax.random.fold_in(step_key, index))
            if rule is None:
                direction = self.threat.ascend(gradient, ascend_key)
            else:
                direction, moments = rule.update(gradient, moments)
            moved = adversarial + self._step_size(index, images.dtype) * direction
            if self.step_noise:
                drawn = jax.random.normal(noise_key, images.shape, images.dtype)
                moved = moved + self.step_noise * drawn
            moved = self.threat.project(moved, images)
            robust_steps = robust_steps + (active & right).astype(jnp.int32)
            if self.patience:
                leaving = active & ~right & (left == 0)
                left = left - (active & ~right).astype(jnp.int32)
                active = active & ~leaving
                moved = jnp.where(active[:, None, None, None], moved, adversarial)
            return moved, moments, active, left, robust_steps, carry

        started = self._start(start_key, images, noise)
        batch = images.shape[:1]
        state = (
            started,
            () if rule is None else rule.init(started),
            jnp.ones(batch, bool),
            jnp.full(batch, self._patience_at(epoch), jnp.int32),
            jnp.zeros(batch, jnp.int32),
            carry,
        )
        adversarial, _, _, _, robust_steps, carry = jax.lax.fori_loop(
            0, self.num_steps, ascend, state
        )
        return jax.lax.stop_gradient(
            Attacked(images=adversarial, robust_steps=robust_steps, carry=carry)
        )

    def start_noise(self, key: Key, images: Array) -> Array:
        """What `watch` draws with this key for its start, which is not 'zero'."""
        start_key, _ = jax.random.split(key)
        return self._draw(start_key, images)

    def _step_size(self, index, dtype):
        shares = len(self.step_schedule)
        if shares == 1:
            return self.step_size * self.step_schedule[0]
        share = jnp.minimum(index * shares // self.num_steps, shares - 1)
        return self.step_size * jnp.asarray(self.step_schedule, dtype)[share]

    def _patience_at(self, epoch):
        if not self.patience:
            return 0
        starts = jnp.asarray(self.patience_epochs, jnp.int32)
        stage = jnp.sum(jnp.asarray(epoch, jnp.int32) >= starts)
        return jnp.asarray(self.patience, jnp.int32)[stage]

    def _start(self, key, images, noise):
        if self.start == "zero":
            return images
        if noise is None:
            noise = self._draw(key, images)
        if self.start == "normal":
            return images + 0.001 * noise
        return self.threat.random_start(noise, images)

    def _draw(self, key, images):
        if self.start == "normal":
            return jax.random.normal(key, images.shape, images.dtype)
        return self.threat.noise(key, images.shape, images.dtype)


def create(
    *, norm: str, eps: float, step_size: float, num_steps: int, start: str = "uniform",
    zero_gradient: str = "stay", **fields: Any,
) -> PGD:  # fmt: skip
    """Builds the attack that a config section describes.

    Raises:
      UserError: unknown norm, start or rule, or a patience without its epochs.
    """
    lookup(dict.fromkeys(STARTS), "config.attack.start", start)
    lookup(RULES, "config.attack.rule", fields.get("rule", "steepest"))
    if num_steps < 1:
        raise UserError(f"config.attack.num_steps={num_steps} must be 1 or more")
    patience, epochs = (tuple(fields.get(n, ())) for n in ("patience", "patience_epochs"))
    if len(epochs) != max(len(patience) - 1, 0) or list(epochs) != sorted(epochs):
        raise UserError(
            f"config.attack.patience={patience} needs {max(len(patience) - 1, 0)} rising "
            f"config.attack.patience_epochs, one between each two; it has {epochs}"
        )
    if not fields.get("step_schedule", (1.0,)):
        raise UserError("config.attack.step_schedule=() is empty; write (1.0,)")
    return PGD(
        threat=threat_models.create(norm, eps, zero_gradient),
        step_size=step_size,
        num_steps=num_steps,
        start=start,
        **fields,
    )


def epsilon_sweep(attack: PGD, eps: Array) -> PGD:
    """The same attack at another radius, its step scaled alike; eps may be traced."""
    ratio = eps / attack.threat.eps
    return dataclasses.replace(
        attack,
        threat=dataclasses.replace(attack.threat, eps=eps),
        step_size=jnp.asarray(attack.step_size) * ratio,
    )
