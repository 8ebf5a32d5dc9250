"""One pass over all pairs of queries and references, block by block, in bounded memory."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np

from score_jax.analysis import separation_blocks as blocks
from score_jax.analysis.separation_blocks import Least
from score_jax.mesh import Layout

IN_FLIGHT = 8  # Blocks of pairs under way at once: they run beside each other on a CPU's cores.


class Points(Protocol):
    """Examples given by their index, wherever they lie, such as a `data.sources.Source`."""

    @property
    def labels(self) -> np.ndarray:
        """All labels, i[n]."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Examples [k, ...] and their labels, at int64[k] `indices`."""


@dataclass(frozen=True)
class Examples:
    """Points in memory: images [n, ...], floating or uint8; labels i[n]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copies of some."""
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True)
class References:
    """Points in the order in which they are compared: class by class, in whole tiles.

    Attributes:
      points: where they lie.
      controls: i32[n], their control labels.
      order: i64[n'], indices of the points; filled up by repetition.
      classes: i[k], the labels in ascending order.
      tile_classes: i64[tiles], of the classes.
    """

    points: Points
    controls: np.ndarray
    order: np.ndarray
    classes: np.ndarray
    tile_classes: np.ndarray


def in_tiles(points: Points, controls: np.ndarray, block: int) -> References:
    """The references in whole tiles, and these in whole blocks of `block` references."""
    classes, numbers = np.unique(points.labels, return_inverse=True)
    order, tile_classes = [], []
    for number in range(len(classes)):
        own = np.flatnonzero(numbers == number)
        count = -(-len(own) // blocks.TILE)
        order.append(np.resize(own, count * blocks.TILE))
        tile_classes += [number] * count
    whole = -(-len(tile_classes) // (block // blocks.TILE)) * (block // blocks.TILE)
    missing = whole - len(tile_classes)
    order += [order[-1][-blocks.TILE :]] * missing
    return References(
        points=points,
        controls=np.asarray(controls).astype(np.int32),
        order=np.concatenate(order),
        classes=classes,
        tile_classes=np.array(tile_classes + tile_classes[-1:] * missing),
    )


@dataclass(frozen=True)
class Best:
    """The nearest references of some queries; powers as of `Least`.

    Attributes:
      powers, indices: [k, m], of each class of the references.
      control_powers, control_indices: [m], of another control label.
    """

    powers: np.ndarray
    indices: np.ndarray
    control_powers: np.ndarray
    control_indices: np.ndarray

    @classmethod
    def nothing(cls, num_classes: int, count: int, dtype: np.dtype) -> "Best":
        """Where nothing was compared yet."""
        return cls(
            np.full((num_classes, count), blocks.far(dtype), dtype),
            np.zeros((num_classes, count), np.int64),
            np.full(count, blocks.far(dtype), dtype),
            np.zeros(count, np.int64),
        )

    def meet(self, first: int, found: Least, indices: np.ndarray, classes: np.ndarray) -> None:
        """Keeps what is nearer.

        Args:
          first: query of the block.
          indices: i64[references] of the block.
          classes: i64[tiles] of the block.
        """
        count = min(found.powers.shape[1], self.powers.shape[1] - first)
        part = slice(first, first + count)
        for tile, number in enumerate(classes):
            powers = found.powers[tile, :count]
            nearer = powers < self.powers[number, part]
            if nearer.any():
                places = found.places[tile, :count][nearer].astype(np.int64)
                self.powers[number, part][nearer] = powers[nearer]
                self.indices[number, part][nearer] = indices[tile * blocks.TILE + places]
        powers = found.control_powers[:count]
        nearer = powers < self.control_powers[part]
        self.control_powers[part][nearer] = powers[nearer]
        self.control_indices[part][nearer] = indices[found.control_places[:count][nearer]]


@dataclass(frozen=True)
class Found:
    """What is nearest, over the classes that are not a query's own; powers as of `Least`.

    Attributes:
      powers, indices: [m], of each query's nearest reference of another label.
      control_powers, control_indices: [m], of another control label.
      pair_powers, pair_queries, pair_references: [a, k], the nearest pair of a class of queries and
        one of references.
    """

    powers: np.ndarray
    indices: np.ndarray
    control_powers: np.ndarray
    control_indices: np.ndarray
    pair_powers: np.ndarray
    pair_queries: np.ndarray
    pair_references: np.ndarray


def over_classes(
    best: Best, first: int, labels: np.ndarray, query_classes: np.ndarray, classes: np.ndarray
) -> Found:
    """Of the queries from number `first` on, which have the labels i[m]."""
    apart = blocks.far(best.powers.dtype)
    powers = np.where(classes[:, None] == labels[None], best.powers.dtype.type(apart), best.powers)
    near, every = powers.argmin(0), np.arange(len(labels))
    shape = len(query_classes), len(classes)
    pair_powers, pair_rows = np.full(shape, apart, powers.dtype), np.zeros(shape, np.int64)
    columns = np.arange(len(classes))
    for number, label in enumerate(query_classes):
        rows = np.flatnonzero(labels == label)
        if len(rows):
            pair_rows[number] = rows[powers[:, rows].argmin(1)]
            pair_powers[number] = powers[columns, pair_rows[number]]
    return Found(
        powers=powers[near, every],
        indices=best.indices[near, every],
        control_powers=best.control_powers,
        control_indices=best.control_indices,
        pair_powers=pair_powers,
        pair_queries=pair_rows + first,
        pair_references=best.indices[columns[None], pair_rows],
    )


def join(parts: Sequence[Found]) -> Found:
    """The findings of all queries, given those of some at a time."""
    which = np.stack([part.pair_powers for part in parts]).argmin(0)[None]

    def nearest(name: str) -> np.ndarray:
        stacked = np.stack([getattr(part, name) for part in parts])
        return np.take_along_axis(stacked, which, axis=0)[0]

    pairs = ("pair_powers", "pair_queries", "pair_references")
    rows = ("powers", "indices", "control_powers", "control_indices")
    return Found(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in rows},
        **{name: nearest(name) for name in pairs},
    )


def best_of(
    examples: np.ndarray,
    controls: np.ndarray,
    references: References,
    *,
    p: float,
    layout: Layout,
    tell: Callable[[float], None],
) -> Best:
    """Compares queries in memory [m, ...], of control labels i32[m], with all references.

    Args:
      tell: is told the share that is done.
    """
    size, block = blocks.block_sizes(layout)
    queries = []
    for first in range(0, len(examples), size):
        rows = np.arange(first, first + size) % len(examples)
        queries.append((blocks.place_queries(examples[rows], layout), controls[rows]))
    best: list[Best] = []
    pending: deque[tuple[int, int, Least]] = deque()
    starts = range(0, len(references.order), block)
    done, total = 0, len(starts) * len(queries)

    def fetch() -> None:
        nonlocal done
        start, number, least = pending.popleft()
        found = Least(*(np.asarray(part) for part in jax.device_get(least)))
        if not best:
            best.append(Best.nothing(len(references.classes), len(examples), found.powers.dtype))
        best[0].meet(
            number * size,
            found,
            references.order[start : start + block],
            references.tile_classes[start // blocks.TILE : (start + block) // blocks.TILE],
        )
        done += 1
        tell(done / total)

    for start in starts:
        indices = references.order[start : start + block]
        images, _ = references.points.take(indices)
        placed = blocks.place_references(images, layout)
        for number, (part, part_controls) in enumerate(queries):
            least = blocks.least(part, part_controls, placed, references.controls[indices], p=p)
            pending.append((start, number, least))
            if len(pending) > IN_FLIGHT:
                fetch()
    while pending:
        fetch()
    return best[0]
