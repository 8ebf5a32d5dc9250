"""Pillow's operations on batches of uint8 images, on the device.

Each takes its parameters per image and gives the bytes that Pillow gives. All of it is integer
arithmetic: compilers contract a floating-point a * b + c as they like, and a value that is then
cut to a byte would depend on the device.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.types import Array


def per_image(values: Array) -> Array:
    """Values [b] that broadcast with images [b, h, w, c]."""
    return values[:, None, None, None]


def blend(start: Array, images: Array, factor: Array) -> Array:
    """`Image.blend`, by which `ImageEnhance` works: start + factor * (images - start), as bytes.

    Pillow rounds the product to float32, then the sum, and drops what is after the point. Here the
    same is done with the factor's mantissa.

    Args:
      start, images: uint8[b, h, w, c], of which `start` may have ones for h, w, c.
      factor: f32[b], in [1/64, 2); 1 gives the images.
    """
    bits = jax.lax.bitcast_convert_type(factor, jnp.uint32)
    mantissa = per_image((bits & jnp.uint32(0x7FFFFF)) | jnp.uint32(0x800000))
    places = per_image(jnp.uint32(150) - (bits >> 23))  # Binary ones: the factor's unit.
    first = start.astype(jnp.int32)
    difference = images.astype(jnp.int32) - first
    product = mantissa * jnp.abs(difference).astype(jnp.uint32)
    one = jnp.uint32(1)
    # Of the product's up to 32 bits 24 are kept, half to even.
    surplus = jnp.maximum(8 - jax.lax.clz(product).astype(jnp.int32), 0).astype(jnp.uint32)
    cut = (one << surplus) - one
    product = (product + (cut >> 1) + ((product >> surplus) & cut & one)) & ~cut
    unit = one << places
    rest = product & (unit - one)
    down = (rest > 0) & (difference < 0)
    steps = (product >> places).astype(jnp.int32) + down.astype(jnp.int32)
    whole = jnp.where(difference < 0, first - steps, first + steps)
    rest = jnp.where(down, unit - rest, rest)
    # A sum that is nearer to the next whole number than half of its own last bit becomes that.
    half = places.astype(jnp.int32) + 7 - jax.lax.clz(whole)
    reach = jnp.where(half >= 0, one << jnp.maximum(half, 0).astype(jnp.uint32), jnp.uint32(0))
    up = (rest > 0) & (unit - rest <= reach)
    return jnp.clip(whole + up.astype(jnp.int32), 0, 255).astype(jnp.uint8)


def gray(images: Array) -> Array:
    """`convert('L')`: uint8[b, h, w, 1], the luma of ITU-R 601-2."""
    if images.shape[3] == 1:
        return images
    weights = jnp.array([19595, 38470, 7471], jnp.int32)
    luma = (images.astype(jnp.int32) * weights[None, None, None, :]).sum(3, keepdims=True)
    return ((luma + 0x8000) >> 16).astype(jnp.uint8)


def mean_gray(images: Array) -> Array:
    """The mean of `gray`, rounded half up: uint8[b, 1, 1, 1], where `Contrast` starts from."""
    count = images.shape[1] * images.shape[2]
    total = gray(images).astype(jnp.int32).sum((1, 2, 3))
    return per_image((2 * total + count) // (2 * count)).astype(jnp.uint8)


def smooth(images: Array) -> Array:
    """`ImageFilter.SMOOTH`: a mean over 3x3 pixels, the middle five times; the border is kept."""
    height, width = images.shape[1:3]
    if height < 3 or width < 3:
        return images
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = jnp.pad(images, edges).astype(jnp.int32)
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * images.astype(jnp.int32)
    is_inner = jnp.pad(jnp.ones((1, height - 2, width - 2, 1), bool), edges)
    return jnp.where(is_inner, ((total + 6) // 13).astype(jnp.uint8), images)


def tones(images: Array, addition: Array, threshold: Array, mask: Array) -> Array:
    """Adds to every value up to 255, inverts what is at or over a threshold, and masks bits.

    'Solarize' is a threshold, 'invert' the threshold 0, 'posterize' a mask.

    Args:
      addition, threshold, mask: i32[b]; 0, 256 and 255 change nothing.
    """
    values = jnp.minimum(images.astype(jnp.int32) + per_image(addition), 255)
    values = jnp.where(values < per_image(threshold), values, 255 - values)
    return (values & per_image(mask)).astype(jnp.uint8)


def remap(images: Array, tables: Array) -> Array:
    """`Image.point`: every value v of image i and channel j becomes tables[i, j, v], uint8."""
    batch, height, width, channels = images.shape
    offsets = 256 * jnp.arange(channels, dtype=jnp.int32)
    places = (images.astype(jnp.int32) + offsets[None, None, None, :]).reshape(batch, -1)
    flat = tables.reshape(batch, channels * 256)
    return jnp.take_along_axis(flat, places, axis=1, mode="promise_in_bounds").reshape(images.shape)


def autocontrast_tables(images: Array) -> Array:
    """uint8[b, c, 256] of `ImageOps.autocontrast`: each channel's values spread to 0 .. 255."""
    low, high = (
        extreme(images, axis=(1, 2)).astype(jnp.int32)[:, :, None] for extreme in (jnp.min, jnp.max)
    )
    values, spread = jnp.arange(256, dtype=jnp.int32)[None, None, :], jnp.maximum(high - low, 1)
    table = jnp.clip((values - low) * 255 // spread, 0, 255)
    patterns, which = _one_too_low()
    pattern = jnp.asarray(patterns)[jnp.asarray(which)[256 * low[:, :, 0] + high[:, :, 0]]]
    table = table - jnp.unpackbits(pattern, axis=2).astype(jnp.int32)
    return jnp.where(high > low, table, values).astype(jnp.uint8)


@functools.cache
def _one_too_low() -> tuple[np.ndarray, np.ndarray]:
    """Where Pillow's float64 ends just below the whole number that it should be: packed bits
    uint8[n, 32] over the values, and uint16[65536], which of the n an image with the extremes
    (low, high) has."""
    values, high = np.arange(256)[None, :], np.arange(256)[:, None]
    rows = []
    for low in range(256):
        spread = np.maximum(high - low, 1)
        scale = 255.0 / spread
        told = (values * scale + -low * scale).astype(int)
        inside = (values >= low) & (values <= high) & (high > low)
        rows.append(np.packbits(inside & (told < (values - low) * 255 // spread), axis=1))
    patterns, which = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    return patterns, which.reshape(-1).astype(np.uint16)


def equalize_tables(images: Array) -> Array:
    """uint8[b, c, 256] of `ImageOps.equalize`: a flat histogram in each channel."""
    batch, height, width, channels = images.shape
    count = jax.vmap(jax.vmap(functools.partial(jnp.bincount, length=256)))
    counts = count(jnp.moveaxis(images, 3, 1).reshape(batch, channels, -1))
    highest = jnp.max(images, axis=(1, 2)).astype(jnp.int32)[:, :, None]
    last = jnp.take_along_axis(counts, highest, axis=2, mode="promise_in_bounds")
    step = (height * width - last) // 255
    below = jnp.cumsum(counts, axis=2) - counts
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, jnp.arange(256)[None, None, :]).astype(jnp.uint8)


def erase(images: Array, box: Sequence[Array], color: Array) -> Array:
    """Paints a rectangle, whose corner (bottom, right) is outside; it may be empty.

    Args:
      box: top, left, bottom, right, each i32[b].
      color: uint8[c].
    """
    top, left, bottom, right = map(per_image, box)
    y = jnp.arange(images.shape[1], dtype=jnp.int32)[None, :, None, None]
    x = jnp.arange(images.shape[2], dtype=jnp.int32)[None, None, :, None]
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return jnp.where(inside, color[None, None, None, :], images)
