"""PGD-AT and TRADES with any divergence D, and losses clipped from below (Pang et al. 2022).

The losses of the SCORE code's experiments without generated data, which compare KL, squared error,
JS, their roots and p-norms. Roots have gradient 0 where that code has NaN.
"""

import dataclasses
from typing import ClassVar

import jax

from score_jax.divergences import (
    Distribution,
    clip_bound,
    divergence,
    label_cross_entropy,
    target_probs,
)
from score_jax.objectives.interface import Objective, check_not_negative
from score_jax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistanceMadry(Objective):
    """max(D(s_a, t) - b, 0), attacked along D(s, onehot).

    Attributes:
      divergence: see `divergences.divergence`.
      clip_loss: c, from which the bound b is `divergences.clip_bound`; 0: no bound.
    """

    forwards: ClassVar[tuple[str, ...]] = ("adversarial",)
    divergence: str = "squared_error"
    clip_loss: float = 0.0
    smoothing: str = "others"

    def __post_init__(self):
        super().__post_init__()
        divergence(self.divergence)
        if self.divergence == "sqrt_reverse_kl" and self.clip_loss:
            raise UserError(
                f"config.objective.clip_loss={self.clip_loss} has no bound for sqrt_reverse_kl, "
                "which is infinite towards a one-hot label; set it to 0"
            )
        if not 0 <= self.clip_loss < 1:
            raise UserError(f"config.objective.clip_loss={self.clip_loss} must lie in [0, 1)")

    def _to_label(self, logits, probs):
        distance = divergence(self.divergence)
        return distance(Distribution.of_logits(logits), Distribution.of_probs(probs))

    def _bound(self, probs):
        return clip_bound(self.divergence, self.clip_loss, probs.shape[-1]).astype(probs.dtype)

    def inner(self, moving):
        if self.divergence == "kl":  # To a one-hot label KL is the cross-entropy.
            return label_cross_entropy(moving.logits, moving.labels)
        onehot = target_probs(moving.labels, moving.logits.shape[-1], 0.0, "others")
        return self._to_label(moving.logits, onehot.astype(moving.logits.dtype))

    def outer(self, views):
        distance = self._to_label(views.adv_logits, views.target_probs)
        return jax.nn.relu(distance - self._bound(views.target_probs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistanceTrades(DistanceMadry):
    """max(D(s_n, t) + λ·D(s_a, s_n) - b, 0), attacked along D(s, s_n).

    Attributes:
      robust_weight: λ.
      clip_clean: False clips the robust distance alone, before its weight (`--not_clip_clean`).
    """

    forwards: ClassVar[tuple[str, ...]] = ("clean", "adversarial")
    needs_clean_logits: ClassVar[bool] = True
    takes_mixtures: ClassVar[bool] = True
    robust_weight: float = 6.0
    clip_clean: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_not_negative(robust_weight=self.robust_weight)

    def _between(self, logits, clean_logits):
        distance = divergence(self.divergence)
        return distance(Distribution.of_logits(logits), Distribution.of_logits(clean_logits))

    def inner(self, moving):
        return self._between(moving.logits, moving.clean_logits)

    def outer(self, views):
        clean = self._to_label(views.clean_logits, views.target_probs)
        robust = self._between(views.adv_logits, views.clean_logits)
        bound = self._bound(views.target_probs)
        if self.clip_clean:
            return jax.nn.relu(clean + self.robust_weight * robust - bound)
        return clean + self.robust_weight * jax.nn.relu(robust - bound)
