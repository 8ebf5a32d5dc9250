"""Pillow's shifts, shears and turns of batches of uint8 images, on the device.

A matrix is six numbers of 16.16 fixed point, as in Pillow's code for the nearest neighbour: pixel
(x, y) of the result comes from column (a0 x + a1 y + a2) >> 16 and row (a3 x + a4 y + a5) >> 16.
"""

import functools
import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np

from score_jax.types import Array

ONE = 65536
HALF = ONE // 2
Matrix = tuple[int, int, int, int, int, int]
IDENTITY: Matrix = (ONE, 0, HALF, 0, ONE, HALF)


def _fixed(*a: float) -> Matrix:
    """Pillow's rounding of an affine matrix, which maps pixels' corners, not centres."""
    a = (a[0], a[1], a[2] + a[0] * 0.5 + a[1] * 0.5, a[3], a[4], a[5] + a[3] * 0.5 + a[4] * 0.5)
    return tuple(math.floor(value * ONE + 0.5) for value in a)


def rotation(degrees: float, height: int, width: int) -> Matrix:
    """`Image.rotate`, counter-clockwise about the centre; not for multiples of 90 but 0."""
    angle = -math.radians(degrees % 360.0)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = -width / 2.0, -height / 2.0
    return _fixed(
        cosine, sine, cosine * x + sine * y - x, -sine, cosine, -sine * x + cosine * y - y
    )


def shear_x(share: float) -> Matrix:
    """Columns move by `share` times their row."""
    return _fixed(1, share, 0, 0, 1, 0)


def shear_y(share: float) -> Matrix:
    """Rows move by `share` times their column."""
    return _fixed(1, 0, 0, share, 1, 0)


def translation(x: float, y: float) -> Matrix:
    """By whole pixels: an affine matrix that does not turn picks the nearest ones."""
    return (ONE, 0, math.floor(x + 0.5) * ONE + HALF, 0, ONE, math.floor(y + 0.5) * ONE + HALF)


def shear_about_centre(shares: Array, along_x: Array, height: int, width: int) -> Array:
    """Matrices i32[b, 6] of torchvision's `affine` with a shear alone.

    Args:
      shares: i32[b], in 1/65536 of a pixel per pixel; along_x: bool[b], else along y.
    """
    one, half = jnp.full_like(shares, ONE), jnp.full_like(shares, HALF)
    x, y = jnp.where(along_x, shares, 0), jnp.where(along_x, 0, shares)
    from_x = half + ((x * (1 - height) + 1) >> 1)
    from_y = half + ((y * (1 - width) + 1) >> 1)
    return jnp.stack([one, x, from_x, y, one, from_y], axis=1)


def affine(images: Array, matrices: Array, fill: int = 0) -> Array:
    """`Image.transform` by the nearest neighbour; what comes from outside is `fill`.

    Args:
      images: uint8[b, h, w, c].
      matrices: i32[b, 6].
      fill: grey value, 0 to 255.
    """
    batch, height, width, channels = images.shape
    a = [matrices[:, i, None, None] for i in range(6)]
    x = jnp.arange(width, dtype=jnp.int32)[None, None, :]
    y = jnp.arange(height, dtype=jnp.int32)[None, :, None]
    columns = (a[0] * x + a[1] * y + a[2]) >> 16
    rows = (a[3] * x + a[4] * y + a[5]) >> 16
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    places = jnp.where(inside, rows * width + columns, 0).reshape(batch, -1, 1)
    flat = images.reshape(batch, -1, channels)
    taken = jnp.take_along_axis(flat, places, axis=1, mode="promise_in_bounds")
    return jnp.where(inside[:, :, :, None], taken.reshape(images.shape), jnp.uint8(fill))


@functools.cache
def _cubic_weights(share: Fraction, width: int, denominator: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a shear along y, for each column: the whole pixels that it moves by, i32[w], and the
    numerators i32[4, w] of the weights of the four rows around."""
    moves = [share * (2 * column + 1) / 2 for column in range(width)]
    whole = [math.floor(move) for move in moves]
    parts = [move - floor for move, floor in zip(moves, whole, strict=True)]
    weights = [
        (-d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, -(d**2) + d**3) for d in parts
    ]
    scaled = np.array([[int(w * denominator) for w in row] for row in weights], np.int32)
    return np.array(whole, np.int32), scaled.T


def shear_y_cubic(images: Array, shares: tuple[Fraction, ...], which: Array, fill: int) -> Array:
    """`Image.transform` with BICUBIC and a shear along y, which mixes rows alone.

    Exact, but for the values that are whole numbers before they are cut: Pillow's float64 may end
    just below one, and gives one level less (about one value in 1,000 of CIFAR-10 at 4/15).

    Args:
      images: uint8[b, h, w, c].
      shares: static; image i is sheared by shares[which[i]]. With their least common denominator
        d, 8 d^3 < 2^22.
      which: i32[b].
      fill: grey value of what comes from outside.
    """
    batch, height, width, channels = images.shape
    denominator = (2 * math.lcm(*(share.denominator for share in shares))) ** 3
    tables = [_cubic_weights(share, width, denominator) for share in shares]
    whole = jnp.asarray(np.stack([table[0] for table in tables]))[which][:, None, :]
    weights = jnp.asarray(np.stack([table[1] for table in tables]))[which]
    y = jnp.arange(height, dtype=jnp.int32)[None, :, None]
    total = jnp.zeros(images.shape, jnp.int32)
    for i in range(4):
        rows = jnp.clip(y + whole + (i - 1), 0, height - 1)
        rows = jnp.broadcast_to(rows[:, :, :, None], images.shape)
        taken = jnp.take_along_axis(images, rows, axis=1, mode="promise_in_bounds")
        total += weights[:, i, None, :, None] * taken.astype(jnp.int32)
    mixed = jnp.clip(total // denominator, 0, 255)
    # Pixel centres: row y + 1/2 comes from y + 1/2 + share * (x + 1/2).
    above = jnp.asarray(np.stack([_first_inside(share, width) for share in shares]))[which]
    rows = y + above[:, None, :]
    inside = (rows >= 0) & (rows < height)
    return jnp.where(inside[:, :, :, None], mixed, fill).astype(jnp.uint8)


@functools.cache
def _first_inside(share: Fraction, width: int) -> np.ndarray:
    """How far below row y the pixel lies that its centre comes from, i32[w]."""
    half = Fraction(1, 2)
    return np.array([math.floor(half + share * (x + half)) for x in range(width)], np.int32)
