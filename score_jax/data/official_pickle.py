"""CIFAR's files and their like: pickles of images and labels, read without running them."""

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from score_jax import restricted_pickle
from score_jax.data import raw_split
from score_jax.data.raw_split import Block, RawSplit, check_labels
from score_jax.restricted_pickle import Array
from score_jax.types import UserError

REMEDY = "take it from the official archive again"
TEXT = 64 << 20  # Bytes of text at most, in which Python 3 writes images into old pickles.


def load_batch(
    content: bytes, where: str, labels_key: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    """The `data` array (uint8, shape as written) and the labels int64[n] of one file.

    The labels are a list, as in CIFAR's files, or an array, as NumPy's users write it.

    Raises:
      UserError: the file is not a pickle of images and labels, or names anything beyond that.
    """
    with _told(where):
        data, labels = _parts(content, labels_key, len(content))
        return _values(data, content), _labels(labels, labels_key, content)


def open_batch(
    path: Path, labels_key: str, image_shape: tuple[int, int, int], most: int
) -> RawSplit:
    """The images and labels of a file of at most `most` images, which stay in it.

    Raises:
      UserError: as `load_batch`, or more images, or images of another shape than `image_shape`.
    """
    where = f"--source={path}"
    with _told(where), path.open("rb") as file:
        written = _identity(path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            data, labels = _parts(content, labels_key, TEXT)
            found = _labels(labels, labels_key, content)
            if data.left:
                _, shape, kind = data.left
                _check_type(kind)
            else:
                images = _values(data, content)
                shape = images.shape
    if shape[1:] != image_shape or not 0 < shape[0] <= most:
        raise UserError(
            f"{where} holds images of shape {shape}; (n, {', '.join(map(str, image_shape))}) with "
            f"n from 1 to {most} is expected"
        )
    found = check_labels(found, shape[0], where)
    if not data.left:
        return raw_split.in_memory([(images, found)])
    begin, row = data.left[0], int(np.prod(image_shape))

    def blocks(start: int) -> Iterator[Block]:
        with _told(where), path.open("rb") as file:
            if _identity(path) != written:
                raise ValueError("it was replaced while it was read")
            file.seek(begin + start * row)
            for index in range(start, shape[0], raw_split.BLOCK):
                count = min(raw_split.BLOCK, shape[0] - index)
                some = np.fromfile(file, np.uint8, count * row).reshape(count, *image_shape)
                yield some, found[index : index + count]

    return RawSplit(shape[0], blocks, independent=True)


def _identity(path: Path) -> tuple[int, ...]:
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """Tells in one line what a reader of pickles raises, which is almost of any type."""
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except KeyError as error:
        raise UserError(f"{where} has no entry {error}; {REMEDY}") from None
    except (MemoryError, RecursionError):
        raise UserError(f"{where} asks for more memory than its size allows; {REMEDY}") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where} does not hold images: {reason[:200]}; {REMEDY}") from None


def _parts(content: bytes | mmap.mmap, labels_key: str, longest: int) -> tuple[Array, Any]:
    """The images and the labels as they are written."""
    # An image takes 3 kB, and four instructions for its label and its name.
    batch = restricted_pickle.load_outline(
        content, encoding="bytes", instructions=1000 + len(content) // 64, longest=longest
    )
    if not isinstance(batch, dict):
        raise ValueError("it is not a dict")
    named = {
        key.decode("ascii") if isinstance(key, bytes) else key: value
        for key, value in batch.items()
    }
    data = named["data"]
    if not isinstance(data, Array):
        raise ValueError("its 'data' is not an array")
    return data, named[labels_key]


def _values(data: Array, content: bytes | mmap.mmap) -> np.ndarray:
    if data.left:
        offset, shape, kind = data.left
        length = int(np.prod(shape))
        values = np.frombuffer(content, kind, length, offset).reshape(shape)
    else:
        values = data.values
    _check_type(values.dtype)
    return values


def _check_type(kind: np.dtype) -> None:
    if kind != np.uint8:
        raise ValueError(f"its 'data' has values of type {kind.str[1:]!r} where uint8 was expected")


def _labels(labels: Any, key: str, content: bytes | mmap.mmap) -> np.ndarray:
    if isinstance(labels, Array):
        kind = labels.left[2] if labels.left else labels.values.dtype
        if kind.kind not in "iu":
            raise ValueError(f"its {key!r} has labels of type {kind.str[1:]!r}, not integers")
        if not labels.left:
            return labels.values.astype(np.int64)
        offset, shape, kind = labels.left
        length = int(np.prod(shape)) * kind.itemsize
        return np.frombuffer(content[offset : offset + length], kind).reshape(shape).astype("i8")
    if not isinstance(labels, list):
        raise ValueError(f"its {key!r} is neither a list nor an array")
    if any(type(label) is not int or abs(label) > 1 << 30 for label in labels):
        raise ValueError(f"its {key!r} has labels that are not integers")
    return np.array(labels, np.int64)
