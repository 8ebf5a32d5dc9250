"""Checks of the input gradient: whether it is the function's, and whether it is there at all."""

import numpy as np

from score_jax.trust_check import Check, advice, grade, percent
from score_jax.trust_subject import Subject

# Pixel units. Small ones lose float32 digits, large ones meet kinks: the best one counts.
DIFFERENCES = (1e-2, 3e-3, 1e-3, 3e-4)
DIRECTIONS = 2  # Random ones for every image.
BINS = 24


def gradient(subject: Subject) -> Check:
    """Autodiff against central differences of a random combination of the logits."""
    rng = subject.rng
    largest = max(DIFFERENCES)
    points = np.clip(subject.random_points(restart=2), largest, 1 - largest)
    readout = rng.normal(size=subject.clean.shape).astype(np.float32)
    _, by_autodiff = subject.gradients(points, readout)

    def value(images):
        return (subject.logits(images).astype(np.float64) * readout).sum(-1)

    errors: dict[float, list[np.ndarray]] = {step: [] for step in DIFFERENCES}
    for _ in range(DIRECTIONS):
        direction = rng.choice(np.float32([-1, 1]), size=points.shape)
        expected = (by_autodiff.astype(np.float64) * direction).sum((1, 2, 3))
        for step in DIFFERENCES:
            move = np.float32(step) * direction
            found = (value(points + move) - value(points - move)) / (2 * step)
            errors[step].append(_relative_errors(found, expected))
    medians = {step: float(np.median(np.concatenate(all_))) for step, all_ in errors.items()}
    step, error = min(medians.items(), key=lambda entry: entry[1])
    colour = grade("gradient_error", error)
    return Check(
        name="gradient",
        colour=colour,
        finding=f"autodiff and finite differences differ by {error:.2g} (median, relative; the "
        f"best step is {step:g})",
        numbers={
            "median_error": error,
            "median_error_by_step": {f"{step:g}": value for step, value in medians.items()},
        },
        remedy=advice(
            colour,
            "The gradient is not the function's (a stopped or "
            "invented gradient, rounding, noise): attack with its true or a smoothed gradient "
            "(BPDA), and black-box.",
        ),
    )


def zero_gradient(subject: Subject) -> Check:
    """Cross-entropy has an input gradient that is not exactly 0, on clean images and near them."""
    readout = np.zeros_like(subject.clean)
    shares, clean_sizes = {}, None
    for name, points in (("clean", subject.images), ("random", subject.random_points(restart=3))):
        found, _ = subject.gradients(points, readout)
        sizes = np.abs(found).reshape(len(found), -1).max(-1)[subject.is_right]
        shares[name] = float((sizes == 0).mean()) if len(sizes) else 0.0
        clean_sizes = sizes if name == "clean" else clean_sizes
    share = max(shares.values())
    colour = grade("zero_gradient", share, int(subject.is_right.sum()))
    positive = clean_sizes[clean_sizes > 0]
    median = float(np.median(positive)) if len(positive) else 0.0
    numbers = {"zero_share": shares, "median_size": median, **_histogram(positive)}
    return Check(
        name="zero_gradient",
        colour=colour,
        finding=f"{percent(share)} of the right images have a gradient of exactly 0; the median "
        f"of the others' largest entries is {median:.2g}",
        numbers=numbers,
        remedy=advice(
            colour,
            "Gradient attacks are blind there: divide the logits "
            "by a constant or attack the margin, replace what has no gradient (rounding, argmax), "
            "and add a black-box attack.",
        ),
    )


def _relative_errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """In [0, 2]; 2 where both are 0: a function that stands still has no derivative to trust."""
    size = np.abs(found) + np.abs(expected)
    return np.where(size > 0, 2 * np.abs(found - expected) / np.where(size > 0, size, 1), 2.0)


def _histogram(sizes: np.ndarray) -> dict[str, list]:
    if not len(sizes):
        return {"log10_edges": [], "counts": []}
    counts, edges = np.histogram(np.log10(sizes), bins=BINS)
    return {"log10_edges": edges.tolist(), "counts": counts.tolist()}
