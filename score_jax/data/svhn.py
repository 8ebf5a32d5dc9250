"""Reader of SVHN's cropped digits: MATLAB files (version 5), read as a stream.

`scipy.io.loadmat` takes an array whole, and whatever size a damaged file asks for.
"""

import functools
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data.raw_split import (
    BLOCK,
    READ_ERRORS,
    Block,
    RawSplit,
    check_labels,
    is_zip,
    local_paths,
    read_npz_splits,
)
from score_jax.types import UserError

FORMS = (
    "train_32x32.mat and test_32x32.mat, their folder, or an npz with x_train, y_train, x_test, "
    "y_test"
)
# Types of elements, and the types of numbers that the labels may be written in.
MATRIX, COMPRESSED = 14, 15
NUMBERS = {
    **{1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4"},
    **{7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"},
}
CHUNK = 1 << 18


def read_svhn(
    sources: Sequence[str], image_shape: tuple[int, int, int], sizes: Mapping[str, int]
) -> dict[str, RawSplit]:
    """SVHN: {'train': ..., 'test': ...}; the label 10 of the official files is the digit 0.

    Which split a file holds is told by the number of its images.

    Raises:
      UserError: no such file, an unknown form, or content that is not whole.
    """
    paths = local_paths(sources, FORMS)
    if len(paths) == 1 and is_zip(paths[0]):
        return read_npz_splits(paths[0], image_shape, sizes)
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        paths = [path for path in sorted(folder.glob("*_32x32.mat")) if "extra" not in path.name]
        if not paths:
            raise UserError(f"--source={folder} has no file *_32x32.mat; give {FORMS}")
    splits: dict[str, RawSplit] = {}
    for path in paths:
        count = _count(path, image_shape)
        split = next((split for split in sizes if sizes[split] == count), None)
        if split is None or split in splits:
            expected = " and ".join(f"{size} {name}" for name, size in sizes.items())
            raise UserError(
                f"--source={path} holds {count} images; {expected} images are expected, each "
                f"once; give {FORMS}"
            )
        splits[split] = RawSplit(count, functools.partial(_blocks, path, image_shape, count))
    missing = [split for split in sizes if split not in splits]
    if missing:
        raise UserError(f"--source={sources[0]} has no {missing[0]} images; give {FORMS}")
    return {split: splits[split] for split in sizes}


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"--source={path} is damaged or no MATLAB file of images X and labels y ({error}); "
        "download it again"
    )


def _count(path: Path, image_shape: tuple[int, int, int]) -> int:
    try:
        with path.open("rb") as file:
            return _dimensions(_Matrices(file).open("X"), image_shape)
    except READ_ERRORS as error:
        raise _damaged(path, error) from None


def _dimensions(matrix: "_Matrix", image_shape: tuple[int, int, int]) -> int:
    if matrix.kind != 9 or len(matrix.shape) != 4 or matrix.shape[:3] != image_shape:
        raise ValueError(f"X has shape {matrix.shape}, type {matrix.kind}, not bytes of images")
    return matrix.shape[3]


def _blocks(
    path: Path, image_shape: tuple[int, int, int], count: int, start: int
) -> Iterator[Block]:
    pixels = int(np.prod(image_shape))
    try:
        with path.open("rb") as file:
            labels = _labels(_Matrices(file).open("y"), count)
        labels = check_labels(labels, count, f"--source={path}: y") % 10
        with path.open("rb") as file:
            matrix = _Matrices(file).open("X")
            if _dimensions(matrix, image_shape) != count or matrix.number != 2:
                raise ValueError("X has changed, or is not of bytes")
            if matrix.length != count * pixels:
                raise ValueError(f"X holds {matrix.length} bytes for {count} images")
            for begin in range(0, count, BLOCK):
                some = min(BLOCK, count - begin)
                content = matrix.read(some * pixels)
                if begin + some > start:
                    # MATLAB writes the first axis fastest: an image's columns, colour by colour.
                    planes = np.frombuffer(content, np.uint8).reshape(some, *image_shape[::-1])
                    images = np.ascontiguousarray(planes.transpose(0, 3, 2, 1))
                    first = max(start - begin, 0)
                    yield images[first:], labels[begin + first : begin + some]
            matrix.finish()
    except READ_ERRORS as error:
        raise _damaged(path, error) from None


def _labels(matrix: "_Matrix", count: int) -> np.ndarray:
    if matrix.shape not in ((count, 1), (1, count)) or matrix.number not in NUMBERS:
        raise ValueError(f"y has shape {matrix.shape} for {count} images")
    kind = np.dtype(NUMBERS[matrix.number])
    if matrix.length != count * kind.itemsize:
        raise ValueError(f"y holds {matrix.length} bytes for {count} images")
    values = np.frombuffer(matrix.read(matrix.length), kind)
    matrix.finish()
    if (
        not (values >= 1).all()
        or not (values <= 10).all()
        or not (values == np.floor(values)).all()
    ):
        raise ValueError("y has labels other than 1 to 10")
    return values.astype(np.int64)


class _Matrix:
    """An array of a MATLAB file, of which the header was read.

    kind: of the array, 9 for unsigned bytes; number: type in which the values are written;
    length: of the values in bytes; read: gives the next of them.
    """

    def __init__(self, read: Callable[[int], bytes], end: Callable[[], None]):
        self.read, self._end = read, end
        flags = self._element(6, 8)
        self.kind = flags[0]
        shape = self._element(5, 64)
        self.shape = tuple(int(size) for size in np.frombuffer(shape, "<i4"))
        self.name = self._element(1, 64).decode("latin1")
        self.number, self.length, self.padding = self._tag()

    def _tag(self) -> tuple[int, int, int]:
        number, length = struct.unpack("<II", self.read(8))
        if number >> 16:
            raise ValueError("its values are not where they belong")
        return number, length, -length % 8

    def _element(self, number: int, limit: int) -> bytes:
        """A short element; up to four bytes stand in its tag."""
        found, length = struct.unpack("<HH", self.read(4))
        if length:
            content = self.read(4)[:length]
        else:
            (length,) = struct.unpack("<I", self.read(4))
            if length > limit:
                raise ValueError(f"a header has {length} bytes")
            content = self.read(length + -length % 8)[:length]
        if found != number:
            raise ValueError(f"a header of type {found} stands where {number} is expected")
        return content

    def finish(self) -> None:
        """Reads what follows the values, with the checksum of what is compressed."""
        self.read(self.padding)
        self._end()


class _Matrices:
    """The arrays of a MATLAB file of version 5, little-endian, one after the other."""

    def __init__(self, file: Any):
        self._file = file
        header = file.read(128)
        if len(header) != 128 or header[124:] != b"\x00\x01IM":
            raise ValueError("it does not begin as one of version 5 does")

    def open(self, name: str) -> _Matrix:
        """The array of that name, at the beginning of its values."""
        while tag := self._file.read(8):
            number, length = struct.unpack("<II", tag)
            begin = self._file.tell()
            stream = _Stream(self._file, length, number == COMPRESSED)
            if number == COMPRESSED:
                number, _ = struct.unpack("<II", stream.read(8))
            if number != MATRIX:
                raise ValueError(f"it has an element of type {number}")
            matrix = _Matrix(stream.read, stream.finish)
            if matrix.name == name:
                return matrix
            self._file.seek(begin + length)
        raise ValueError(f"it has no {name}")


class _Stream:
    """The content of an element, unpacked where it is compressed, as much as is asked for."""

    def __init__(self, file: Any, length: int, compressed: bool):
        self._file, self._left = file, length
        self._unpack = zlib.decompressobj() if compressed else None

    def _packed(self, size: int) -> bytes:
        content = self._file.read(min(size, self._left))
        self._left -= len(content)
        return content

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        if self._unpack is None:
            content = self._packed(size)
        else:
            parts, missing = [], size
            while missing and not self._unpack.eof:
                packed = self._unpack.unconsumed_tail or self._packed(CHUNK)
                part = self._unpack.decompress(packed, missing)
                if not packed and not part:
                    break
                parts.append(part)
                missing -= len(part)
            content = b"".join(parts)
        if len(content) != size:
            raise ValueError("it is cut short")
        return content

    def finish(self) -> None:
        """Checks that nothing follows, and the checksum of what was compressed."""
        if self._unpack is None:
            return
        while not self._unpack.eof:
            packed = self._unpack.unconsumed_tail or self._packed(CHUNK)
            if not packed or self._unpack.decompress(packed, 1):
                raise ValueError("its values are longer than its header says, or cut short")
