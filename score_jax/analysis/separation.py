"""How far apart differently labelled examples lie, exactly (Yang et al. 2020, "r-separation").

A dataset is r-separated where every such distance is 2r or more; then a classifier exists that is
right on every ball of radius r (their Theorem 1, see `theorem`).
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from score_jax import mesh
from score_jax.analysis import separation_blocks as blocks
from score_jax.analysis import separation_pass
from score_jax.analysis.separation_pass import Examples, Found, Points
from score_jax.mesh import Layout
from score_jax.types import UserError

# Queries in memory at once, whatever the size of the sets: bytes, and how many.
BYTES, COUNT = 1 << 26, 1 << 15
REFINED = 1024  # Pairs at once whose distance is computed again.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nearest:
    """For each query its nearest differently labelled reference.

    Attributes:
      distances: f64, pixel units where the images are in [0, 1] or uint8; inf where there is none.
      indices: i64, of the references; one of the nearest.
    """

    distances: np.ndarray
    indices: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """All pairs of two sets of points, compared.

    Attributes:
      nearest: [m], of another label than the query's.
      control: [m], of another control label.
      query_classes, reference_classes: i[a], i[k], the labels on either side, ascending.
      pair_distances: f64[a, k], of the nearest pair of two classes; inf for a class and itself.
      pair_queries, pair_references: i64[a, k], one such pair.
    """

    nearest: Nearest
    control: Nearest
    query_classes: np.ndarray
    reference_classes: np.ndarray
    pair_distances: np.ndarray
    pair_queries: np.ndarray
    pair_references: np.ndarray


def nearest_other(
    queries: np.ndarray,
    query_labels: np.ndarray,
    references: np.ndarray,
    reference_labels: np.ndarray,
    *,
    p: float = math.inf,
) -> Nearest:
    """`compare` of examples in memory: each query with each reference of another label.

    Args:
      queries: [m, ...] examples, floating or uint8 (which counts as multiples of 1/255).
      query_labels: i[m].
      references: [n, ...] of the same type and shape.
      reference_labels: i[n].
      p: of the norm, 1 or more.
    """
    sides = Examples(queries, query_labels), Examples(references, reference_labels)
    return compare(*sides, p=p).nearest


def compare(
    queries: Points,
    references: Points,
    *,
    p: float = math.inf,
    controls: tuple[np.ndarray, np.ndarray] | None = None,
    layout: Layout | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Compared:
    """Compares every query with every reference; train-train and test-train alike.

    Memory is that of some `BYTES` of queries and a block of references, however large the sets are;
    queries are split over the devices. uint8 images are compared as integers where p is 1, 2 or
    infinite, without any rounding before the root; elsewhere the nearest is found in the arithmetic
    of the devices, and its distance computed again in float64.

    Args:
      p: of the norm, 1 or more.
      controls: other labels of queries and references, i[m] and i[n], for which the nearest of
        another label is found in the same pass.
      layout: the devices; all of this process without.
      tell: is told how many of the len(queries) * len(references) pairs are done.

    Raises:
      UserError: p below 1, or a query has no differently labelled reference.
    """
    example = _check(queries, references, p)
    layout = layout or mesh.create(jax.local_devices())
    size, block = blocks.block_sizes(layout)
    query_controls, reference_controls = controls or (queries.labels, references.labels)
    in_tiles = separation_pass.in_tiles(references, reference_controls, block)
    at_once = max(min(BYTES // max(example.nbytes, 1), COUNT) // size, 1) * size
    query_controls = np.asarray(query_controls).astype(np.int32)
    labels, classes = np.asarray(queries.labels), np.unique(queries.labels)
    parts = []
    for start in range(0, len(queries), at_once):
        rows = np.arange(start, min(start + at_once, len(queries)))

        def told(share: float, start: int = start, count: int = len(rows)) -> None:
            tell(round((start + share * count) * len(references)))

        best = separation_pass.best_of(
            queries.take(rows)[0], query_controls[rows], in_tiles,
            p=float(p), layout=layout, tell=told,
        )  # fmt: skip
        parts.append(
            separation_pass.over_classes(best, start, labels[rows], classes, in_tiles.classes)
        )
    found = _in_pixels(separation_pass.join(parts), classes, in_tiles.classes, p, example)
    if blocks.is_exact(example.dtype, example.size, p):
        return found
    return _refined(found, queries, references, p)


def _check(queries: Points, references: Points, p: float) -> np.ndarray:
    """One query; refuses what cannot be compared."""
    if not p >= 1:
        raise UserError(f"p={p:g} is not a norm; give 1 or more, or inf")
    known, counts = np.unique(references.labels, return_counts=True)
    alone = np.isin(queries.labels, known[counts == len(references)])
    if not len(references) or not len(queries) or alone.any():
        label = np.asarray(queries.labels)[np.argmax(alone)] if len(queries) else "none"
        raise UserError(f"every example compared with has label {label}; give two classes or more")
    query, reference = (side.take(np.zeros(1, np.int64))[0] for side in (queries, references))
    if query.dtype != reference.dtype or query.shape != reference.shape:
        raise UserError(
            f"examples {query.dtype}{list(query.shape[1:])} cannot be compared with "
            f"{reference.dtype}{list(reference.shape[1:])}; give both in one type and shape"
        )
    return query[0]


def _in_pixels(
    found: Found, query_classes: np.ndarray, classes: np.ndarray, p: float, example: np.ndarray
) -> Compared:
    def nearest(powers: np.ndarray, indices: np.ndarray) -> Nearest:
        return Nearest(distances=_distances(powers, p, example), indices=indices)

    return Compared(
        nearest=nearest(found.powers, found.indices),
        control=nearest(found.control_powers, found.control_indices),
        query_classes=query_classes,
        reference_classes=classes,
        pair_distances=_distances(found.pair_powers, p, example),
        pair_queries=found.pair_queries,
        pair_references=found.pair_references,
    )


def _distances(powers: np.ndarray, p: float, example: np.ndarray) -> np.ndarray:
    distances = powers.astype(np.float64)
    if np.issubdtype(powers.dtype, np.integer):
        distances[powers == blocks.far(powers.dtype)] = np.inf
        if p == 2:
            distances = np.sqrt(distances)
    return distances / 255 if example.dtype == np.uint8 else distances


def _refined(found: Compared, queries: Points, references: Points, p: float) -> Compared:
    """The same pairs with the distances of float64."""

    def again(distances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        result = distances.copy()
        finite = np.flatnonzero(np.isfinite(distances))
        for start in range(0, len(finite), REFINED):
            some = finite[start : start + REFINED]
            result.flat[some] = norms(
                queries.take(rows.flat[some])[0], references.take(columns.flat[some])[0], p
            )
        return result

    def nearest(of: Nearest) -> Nearest:
        every = np.arange(len(of.indices))
        return dataclasses.replace(of, distances=again(of.distances, every, of.indices))

    pairs = again(found.pair_distances, found.pair_queries, found.pair_references)
    return dataclasses.replace(
        found, nearest=nearest(found.nearest), control=nearest(found.control), pair_distances=pairs
    )


def norms(one: np.ndarray, other: np.ndarray, p: float) -> np.ndarray:
    """Distances of examples [n, ...] of the same places, f64[n], in float64."""
    scale = 255 if one.dtype == np.uint8 else 1
    gaps = np.abs(one.astype(np.float64) - other.astype(np.float64)).reshape(len(one), -1)
    largest = gaps.max(1, initial=0)
    # The largest is taken out: high powers of small differences vanish.
    shares = gaps / np.where(largest > 0, largest, 1)[:, None]
    return largest * np.linalg.norm(shares, p, axis=1) / scale


def keep_from(distances: np.ndarray, place: int) -> np.ndarray:
    """Drops the outliers by hand as the paper does: bool[n], at or above the place-th smallest.

    Args:
      distances: f[n].
      place: counted from 1; 5 for SVHN and 7 for Restricted ImageNet in the paper.

    Raises:
      UserError: there is no such place.
    """
    if not 1 <= place <= len(distances):
        raise UserError(f"place={place} must lie in 1 to {len(distances)}, the number of examples")
    return distances >= np.partition(distances, place - 1)[place - 1]
