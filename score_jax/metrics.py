"""Sums that merge exactly: metrics are totals and counts, divided once."""

import dataclasses

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


# What may be wrong first in a step, in the order in which a step computes them: how it is told, and
# what helps.
CULPRITS = {
    "data": (
        "an image outside [0, 1] or a label that is no class",
        "prepare the dataset anew",
    ),
    "attack": (
        "the attack gave images that are no finite numbers",
        "lower config.attack.step_size, or set config.precision.attack=float32",
    ),
    "loss": (
        "the loss is no finite number",
        "set config.objective.clip or config.precision.train=float32, or lower the rate",
    ),
    "gradient": (
        "the gradient is no finite number",
        "set config.optimizer.clip_norm or config.precision.train=float32",
    ),
    "update": (
        "the update gave weights that are no finite numbers or above 1e19",
        "lower config.schedule.learning_rate or set config.optimizer.clip_norm",
    ),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Health:
    """The first step in which something was no number, and what; adding two keeps the earlier one.

    Attributes:
      step: i32[], counted from 0; -1 where all is well.
      culprit: i32[], a place in `CULPRITS`.
    """

    step: Array
    culprit: Array

    @staticmethod
    def good() -> "Health":
        return Health(jnp.int32(-1), jnp.int32(0))

    @staticmethod
    def of(step: Array, **is_good: Array) -> "Health":
        """Of one step: for each of `CULPRITS` that it has, bool[], whether it is as it must be."""
        is_bad = jnp.stack([~is_good.get(name, jnp.bool_(True)) for name in CULPRITS])
        return Health(jnp.where(is_bad.any(), step, -1), jnp.argmax(is_bad).astype(jnp.int32))

    def __add__(self, later: "Health") -> "Health":
        return jax.tree.map(lambda a, b: jnp.where(self.step >= 0, a, b), self, later)


def correct(logits: Array, labels: Array) -> Array:
    """bool[b]: is the largest logit the label's?"""
    return logits.argmax(-1).astype(labels.dtype) == labels


def compute(sums: dict[str, Mean | Health]) -> dict[str, float]:
    """Reads the means back from the device, in one transfer; `check` is for the others."""
    means = {name: value for name, value in sums.items() if isinstance(value, Mean)}
    return {name: mean.compute() for name, mean in jax.device_get(means).items()}


def check(health: Health, last_good: int) -> None:
    """Stops a run in which something is no number any more; called before every save.

    Args:
      health: of the steps since the last line of the log.
      last_good: the newest step that is saved, or 0.

    Raises:
      UserError: naming the step, what broke first in it, and the remedy.
    """
    health = jax.device_get(health)
    if health.step < 0:
        return
    told, remedy = list(CULPRITS.values())[int(health.culprit)]
    saved = (
        f"the last checkpoint is from step {last_good}"
        if last_good
        else "there is no checkpoint yet"
    )
    raise UserError(
        f"{told} in step {int(health.step)} (all was well before it); {saved}; in a new "
        f"--workdir: {remedy}"
    )
