"""Shards of prepared datasets: ArrayRecord files of images and labels, written and read in order.

Each record is a chunk of its own and not compressed: zstd makes CIFAR-10 7% smaller, and takes
twice as long to write and to read at random; chunks of 8 save 1%, and take twice as long to read.

Imports neither JAX nor TFDS: processes that write shards start with this alone.
"""

import contextlib
import errno
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from score_jax.data.content import file_sha256
from score_jax.data.record_layout import DamagedShard, decode, encode

OPTIONS = "group_size:1,uncompressed"
READ_OPTIONS = "readahead_buffer_size:1M,max_parallelism:1"  # From end to end.
# Decoded, or added up, at once: more would be memory that the system gives and takes each time.
READ_BYTES = 1 << 18
MIB = 1 << 20
SMALL = 512 * MIB  # A split below this is one shard.
SHARD_BYTES = (128 * MIB, 512 * MIB)  # The least and the most that a shard aims at.
SHARDS = 256  # How many are aimed at between.
RECORD_OVERHEAD = 80  # At most, beside the pixels: the rest of the record, its chunk, its index.


def shard_lengths(count: int, pixels: int) -> list[int]:
    """How many images each shard of a split holds, for `pixels` bytes an image."""
    whole = count * (pixels + RECORD_OVERHEAD)
    aim = min(max(whole // SHARDS, SHARD_BYTES[0]), SHARD_BYTES[1])
    shards = 1 if whole <= SMALL else -(-whole // aim)
    return [count * (i + 1) // shards - count * i // shards for i in range(shards)]


def read_blocks(
    path: Path, image_shape: tuple[int, int, int], start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of a shard in order from index `start` on, a few at a time.

    Raises:
      DamagedShard: it cannot be read, or its records are of another layout.
    """
    block = max(1, READ_BYTES // int(np.prod(image_shape)))
    try:
        reader = array_record_module.ArrayRecordReader(str(path), READ_OPTIONS)
        try:
            count = reader.num_records()
            if start < count:
                reader.seek(start)
            for index in range(start, count, block):
                size = min(block, count - index)
                yield decode([reader.read() for _ in range(size)], image_shape)
        finally:
            reader.close()
    except (RuntimeError, IndexError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedShard(f"{path} is damaged ({reason})") from None


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Makes an `OSError` of what ArrayRecord tells in words."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        known = [number for number in errno.errorcode if f": {os.strerror(number)};" in text]
        if not known:
            raise OSError(errno.EIO, text[:200], str(path)) from None
        raise OSError(known[0], os.strerror(known[0]), str(path)) from None


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """What is known about a whole shard.

    file: its name; size: in bytes; sha256: of the file; content: checksum of images and labels;
    class_counts: images of each class; sums, squares: of the pixels' values, and of their squares,
    over all images, for each channel.
    """

    file: str
    count: int
    size: int
    sha256: str
    content: str
    class_counts: list[int]
    sums: list[int]
    squares: list[int]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "ShardFacts":
        """From what `dataclasses.asdict` gave.

        Raises:
          TypeError: other fields than these.
        """
        return cls(**values)


class Tally:
    """Adds up, over images as they come, what `ShardFacts` tells of them."""

    def __init__(self, num_classes: int, channels: int) -> None:
        self.count = 0
        self.class_counts = np.zeros(num_classes, np.int64)
        self.sums = np.zeros(channels, np.int64)
        self.squares = np.zeros(channels, np.int64)
        self._checksums = [0, 0]

    def check(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Counts images and labels, for `count` and `content` alone."""
        self.count += len(labels)
        content = np.ascontiguousarray(images).reshape(-1)
        self._checksums[0] = zlib.crc32(content, self._checksums[0])
        self._checksums[1] = zlib.crc32(labels.astype("<i4"), self._checksums[1])

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Counts images and labels."""
        self.check(images, labels)
        self.class_counts += np.bincount(labels, minlength=len(self.class_counts))
        channels, size = len(self.sums), images[0].size
        some = min(max(1, READ_BYTES // (2 * size)), 1 << 16)  # More might not fit uint32.
        squares = np.empty((some, size), np.uint16)
        for start in range(0, len(images), some):
            pixels = images[start : start + some].reshape(-1, size)
            np.multiply(pixels, pixels, out=squares[: len(pixels)], dtype=np.uint16)
            for sums, values in ((self.sums, pixels), (self.squares, squares[: len(pixels)])):
                each = values.sum(0, dtype=np.uint32).reshape(-1, channels)
                sums += each.sum(0, dtype=np.int64)

    @property
    def content(self) -> str:
        """Checksum of the images and of the labels."""
        return "".join(f"{value:08x}" for value in self._checksums)


class Shard:
    """A shard that is being written, then read back; or one that is there, compared again.

    Args:
      path: the file to write.
      file: the name that the shard will have.
      known: of a shard that is whole already: what comes is only compared with it.
    """

    def __init__(
        self,
        path: Path,
        file: str,
        image_shape: tuple[int, int, int],
        num_classes: int,
        known: ShardFacts | None = None,
    ) -> None:
        self._path, self._file, self._known = path, file, known
        self._image_shape, self._num_classes = image_shape, num_classes
        self._tally = Tally(num_classes, image_shape[2])
        self._writer = None
        if known is None:
            with _told(path):
                self._writer = array_record_module.ArrayRecordWriter(str(path), OPTIONS)
                if not self._writer.ok():
                    self._writer.close()  # Tells why.

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Appends images uint8[k, h, w, c] and labels int32[k].

        Raises:
          OSError: they cannot be written.
        """
        if self._writer is None:
            return self._tally.check(images, labels)
        self._tally.add(images, labels)
        with _told(self._path):
            for record in encode(images, labels):
                self._writer.write(record)
            if not self._writer.ok():
                self._writer.close()  # Tells why.

    def abandon(self) -> None:
        """Removes what was written of it."""
        if self._known is None:
            self._path.unlink(missing_ok=True)

    def close(self) -> ShardFacts:
        """Ends the shard, on disk.

        Raises:
          OSError: it cannot be written.
          DamagedShard: reading it back gives something else than was written; or this is not the
            content that the known shard has.
        """
        tally = self._tally
        if self._writer is None:
            if (tally.count, tally.content) != (self._known.count, self._known.content):
                raise DamagedShard(f"{self._file} holds other images than the source now does")
            return self._known
        with _told(self._path):
            self._writer.close()
        with open(self._path, "rb+") as file:
            os.fsync(file.fileno())
        again = Tally(self._num_classes, self._image_shape[2])
        for images, labels in read_blocks(self._path, self._image_shape):
            again.check(images, labels)
        if (again.count, again.content) != (tally.count, tally.content):
            raise DamagedShard(f"{self._path} does not hold what was written; the disk is damaged")
        return ShardFacts(
            file=self._file,
            count=tally.count,
            size=self._path.stat().st_size,
            sha256=file_sha256(self._path),
            content=tally.content,
            class_counts=tally.class_counts.tolist(),
            sums=tally.sums.tolist(),
            squares=tally.squares.tolist(),
        )
