"""A split decoded into files that are mapped into memory: nothing is read but what is asked for.

All processes of a host share the pages that the system keeps. The files lie in `decoded/` in the
folder of the dataset; the first process that needs them writes them while others wait for its lock.
"""

import errno
import json
import logging
import os
import platform
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data import locks, records
from score_jax.data.content import ContentHash, fingerprint
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
        with locks.held(place / f".{split}.lock"):
            found = _find(place, split, image_shape, source)
            if found := found or _make(folder, split, image_shape, read_whole, source):
                return found
    except OSError as error:
        # Read-only folders may hold the files all the same.
        if found := _find(place, split, image_shape, source):
            return found
        remedy = "free some space" if error.errno == errno.ENOSPC else "make it writable"
        raise UserError(
            f"{place} cannot be written ({error.strerror or error}); {remedy}, or set "
            "config.data.storage=records"
        ) from None
    raise UserError(
        f"{place} was changed by another process while {split!r} was decoded into it; start again "
        "when that has ended, or set config.data.storage=records"
    )


def check(folder: Path) -> list[str]:
    """Hashes the decoded files of a prepared dataset, where there are any.

    Returns:
      The splits whose files do not hold what was written, as 'decoded/SPLIT: reason'. Files of
      another dataset that lay in the folder before do not count: they are never used.

    Raises:
      UserError: not a whole dataset.
    """
    damaged = []
    for path in sorted((folder / FOLDER).glob("[!.]*.json")):
        split = path.name.removesuffix(".json")
        facts = _facts(path.parent, split)
        if facts is None or facts["source"] != _source(folder, split):
            continue
        arrays = _load(path.parent, split)
        if arrays is None:
            damaged.append(f"{FOLDER}/{split}: its files are cut short or missing")
            continue
        found = fingerprint(*arrays)
        if found != facts["fingerprint"]:
            damaged.append(
                f"{FOLDER}/{split}: its content is {found[:12]} where "
                f"{facts['fingerprint'][:12]} was written"
            )
    return damaged


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


def _facts(place: Path, split: str) -> dict[str, Any] | None:
    """'fingerprint' and 'source' of the files that were made last; None without any."""
    try:
        facts = json.loads((place / f"{split}.json").read_text())
        return {name: facts[name] for name in ("fingerprint", "source")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _load(place: Path, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Images and labels, mapped; None where they are absent or cut short."""
    try:
        images, labels = (
            np.asarray(np.load(place / f"{split}.{kind}.npy", mmap_mode="r", allow_pickle=False))
            for kind in ("images", "labels")
        )
    except (OSError, ValueError, EOFError):
        return None
    return images, labels


def _find(
    place: Path, split: str, image_shape: tuple[int, int, int], source: list[list[Any]]
) -> tuple[np.ndarray, np.ndarray, str] | None:
    """The mapped files, where they are whole and of this very dataset."""
    facts = _facts(place, split)
    if facts is None or facts["source"] != source or (arrays := _load(place, split)) is None:
        return None
    images, labels = arrays
    if images.shape != (len(labels), *image_shape) or images.dtype != np.uint8:
        return None
    return images, labels, facts["fingerprint"]


def _tidy(place: Path, split: str, source: list[list[Any]]) -> None:
    """Removes the files of another dataset, and what processes left that were killed here.

    Never what another process may be writing, which is possible where locks are unknown.
    """
    if (facts := _facts(place, split)) and facts["source"] != source:
        for kind in ("json", "images.npy", "labels.npy"):
            (place / f"{split}.{kind}").unlink(missing_ok=True)
    for left in place.glob(f"{split}.*.{platform.node()}.*.tmp"):
        try:
            os.kill(int(left.name.split(".")[-3]), 0)
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except (PermissionError, ValueError):  # Of another user.
            continue


def _make(
    folder: Path,
    split: str,
    image_shape: tuple[int, int, int],
    read_whole: Whole,
    source: list[list[Any]],
) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Decodes and maps; None where another process changed the files meanwhile."""
    place = folder / FOLDER
    _tidy(place, split, source)
    if records.is_readable(folder):
        whole = records.Records(folder.name, split, folder, image_shape)
        count, blocks, expected = len(whole), records.in_blocks(whole), whole.fingerprint
    else:
        images, labels, expected = read_whole()
        count, blocks = len(labels), iter([(images, labels)])
    size = count * (int(np.prod(image_shape)) + 4)
    if size > shutil.disk_usage(place).free:
        raise OSError(errno.ENOSPC, f"{size >> 20} MiB are needed")
    LOGGER.info("decoding %d images into %s (%d MiB), once for this host", count, place, size >> 20)
    writer = f"{platform.node()}.{os.getpid()}.{threading.get_native_id()}"
    # In this order: the last says that the others are whole.
    temporary = {
        kind: place / f"{split}.{kind}.{writer}.tmp"
        for kind in ("images.npy", "labels.npy", "json")
    }
    try:
        found = _write(temporary, count, image_shape, blocks)
        if found != expected:
            raise UserError(
                f"{folder}: split {split!r} has content {found[:12]} where {expected[:12]} was "
                "written; move it away and prepare it again"
            )
        temporary["json"].write_text(json.dumps({"fingerprint": found, "source": source}))
        for kind, path in temporary.items():
            os.replace(path, place / f"{split}.{kind}")
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    return _find(place, split, image_shape, source)


def _write(
    paths: dict[str, Path],
    count: int,
    image_shape: tuple[int, int, int],
    blocks: Iterator[tuple[np.ndarray, np.ndarray]],
) -> str:
    """Writes .npy files of images and labels; gives the fingerprint of what was written."""
    content, done, told = ContentHash(paths["labels.npy"].parent), 0, 0
    with (
        open(paths["images.npy"], "wb") as images_file,
        open(paths["labels.npy"], "wb") as labels_file,
    ):
        for file, kind, shape in (
            (images_file, "|u1", (count, *image_shape)), (labels_file, "<i4", (count,)),
        ):  # fmt: skip
            header = {"descr": kind, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        for images, labels in blocks:
            content.add(images, labels)
            images_file.write(images.data)
            labels_file.write(labels.astype("<i4").data)
            done += len(labels)
            if done * 10 // count > told and done < count:
                told = done * 10 // count
                LOGGER.info("decoded %d of %d images", done, count)
        for file in (images_file, labels_file):
            file.flush()
            os.fsync(file.fileno())
    return content.hexdigest()
