"""Sentences on the loss around images, on input gradients, and on images in growing balls."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from score_jax.analysis.landscape_radii import write_radius
from score_jax.analysis.landscape_runs import ratio, written
from score_jax.report_run import NORMS

POWERS = {"linf": 0.0, "l2": 0.5}  # Opposite corners of [0, 1]^d are d to this power apart.


def tell_surface(name: str, means: Mapping[str, Any], steps: int) -> str:
    """How a run's loss rises around images, and how straight."""
    return (
        f"{name}: PGD-{steps} raises the loss by {means['rise']:.3f} on average, where the tangent "
        f"promises {means['tangent']:.3f} and the loss leaves it by up to {means['gap']:.3f} (γ); "
        f"in {means['num_hidden']} of {means['num_planes']} planes a point of the ball lies above "
        "what PGD saw."
    )


def tell_gradients(name: str, means: Mapping[str, Any], noise: Mapping[str, float]) -> str:
    """What a run's gradients have of images, beside what noise has."""
    times = {
        of: f"{written(means[of])} ({ratio(means[of], noise[of])} times noise)" for of in noise
    }
    zero = f"; {means['num_zero']} gradients are exactly 0" if means["num_zero"] else ""
    return (
        f"{name}: alignment {times['alignment']}, total variation {times['variation']}, spread "
        f"{times['spread']}{zero}."
    )


def tell_radii(name: str, curve: Mapping[str, np.ndarray], sizes: Sequence[float]) -> str:
    """A run's answers in the smallest and the largest ball."""
    accuracy, confidence = curve["accuracy"], curve["confidence"]
    return (
        f"{name}: accuracy {accuracy[0]:.1%} on clean images and {accuracy[-1]:.1%} at ε = "
        f"{write_radius(sizes[-1])}; mean confidence {confidence[0]:.1%} and {confidence[-1]:.1%}."
    )


def tell_limit(norm: str, largest: float, image_shape: Sequence[int]) -> str:
    """What accuracy in the largest ball says of hidden gradients.

    From half of the way between two opposite corners of [0, 1]^d on, all images can be made the
    same grey; below that nothing bounds how accurate a model may be.
    """
    grey = 0.5 * math.prod(image_shape) ** POWERS[norm]
    where = f"{NORMS[norm]} radius of {grey:.3g}"
    if largest >= grey - 1e-9:
        return (
            f"From an {where} on every image can be made the same grey, so that at most the images "
            "of one class can stay right: a model that keeps more hides its gradients from the "
            "attack (Carlini et al. 2019)."
        )
    return (
        "Accuracy that does not fall as ε grows suggests gradients that are hidden from the attack "
        f"(Carlini et al. 2019); it is bound to fall only from an {where} on, where every image "
        f"can be made the same grey, and the radii here end at {write_radius(largest)}."
    )


def led_to(count: int, num_classes: int) -> str:
    """The classes that images are led to."""
    return "each class" if count >= num_classes else f"each of the first {count} classes"


def tell_seen(
    names: Sequence[str], seen: Sequence[Sequence[float]], size: float, classes: str
) -> list[str]:
    """Whether what one run takes for a class looks like it to another.

    Args:
      seen: by the images led by each run, the share that each run sees so.
      classes: of `led_to`.
    """
    other = "another class" if classes == "each class" else f"another class, {classes}"
    return [
        f"Of images that {name} was led by within {write_radius(size)} to see as {other}, "
        + ", ".join(f"{by[index]:.0%} are that to {names[index]}" for index in range(len(names)))
        + "."
        for name, by in zip(names, seen, strict=True)
    ]
