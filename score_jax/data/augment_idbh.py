"""IDBH, 'cifar10-weak', on the device: Li & Spratling (ICLR 2023), as Wang et al. used it.

Facts: https://github.com/TreeLLi/DA-Alone-Improves-AT.
"""

import math

import jax
import jax.numpy as jnp

from score_jax.data import augment_geometry as geometry
from score_jax.data import augment_ops as ops
from score_jax.data.augment_choice import TABLES, Operation, apply
from score_jax.data.augment_draws import below, draws, sign, uniform
from score_jax.types import Array, Key

# The bounds of the factors of four of the eight operations, all eight equally likely.
FACTORS = {
    "color": (0.1, 1.9), "brightness": (0.5, 1.9), "contrast": (0.5, 1.9), "sharpness": (0.1, 1.9),
}  # fmt: skip


def color_shape(key: Key, images: Array) -> Array:
    """One of IDBH's eight operations, weak: of colour, or a shear or turn of up to ten degrees.

    Args:
      images: uint8[b, h, w, c].
    """
    batch, height, width, _ = images.shape
    kinds = (*FACTORS, *TABLES, "move", "move")
    operations = [Operation(kind) for kind in kinds]
    of_kind, of_factor, of_shear, of_turn, of_axis, of_sign = draws(key, 6, images)
    chosen, signs = below(of_kind, len(operations)), sign(of_sign)
    bounds = jnp.asarray([FACTORS.get(kind, (1.0, 1.0)) for kind in kinds], jnp.float32)
    factor = uniform(of_factor, *bounds[chosen].T)
    radians = uniform(of_shear, 0.05, 0.15)
    shares = jnp.round(geometry.ONE * jnp.tan(radians)).astype(jnp.int32)
    along_x = below(of_axis, 2) == 0
    sheared = geometry.shear_about_centre(signs * shares, along_x, height, width)
    turns = [geometry.rotation(degrees, height, width) for degrees in range(-10, 11)]
    degrees = signs * (1 + below(of_turn, 10))
    turned = jnp.asarray(turns, jnp.int32)[degrees + 10]
    matrices = jnp.broadcast_to(jnp.asarray(geometry.IDENTITY, jnp.int32), (batch, 6))
    for place, moved in ((len(kinds) - 2, sheared), (len(kinds) - 1, turned)):
        matrices = jnp.where((chosen == place)[:, None], moved, matrices)
    return apply(images, operations, chosen, factor=factor, matrices=matrices)


def crop_shift(key: Key, images: Array, most: int = 10) -> Array:
    """Crops each image by 0 to `most` rows and columns together, and puts it elsewhere on black.

    IDBH's CropShift: all total numbers are equally likely, then all ways to share them out.

    Args:
      images: uint8[b, h, w, c].
    """
    of_total, of_columns, *places = draws(key, 6, images)
    total = below(of_total, most + 1)
    columns = below(of_columns, total + 1)
    rows = total - columns
    top, left, to_top, to_left = (
        below(bits, lost + 1) for bits, lost in zip(places, (rows, columns) * 2, strict=True)
    )
    return _shift(images, (top, left), (to_top, to_left), (rows, columns))


def _shift(
    images: Array, start: tuple[Array, Array], end: tuple[Array, Array], lost: tuple[Array, Array]
) -> Array:
    """What is left of images cropped at `start` by `lost`, at `end` on black."""
    result = images
    for axis in (0, 1):
        size, shape = images.shape[1 + axis], [1, 1, 1, 1]
        shape[1 + axis] = size
        places = jnp.arange(size, dtype=jnp.int32).reshape(shape)
        from_crop = places - ops.per_image(end[axis])
        inside = (from_crop >= 0) & (from_crop < size - ops.per_image(lost[axis]))
        source = jnp.where(inside, from_crop + ops.per_image(start[axis]), 0)
        source = jnp.broadcast_to(source, images.shape)
        taken = jnp.take_along_axis(result, source, axis=1 + axis, mode="promise_in_bounds")
        result = jnp.where(inside, taken, jnp.zeros((), images.dtype))
    return result


def random_erasing(key: Key, images: Array, probability: float = 0.5, tries: int = 10) -> Array:
    """Blackens a rectangle of 2 to 33% of the image, its sides at most as 1 to 3.3.

    torchvision's RandomErasing: of `tries` rectangles the first that fits; none if none does.

    Args:
      images: uint8[b, h, w, c].
    """
    _, height, width, channels = images.shape
    is_word, *words = draws(key, 1 + 2 * tries + 2, images)
    of_area, of_ratio = (jnp.stack(words[i : i + tries], axis=1) for i in (0, tries))
    area = height * width * uniform(of_area, 0.02, 0.33)
    ratio = jnp.exp(uniform(of_ratio, math.log(0.3), math.log(3.3)))
    rows = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    columns = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    fits = (rows < height) & (columns < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    is_done = (uniform(is_word) < probability) & fits.any(1)
    ends = []
    for size, sides, bits in zip((height, width), (rows, columns), words[-2:], strict=True):
        side = jnp.where(is_done, jnp.take_along_axis(sides, first, axis=1)[:, 0], 0)
        start = below(bits, size - side + 1)
        ends.append((start, start + side))
    (top, bottom), (left, right) = ends
    return ops.erase(images, (top, left, bottom, right), jnp.zeros(channels, images.dtype))


def idbh(key: Key, images: Array) -> Array:
    """A flip of half of the images, `crop_shift`, `color_shape`, `random_erasing`.

    Args:
      images: uint8[b, h, w, c].
    """
    flip_key, crop_key, color_key, erase_key = jax.random.split(key, 4)
    (of_flip,) = draws(flip_key, 1, images)
    images = jnp.where(ops.per_image(below(of_flip, 2) == 0), images[:, :, ::-1], images)
    images = color_shape(color_key, crop_shift(crop_key, images))
    return random_erasing(erase_key, images)
