"""Accuracy on training and on test images, clean and attacked, over the checkpoints of a run.

The columns of Yang et al. (2020): gap = training - test accuracy, adversarial gap = the same under
attack; both splits as they are, without augmentation.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from score_jax import evaluation, metrics
from score_jax.analysis.subject import Compute, Subject, compiled
from score_jax.artifact import WEIGHTS, Artifact
from score_jax.attacks import PGD
from score_jax.attacks.multi_targeted import draw_noise
from score_jax.divergences import label_cross_entropy

NUM_STEPS = 10
SPLITS, KINDS = ("train", "test"), ("clean", "adversarial")
# Steps of PGD: (steps of what size reach eps, whose attack that is).
PUBLISHED_STEPS = {10: (5, "Yang et al. 2020"), 20: (4, "Zhang et al. 2021")}
USUAL_REACH = 2.5  # Of any other number of steps: together so many times eps.


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One checkpoint.

    Attributes:
      name: such as 'step 138 (best, last)'.
      sha256: of its weights, as in model.json of an export.
      right: split -> 'clean' or 'adversarial' -> bool[n], whether each image is classified right.
      labels: split -> i32[n].
    """

    name: str
    step: int
    epoch: float
    sha256: str
    right: dict[str, dict[str, np.ndarray]]
    labels: dict[str, np.ndarray]

    def accuracy(self, split: str, kind: str) -> float:
        """As a fraction."""
        return float(self.right[split][kind].mean())

    def gap(self, kind: str) -> float:
        """Training minus test accuracy."""
        return self.accuracy("train", kind) - self.accuracy("test", kind)

    def gap_error(self, kind: str) -> float:
        """The standard error of `gap`; see `gap_error`."""
        shares = [self.accuracy(split, kind) for split in SPLITS]
        return gap_error(shares, [len(self.labels[split]) for split in SPLITS])

    def by_class(self, num_classes: int) -> dict[str, dict[str, np.ndarray]]:
        """Split -> kind -> f64[num_classes], the accuracy on each class; NaN without images."""
        return {
            split: {
                kind: class_means(self.right[split][kind], self.labels[split], num_classes)
                for kind in KINDS
            }
            for split in SPLITS
        }


def gap_error(shares: Sequence[float], counts: Sequence[int]) -> float:
    """The standard error of a difference of accuracies on two independent samples of images.

    Args:
      shares: that are right, from 0 to 1.
      counts: of images.
    """
    return math.sqrt(sum(p * (1 - p) / n for p, n in zip(shares, counts, strict=True)))


def class_means(values: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The mean of values [n] over each class, f64[num_classes]; NaN where a class has none."""
    counts = np.bincount(labels, minlength=num_classes)
    totals = np.bincount(labels, weights=values, minlength=num_classes)
    return np.divide(totals, counts, out=np.full(num_classes, np.nan), where=counts > 0)


def step_size(eps: float, steps: int) -> tuple[float, str]:
    """The step of PGD in pixel units, and where it is from."""
    if steps in PUBLISHED_STEPS:
        reach, source = PUBLISHED_STEPS[steps]
        return eps / reach, f"eps / {reach} ({source})"
    return USUAL_REACH * eps / steps, f"{USUAL_REACH:g} * eps / steps"


def compute_right(attack: PGD) -> Compute:
    """What `subject.compiled` measures: {'clean', 'adversarial'}, bool[b] each.

    Adversarial is right at the last iterate of the attack on the cross-entropy, from one random
    start, whether or not the clean image is; as Yang et al. (2020) count.
    """

    def compute(logits_fn, keys, images, labels):
        noise = draw_noise(attack.threat, keys, images)
        moved = attack(
            lambda moving: label_cross_entropy(logits_fn(moving), labels), keys[0], images, noise
        )
        moved = evaluation.finite_or_clean(moved, images)
        return {
            kind: metrics.correct(logits_fn(shown), labels)
            for kind, shown in zip(KINDS, (images, moved), strict=True)
        }

    return compute


def measure(
    series: Iterable[Artifact], train: Subject, test: Subject, attack: PGD, steps_per_epoch: int
) -> Iterator[Measured]:
    """Each model of a series on the images of both subjects; compiled once.

    Args:
      series: models of one network, such as `export_series.artifacts`.
      train, test: images of the two splits.
    """
    both = dataclasses.replace(
        train,
        **{
            field: np.concatenate([getattr(train, field), getattr(test, field)])
            for field in ("indices", "images", "labels")
        },
    )
    run = compiled(both, compute_right(attack))
    border = len(train.labels)
    for artifact in series:
        spec = artifact.spec
        what = f"{spec['checkpoint']}: images attacked"
        found = run((artifact.params, artifact.batch_stats), what)
        yield Measured(
            name=spec["checkpoint"],
            step=spec["step"],
            epoch=spec["step"] / steps_per_epoch,
            sha256=spec["sha256"][WEIGHTS],
            right={
                "train": {kind: values[:border] for kind, values in found.items()},
                "test": {kind: values[border:] for kind, values in found.items()},
            },
            labels={"train": train.labels, "test": test.labels},
        )
