"""Robust overfitting: accuracy under attack falls on new images while training goes on.

Rice, Wong and Kolter, "Overfitting in adversarially robust deep learning" (ICML 2020): after the
first decay of the learning rate the robust test error of adversarial training rises again, and the
robust training error goes on falling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

# What counts as a fall: at least one point, and more than images drawn by chance would give in all
# but this share of runs, although the best of all measurements before is picked (Bonferroni).
FALL, FALSE_ALARMS = 0.01, 0.025
SOURCE = "Rice et al. 2020"


@dataclass(frozen=True, kw_only=True)
class Trend:
    """What became of accuracy under attack between its best and the last measurement.

    Attributes:
      best_step, best_epoch, last_step: when.
      best, last: accuracy on new images, as fractions.
      error: the standard error of best - last.
      count: of the measurements, the last among them.
      is_paired: whether `error` is of the same images at both; else it is an upper one.
      train_best, train_last: accuracy on training images at those two.
    """

    best_step: int
    best_epoch: float
    last_step: int
    best: float
    last: float
    error: float
    train_best: float
    train_last: float
    count: int
    is_paired: bool

    @property
    def standard_errors(self) -> float:
        """So many of them are within chance, where the best of count - 1 is compared."""
        return NormalDist().inv_cdf(1 - FALSE_ALARMS / max(self.count - 1, 1))

    @property
    def fall(self) -> float:
        return self.best - self.last

    @property
    def rise(self) -> float:
        """On training images meanwhile."""
        return self.train_last - self.train_best

    @property
    def has_fallen(self) -> bool:
        return self.fall >= FALL and self.fall > self.standard_errors * self.error

    @property
    def is_overfitting(self) -> bool:
        """The alarm: it fell on new images, and not on those of training."""
        return self.has_fallen and self.rise >= 0


def of_images(
    steps: Sequence[int], epochs: Sequence[float], right: np.ndarray, train: Sequence[float]
) -> Trend:
    """The trend on the same images at every measurement, whose differences are paired.

    Args:
      steps, epochs: of the measurements, rising.
      right: bool[measurements, images], whether each image is classified right under attack.
      train: accuracy on training images under attack.
    """
    values = right.mean(axis=1)
    best = _latest_best(values)
    lost = right[best].astype(np.float64) - right[-1]
    error = float(lost.std() / math.sqrt(len(lost)))
    return _trend(steps, epochs, values, train, best, error, is_paired=True)


def of_accuracies(
    steps: Sequence[int],
    epochs: Sequence[float],
    values: Sequence[float],
    num_images: int,
    train: Sequence[float],
) -> Trend:
    """The trend of accuracies whose images are not told apart: as if new ones were drawn each time.

    They are the same in truth, so that the error is larger than it need be.

    Args:
      values: accuracy under attack on `num_images` new images.
      train: accuracy on training images at the same measurements.
    """
    best = _latest_best(values)
    pair = (values[best], values[-1])
    error = math.sqrt(sum(value * (1 - value) for value in pair) / num_images)
    return _trend(steps, epochs, values, train, best, error, is_paired=False)


def _latest_best(values: Sequence[float]) -> int:
    """As the selection of checkpoints: ties go to the later one."""
    return len(values) - 1 - int(np.argmax(np.asarray(values)[::-1]))


def _trend(
    steps: Sequence[int], epochs: Sequence[float], values: Sequence[float],
    train: Sequence[float], best: int, error: float, is_paired: bool,
) -> Trend:  # fmt: skip
    return Trend(
        best_step=int(steps[best]),
        best_epoch=float(epochs[best]),
        last_step=int(steps[-1]),
        best=float(values[best]),
        last=float(values[-1]),
        error=error,
        train_best=float(train[best]),
        train_last=float(train[-1]),
        count=len(steps),
        is_paired=is_paired,
    )


def tell(trend: Trend, what: str, train: str) -> str:
    """One sentence: is it robust overfitting, by how much, and what to do about it.

    Args:
      what: is measured, such as 'PGD-10 test accuracy'.
      train: and what on training images, such as 'on training images'.
    """
    if trend.best == 0:
        return f"No robust overfitting: {what} is 0% at every step, there is nothing to lose."
    few = " Two measurements tell little." if trend.count == 2 else ""
    if trend.best_step == trend.last_step:
        return (
            f"No sign of robust overfitting: {what} is best at the last step {trend.last_step}, "
            f"{trend.last:.1%} ({SOURCE}).{few}"
        )
    limit = 100 * trend.standard_errors * trend.error
    compared = f"the best of {trend.count - 1}" if trend.count > 2 else "one"
    since = (
        f"{what} was best at step {trend.best_step} (epoch {trend.best_epoch:.4g}), "
        f"{trend.best:.1%}, and has lost {100 * trend.fall:.1f} points since (standard error "
        f"{'' if trend.is_paired else 'at most '}{100 * trend.error:.1f}; chance may give "
        f"{limit:.1f} where {compared} is compared with the last)"
    )
    moved = "rose" if trend.rise >= 0 else "fell"
    meanwhile = f"{train} it {moved} by {100 * abs(trend.rise):.1f} points"
    if trend.is_overfitting:
        return (
            f"ROBUST OVERFITTING ({SOURCE}): {since}, while {meanwhile}. Use the best checkpoint, "
            "end the training there, or average weights (ema), perturb them (awp) or add "
            f"generated images.{few}"
        )
    if trend.has_fallen:
        return (
            f"No robust overfitting ({SOURCE}), but a loss: {since}, and {meanwhile} too. Look "
            f"at the learning rate and the attack of training.{few}"
        )
    why = f"less than {100 * FALL:g} point" if trend.fall < FALL else "within chance"
    return f"No proof of robust overfitting ({SOURCE}): {since}, which is {why}; {meanwhile}.{few}"
