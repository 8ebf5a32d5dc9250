"""How far two networks' answers to the same images lie apart: logits, input gradients, verdicts."""

from typing import Any

import numpy as np

from score_jax.official_autoattack_recount import TIE, is_tie

# Input gradients of one network in two programs: rounding flips a ReLU here and there.
SAME_COSINE = 0.999


def compare_logits(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Differences of f32[n, k] logits, and the images on which the largest one is another.

    Relative differences are taken to the largest logit of the image, as ties are.
    """
    difference = np.abs(one.astype(np.float64) - other)
    scale = np.maximum(np.abs(one).max(1, keepdims=True), np.finfo(np.float32).tiny)
    differs = np.flatnonzero(one.argmax(1) != other.argmax(1))
    ties = is_tie(one) | is_tie(other)
    return {
        "num_images": len(one),
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "max_relative_difference": float((difference / scale).max()),
        "mean_relative_difference": float((difference / scale).mean()),
        "agreement": 1 - len(differs) / len(one),
        "disagreements": [
            {
                "image": int(index),
                "a": int(one[index].argmax()),
                "b": int(other[index].argmax()),
                "is_tie": bool(ties[index]),
            }
            for index in differs
        ],
    }


def compare_gradients(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Differences of input gradients f32[n, h, w, c], image by image.

    `sign_agreement` is the share of pixels that an L∞ step moves alike; pixels whose gradient is 0
    on both sides count as alike.
    """
    one, other = (x.reshape(len(x), -1).astype(np.float64) for x in (one, other))
    sizes = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    same = (one == other).all(1)
    cosine = np.where(same, 1.0, (one * other).sum(1) / np.where(sizes > 0, sizes, 1))
    largest = np.abs(one).max(1)
    relative = np.abs(one - other).max(1) / np.where(largest > 0, largest, 1)
    return {
        "mean_cosine": float(cosine.mean()),
        "median_cosine": float(np.median(cosine)),
        "min_cosine": float(cosine.min()),
        "max_relative_difference": float(relative.max()),
        "median_relative_difference": float(np.median(relative)),
        "sign_agreement": float((np.sign(one) == np.sign(other)).mean()),
        "zero_gradients": {"a": int((largest == 0).sum()), "b": int((~other.any(1)).sum())},
    }


def agreement(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Two bool[n] counted against each other, and the images on which they differ."""
    return {
        "both": int((one & other).sum()),
        "only_a": int((one & ~other).sum()),
        "only_b": int((~one & other).sum()),
        "neither": int((~one & ~other).sum()),
        "differing_images": np.flatnonzero(one != other).tolist(),
    }


def decisions_differ(logits: dict[str, Any]) -> int:
    """How many images are told apart otherwise, ties left out."""
    return sum(not entry["is_tie"] for entry in logits["disagreements"])


def verdict(
    logits: dict[str, Any], gradients: dict[str, Any], layers: dict[str, Any] | None
) -> str:
    """One sentence on whether this is one network."""
    wrong = decisions_differ(logits)
    size = f"{logits['max_difference']:.2g} (relative {logits['max_relative_difference']:.2g})"
    cosine = gradients["median_cosine"]
    parted = (layers or {}).get("parted_at")
    if wrong:
        where = f": part at {parted}" if parted else ""
        return f"different networks{where}; {wrong} of {logits['num_images']} decisions differ"
    same_gradient = cosine >= SAME_COSINE
    if logits["max_relative_difference"] <= TIE and same_gradient:
        return f"same to rounding: logits differ by at most {size}"
    gradient = "" if same_gradient else f", another input gradient (median cosine {cosine:.4f})"
    where = f"; they part at {parted}" if parted else ""
    return f"same decisions, logits differ by {size}{gradient}{where}"
