"""What AutoAttack refuses: images, labels, radii and logits that would make a wrong number."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from score_jax.attacks.apgd_walks import WALKS
from score_jax.attacks.autoattack_batches import traced
from score_jax.config_rules import check_eps
from score_jax.types import UserError, lookup

# Relative to the largest logit. f32 sums in another order differ by 1e-6, those of TF32 or bf16 by
# 1e-3: told; beyond the largest difference: refused.
TOLD_DIFFERENCE = 1e-4
LARGEST_DIFFERENCE = 1e-2


def check_threat(norm: str, eps: float) -> None:
    """Raises UserError: an unknown norm, or an eps that is no radius."""
    lookup(WALKS, "norm", norm)
    if not math.isfinite(eps) or eps <= 0:
        raise UserError(f"eps={eps:g} is not a positive radius; write it as 8/255 for example.")
    check_eps(eps, norm)


def check_images(images: Any) -> np.ndarray:
    """The images as f32[n, h, w, c]; raises UserError where they are not that in [0, 1]."""
    images = np.asarray(images)
    if images.ndim != 4 or not images.size:
        raise UserError(f"images have shape {images.shape}; give (n, height, width, channels).")
    if images.dtype.kind != "f":
        raise UserError(
            f"images are {images.dtype}; give float32 in [0, 1]: divide pixels of [0, 255] by 255."
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"images lie in [{low:g}, {high:g}]; give them in [0, 1], not normalised: logits_fn "
            "normalises its input itself."
        )
    return images.astype(np.float32)


def check_labels(labels: Any, count: int) -> np.ndarray:
    """The labels as i32[n]; raises UserError where they are not that."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise UserError(
            f"labels are {labels.dtype} of shape {labels.shape}; give integers of shape ({count},)."
        )
    return labels.astype(np.int32)


def num_classes(logits_fn: Callable, shape: tuple[int, ...], labels: np.ndarray) -> int:
    """How many logits logits_fn returns for images of a shape (b, h, w, c), without running it.

    Raises:
      UserError: it is not traceable, its result is not f[b, k], or labels lie outside [0, k).
    """
    size = shape[0]
    _, found = traced(logits_fn, shape)
    shape = getattr(found, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != size or shape[1] < 2:
        raise UserError(
            f"logits_fn returned {'no array' if shape is None else shape} for {size} images; it "
            f"must return logits ({size}, classes), of 2 classes or more."
        )
    if labels.min() < 0 or labels.max() >= shape[1]:
        raise UserError(
            f"labels lie in [{labels.min()}, {labels.max()}], logits_fn tells {shape[1]} classes "
            "apart; give labels from 0."
        )
    return shape[1]


def check_logits(logits: np.ndarray, again: np.ndarray, alone: np.ndarray) -> list[str]:
    """Refuses a classifier whose results the attacks would misjudge.

    Args:
      logits: f[n, k], of all clean images.
      again: of the first of them, computed a second time.
      alone: of the first of them, in a batch of another size.

    Returns:
      What looks doubtful, as sentences.

    Raises:
      UserError: NaN, probabilities, or logits that change between passes or with the batch.
    """
    if not np.isfinite(logits).all():
        raise UserError("logits_fn returned NaN or infinite logits; check its weights.")
    in_range = (logits >= -1e-5).all() and (logits <= 1 + 1e-5).all()
    if in_range and (np.abs(logits.sum(1) - 1) < 1e-4).all():
        raise UserError(
            "logits_fn returned probabilities, AutoAttack needs logits; drop the softmax."
        )
    largest, notes = max(1.0, float(np.abs(logits).max())), []
    for what, other in (("two passes over the same images", again), ("two batch sizes", alone)):
        difference = float(np.abs(logits[: len(other)] - other).max())
        if not difference <= LARGEST_DIFFERENCE * largest:
            raise UserError(
                f"logits differ by {difference:.2g} between {what}; logits_fn is random or "
                "normalises by the batch: use running statistics and no dropout."
            )
        if difference > TOLD_DIFFERENCE * largest:
            notes.append(
                f"logits differ by {difference:.2g} between {what}, more than float32 sums do: "
                "images next to a boundary may be counted either way"
            )
    return notes


def check_found(adversarial: np.ndarray, images: np.ndarray, norm: str, eps: float) -> None:
    """Raises RuntimeError where an attack's images f32[n, h, w, c] left the ball or [0, 1]."""
    delta = (adversarial.astype(np.float64) - images).reshape(len(images), -1)
    order, rounded = {"linf": (np.inf, 1), "l2": (2, delta.shape[1] ** 0.5),
                      "l1": (1, delta.shape[1])}[norm]  # fmt: skip
    farthest = float(np.linalg.norm(delta, ord=order, axis=1).max())
    low, high = float(adversarial.min()), float(adversarial.max())
    # Each pixel is rounded once, by half a unit in the last place of 1.
    if not (farthest <= eps * (1 + 1e-5) + 1e-7 * rounded and low >= 0 and high <= 1):
        raise RuntimeError(
            f"an attack left its set: distance {farthest:g} for eps={eps:g}, "
            f"values in [{low:g}, {high:g}]"
        )
