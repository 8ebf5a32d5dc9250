"""The classifier whose existence a separated dataset implies (Yang et al. 2020, Theorem 1).

It is built here from the training points themselves, so that it can be looked at: right on every
ball of radius r, no steeper than 1/r, and as good on new points as the nearest neighbour is.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from score_jax.analysis.separation import compare, norms
from score_jax.analysis.separation_pass import Examples, Points

# Probes of uint8 images are multiples of 1/4096 of a level (1/255): float32 holds such numbers and
# their differences without rounding, so that distances in the maximum norm are exact.
GRID = 4096
SHARE = 0.999  # Of r, at which the furthest probes lie.
NEAREST = 1e-3  # Of r, about where the nearest probes lie.
KINDS = {
    "corner": "random corners at 0.999 r",
    "inside": "random points inside",
    "towards": "0.999 r towards the nearest of another class",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of the points: the rows i64[n]; with `is_levels` as f32 numbers from 0 to 255."""

    points: Points
    rows: np.ndarray
    is_levels: bool = False

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.points.labels)[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copies of some; see `separation_pass.Points`."""
        images, labels = self.points.take(self.rows[indices])
        return images.astype(np.float32) if self.is_levels else images, labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistanceClassifier:
    """g(x) = argmin_i f_i(x) with f_i(x) = dist(x, X_i) / r, X_i the points of class i.

    Guarantee: each f_i is 1/r-Lipschitz, and where points of different classes are 2r or more
    apart, g is right on every open ball of radius r around them.

    Attributes:
      points: where they lie; examples are of the same type and shape.
      radius: r, in the units of the distances: of [0, 1] for uint8 images, else of the points.
      p: of the norm.
    """

    points: Points
    radius: float
    p: float = math.inf

    @property
    def classes(self) -> np.ndarray:
        """The labels in ascending order: the columns of `values`."""
        return np.unique(self.points.labels)

    def distances(
        self, examples: np.ndarray, tell: Callable[[float], None] = lambda share: None
    ) -> np.ndarray:
        """dist(x, X_i) of every example, f64[m, k].

        Args:
          tell: is told the share that is done.
        """
        queries = Examples(examples, np.full(len(examples), -1))
        labels = np.asarray(self.points.labels)
        columns, done, total = [], 0, len(examples) * len(labels)
        for label in self.classes:
            own = Part(self.points, np.flatnonzero(labels == label))

            def told(pairs: int, before: int = done) -> None:
                tell((before + pairs) / total)

            columns.append(compare(queries, own, p=self.p, tell=told).nearest.distances)
            done += len(examples) * len(own)
        return np.stack(columns, axis=1)

    def values(self, examples: np.ndarray) -> np.ndarray:
        """f_i of every example, f64[m, k]."""
        return self.distances(examples) / self.radius

    def __call__(self, examples: np.ndarray) -> np.ndarray:
        """The class of every example, [m]."""
        return self.classes[self.distances(examples).argmin(axis=1)]


def probe(
    kind: str,
    random: np.random.Generator,
    centers: np.ndarray,
    others: np.ndarray,
    radius: float,
    p: float,
) -> np.ndarray:
    """One point in the ball around each center, f32[m, ...], with offsets of multiples of 1/GRID.

    Args:
      kind: one of `KINDS`.
      centers: f32[m, ...].
      others: f32[m, ...], the nearest points of other classes, where `kind` goes to.
      radius: in the units of the centers.
      p: of the norm.
    """
    if kind == "corner":
        offsets = _to_length(random.choice([-1.0, 1.0], centers.shape), SHARE * radius, p)
    elif kind == "inside":
        drawn = random.uniform(-1, 1, centers.shape)
        shares = NEAREST ** random.uniform(0, 1, len(centers))
        offsets = _to_length(drawn, SHARE * radius, p) * _per_row(shares, centers)
    elif p == math.inf:
        offsets = np.clip(others - centers, -SHARE * radius, SHARE * radius)
    else:
        offsets = _to_length(others - centers, SHARE * radius, p)
    # Rounded towards the center: no further away than asked.
    return (centers + np.trunc(offsets * GRID) / GRID).astype(np.float32)


def _to_length(directions: np.ndarray, length: float, p: float) -> np.ndarray:
    """Scaled to ‖direction‖ = length."""
    sizes = norms(directions.astype(np.float64), np.zeros(directions.shape), p)
    return directions * _per_row(length / np.where(sizes > 0, sizes, 1), directions)


def _per_row(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def own_and_other(
    distances: np.ndarray, labels: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(distance to the own class, least distance to another), f64[m] each, of f64[m, k]."""
    is_own = labels[:, None] == classes[None]
    own = np.where(is_own, distances, np.inf).min(1)
    return own, np.where(is_own, np.inf, distances).min(1)


def certified_radius(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far g stays right at least: distances to classes change no faster than x moves, f64[m].

    Below 0 where g is wrong, 0 where two classes are as near.
    """
    return (other - own) / 2


def rounding(num_features: int, p: float) -> float:
    """How much larger than it is a distance to a class may be found, relatively.

    In the maximum norm nothing of probes is rounded. In other norms the nearest of a class is
    chosen by a sum of `num_features` powers in float32, each step of which rounds by 2^-24 at most;
    the distance to the one chosen is of float64.
    """
    return 0.0 if p == math.inf else 2 * (num_features / p + 16) * 2.0**-24


def slack(
    first: np.ndarray, first_distances: np.ndarray,
    second: np.ndarray, second_distances: np.ndarray, p: float,
) -> np.ndarray:  # fmt: skip
    """How much of `steepness` may be `rounding`, f64[m]: much where two points are close."""
    apart = norms(first, second, p)
    away = np.maximum(first_distances, second_distances).max(1)
    share = rounding(first[0].size, p)
    return np.where(apart > 0, share * away / np.where(apart > 0, apart, 1), 0)


def steepness(
    first: np.ndarray, first_distances: np.ndarray,
    second: np.ndarray, second_distances: np.ndarray, p: float,
) -> np.ndarray:  # fmt: skip
    """r times the slope of the steepest f_i between two points, f64[m]; the theorem says 1 or less.

    Pairs at distance 0 have the slope 0.

    Args:
      first, second: [m, ...], the points.
      first_distances, second_distances: f64[m, k], to the classes.
    """
    apart = norms(first, second, p)
    change = np.abs(first_distances - second_distances).max(1)
    return np.where(apart > 0, change / np.where(apart > 0, apart, 1), 0)
