"""A split decoded into files that are mapped into memory: nothing is read but what is asked for.

All processes of a host share the pages that the system keeps. The files lie in `decoded/` in the
folder of the dataset; the first process that needs them writes them while others wait for its lock.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data import records
from score_jax.types import UserError

LOGGER = logging.getLogger("score_jax")
FOLDER = "decoded"
Whole = Callable[[], tuple[np.ndarray, np.ndarray, str]]


def open_split(
    folder: Path, split: str, image_shape: tuple[int, int, int], read_whole: Whole
) -> tuple[np.ndarray, np.ndarray, str]:
    """Images uint8[n, h, w, c] and labels int32[n], mapped and read-only, and their fingerprint.

    Args:
      folder: of the prepared dataset.
      read_whole: gives images, labels and fingerprint of a folder that TFDS itself prepared.

    Raises:
      UserError: a damaged dataset, a full disk, or a folder that cannot be written.
    """
    place = folder / FOLDER
    source = _source(folder, split)
    try:
        place.mkdir(exist_ok=True)
        with _locked(place / f".{split}.lock"):
            found = _find(place, split, image_shape, source)
            return found or _make(folder, split, image_shape, read_whole, source)
    except OSError as error:
        # Read-only folders may hold the files all the same.
        if found := _find(place, split, image_shape, source):
            return found
        remedy = "free some space" if error.errno == errno.ENOSPC else "make it writable"
        raise UserError(
            f"{place} cannot be written ({error.strerror or error}); {remedy}, or set "
            "config.data.storage=records"
        ) from None


def _source(folder: Path, split: str) -> list[list[Any]]:
    """What tells one dataset in the folder from another that lay there before."""
    paths, lengths = records.files(folder, split)
    try:
        return [
            [path.name, path.stat().st_size, length]
            for path, length in zip(paths, lengths, strict=True)
        ] + [[(folder / "metadata.json").read_text()]]
    except FileNotFoundError as error:
        if Path(error.filename).name != "metadata.json":
            raise UserError(
                f"{error.filename} is missing; move {folder} away and prepare it again"
            ) from None
        return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "a") as lock:
        with contextlib.suppress(OSError):  # Where the file system knows no locks, each writes.
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find(
    place: Path, split: str, image_shape: tuple[int, int, int], source: list[list[Any]]
) -> tuple[np.ndarray, np.ndarray, str] | None:
    """The mapped files, where they are whole and of this very dataset."""
    try:
        facts = json.loads((place / f"{split}.json").read_text())
        if facts["source"] != source:
            return None
        images, labels = (
            np.asarray(np.load(place / f"{split}.{kind}.npy", mmap_mode="r", allow_pickle=False))
            for kind in ("images", "labels")
        )
    except (OSError, ValueError, KeyError, TypeError):  # Absent or cut short.
        return None
    if images.shape != (len(labels), *image_shape) or images.dtype != np.uint8:
        return None
    return images, labels, facts["fingerprint"]


def _make(
    folder: Path,
    split: str,
    image_shape: tuple[int, int, int],
    read_whole: Whole,
    source: list[list[Any]],
) -> tuple[np.ndarray, np.ndarray, str]:
    place = folder / FOLDER
    for left in place.glob(f"{split}.*"):  # Of another dataset, or of a process that was killed.
        left.unlink(missing_ok=True)
    if records.is_readable(folder):
        whole = records.Records(folder.name, split, folder, image_shape)
        count, blocks, expected = len(whole), whole.blocks(), whole.fingerprint
    else:
        images, labels, expected = read_whole()
        count, blocks = len(labels), iter([(images, labels)])
    size = count * (int(np.prod(image_shape)) + 4)
    if size > shutil.disk_usage(place).free:
        raise OSError(errno.ENOSPC, f"{size >> 20} MiB are needed")
    LOGGER.info("decoding %d images into %s (%d MiB), once for this host", count, place, size >> 20)
    temporary = {kind: place / f"{split}.{kind}.tmp" for kind in ("images", "labels")}
    try:
        found = _write(temporary, count, image_shape, blocks)
        if found != expected:
            raise UserError(
                f"{folder}: split {split!r} has content {found[:12]} where {expected[:12]} was "
                "written; move it away and prepare it again"
            )
        for kind, path in temporary.items():
            os.replace(path, place / f"{split}.{kind}.npy")
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    # Last of all: it says that the others are whole.
    facts = place / f"{split}.json.tmp"
    facts.write_text(json.dumps({"fingerprint": found, "source": source}))
    os.replace(facts, place / f"{split}.json")
    return _find(place, split, image_shape, source)


def _write(
    paths: dict[str, Path],
    count: int,
    image_shape: tuple[int, int, int],
    blocks: Iterator[tuple[np.ndarray, np.ndarray]],
) -> str:
    """Writes .npy files of images and labels; gives the fingerprint of what was written."""
    content, done, told = hashlib.sha256(), 0, 0
    with open(paths["images"], "wb") as images_file, open(paths["labels"], "wb+") as labels_file:
        for file, kind, shape in (
            (images_file, "|u1", (count, *image_shape)), (labels_file, "<i4", (count,)),
        ):  # fmt: skip
            header = {"descr": kind, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        start = labels_file.tell()
        for images, labels in blocks:
            content.update(images.data)
            images_file.write(images.data)
            labels_file.write(labels.astype("<i4").data)
            done += len(labels)
            if done * 10 // count > told and done < count:
                told = done * 10 // count
                LOGGER.info("decoded %d of %d images", done, count)
        labels_file.seek(start)
        while part := labels_file.read(1 << 20):
            content.update(part)
        for file in (images_file, labels_file):
            file.flush()
            os.fsync(file.fileno())
    return content.hexdigest()
