"""Sums that merge exactly: metrics are totals and counts, divided once."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from score_jax.types import Array, UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean as its total f32[] and count f32[]; adding two merges them."""

    total: Array
    count: Array

    @staticmethod
    def zero() -> "Mean":
        return Mean(jnp.float32(0), jnp.float32(0))

    @staticmethod
    def of(values: Array) -> "Mean":
        """Of f[b] or bool[b]."""
        values = values.astype(jnp.float32)
        return Mean(values.sum(), jnp.float32(values.size))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    def compute(self) -> float:
        return float(self.total) / float(self.count)


def correct(logits: Array, labels: Array) -> Array:
    """bool[b]: is the largest logit the label's?"""
    return logits.argmax(-1).astype(labels.dtype) == labels


def compute(means: dict[str, Mean]) -> dict[str, float]:
    """Reads them back from the device, in one transfer."""
    return {name: mean.compute() for name, mean in jax.device_get(means).items()}


def check_finite(values: dict[str, float], first_step: int, last_step: int) -> None:
    """Stops a run in which something is no number any more; called before every save.

    Raises:
      UserError: naming it and the steps.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} became {value} between steps {first_step} and {last_step}; the saved "
                "checkpoints are from before; in a new --workdir, lower "
                "config.schedule.learning_rate or set config.optimizer.clip_norm"
            )
