"""Adversarial training on the attacked images (Madry et al. 2018): PGD-AT."""

import dataclasses

from score_jax.divergences import cross_entropy, label_cross_entropy
from score_jax.objectives.interface import check_smoothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Madry:
    """min E max CE(x').

    Attributes:
      keep_clean: half the loss on clean images, in one pass with the attacked ones (the SCORE
        code's `--keep-clean`: the mean over the concatenation of both).
    """

    keep_clean: bool = False
    label_smoothing: float = 0.0
    smoothing: str = "uniform"

    def __post_init__(self):
        check_smoothing(self.label_smoothing, self.smoothing)

    @property
    def forwards(self) -> tuple[str, ...]:
        return ("joint",) if self.keep_clean else ("adversarial",)

    def inner(self, logits, clean_logits, labels):
        del clean_logits
        return label_cross_entropy(logits, labels)

    def outer(self, views):
        adversarial = cross_entropy(views.adv_logits, views.target_probs)
        if not self.keep_clean:
            return adversarial
        return 0.5 * (cross_entropy(views.clean_logits, views.target_probs) + adversarial)
