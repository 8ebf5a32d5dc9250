"""Augmentation on the device, inside the jitted step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_jax.types import Array, Key


def pad_crop_flip(key: Key, images: Array, pad: int = 4) -> Array:
    """Crops each image at a random place after padding it with zeros; mirrors half of them.

    Each image draws one of (2 pad + 1)^2 places and a flip, all equally likely, from the key
    and its place in the batch alone: sharding the batch does not change the result.

    Args:
      images: uint8 or float [b, h, w, c]; the type is kept.
      pad: zeros added on each side, in pixels.
    """
    batch, height, width, channels = images.shape
    rows_key, columns_key, flip_key = jax.random.split(key, 3)
    rows = jax.random.randint(rows_key, (batch,), 0, 2 * pad + 1)
    columns = jax.random.randint(columns_key, (batch,), 0, 2 * pad + 1)
    flips = jax.random.bernoulli(flip_key, 0.5, (batch,))
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def crop(image: Array, row: Array, column: Array, flip: Array) -> Array:
        window = jax.lax.dynamic_slice(image, (row, column, 0), (height, width, channels))
        return jnp.where(flip, window[:, ::-1], window)

    return jax.vmap(crop)(padded, rows, columns, flips)


def no_augmentation(key: Key, images: Array) -> Array:
    """The images as they are."""
    return images


AUGMENTATIONS: dict[str, Callable[[Key, Array], Array]] = {
    "none": no_augmentation,
    "pad_crop_flip": pad_crop_flip,
}
