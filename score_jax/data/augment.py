"""Augmentation on the device, inside the jitted step.

What an image draws follows from the key, its place in the batch and, for some, the batch's size:
sharding the batch does not change the result, and devices exchange nothing.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_jax.data import augment_idbh, augment_policies
from score_jax.data.augment_draws import below, draws
from score_jax.data.augment_ops import erase
from score_jax.types import Array, Key

Augmentation = Callable[[Key, Array], Array]


def pad_crop_flip(key: Key, images: Array, pad: int = 4, padding: str = "constant") -> Array:
    """Crops each image at a random place after padding it; mirrors half of them.

    Each image draws one of (2 pad + 1)^2 places and a flip, all equally likely.

    Args:
      images: uint8 or float [b, h, w, c]; the type is kept.
      pad: pixels added on each side.
      padding: 'constant' (zeros) or 'reflect' (mirrored about the outermost pixels).
    """
    batch, height, width, channels = images.shape
    rows_key, columns_key, flip_key = jax.random.split(key, 3)
    rows = jax.random.randint(rows_key, (batch,), 0, 2 * pad + 1, jnp.int32)
    columns = jax.random.randint(columns_key, (batch,), 0, 2 * pad + 1, jnp.int32)
    flips = jax.random.bernoulli(flip_key, jnp.float32(0.5), (batch,))
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=padding)

    def crop(image: Array, row: Array, column: Array, flip: Array) -> Array:
        window = jax.lax.dynamic_slice(
            image, (row, column, jnp.int32(0)), (height, width, channels)
        )
        return jnp.where(flip, window[:, ::-1], window)

    return jax.vmap(crop)(padded, rows, columns, flips)


def rotate(image: Array, degrees: Array) -> Array:
    """The image [h, w, c] turned counter-clockwise about its centre, its size and type kept.

    Each pixel takes the value of the one that its centre came from; what came from outside is
    zero. The same as torchvision's `rotate` with its defaults.
    """
    height, width, _ = image.shape
    angle = jnp.deg2rad(degrees)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    # From the centre of the image to the centre of each pixel; y points down.
    y = (jnp.arange(height, dtype=angle.dtype) + (0.5 - height / 2))[:, None]
    x = (jnp.arange(width, dtype=angle.dtype) + (0.5 - width / 2))[None, :]
    rows = jnp.floor(sine * x + cosine * y + height / 2).astype(jnp.int32)
    columns = jnp.floor(cosine * x - sine * y + width / 2).astype(jnp.int32)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    taken = image[jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)]
    return jnp.where(inside[:, :, None], taken, jnp.zeros((), image.dtype))


def pad_crop_flip_rotate(key: Key, images: Array, max_degrees: float = 15.0) -> Array:
    """`pad_crop_flip`, then a rotation of each image by U(-max_degrees, max_degrees).

    For CIFAR-100 in SCORE's code.
    """
    crop_key, rotate_key = jax.random.split(key)
    images = pad_crop_flip(crop_key, images)
    degrees = jax.random.uniform(
        rotate_key, images.shape[:1], jnp.float32, -max_degrees, max_degrees
    )
    return jax.vmap(rotate)(images, degrees)


def no_augmentation(key: Key, images: Array) -> Array:
    """The images as they are."""
    return images


def cutout(key: Key, images: Array, side: int = 18) -> Array:
    """Blackens a square about a pixel of each image, all pixels equally likely, cut at the border.

    DeVries & Taylor (2017) with the 18 pixels of Wang et al.
    """
    _, height, width, channels = images.shape
    of_row, of_column = draws(key, 2, images)
    row, column = below(of_row, height), below(of_column, width)
    half = side // 2
    box = (row - half, column - half, row + half, column + half)
    return erase(images, box, jnp.zeros(channels, images.dtype))


def _crop_then(then: Augmentation) -> Augmentation:
    """`pad_crop_flip`, then another augmentation."""

    def both(key: Key, images: Array) -> Array:
        crop_key, then_key = jax.random.split(key)
        return then(then_key, pad_crop_flip(crop_key, images))

    return both


def _autoaugment(key: Key, images: Array) -> Array:
    policy_key, cutout_key = jax.random.split(key)
    return cutout(cutout_key, augment_policies.autoaugment(policy_key, images))


def _randaugment(key: Key, images: Array) -> Array:
    policy_key, crop_key = jax.random.split(key)
    return pad_crop_flip(crop_key, augment_policies.randaugment(policy_key, images))


def _on_bytes(augment: Augmentation) -> Augmentation:
    """What is made for bytes, on images in [0, 1] too: rounded to bytes first."""

    def any_type(key: Key, images: Array) -> Array:
        if images.dtype == jnp.uint8:
            return augment(key, images)
        rounded = jnp.round(images.astype(jnp.float32) * 255).astype(jnp.uint8)
        return (augment(key, rounded).astype(jnp.float32) / 255).astype(images.dtype)

    return any_type


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": no_augmentation,
    "pad_crop_flip": pad_crop_flip,
    # Rice et al. 2020, Wu et al. 2020, Pang et al. 2021.
    "reflect_crop_flip": functools.partial(pad_crop_flip, padding="reflect"),
    "pad_crop_flip_rotate": pad_crop_flip_rotate,
    # Options of Wang et al. 2023 for CIFAR-10; all but IDBH with `pad_crop_flip`.
    "cutout": _crop_then(cutout),
    "autoaugment": _on_bytes(_crop_then(_autoaugment)),
    "randaugment": _on_bytes(_randaugment),
    "idbh": _on_bytes(augment_idbh.idbh),
}
