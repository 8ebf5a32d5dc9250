"""What the probes of the theorem's classifier showed, in words, a table and numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from score_jax.analysis.separation_words import PUBLISHED, left_out_words, norm_name
from score_jax.analysis.theorem import KINDS, certified_radius

NUM_SHOWN = 5  # Balls, as images.
CURVE = 101  # Radii at which the curves are told.


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The classifier of a dataset, probed and judged; distances in pixels of [0, 1].

    Attributes:
      separation: of the points, or less where outliers were left out; None where it was not
        measured, since a radius was given.
      nearest: the least distance of a point whose ball was probed to one of another class.
      num_points, outliers: training images that it is made of, and that were left out.
      outliers_asked: how many were to be left out.
      center_rows: i64[n], training images whose balls were probed.
      kinds: [m], of `theorem.KINDS`, of each probe.
      own, other: f64[m], distances of each probe to the center's class and to the nearest other.
      slopes: which pairs -> r times the steepest slope between each two.
      slack: which pairs -> how much of each may be rounding.
      rounding: of distances to classes, relatively.
      hardest: (label, whether the probe is right, center, probe towards the nearest other, that
        one), images f32 to 255.
      test_own, test_other: f64[t], as `own` and `other` of the test images; None without any.
      train_certified: f64[points], sorted; None where it was not measured.
    """

    dataset: str
    p: float
    radius: float
    separation: float | None
    nearest: float
    num_points: int
    outliers: int
    outliers_asked: int
    seed: int
    class_names: Sequence[str]
    center_rows: np.ndarray
    kinds: np.ndarray
    own: np.ndarray
    other: np.ndarray
    slopes: Mapping[str, np.ndarray]
    slack: Mapping[str, np.ndarray]
    rounding: float
    hardest: Sequence[tuple[int, bool, np.ndarray, np.ndarray, np.ndarray]]
    test_own: np.ndarray | None
    test_other: np.ndarray | None
    train_certified: np.ndarray | None

    @property
    def norm(self) -> str:
        return norm_name(self.p)

    @property
    def is_covered(self) -> bool | None:
        """Whether the theorem speaks of this radius; None where nobody knows."""
        if self.separation is not None and 2 * self.radius <= self.separation:
            return True
        return False if 2 * self.radius > self.nearest else None

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
    def test_certified(self) -> np.ndarray | None:
        """f64[t]; None without test images."""
        if self.test_own is None or self.test_other is None:
            return None
        return certified_radius(self.test_own, self.test_other)

    def above_bound(self, pairs: str) -> int:
        """How many of these pairs are steeper than 1/r by more than rounding."""
        return int((self.slopes[pairs] > 1 + self.slack[pairs]).sum())

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
    told = [
        f"{errors} errors at {number} points within {shown.norm} radius r = {shown.radius:.4f} "
        f"({_radius(shown)}) around {len(shown.center_rows)} of the {shown.num_points} training "
        "images.",
        *_reach(shown),
    ]
    steepest = max(values.max() for values in shown.slopes.values())
    pairs = sum(len(values) for values in shown.slopes.values())
    over = sum(shown.above_bound(name) for name in shown.slopes)
    but = " but for rounding" if shown.rounding else ""
    because = f" (of {shown.rounding:.1g} of a distance at most)" if but else ""
    told.append(
        f"Its steepest slope over {pairs} pairs is {steepest:.6f}/r = "
        f"{steepest / shown.radius:.4g}; the bound 1/r was exceeded {over} times{but}{because}."
    )
    certified = shown.test_certified
    if certified is None:
        return told
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


def _radius(shown: Shown) -> str:
    """What the radius is, beside the separation."""
    if shown.separation is not None and 2 * shown.radius == shown.separation:
        return "half the separation"
    if shown.is_covered:
        return f"as given, within half the separation, {shown.separation / 2:.4f}"
    return "as given"


def _reach(shown: Shown) -> list[str]:
    """Whether the theorem speaks of this radius, and of which images."""
    told = []
    if shown.outliers_asked:
        left_out = left_out_words(shown.outliers, shown.outliers_asked)
        still = " Distances of the others to them still count: the others may lie further apart."
        told.append(f"Left out: {left_out}.{still if shown.outliers else ''}")
    if shown.is_covered is False:
        told.append(
            "The theorem does not speak of this radius: it is beyond half the separation, which is "
            f"{shown.nearest / 2:.4f}{'' if shown.nearest == shown.separation else ' or less'}."
        )
    elif shown.is_covered is None:
        told.append(
            "Whether the theorem speaks of this radius is not known: the images whose balls were "
            f"probed lie {shown.nearest:.4f} or more from other classes, and `score-jax analyze "
            "separation` tells of all."
        )
    return told


def facts(shown: Shown) -> dict[str, Any]:
    """Everything, for JSON."""
    certified, train = shown.test_certified, shown.train_certified
    of = train if certified is None else certified
    highest = max(shown.radius, 0.0 if of is None else float(of.max()))
    radii = np.linspace(0, highest, CURVE)
    return {
        "dataset": shown.dataset,
        "p": shown.p if math.isfinite(shown.p) else "inf",
        "radius": shown.radius,
        "separation": shown.separation,
        "is_within_half_the_separation": shown.is_covered,
        "nearest": shown.nearest,
        "num_points": shown.num_points,
        "outliers": shown.outliers,
        "outliers_asked": shown.outliers_asked,
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
        "rounding": shown.rounding,
        "slopes": {
            name: {
                "pairs": len(values),
                "steepest": float(values.max() / shown.radius),
                "share_of_bound": float(values.max()),
                "above_bound": shown.above_bound(name),
            }
            for name, values in shown.slopes.items()
        },
        "test": None
        if certified is None
        else {
            "num_examples": len(certified),
            "accuracy": float((certified > 0).mean()),
            "ties": int((certified == 0).sum()),
            "certified_at_radius": float((certified > shown.radius).mean()),
            "eps": shown.eps,
            "certified_at_eps": float((certified > shown.eps).mean()) if shown.eps else None,
        },
        "curve": {
            "radii": radii.tolist(),
            "test": _shares(certified, radii),
            "train": _shares(train, radii),
        },
    }


def _shares(certified: np.ndarray | None, radii: np.ndarray) -> list[float] | None:
    if certified is None:
        return None
    return [float((certified > radius).mean()) for radius in radii]
