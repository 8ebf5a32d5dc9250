"""One of several of Pillow's operations for each image of a batch, on the device.

Every image passes through every kind of operation, with parameters that change nothing but in the
kind that was chosen for it: a device has no use for branches that differ by image.
"""

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp

from score_jax.data import augment_geometry as geometry
from score_jax.data import augment_ops as ops
from score_jax.types import Array

# What an image is blended with, by kind of operation.
STARTS = {
    "color": ops.gray,
    "contrast": ops.mean_gray,
    "sharpness": ops.smooth,
    "brightness": jnp.zeros_like,
}
TABLES = {"autocontrast": ops.autocontrast_tables, "equalize": ops.equalize_tables}


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation with its parameters; those of the other kinds change nothing.

    kind: 'identity', 'move', 'tones', 'shear_y_cubic', or a name in STARTS or TABLES.
    matrix: of a move; factor: of a blend; addition, threshold, mask: of tones.
    share: of a cubic shear.
    """

    kind: str = "identity"
    matrix: geometry.Matrix = geometry.IDENTITY
    factor: float = 1.0
    addition: int = 0
    threshold: int = 256
    mask: int = 255
    share: Fraction = Fraction(0)


def apply(
    images: Array, operations: Sequence[Operation], chosen: Array, *, fill: int = 0,
    factor: Array | None = None, matrices: Array | None = None,
) -> Array:  # fmt: skip
    """Image i after operations[chosen[i]].

    Args:
      images: uint8[b, h, w, c].
      operations: static.
      chosen: i32[b].
      fill: grey value of what comes from outside.
      factor, matrices: f32[b], i32[b, 6], instead of the operations' own.
    """
    kinds = [operation.kind for operation in operations]

    def column(field: str, dtype: type) -> Array:
        return jnp.asarray([getattr(each, field) for each in operations], dtype)[chosen]

    def of(kind: str) -> Array:
        return ops.per_image(jnp.asarray([each == kind for each in kinds])[chosen])

    result = images
    if "move" in kinds:
        matrices = column("matrix", jnp.int32) if matrices is None else matrices
        result = geometry.affine(result, matrices, fill)
    if "shear_y_cubic" in kinds:
        shares = tuple(sorted({each.share for each in operations if each.share}))
        which = [shares.index(each.share) if each.share else 0 for each in operations]
        sheared = geometry.shear_y_cubic(images, shares, jnp.asarray(which)[chosen], fill)
        result = jnp.where(of("shear_y_cubic"), sheared, result)
    if set(kinds) & set(STARTS):
        start = images
        for kind in set(kinds) & set(STARTS):
            start = jnp.where(of(kind), STARTS[kind](images), start)
        factor = column("factor", jnp.float32) if factor is None else factor
        # Once, not for each time that the arithmetic of `blend` uses it.
        blended = ops.blend(jax.lax.optimization_barrier(start), images, factor)
        result = jnp.where(functools.reduce(jnp.logical_or, map(of, STARTS)), blended, result)
    if set(kinds) & set(TABLES):
        tables = jnp.broadcast_to(jnp.arange(256, dtype=jnp.uint8), (*_lanes(images), 256))
        for kind in set(kinds) & set(TABLES):
            tables = jnp.where(of(kind)[:, :, :, 0], TABLES[kind](images), tables)
        result = ops.remap(result, tables)
    if "tones" in kinds:
        tones = [column(name, jnp.int32) for name in ("addition", "threshold", "mask")]
        result = ops.tones(result, *tones)
    return result


def _lanes(images: Array) -> tuple[int, int]:
    return images.shape[0], images.shape[3]
