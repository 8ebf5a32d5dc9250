"""TRADES (Zhang et al. 2019) and SCORE (Pang et al. 2022): a clean term and a robust term.

Both attack the distance between the moving and the clean prediction, the latter a constant; in the
outer loss nothing is constant, the gradient flows into both predictions.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from score_jax.divergences import (
    cross_entropy,
    entropy,
    kl,
    kl_from,
    squared_error,
)
from score_jax.objectives.interface import Objective, check_not_negative
from score_jax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trades(Objective):
    """CE(z_n, t) + beta·KL(s_n ‖ s_a).

    Attributes:
      beta: weight of the robust term (TRADES' 1/λ).
      cutmix: the targets are CutMix mixtures: the attack ascends KL(t ‖ s), away from the mixture,
        and the clean term is KL(t ‖ s_n) (the SCORE code's `--CutMix`).
      clean_again: the robust term has a clean pass of its own, as in the original code: the same
        numbers, but for dropout masks and the statistics that a third pass records.
      consistency_weight: adds this much of the Jensen-Shannon divergence between the attacked
        predictions of two augmentations of each image, at `consistency_temperature`; needs
        config.data.augmented_views=2 (Tack et al. 2022, as an option of Wang et al. 2023's code).
      robust_mean: divides the robust term by the batch size once more (Yang et al.'s `trades`,
        whose loss is a sum; their published `strades` does not).
    """

    needs_clean_logits: ClassVar[bool] = True
    takes_mixtures: ClassVar[bool] = True
    beta: float = 6.0
    cutmix: bool = False
    clean_again: bool = False
    robust_mean: bool = False
    consistency_weight: float = 0.0
    consistency_temperature: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_not_negative(beta=self.beta, consistency_weight=self.consistency_weight)
        if not self.consistency_temperature > 0:
            raise UserError(
                f"config.objective.consistency_temperature={self.consistency_temperature} must be "
                "above 0"
            )

    @property
    def forwards(self) -> tuple[str, ...]:
        return ("clean", "adversarial") + (("clean_again",) if self.clean_again else ())

    @property
    def pairs_views(self) -> bool:
        return bool(self.consistency_weight)

    def inner(self, moving):
        if self.cutmix:
            return kl_from(moving.target_probs, moving.logits)
        return kl(moving.clean_logits, moving.logits)

    def robust(self, views):
        """KL(s_n ‖ s_a), before its weight."""
        clean_logits = views.other_logits["clean_again"] if self.clean_again else views.clean_logits
        return kl(clean_logits, views.adv_logits)

    def outer(self, views):
        clean = cross_entropy(views.clean_logits, views.target_probs)
        if self.cutmix:
            clean = clean - entropy(views.target_probs)
        beta = self.beta / views.batch_size if self.robust_mean else self.beta
        loss = clean + beta * self.robust(views)
        if self.consistency_weight:
            loss = loss + self.consistency_weight * self.inconsistency(views.adv_logits)
        return loss

    def inconsistency(self, adv_logits):
        """JS between the two halves' tempered predictions, f[2b]: each pair's for both members."""
        logs = jnp.split(jax.nn.log_softmax(adv_logits / self.consistency_temperature), 2)
        log_mean = jnp.log(jnp.maximum(sum(map(jnp.exp, logs)) / 2, 1e-8))
        divergence = sum(jnp.sum(jnp.exp(log) * (log - log_mean), axis=-1) for log in logs) / 2
        return jnp.tile(divergence, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Objective):
    """Σ(s_n - t)² + beta·max(Σ(s_a - s_n)² - clip, 0): TRADES with a metric for the KL.

    Attributes:
      beta: weight of the robust term; the published models have 3 and 4.
      clip: robust errors below it are not pursued (`clip_value` of the SCORE code).
      cutmix: the targets are CutMix mixtures, and the attack ascends Σ(s - t)².
    """

    needs_clean_logits: ClassVar[bool] = True
    takes_mixtures: ClassVar[bool] = True
    beta: float = 4.0
    clip: float = 0.0
    cutmix: bool = False
    smoothing: str = "others"

    def __post_init__(self):
        super().__post_init__()
        check_not_negative(beta=self.beta, clip=self.clip)

    def inner(self, moving):
        away_from = (
            moving.target_probs if self.cutmix else jax.nn.softmax(moving.clean_logits)
        )
        return squared_error(jax.nn.softmax(moving.logits), away_from)

    def outer(self, views):
        clean = jax.nn.softmax(views.clean_logits)
        robust = squared_error(jax.nn.softmax(views.adv_logits), clean)
        return squared_error(clean, views.target_probs) + self.beta * jax.nn.relu(
            robust - self.clip
        )
