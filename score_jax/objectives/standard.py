"""Natural training: cross-entropy on clean images."""

import dataclasses
from typing import ClassVar

from score_jax.divergences import cross_entropy
from score_jax.objectives.interface import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standard(Objective):
    """Cross-entropy on clean images; no attack."""

    forwards: ClassVar[tuple[str, ...]] = ("clean",)
    takes_mixtures: ClassVar[bool] = True

    def outer(self, views):
        return cross_entropy(views.clean_logits, views.target_probs)
