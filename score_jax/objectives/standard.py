"""Natural training: cross-entropy on clean images."""

import dataclasses
from typing import ClassVar

from score_jax.divergences import cross_entropy
from score_jax.objectives.interface import check_smoothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standard:
    """Cross-entropy on clean images; no attack."""

    forwards: ClassVar[tuple[str, ...]] = ("clean",)
    label_smoothing: float = 0.0
    smoothing: str = "uniform"

    def __post_init__(self):
        check_smoothing(self.label_smoothing, self.smoothing)

    def inner(self, logits, clean_logits, labels):
        raise TypeError("natural training has no inner maximization")

    def outer(self, views):
        return cross_entropy(views.clean_logits, views.target_probs)
