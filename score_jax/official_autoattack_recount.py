"""What is compared with what, before and after an attack, so that a wrong number never stands."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from score_jax.types import UserError

RANGE_TOLERANCE = 1e-5  # In pixel units, f32 rounding of clean image plus perturbation.
# The attacks sum thousands of numbers in f32 where this module sums in f64; in the 3072 pixels of a
# colour image APGD-T was seen 5e-5 outside its l1 ball.
BALL_TOLERANCE = {"linf": 1e-6, "l2": 1e-5, "l1": 1e-4}
# Two programs may disagree on images whose two best logits are this close, relative to the largest.
TIE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Threat:
    """norm 'linf', 'l2' or 'l1'; eps in pixel units of [0, 1]."""

    norm: str
    eps: float

    def distance(self, adversarial: np.ndarray, images: np.ndarray) -> np.ndarray:
        """f64[n], the norm of each perturbation."""
        delta = (adversarial.astype(np.float64) - images).reshape(len(images), -1)
        return np.linalg.norm(delta, {"linf": np.inf, "l2": 2, "l1": 1}[self.norm], axis=1)


@dataclass(frozen=True, kw_only=True)
class Recount:
    """What JAX says about saved adversarial images, beside what the attack claims."""

    robust: np.ndarray  # bool[n]
    disagreements: int
    max_distance: float


def is_tie(logits: np.ndarray) -> np.ndarray:
    """bool[n], from f32[n, k]: rounding alone may change the prediction."""
    second, first = np.sort(logits, axis=1)[:, -2:].T
    return first - second <= TIE * np.maximum(1, np.abs(logits).max(1))


def check_adversarial(
    adversarial: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    claimed: np.ndarray,
    *,
    threat: Threat,
    logits: np.ndarray,
) -> Recount:
    """Compares saved adversarial images with the rules and with what the attack claims of them.

    Args:
      adversarial: f32[n, h, w, c]; images: the clean ones; labels: i64[n].
      claimed: bool[n], which images the attack left correctly classified.
      logits: f32[n, k], by JAX, of the adversarial images.

    Raises:
      UserError: an image outside the ball or outside [0, 1], or a prediction that differs from the
        claim by more than rounding between two programs.
    """
    distance = check_inside(adversarial, images, threat)
    robust = logits.argmax(1) == labels
    differs = robust != claimed
    if (differs & ~is_tie(logits)).any():
        raise UserError(
            f"AutoAttack counts {int(claimed.sum())} of {len(labels)} images as robust, JAX counts "
            f"{int(robust.sum())} on the saved images; the result is not valid and was not written."
        )
    return Recount(
        robust=robust, disagreements=int(differs.sum()), max_distance=float(distance.max())
    )


def check_inside(adversarial: np.ndarray, images: np.ndarray, threat: Threat) -> np.ndarray:
    """f64[n], how far adversarial images f32[n, h, w, c] are from the clean ones; n is not 0.

    Raises:
      UserError: one is outside the ball or outside [0, 1].
    """
    distance = threat.distance(adversarial, images)
    # f32 sums err by a share of what they come to.
    allowed = threat.eps + max(BALL_TOLERANCE[threat.norm], 1e-5 * threat.eps)
    if not (distance <= allowed).all():
        worst = int(np.nanargmax(np.where(np.isnan(distance), np.inf, distance)))
        raise UserError(
            f"adversarial image {worst} is {distance[worst]:.7g} from the clean one, outside "
            f"eps={threat.eps:.7g} ({threat.norm}); the result is not valid and was not written."
        )
    low, high = float(adversarial.min()), float(adversarial.max())
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise UserError(
            f"adversarial images lie in [{low:g}, {high:g}], outside [0, 1]; the result is not "
            "valid and was not written."
        )
    return distance


def check_same(ours: np.ndarray, attacked: np.ndarray, labels: np.ndarray) -> None:
    """Refuses another network under attack than the one that is reported.

    Args:
      ours, attacked: f32[n, k], logits of the clean images by JAX and by the attacked network.

    Raises:
      UserError: they differ on an image by more than rounding.
    """
    differs = (ours.argmax(1) == labels) != (attacked.argmax(1) == labels)
    if (differs & ~is_tie(ours)).any():
        raise UserError(
            f"clean accuracy is {(ours.argmax(1) == labels).mean():.4f} in JAX and "
            f"{(attacked.argmax(1) == labels).mean():.4f} for the classifier under attack; they "
            "are not the same network."
        )


def save_adversarial(
    path: Path, adversarial: np.ndarray, labels: np.ndarray, robust: np.ndarray
) -> None:
    """Writes images f32[n, h, w, c], labels i32[n], and robust bool[n] as claimed, atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        # The same arrays are the same bytes: NumPy writes no times.
        np.savez(file, images=adversarial, labels=labels.astype(np.int32), robust=robust)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
