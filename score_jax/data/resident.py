"""Small sets that lie on the devices whole: a batch is gathered there, and only its rows are sent.

Every device has a copy, so that each gathers its own part of a batch and none waits for another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from score_jax.data import records
from score_jax.data.sources import Source
from score_jax.mesh import Layout
from score_jax.types import Array, UserError

LIMIT = 2**31  # Bytes on each device; beyond, places would not fit into the 32 bits of an index.


def check_size(sources: Sequence[Source], image_shape: tuple[int, int, int]) -> None:
    """Refuses sets that are not small.

    Raises:
      UserError: they would take 2 GiB or more of each device.
    """
    count = sum(map(len, sources))
    size = count * int(np.prod(image_shape))
    if size >= LIMIT:
        raise UserError(
            f"config.data.storage=device is for sets below {LIMIT >> 20} MiB and these {count} "
            f"images take {size >> 20} MiB; set config.data.storage=auto"
        )


def rows(sources: Sequence[Source], indices: np.ndarray, which: np.ndarray) -> np.ndarray:
    """int32[b]: where images lie among those of all sources, one source after the other.

    Args:
      indices: int64[b], in each image's source; which: int8[b], the number of that source.
    """
    starts = np.cumsum([0, *map(len, sources)])
    return (starts[which] + indices).astype(np.int32)


@dataclass(frozen=True)
class Emptied:
    """What is left on the host of a source that is on the devices: its number of images."""

    count: int

    def __len__(self) -> int:
        return self.count


class Resident:
    """All images and labels of some sources, on every device."""

    def __init__(self, sources: Sequence[Source], layout: Layout):
        count, place = sum(map(len, sources)), 0
        shape = sources[0].take(np.arange(0))[0].shape[1:]
        images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int32)
        for source in sources:
            for block in records.in_blocks(source):
                part = slice(place, place := place + len(block[1]))
                images[part], labels[part] = block
        self._images, self._labels = (_everywhere(each, layout) for each in (images, labels))
        self._gather = jax.jit(_gather, out_shardings=layout.batch)

    def batch(self, placed: dict[str, Array]) -> dict[str, Array]:
        """The batch of placed `rows` i32[b] and `generated` bool[b]: as from any other storage."""
        images, labels = self._gather(self._images, self._labels, placed["rows"])
        return {"images": images, "labels": labels, "generated": placed["generated"]}


def _everywhere(array: np.ndarray, layout: Layout) -> Array:
    return jax.make_array_from_callback(array.shape, layout.replicated, lambda index: array[index])


def _gather(images: Array, labels: Array, rows: Array) -> tuple[Array, Array]:
    # In bounds by construction: the sampler's indices are below the lengths of the sources.
    return tuple(each.at[rows].get(mode="promise_in_bounds") for each in (images, labels))
