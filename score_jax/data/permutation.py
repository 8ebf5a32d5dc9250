"""Permutations of any size, of which any part is computed alone, in constant memory.

A generalised Feistel cipher on the integers below the size (Black and Rogaway 2002, "Ciphers with
arbitrary finite domains"): an integer is a place in a grid that is just large enough, each round
adds to its column what a keyed function says of its row, or to its row what it says of its column,
and whoever leaves the range walks on until it is back. The keyed function is the finalizer of
SplitMix64 (Steele et al. 2014). All of it is specified to the bit, on every platform.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

# Four make a Feistel cipher sound with ideal functions; over a handful of integers eight are seen
# to prefer some permutations, and twelve are not.
ROUNDS = 12


def bits(count: int, seed: int, stream: int, *counters: int) -> np.ndarray:
    """uint64[count] of Philox's own output, which is specified: NumPy's `permutation` and
    `integers` may change between its versions, and a run's images must not."""
    return np.random.Philox(np.random.SeedSequence([seed, stream, *counters])).random_raw(count)


def permute(positions: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """What stands at some positions of a permutation of the integers from 0 to size - 1.

    Args:
      positions: int64[k], each from 0 to size - 1.
      keys: uint64[ROUNDS]; other keys make another permutation.

    Returns:
      int64[k].
    """
    # An even side: with two odd ones every round would be an even permutation.
    rows = math.isqrt(size - 1) + 1
    rows += rows % 2
    columns = -(-size // rows)
    values = _rounds(positions.astype(np.uint64), rows, columns, keys)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = _rounds(values[outside], rows, columns, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _rounds(values: np.ndarray, rows: int, columns: int, keys: np.ndarray) -> np.ndarray:
    high, low = np.uint64(rows), np.uint64(columns)
    row, column = np.divmod(values, low)
    for first, second in keys.reshape(-1, 2):
        column = (column + _mix(row + first) % low) % low
        row = (row + _mix(column + second) % high) % high
    return row * low + column


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def row(
    start: int, count: int, size: int, part_of: Callable[[int, np.ndarray], np.ndarray]
) -> np.ndarray:
    """A piece of an endless row of permutations, one after the other.

    Args:
      start: of the piece, int64[count] long; every `size` entries begin a new permutation.
      part_of: given the number of a permutation and positions in it, what stands there.
    """
    parts, end = [np.empty(0, np.int64)], start + count
    while start < end:
        number, offset = divmod(start, size)
        stop = min(size, offset + end - start)
        parts.append(part_of(number, np.arange(offset, stop)))
        start += stop - offset
    return np.concatenate(parts)


def endless(
    start: int, count: int, size: int, seed: int, stream: int, *counters: int
) -> np.ndarray:
    """A piece of the endless row of permutations that a seed and counters name: int64[count]."""

    def part_of(number: int, positions: np.ndarray) -> np.ndarray:
        return permute(positions, size, bits(ROUNDS, seed, stream, *counters, number))

    return row(start, count, size, part_of)


@functools.lru_cache(maxsize=8)
def stored(size: int, seed: int, stream: int, *counters: int) -> np.ndarray:
    """A permutation of the integers below `size`, uniform among all of them, whole in memory."""
    found = np.argsort(bits(size, seed, stream, *counters), kind="stable")
    found.setflags(write=False)
    return found
