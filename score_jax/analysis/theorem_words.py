"""What the probes of the theorem's classifier showed, in words, a table and numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from score_jax.analysis.separation_words import PUBLISHED, norm_name
from score_jax.analysis.theorem import KINDS, certified_radius

NUM_SHOWN = 5  # Balls, as images.
CURVE = 101  # Radii at which the curves are told.


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The classifier of a dataset, probed and judged; distances in pixels of [0, 1].

    Attributes:
      separation: of the points; None where it was not measured, since a radius was given.
      num_points, outliers: training images that it is made of, and that were left out.
      center_rows: i64[n], training images whose balls were probed.
      kinds: [m], of `theorem.KINDS`, of each probe.
      own, other: f64[m], distances of each probe to the center's class and to the nearest other.
      slopes: which pairs -> r times the steepest slope between each two.
      hardest: (label, whether the probe is right, center, probe towards the nearest other, that
        one), images f32 to 255.
      test_own, test_other: f64[t], as `own` and `other` of the test images.
      train_certified: f64[points], sorted; None where it was not measured.
    """

    dataset: str
    p: float
    radius: float
    separation: float | None
    num_points: int
    outliers: int
    seed: int
    class_names: Sequence[str]
    center_rows: np.ndarray
    kinds: np.ndarray
    own: np.ndarray
    other: np.ndarray
    slopes: Mapping[str, np.ndarray]
    hardest: Sequence[tuple[int, bool, np.ndarray, np.ndarray, np.ndarray]]
    test_own: np.ndarray
    test_other: np.ndarray
    train_certified: np.ndarray | None

    @property
    def norm(self) -> str:
        return norm_name(self.p)

    @property
    def is_covered(self) -> bool | None:
        """Whether the theorem speaks of this radius; None where the separation is unknown."""
        return None if self.separation is None else 2 * self.radius <= self.separation

    @property
    def errors(self) -> np.ndarray:
        """bool[m]: probes that are nearer to another class, or as near."""
        return self.own >= self.other

    @property
    def eps(self) -> float | None:
        """Of the paper, for this dataset."""
        is_known = self.p == math.inf and self.dataset in PUBLISHED
        return PUBLISHED[self.dataset].eps if is_known else None

    @property
    def test_certified(self) -> np.ndarray:
        """f64[t]."""
        return certified_radius(self.test_own, self.test_other)

    def class_name(self, label: int) -> str:
        return self.class_names[label] if label < len(self.class_names) else str(label)


def table(shown: Shown) -> list[list[str]]:
    """One row a kind of probe."""
    rows = [["probes", "number", "errors", "largest own f", "smallest other f"]]
    for kind, words in KINDS.items():
        own, other = shown.own[shown.kinds == kind], shown.other[shown.kinds == kind]
        errors = int(shown.errors[shown.kinds == kind].sum())
        rows.append([
            words, str(len(own)), str(errors), f"{own.max() / shown.radius:.4f}",
            f"{other.min() / shown.radius:.4f}",
        ])  # fmt: skip
    return rows


def summary(shown: Shown) -> list[str]:
    """Is it right on the balls, how steep is it, and what is it worth on new images?"""
    errors, number = int(shown.errors.sum()), len(shown.errors)
    half = "half the separation" if shown.is_covered and 2 * shown.radius == shown.separation else (
        "as given" if shown.separation is None else f"separation {shown.separation:.4f}"
    )  # fmt: skip
    told = [
        f"{errors} errors at {number} points within {shown.norm} radius r = {shown.radius:.4f} "
        f"({half}) around {len(shown.center_rows)} of the {shown.num_points} training images."
    ]
    if shown.is_covered is False:
        told.append(
            f"The theorem does not speak of this radius: it is above half the separation, "
            f"{shown.separation / 2:.4f}."
        )
    steepest = max(values.max() for values in shown.slopes.values())
    pairs = sum(len(values) for values in shown.slopes.values())
    over = sum(int((values > 1).sum()) for values in shown.slopes.values())
    told.append(
        f"Its steepest slope over {pairs} pairs is {steepest:.6f}/r = "
        f"{steepest / shown.radius:.4g}; the bound 1/r was exceeded {over} times."
    )
    certified = shown.test_certified
    ties = int((certified == 0).sum())
    words = (
        f"On {len(certified)} test images it is the nearest neighbour in {shown.norm}: "
        f"{(certified > 0).mean():.2%} right ({ties} ties count as wrong), "
    )
    radii = [("r", shown.radius)] + ([("the paper's eps", shown.eps)] if shown.eps else [])
    told.append(
        words
        + " and ".join(
            f"{(certified > radius).mean():.2%} proven right within {name} = {radius:.4g}"
            for name, radius in reversed(radii)
        )
        + "."
    )
    return told


def facts(shown: Shown) -> dict[str, Any]:
    """Everything, for JSON."""
    certified = shown.test_certified
    highest = max(float(certified.max()), shown.radius)
    radii = np.linspace(0, highest, CURVE)
    return {
        "dataset": shown.dataset,
        "p": shown.p if math.isfinite(shown.p) else "inf",
        "radius": shown.radius,
        "separation": shown.separation,
        "num_points": shown.num_points,
        "outliers": shown.outliers,
        "seed": shown.seed,
        "num_balls": len(shown.center_rows),
        "errors": int(shown.errors.sum()),
        "probes": {
            kind: {
                "number": int((shown.kinds == kind).sum()),
                "errors": int(shown.errors[shown.kinds == kind].sum()),
                "largest_own": float(shown.own[shown.kinds == kind].max() / shown.radius),
                "smallest_other": float(shown.other[shown.kinds == kind].min() / shown.radius),
            }
            for kind in KINDS
        },
        "slope_bound": 1 / shown.radius,
        "slopes": {
            name: {
                "pairs": len(values),
                "steepest": float(values.max() / shown.radius),
                "share_of_bound": float(values.max()),
                "above_bound": int((values > 1).sum()),
            }
            for name, values in shown.slopes.items()
        },
        "test": {
            "num_examples": len(certified),
            "accuracy": float((certified > 0).mean()),
            "ties": int((certified == 0).sum()),
            "certified_at_radius": float((certified > shown.radius).mean()),
            "eps": shown.eps,
            "certified_at_eps": float((certified > shown.eps).mean()) if shown.eps else None,
        },
        "curve": {
            "radii": radii.tolist(),
            "test": [float((certified > radius).mean()) for radius in radii],
            "train": None
            if shown.train_certified is None
            else [float((shown.train_certified > radius).mean()) for radius in radii],
        },
    }
