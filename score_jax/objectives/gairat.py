"""Geometry-aware instance reweighting (Zhang et al., ICLR 2021): what falls sooner weighs more.

The attack counts κ, the steps that an example stands (`attacks.Attacked.robust_steps`); its weight
ω(κ) falls with κ. Weights are constants to differentiation.

Known limit, also said by the authors: what is gained under PGD is not gained under AutoAttack.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from score_jax.divergences import cross_entropy, kl, label_cross_entropy, margin
from score_jax.objectives.interface import Objective, Views, check_choice, check_not_negative
from score_jax.objectives.trades import Trades
from score_jax.types import Array, UserError


def _slope(robust_steps: Array, num_steps: int) -> Array:
    """5(k₂ - κ)/k₂ with k₂ = int(K/2): from 5 for κ = 0 to -5 for κ = K."""
    half = num_steps // 2
    return 5 * (half - robust_steps) / half


# log ω(κ) from κ i32[b], K and Λ; the logarithm, because all weights of a batch may underflow.
# ½(1 + tanh x) is the sigmoid of 2x.
LOG_WEIGHTS: dict[str, Callable[[Array, int, Array], Array]] = {
    "tanh": lambda kappa, k, shift: jax.nn.log_sigmoid(2 * (shift + _slope(kappa, k))),
    "sigmoid": lambda kappa, k, shift: jax.nn.log_sigmoid(shift + _slope(kappa, k)),
    "discrete": lambda kappa, k, shift: jnp.log((k + 1 - kappa) / (k + 1)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gairat(Objective):
    """ω̂_i·CE(x'_i) with ω̂ = N·ω/Σω over the whole batch. With an attack that stops early: GAIR-FAT.

    Attributes:
      weights: one of `LOG_WEIGHTS`; the published models have 'tanh'.
      weight_lambda: Λ; -1 for GAIRAT, 0 for GAIR-FAT. Larger is nearer to equal weights.
      burn_in_epochs: epochs of equal weights, which are plain adversarial training; 59 of 120 in
        the released code (`begin_epoch` 60, counted from 1).
      lambda_schedule: 'fixed', or 'linear': Λ = Λ_max - (e/E)(Λ_max - Λ) in epoch e of E, counted
        from 1. (The released 'piecewise' equals 'fixed': its later branches are unreachable.)
      lambda_max: Λ_max.
    """

    forwards: ClassVar[tuple[str, ...]] = ("adversarial",)
    weights: str = "tanh"
    weight_lambda: float = -1.0
    burn_in_epochs: int = 59
    lambda_schedule: str = "fixed"
    lambda_max: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        check_choice("weights", self.weights, tuple(LOG_WEIGHTS))
        check_choice("lambda_schedule", self.lambda_schedule, ("fixed", "linear"))
        check_not_negative(burn_in_epochs=self.burn_in_epochs)

    def attack(self, configured):
        return _counting(configured)

    def inner(self, moving):
        return label_cross_entropy(moving.logits, moving.labels)

    def lambda_at(self, epoch: Array | float, num_epochs: int) -> Array | float:
        """Λ in an epoch, counted from 0, after the burn-in."""
        if self.lambda_schedule == "fixed":
            return self.weight_lambda
        return self.lambda_max - (epoch + 1) / num_epochs * (self.lambda_max - self.weight_lambda)

    def batch_weights(self, views: Views) -> Array:
        """ω̂, of mean 1."""
        dtype = views.target_probs.dtype
        shift = self.lambda_at(jnp.asarray(views.epoch, dtype), views.num_epochs)
        kappa = views.robust_steps.astype(dtype)
        log_weights = LOG_WEIGHTS[self.weights](kappa, views.num_steps, shift)
        weights = log_weights.size * jax.nn.softmax(log_weights, axis=None)
        weights = jnp.where(jnp.asarray(views.epoch) < self.burn_in_epochs, 1, weights)
        return jax.lax.stop_gradient(weights)

    def outer(self, views):
        loss = cross_entropy(views.adv_logits, views.target_probs)
        return views.weights.astype(loss.dtype) * loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class GairTrades(Trades):
    """CE(x) + beta·[ω·KL(s_n ‖ s_kl) + (1 - ω)·KL(s_n ‖ s_cw)]: GAIR-TRADES; with pseudo-labelled
    images, GAIR-RST.

    Two attacks: along the KL, which counts κ, and along -max(margin + 50, 0). The weight is
    ω = ½(1 + tanh(Λ + K/2 - κ)), not normalised over the batch; 1 during the burn-in, which is
    TRADES.

    Attributes:
      weight_lambda: Λ; 3 in the released code.
      burn_in_epochs: half of the epochs there.
      margin_offset: of the second attack's loss, which never rests at 50.
    """

    takes_mixtures: ClassVar[bool] = False
    weight_lambda: float = 3.0
    burn_in_epochs: int = 99
    margin_offset: float = 50.0

    def __post_init__(self):
        super().__post_init__()
        check_not_negative(burn_in_epochs=self.burn_in_epochs, margin_offset=self.margin_offset)
        for field in ("cutmix", "clean_again", "robust_mean"):
            if getattr(self, field):
                raise UserError(f"config.objective.{field} is not defined for gair_trades")

    @property
    def forwards(self) -> tuple[str, ...]:
        return ("adversarial", "adversarial_margin", "clean")

    def attack(self, configured):
        return _counting(configured)

    @property
    def inners(self):
        return {"adversarial": self.inner, "adversarial_margin": self.inner_margin}

    def inner_margin(self, moving):
        """-max(z_y - max_{j≠y} z_j + offset, 0)."""
        return -jax.nn.relu(margin(moving.logits, moving.labels) + self.margin_offset)

    def robust(self, views):
        kappa, half = views.robust_steps.astype(views.adv_logits.dtype), views.num_steps / 2
        weights = jax.nn.sigmoid(2 * (self.weight_lambda + half - kappa))
        burning = jnp.asarray(views.epoch) < self.burn_in_epochs
        weights = jnp.where(burning, 1, weights).astype(views.adv_logits.dtype)
        weights = jax.lax.stop_gradient(weights)
        other = kl(views.clean_logits, views.other_logits["adversarial_margin"])
        return weights * kl(views.clean_logits, views.adv_logits) + (1 - weights) * other


def _counting(attack):
    """The configured attack, if there is something to count."""
    if attack.num_steps < 2:
        raise UserError(
            f"config.attack.num_steps={attack.num_steps} is too few to tell examples apart by the "
            "steps they stand; give 2 or more"
        )
    return attack
