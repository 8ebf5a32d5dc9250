"""Penalties on the input gradient: GR (Finlay and Oberman 2019) and LLR (Qin et al. 2019).

Each in two variants, because Yang et al. (2020) published numbers of code that is not what the
papers say: 'released' is that code, the other the cited paper's.
"""

import dataclasses

import jax
import jax.numpy as jnp

from score_jax import threat_models
from score_jax.divergences import cross_entropy, label_cross_entropy
from score_jax.objectives.interface import (
    Objective,
    check_choice,
    check_not_negative,
    check_not_smoothed,
)
from score_jax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientRegularization(Objective):
    """ℓ(x) + ½·weight·((ℓ(x + h·v) - ℓ(x))/h)², v the constant direction of ∇ℓ(x).

    Attributes:
      variant: 'released' (Yang et al.): the gradient that gave v stays in the accumulator, so that
        the update has ∇ℓ(x) twice while the loss has ℓ(x) once. 'finlay': once in both.
      weight: λ; 1 released, 0.1 in the original's example.
      step: h; 1 released, 0.01 original.
      norm: 'l2', or 'l1', 'linf' of the original; see `threat_models.Ray`.
      order: 2 takes the difference ℓ(x + hv) - ℓ(x - hv) over 2h.
    """

    variant: str = "released"
    weight: float = 1.0
    step: float = 1.0
    norm: str = "l2"
    order: int = 1

    def __post_init__(self):
        super().__post_init__()
        check_choice("variant", self.variant, ("released", "finlay"))
        check_not_smoothed(self)
        check_not_negative(weight=self.weight)
        threat_models.Ray(norm=self.norm)
        if not self.step > 0:
            raise UserError(f"config.objective.step={self.step} must be above 0")
        if self.order not in (1, 2):
            raise UserError(f"config.objective.order={self.order} must be 1 or 2")

    @property
    def forwards(self) -> tuple[str, ...]:
        return ("clean", "adversarial") + (("opposite",) if self.order == 2 else ())

    def attack(self, configured):
        return dataclasses.replace(
            configured, threat=threat_models.Ray(norm=self.norm), step_size=self.step, num_steps=1,
            start="zero", rule="steepest", step_schedule=(1.0,), step_noise=0.0, patience=(),
            patience_epochs=(),
        )  # fmt: skip

    def inner(self, moving):
        return label_cross_entropy(moving.logits, moving.labels)

    def penalty(self, views):
        """½·weight·(directional derivative)², f[b]."""
        ahead = cross_entropy(views.adv_logits, views.target_probs)
        if self.order == 2:
            behind = cross_entropy(views.other_logits["opposite"], views.target_probs)
            slope = (ahead - behind) / (2 * self.step)
        else:
            slope = (ahead - cross_entropy(views.clean_logits, views.target_probs)) / self.step
        return 0.5 * self.weight * jnp.square(slope)

    def outer(self, views):
        clean = cross_entropy(views.clean_logits, views.target_probs)
        if self.variant == "released":
            clean = clean + (clean - jax.lax.stop_gradient(clean))
        return clean + self.penalty(views)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalLinearity(Objective):
    """LLR: the loss near an image should be its linear expansion.

    released (Yang et al.): ℓ(x) + weight·ℓ(x + δ), because their stored input gradient is always 0.
      δ: two steps of ε/2 along the gradient of ℓ(x + δ), from 0.001·normal; the config's radius is
      used, its steps and rule are not.
    qin2019: 2ℓ(x) + weight·(|ℓ(x+δ) - ℓ(x) - δᵀ∇ℓ(x)| + gradient_weight·|δᵀ∇ℓ(x)|), where δ
      maximises the first bracket by the config's attack (there: 10 steps of Adam, 0.1). ∇ℓ(x) is
      differentiated: a second-order gradient. (There x + δ is normalised by the statistics of the
      clean batch; here by its own.)

    Attributes:
      weight: 4 in both.
      gradient_weight: 0.3 in qin2019; without effect in released, where its factor is 0.
    """

    variant: str = "released"
    weight: float = 4.0
    gradient_weight: float = 0.3

    def __post_init__(self):
        super().__post_init__()
        check_choice("variant", self.variant, ("released", "qin2019"))
        check_not_smoothed(self)
        check_not_negative(weight=self.weight, gradient_weight=self.gradient_weight)

    @property
    def needs_gradient(self) -> bool:
        return self.variant == "qin2019"

    @property
    def needs_clean_logits(self) -> bool:
        return self.variant == "qin2019"

    def attack(self, configured):
        if self.variant == "qin2019":
            return configured
        if type(configured.threat) is not threat_models.Linf:
            raise UserError(
                "config.objective (name='llr', variant='released') is defined for norm=linf only; "
                "set config.norm=linf, or variant='qin2019'"
            )
        eps = configured.threat.eps
        return dataclasses.replace(
            configured, threat=threat_models.RescaledLinf(eps=eps), step_size=eps / 2, num_steps=2,
            start="normal", rule="steepest", step_schedule=(1.0,), step_noise=0.0, patience=(),
            patience_epochs=(),
        )  # fmt: skip

    def inner(self, moving):
        loss = label_cross_entropy(moving.logits, moving.labels)
        if self.variant == "released":
            return loss
        clean = label_cross_entropy(moving.clean_logits, moving.labels)
        rise = _dot(moving.images - moving.clean_images, moving.clean_gradient)
        return jnp.abs(loss - clean - rise)

    def outer(self, views):
        clean = cross_entropy(views.clean_logits, views.target_probs)
        near = cross_entropy(views.adv_logits, views.target_probs)
        if self.variant == "released":
            return clean + self.weight * near
        rise = _dot(views.perturbation, views.clean_gradient)
        curved = jnp.abs(near - clean - rise) + self.gradient_weight * jnp.abs(rise)
        return 2 * clean + self.weight * curved


def _dot(delta, gradient):
    """Σ over pixels, f[b]."""
    return jnp.sum(delta * gradient, axis=(1, 2, 3))
