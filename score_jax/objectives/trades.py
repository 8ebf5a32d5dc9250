"""TRADES (Zhang et al. 2019) and SCORE (Pang et al. 2022): a clean term and a robust term.

Both attack the distance between the moving and the clean prediction, the latter a constant; in the
outer loss nothing is constant, the gradient flows into both predictions.
"""

import dataclasses
from typing import ClassVar

import jax

from score_jax.divergences import cross_entropy, kl, squared_error
from score_jax.objectives.interface import check_not_negative, check_smoothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trades:
    """CE(z_n, t) + beta·KL(s_n ‖ s_a).

    Attributes:
      beta: weight of the robust term (TRADES' 1/λ).
    """

    forwards: ClassVar[tuple[str, ...]] = ("clean", "adversarial")
    beta: float = 6.0
    label_smoothing: float = 0.0
    smoothing: str = "uniform"

    def __post_init__(self):
        check_not_negative(beta=self.beta)
        check_smoothing(self.label_smoothing, self.smoothing)

    def inner(self, logits, clean_logits, labels):
        del labels
        return kl(clean_logits, logits)

    def outer(self, views):
        clean = cross_entropy(views.clean_logits, views.target_probs)
        return clean + self.beta * kl(views.clean_logits, views.adv_logits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Σ(s_n - t)² + beta·max(Σ(s_a - s_n)² - clip, 0): TRADES with a metric for the KL.

    Attributes:
      beta: weight of the robust term; the published models have 3 and 4.
      clip: robust errors below it are not pursued (`clip_value` of the SCORE code).
    """

    forwards: ClassVar[tuple[str, ...]] = ("clean", "adversarial")
    beta: float = 4.0
    clip: float = 0.0
    label_smoothing: float = 0.0
    smoothing: str = "others"

    def __post_init__(self):
        check_not_negative(beta=self.beta, clip=self.clip)
        check_smoothing(self.label_smoothing, self.smoothing)

    def inner(self, logits, clean_logits, labels):
        del labels
        return squared_error(jax.nn.softmax(logits), jax.nn.softmax(clean_logits))

    def outer(self, views):
        clean = jax.nn.softmax(views.clean_logits)
        robust = squared_error(jax.nn.softmax(views.adv_logits), clean)
        return squared_error(clean, views.target_probs) + self.beta * jax.nn.relu(
            robust - self.clip
        )
