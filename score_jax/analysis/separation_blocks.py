"""Distances of all pairs of two blocks of examples, on the devices, exact where images are uint8.

Examples lie features first: the loop runs over features, so that the pairs lie side by side for
vector instructions, 60 * 10^9 features a second on one core, some 25 times as fast as a reduction
over the features of each pair. References come in tiles of one class: the nearest of every class is
then a minimum over rows, whatever the number of classes.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from score_jax.mesh import AXES, Layout
from score_jax.types import Array

TILE = 128  # References of one class.
UNROLL = 8
# Pairs at once: their running distances stay in a core's cache, or keep an accelerator busy.
CPU_BLOCK, OTHER_BLOCK = (512, 512), (4096, 8192)
# Features whose sum of differences stays in 16 bits, and of products below 2^23.
MAX_DIFFERENCES, MAX_PRODUCTS = 256, 512
# Larger orders leave float32, or vanish in it, unless the largest difference is taken out.
LARGEST_PLAIN_P = 8


class Least(NamedTuple):
    """Of one block of references, for each query.

    powers, places: [tiles, queries], the nearest of each tile and its place in the tile.
    control_powers, control_places: [queries], the nearest of another control label, in the block.

    Powers are the sum of |difference|^p where those are integers, else the norm itself.
    """

    powers: Array
    places: Array
    control_powers: Array
    control_places: Array


def block_sizes(layout: Layout) -> tuple[int, int]:
    """(queries, references) of a block; every device has its part of the queries."""
    queries, references = CPU_BLOCK if jax.default_backend() == "cpu" else OTHER_BLOCK
    return queries * layout.num_devices, references


def is_exact(dtype: Any, num_features: int, p: float) -> bool:
    """Whether distances are computed without any rounding: integers that fit in 31 bits."""
    return dtype == np.uint8 and (
        p == math.inf or (p in (1, 2) and num_features * 255**p < np.iinfo(np.int32).max)
    )


def far(dtype: Any) -> float | int:
    """What a pair that does not count has: above every distance."""
    return np.inf if np.issubdtype(dtype, np.floating) else int(np.iinfo(dtype).max)


def place_queries(examples: np.ndarray, layout: Layout) -> Array:
    """Features first, [features, queries], split over the devices."""
    sharding = NamedSharding(layout.mesh, PartitionSpec(None, AXES))
    return jax.device_put(np.ascontiguousarray(examples.reshape(len(examples), -1).T), sharding)


def place_references(examples: np.ndarray, layout: Layout) -> Array:
    """Features first, [features, references], on every device."""
    flat = np.ascontiguousarray(examples.reshape(len(examples), -1).T)
    return jax.device_put(flat, layout.replicated)


@functools.partial(jax.jit, static_argnames="p")
def least(
    queries: Array,
    query_controls: Array,
    references: Array,
    reference_controls: Array,
    *,
    p: float,
) -> Least:
    """The nearest reference of every tile, and of every query's other control labels.

    Args:
      queries: [features, queries], as `place_queries` gives them.
      query_controls: i32[queries]; where both are alike, a pair does not count as a control.
      references: [features, references], whole tiles.
      reference_controls: i32[references].
      p: of the norm.
    """
    powers = _powers(queries, references, p)
    tiles = powers.reshape(-1, TILE, powers.shape[1])
    nearest = tiles.min(1)
    rows = jnp.arange(TILE, dtype=jnp.int16)[None, :, None]
    places = jnp.where(tiles == nearest[:, None], rows, jnp.int16(TILE - 1)).min(1)
    counts = reference_controls[:, None] != query_controls[None]
    controls = jnp.where(counts, powers, jnp.asarray(far(powers.dtype), powers.dtype))
    control = controls.min(0)
    last = jnp.int32(len(powers) - 1)
    rows = jnp.arange(len(powers), dtype=jnp.int32)[:, None]
    control_places = jnp.where(controls == control[None], rows, last).min(0)
    return Least(nearest, places, control, control_places)


def _powers(queries: Array, references: Array, p: float) -> Array:
    """[references, queries], as `Least` says."""
    kind = queries.dtype
    if p == math.inf:
        largest = _accumulate(queries, references, jnp.maximum, lambda x: x, kind)
        return largest.astype(jnp.int16) if kind == jnp.uint8 else largest
    if is_exact(kind, len(queries), p):
        of, size = (_differences, MAX_DIFFERENCES) if p == 1 else (_squares, MAX_PRODUCTS)
        return _over_chunks(queries, references, size, of)
    held = jnp.float32 if kind == jnp.uint8 else kind

    def total(power):
        return _accumulate(queries, references, jnp.add, lambda x: power(x.astype(held)), held)

    if p == 1:
        return total(lambda x: x)
    if p == 2:
        return jnp.sqrt(total(lambda x: x * x))

    def power(x: Array) -> Array:
        # The library's power takes thirty times as long; distances are computed again anyway.
        return x ** int(p) if p == int(p) else jnp.exp(p * jnp.log(x))

    if p <= LARGEST_PLAIN_P:
        return total(power) ** (1 / p)
    largest = _accumulate(queries, references, jnp.maximum, lambda x: x, kind).astype(held)
    scale = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    return largest * total(lambda x: power(x / scale)) ** (1 / p)


def _over_chunks(queries: Array, references: Array, size: int, of: Any) -> Array:
    """Sums `of` chunks of at most `size` features, in int32."""
    size = min(size, len(queries))
    count = -(-len(queries) // size)

    def chunked(examples: Array) -> Array:
        # Features that all have in common add nothing.
        filled = jnp.pad(examples, ((0, count * size - len(examples)), (0, 0)))
        return filled.reshape(count, size, -1)

    query_chunks, reference_chunks = chunked(queries), chunked(references)

    def add(index, sums):
        return sums + of(query_chunks[index], reference_chunks[index]).astype(jnp.int32)

    start = jnp.zeros((references.shape[1], queries.shape[1]), jnp.int32)
    return jax.lax.fori_loop(0, count, add, start)


def _differences(queries: Array, references: Array) -> Array:
    """Sums of absolute differences of uint8, in 16 bits: twice as fast as in 32."""
    return _accumulate(queries, references, jnp.add, lambda x: x.astype(jnp.uint16), jnp.uint16)


def _squares(queries: Array, references: Array) -> Array:
    """Sums of squared differences of uint8 by a product of matrices, ten times as fast as a loop.

    Every number in it is an integer below 2^24, so that float32 adds without rounding.
    """
    query, reference = (side.astype(jnp.float32) - 128 for side in (queries, references))
    products = jnp.einsum("fr,fq->rq", reference, query, precision="highest")
    squares = (reference**2).sum(0)[:, None] + (query**2).sum(0)[None]
    return squares.astype(jnp.int32) - 2 * products.astype(jnp.int32)


def _accumulate(queries: Array, references: Array, join: Any, of: Any, dtype: Any) -> Array:
    def add(index, held):
        query, reference = queries[index][None], references[index][:, None]
        # Of unsigned integers too.
        return join(held, of(jnp.maximum(query, reference) - jnp.minimum(query, reference)))

    start = jnp.zeros((references.shape[1], queries.shape[1]), dtype)
    return jax.lax.fori_loop(0, len(queries), add, start, unroll=UNROLL)
