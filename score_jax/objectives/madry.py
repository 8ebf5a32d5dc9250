"""Adversarial training on attacked images (Madry et al. 2018), or on both (Yang et al. 2020)."""

import dataclasses

from score_jax.divergences import cross_entropy, label_cross_entropy
from score_jax.objectives.interface import Objective, check_not_negative


@dataclasses.dataclass(frozen=True, kw_only=True)
class Madry(Objective):
    """min E max CE(x'): PGD-AT. With an attack that stops early: FAT (Zhang et al. 2020).

    Attributes:
      keep_clean: half the loss on clean images, in one pass with the attacked ones (the SCORE
        code's `--keep-clean`: the mean over the concatenation of both).
    """

    keep_clean: bool = False

    @property
    def forwards(self) -> tuple[str, ...]:
        return ("joint",) if self.keep_clean else ("adversarial",)

    def inner(self, moving):
        return label_cross_entropy(moving.logits, moving.labels)

    def outer(self, views):
        adversarial = cross_entropy(views.adv_logits, views.target_probs)
        if not self.keep_clean:
            return adversarial
        return 0.5 * (cross_entropy(views.clean_logits, views.target_probs) + adversarial)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rst(Objective):
    """CE(x) + λ·CE(x'): RST as Yang et al. (2020) train it, without unlabelled data.

    Carmon et al.'s (2019) robust self-training is TRADES on pseudo-labelled images: a data set, not
    an objective.

    Attributes:
      robust_weight: λ; 0.5, 1 and 2 in their grids.
    """

    robust_weight: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_not_negative(robust_weight=self.robust_weight)

    def inner(self, moving):
        return label_cross_entropy(moving.logits, moving.labels)

    def outer(self, views):
        clean = cross_entropy(views.clean_logits, views.target_probs)
        return clean + self.robust_weight * cross_entropy(views.adv_logits, views.target_probs)
