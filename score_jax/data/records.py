"""Images read one by one from the shards of a prepared dataset, of any size.

A record is found by its place in its shard: `seek` and `read` take about 10 microseconds where the
file is in the page cache, a call of ArrayRecord's `read([index])` some 500. Nothing is held but the
shards' indices (9 bytes an image) and a small buffer for each open file.
"""

import contextlib
import functools
import itertools
import json
import queue
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from score_jax.data.record_layout import DamagedShard, decode
from score_jax.types import UserError

OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
BUFFER = 4096  # Bytes read ahead in a file; more would be read for nothing.
READERS = 4  # At once, of a dataset: as many threads gather batches.
BLOCK = 2048  # Images read at once, from first to last.
READ_ERRORS = (RuntimeError, ValueError, IndexError)  # Of ArrayRecord.
OTHER_FILES = 256  # Open beside the shards: logs, programs, libraries.


class Records:
    """A split whose images stay in their shards; a `Source`."""

    storage = "records"

    def __init__(self, name: str, split: str, folder: Path, image_shape: tuple[int, int, int]):
        """Opens the split; shards are opened when an image of theirs is first asked for.

        Raises:
          UserError: not a folder that `data prepare` wrote, no such split, or too many shards.
        """
        self.name, self.split, self.path = name, split, str(folder)
        self._image_shape = image_shape
        self.fingerprint, self._files, lengths = _facts(folder, split)
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        copies = -(-READERS // len(self._files))
        _allow_open_files(len(self._files) * copies)
        # Readers at rest, or None for one that is not open yet. The last used comes first.
        self._resting: list[queue.LifoQueue] = []
        for _ in self._files:
            self._resting.append(queue.LifoQueue())
            for _ in range(copies):
                self._resting[-1].put(None)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """All labels, int32[n]; reads every record once."""
        return np.concatenate([labels for _, labels in in_blocks(self)])

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8[k, h, w, c] and labels int32[k]; from any thread.

        Raises:
          UserError: a shard is damaged.
        """
        order = np.argsort(indices, kind="stable")  # Along each file rather than to and fro.
        found = np.asarray(indices)[order]
        if len(found) and not (0 <= found[0] and found[-1] < len(self)):
            raise IndexError(f"indices {found[0]} to {found[-1]} of {len(self)} images")
        which = np.searchsorted(self._ends, found, side="right")
        firsts = np.flatnonzero(np.diff(which, prepend=-1))
        records: list[bytes] = [b""] * len(found)
        for first, last in itertools.pairwise([*firsts.tolist(), len(found)]):
            shard = int(which[first])
            places = found[first:last] - self._starts[shard]
            read = self._read(shard, places.tolist())
            for place, record in zip(order[first:last].tolist(), read, strict=True):
                records[place] = record
        if not records:
            return np.empty((0, *self._image_shape), np.uint8), np.empty(0, np.int32)
        with self._told(Path(self.path)):
            return decode(records, self._image_shape)

    def _read(self, shard: int, places: Sequence[int]) -> list[bytes]:
        with self._told(self._files[shard]):
            try:
                return self._read_once(shard, places)
            except READ_ERRORS:  # It may have passed: a disk of the network that did not answer.
                return self._read_once(shard, places)

    def _read_once(self, shard: int, places: Sequence[int]) -> list[bytes]:
        records = []
        with self._reader(shard) as reader:
            for place in places:
                reader.seek(place)
                records.append(reader.read())
        return records

    @contextlib.contextmanager
    def _reader(self, shard: int) -> Iterator[Any]:
        """A reader of a shard that no other thread uses: it remembers its place.

        After an error it is not used again: it would go on to fail.
        """
        resting = self._resting[shard]
        reader, kept = resting.get(), None
        try:
            if reader is None:
                opened = array_record_module.ArrayRecordReader(
                    str(self._files[shard]), OPTIONS, file_reader_buffer_size=BUFFER
                )
                expected = int(self._ends[shard] - self._starts[shard])
                if opened.num_records() != expected:
                    raise ValueError(f"{opened.num_records()} records, {expected} were written")
                reader = opened
            yield reader
            kept = reader
        finally:
            resting.put(kept)

    @contextlib.contextmanager
    def _told(self, file: Path) -> Iterator[None]:
        try:
            yield
        except (*READ_ERRORS, DamagedShard) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{file} is damaged ({reason}); move {self.path} away and prepare it again"
            ) from None


def in_blocks(source: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All images and labels of a `sources.Source`, in order, some at a time."""
    for start in range(0, len(source), BLOCK):
        yield source.take(np.arange(start, min(start + BLOCK, len(source))))


def is_readable(folder: Path) -> bool:
    """Whether a folder is one of ours, whose records hold plain pixels in the official order."""
    return _fingerprints(folder) is not None


def _fingerprints(folder: Path) -> dict[str, str] | None:
    try:
        return dict(json.loads((folder / "metadata.json").read_text())["fingerprints"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def files(folder: Path, split: str) -> tuple[list[Path], list[int]]:
    """The shards of a split and how many images each holds.

    Raises:
      UserError: not a TFDS folder of array_record, or no such split.
    """
    try:
        info = tfds.builder_from_directory(str(folder)).info
        known = list(info.splits)
        paths = [Path(path) for path in info.splits[split].filepaths] if split in known else []
        lengths = list(info.splits[split].shard_lengths) if split in known else []
    except Exception as error:  # JSON, protobuf and TFDS each have error types of their own.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} is not a whole TFDS folder ({reason}); move it away and prepare it again"
        ) from None
    if not paths:
        raise UserError(f"{folder} has no split {split!r}; it has: {', '.join(known)}")
    return paths, lengths


def _facts(folder: Path, split: str) -> tuple[str, list[Path], list[int]]:
    paths, lengths = files(folder, split)
    fingerprints = _fingerprints(folder)
    if fingerprints is None or split not in fingerprints:
        raise UserError(
            f"{folder} was not written by `score-jax data prepare`, so that its records are no "
            "plain images in order; set config.data.storage=memory or memmap"
        )
    return fingerprints[split], paths, lengths


def _allow_open_files(count: int) -> None:
    """Raises this process's limit of open files where the shards need more.

    Raises:
      UserError: the system does not allow as many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + OTHER_FILES
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UserError(
            f"{count} shards are more files than this process may open (ulimit -n {hard}); raise "
            "the limit, or set config.data.storage=memmap"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
