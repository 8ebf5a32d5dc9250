"""CutMix (Yun et al., 2019) on the device, with the accounting of SCORE's code."""

import math

import jax
import jax.numpy as jnp

from score_jax.types import Array, Key


def box(row: Array, column: Array, side: Array, height: int, width: int) -> tuple[Array, ...]:
    """The square around a pixel as it is clipped to the image: (row, column, height, width).

    It reaches side // 2 pixels to each side of the pixel, so that an odd side is one pixel
    smaller and a side of 1 is empty.

    Args:
      row, column: i32[], the centre, a pixel of the image.
      side: i32[], before clipping, in pixels.
      height, width: of the image.
    """
    half = side // 2
    top, bottom = jnp.clip(row - half, 0, height), jnp.clip(row + half, 0, height)
    left, right = jnp.clip(column - half, 0, width), jnp.clip(column + half, 0, width)
    return top, left, bottom - top, right - left


def side_of(share: Array, height: int, width: int) -> Array:
    """The side i32[] of the square that leaves `share` of the image: int(sqrt(h w (1 - share)))."""
    return jnp.floor(math.sqrt(height * width) * jnp.sqrt(1 - share)).astype(jnp.int32)


def cutmix(
    key: Key, images: Array, labels: Array, versions: int, workers: int = 1
) -> tuple[Array, Array, Array, Array]:
    """Several CutMix versions of the same images, one after the other.

    Each version draws one share from Beta(1, 1), one centre, and one permutation of the batch;
    within the box, every image is replaced by the one that the permutation gives it. As in the
    official code, the weight is the share of the image that the clipped box leaves.

    Args:
      images: uint8 or float [b, h, w, c]; the type is kept.
      labels: i32[b], or target probabilities f32[b, k].
      versions: static, at least 1.
      workers: static; the equal parts, one after the other, of a batch that emulates so many
        workers. All share the box, and images are mixed within a part, by the same permutation
        in each, as in DeepMind's code (https://github.com/google-deepmind/deepmind-research).

    Returns:
      images [versions * b, h, w, c]; the labels of what is outside the box, [versions * b, ...];
      of what is inside; and f32[versions * b], the weight of the first labels, equal within a
      version: the target is weight * first + (1 - weight) * second.
    """
    batch, height, width, _ = images.shape

    def version(key: Key) -> tuple[Array, Array, Array, Array]:
        share_key, row_key, column_key, order_key = jax.random.split(key, 4)
        share = jax.random.uniform(share_key, (), jnp.float32)  # Beta(1, 1) is uniform.
        side = side_of(share, height, width)
        row = jax.random.randint(row_key, (), 0, height, jnp.int32)
        column = jax.random.randint(column_key, (), 0, width, jnp.int32)
        top, left, rows, columns = box(row, column, side, height, width)
        order = jax.random.permutation(order_key, jnp.arange(batch // workers, dtype=jnp.int32))
        if workers > 1:
            starts = jnp.arange(workers, dtype=jnp.int32) * (batch // workers)
            order = (starts[:, None] + order[None, :]).ravel()
        y = jnp.arange(height, dtype=jnp.int32)[:, None]
        x = jnp.arange(width, dtype=jnp.int32)[None, :]
        inside = (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
        mixed = jnp.where(inside[None, :, :, None], images[order], images)
        weight = 1 - (rows * columns).astype(jnp.float32) / (height * width)
        return mixed, labels, labels[order], jnp.broadcast_to(weight, (batch,))

    parts = jax.vmap(version)(jax.random.split(key, versions))
    return tuple(part.reshape(versions * batch, *part.shape[2:]) for part in parts)
