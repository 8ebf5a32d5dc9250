"""What every training method offers to the step."""

import dataclasses
from typing import ClassVar, Protocol

import jax

from score_jax.divergences import SMOOTHINGS
from score_jax.types import Array, UserError, lookup


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """The outer forward passes' logits and what they are compared with.

    Attributes:
      clean_logits: f32[b, k], or None where the objective has no clean forward.
      adv_logits: f32[b, k], or None where it has no adversarial forward.
      target_probs: f32[b, k], smoothed labels.
    """

    clean_logits: Array | None
    adv_logits: Array | None
    target_probs: Array


class Objective(Protocol):
    """A training method. Both losses are per example, f32[b]; the step takes the one mean.

    Attributes:
      forwards: the outer forward passes it needs: ('clean',), ('adversarial',), both as two
        passes, or ('joint',): one pass over clean and adversarial images together, which share
        their batch statistics. Without an adversarial one there is no attack.
      label_smoothing, smoothing: how `target_probs` are made; see `divergences.target_probs`.
    """

    forwards: ClassVar[tuple[str, ...]]
    label_smoothing: float
    smoothing: str

    def inner(self, logits: Array, clean_logits: Array, labels: Array) -> Array:
        """What the attack ascends, from the moving images' logits; the rest is constant."""

    def outer(self, views: Views) -> Array:
        """What the optimizer descends."""


def check_smoothing(smoothing: float, convention: str) -> None:
    """Raises UserError where `divergences.target_probs` has no targets for these."""
    lookup(dict.fromkeys(SMOOTHINGS), "config.objective.smoothing", convention)
    if not 0 <= smoothing < 1:
        raise UserError(f"config.objective.label_smoothing={smoothing} must lie in [0, 1)")


def check_not_negative(**fields: float) -> None:
    """Raises UserError naming the first negative field of config.objective."""
    for name, value in fields.items():
        if not value >= 0:
            raise UserError(f"config.objective.{name}={value} must be 0 or more")
