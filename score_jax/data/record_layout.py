"""How an image and its label lie in a record: a serialized tf.train.Example.

Its features are `image` (the bytes of uint8[h, w, c]) and then `label` (int64), written as protobuf
writes them, so that the image lies at a known place. Imports neither JAX nor protobuf.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np


class DamagedShard(Exception):
    """A shard that cannot be read, or holds something else than it should; one line."""


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


@functools.lru_cache(maxsize=4096)
def frame(pixels: int, label: int) -> tuple[bytes, bytes]:
    """What a record holds before and after its image of `pixels` bytes."""
    image = _field(1, _field(1, b"image") + _field(2, _field(1, _field(1, bytes(pixels)))))
    tail = _field(1, _field(1, b"label") + _field(2, _field(3, _field(1, _varint(label)))))
    whole = _field(1, image + tail)
    return whole[: len(whole) - len(tail) - pixels], tail


def encode(images: np.ndarray, labels: np.ndarray) -> Iterator[bytes]:
    """The records of images uint8[k, h, w, c] and labels int32[k]."""
    pixels = int(np.prod(images.shape[1:]))
    rows = memoryview(np.ascontiguousarray(images).reshape(-1))
    for index, label in enumerate(labels.tolist()):
        head, tail = frame(pixels, label)
        yield b"".join((head, rows[index * pixels : (index + 1) * pixels], tail))


@functools.lru_cache(maxsize=256)
def _form(pixels: int, size: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Of records of `size` bytes: how many tell the label, what is before the image and behind."""
    for digits in range(1, 6):
        head, tail = frame(pixels, 1 << 7 * digits - 1)
        if len(head) + pixels + len(tail) == size:
            return digits, np.frombuffer(head, np.uint8), np.frombuffer(tail[:-digits], np.uint8)
    raise DamagedShard(f"a record has {size} bytes where an image has {pixels}")


def decode(
    records: Sequence[bytes], image_shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8[k, h, w, c] and labels int32[k] of records that `encode` made.

    Raises:
      DamagedShard: of another layout.
    """
    pixels = int(np.prod(image_shape))
    images = np.empty((len(records), pixels), np.uint8)
    labels = np.empty(len(records), np.int32)
    sizes = np.fromiter(map(len, records), np.int64, len(records))
    for size in np.unique(sizes).tolist():
        digits, head, tail = _form(pixels, size)
        chosen = np.flatnonzero(sizes == size)
        rows = b"".join(records[index] for index in chosen.tolist())
        head_of, image_of, tail_of, label_of = np.split(
            np.frombuffer(rows, np.uint8).reshape(-1, size),
            np.cumsum((len(head), pixels, len(tail))),
            axis=1,
        )
        goes_on = np.arange(digits) < digits - 1  # The highest bit of a varint's bytes.
        if (head_of != head).any() or (tail_of != tail).any() or (label_of >> 7 != goes_on).any():
            raise DamagedShard(f"a record is not an image of {image_shape} and a label")
        if len(chosen) == len(records):
            images[:] = image_of  # Faster than by index.
        else:
            images[chosen] = image_of
        labels[chosen] = (label_of & 127).astype(np.int64) @ (1 << 7 * np.arange(digits))
    return images.reshape(-1, *image_shape), labels
