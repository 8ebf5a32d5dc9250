"""Arrays of npz files, read in order and piece by piece, without believing what a file says.

Nothing is unpickled and nothing is allocated for sizes that are only claimed: headers are read
up to 10 kB, and an array's header must say exactly as many bytes as its member holds.
"""

import contextlib
import io
import math
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_HEADER = 10_000  # Bytes; NumPy writes some 128.
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class ArrayHeader:
    """What an npy header says; `size`: its own bytes, before the array's."""

    shape: tuple[int, ...]
    dtype: np.dtype
    column_major: bool
    size: int

    @property
    def row_bytes(self) -> int:
        """Bytes of what one index along the first axis holds."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def keys(path: Path) -> list[str]:
    """The names of the arrays of an npz.

    Raises:
      OSError, ValueError, zipfile.BadZipFile and the like: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    if len(set(names)) < len(names):
        raise ValueError("it holds two arrays of one name")
    return names


def read_header(path: Path, key: str) -> ArrayHeader:
    """The header of one array.

    Raises:
      as `keys`; ValueError also where the array's bytes are not as many as its header says.
    """
    with zipfile.ZipFile(path) as archive:
        return _header(archive, _member(archive, key), key)


@contextlib.contextmanager
def open_array(
    path: Path, key: str, header: ArrayHeader, start: int
) -> Iterator[Callable[[int], bytes]]:
    """Reads an array from index `start` on: gives a function of the number of bytes wanted.

    Read from 0 to the end the member's checksum is compared, at the latest with the read after
    the last byte. A member that is not compressed is read from `start` at once, unchecked.

    Raises:
      as `keys`; ValueError also where the header is not `header` any more.
    """
    with zipfile.ZipFile(path) as archive:
        info = _member(archive, key)
        if _header(archive, info, key) != header:
            raise ValueError(f"{key} was replaced while it was read")
        skipped = header.size + start * header.row_bytes
        if start and info.compress_type == zipfile.ZIP_STORED:
            with path.open("rb") as file:
                file.seek(_content_offset(file, info) + skipped)
                left = info.file_size - skipped

                def read(count: int) -> bytes:
                    nonlocal left
                    content = file.read(min(count, left))
                    left -= len(content)
                    return content

                yield read
        else:
            with archive.open(info) as member:
                while skipped:
                    passed = member.read(min(skipped, 1 << 20))
                    if not passed:
                        raise EOFError(f"{key} ends early")
                    skipped -= len(passed)
                yield member.read


def _member(archive: zipfile.ZipFile, key: str) -> zipfile.ZipInfo:
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{key} is compressed in a way that NumPy does not write")
    return info


def _content_offset(file: Any, info: zipfile.ZipInfo) -> int:
    """Where the content of a member that is not compressed begins."""
    file.seek(info.header_offset)
    local = file.read(30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise ValueError("a member does not begin where it should")
    name, extra = struct.unpack("<HH", local[26:])
    return info.header_offset + 30 + name + extra


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str) -> ArrayHeader:
    with archive.open(info) as member:
        start = member.read(MAX_HEADER + 12)
    content = io.BytesIO(start)
    version = np.lib.format.read_magic(content)
    if version not in _READ_HEADER:
        raise ValueError(f"{key} is written in npy version {version}")
    width = 2 if version == (1, 0) else 4
    if int.from_bytes(start[8 : 8 + width], "little") > MAX_HEADER:
        raise ValueError(f"{key} has a header of more than {MAX_HEADER} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, column_major, dtype = _READ_HEADER[version](content)
    except Exception as error:  # NumPy's parser lets through what Python's raises.
        words = " ".join(str(error).split())[:100] or type(error).__name__
        raise ValueError(f"{key} has a header that is none: {words}") from None
    header = ArrayHeader(shape, dtype, column_major, content.tell())
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"{key} has shape {shape}")
    expected = header.size + math.prod(shape) * dtype.itemsize
    # An array of objects is a pickle of any length; who asked for numbers refuses it.
    if info.file_size != expected and not dtype.hasobject:
        raise ValueError(
            f"{key} holds {info.file_size} bytes where its header says {expected}: type "
            f"{dtype.name}, shape {shape}"
        )
    return header
