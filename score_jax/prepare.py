"""Prepares a dataset from the user's files."""

import contextlib
import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from score_jax.data import builders, cifar, readers
from score_jax.data.datasets import DATASETS, DatasetSpec
from score_jax.data.raw_split import RawSplit
from score_jax.data.sources import data_folder, prepare_command
from score_jax.types import UserError, lookup

OFFICIAL: dict[str, Mapping[str, Sequence[str]]] = {"cifar10": cifar.OFFICIAL_CIFAR10}
BALANCED = ("cifar10", "cifar100")  # Every class has the same number of images in each split.
UNFINISHED = ".score_jax_preparing_"


def prepare(name: str, sources: Sequence[str] = (), data_dir: str = "") -> str:
    """Writes a dataset as TFDS folders of ArrayRecord shards; gives the folder.

    The folder appears under its name only when it is whole and was read back. What is already
    prepared is left as it is. Processes that prepare the same dataset wait for each other.

    Args:
      name: an entry of `DATASETS`.
      sources: the user's files; none for datasets that come with a library.
      data_dir: '' for $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: the files are missing, damaged or not this dataset, or the folder cannot be
        written.
    """
    spec = lookup(DATASETS, "dataset", name)
    root = data_folder(data_dir)
    final = root / builders.relative_path(name)
    if _is_there(final, name):
        return str(final)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _only_one(root, name) as alone:
            if _is_there(final, name):
                return str(final)
            if alone:
                _remove_unfinished(root, name)
            unfinished = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{name}-", dir=root))
            try:
                _write(name, spec, sources, unfinished, final)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"data.dir={root} cannot be written ({reason}); give another with --data_dir=DIR"
        ) from None
    return str(final)


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _is_there(final: Path, name: str) -> bool:
    if not (final / "dataset_info.json").is_file():
        return False
    _report(f"{name}: already prepared in {final}; to prepare it again, move that folder away")
    return True


@contextlib.contextmanager
def _only_one(root: Path, name: str) -> Iterator[bool]:
    """Holds the dataset's lock; gives False where the file system has no locks."""
    with open(root / f"{UNFINISHED}{name}.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
                raise
            yield False
        else:
            yield True


def _remove_unfinished(root: Path, name: str) -> None:
    """Removes what killed preparations of this dataset left; the caller holds its lock."""
    for path in root.glob(f"{UNFINISHED}{name}-*"):
        if path.is_dir() and not path.is_symlink():
            _report(f"{name}: removing {path.name}, left by a preparation that was stopped")
            shutil.rmtree(path)


def _write(
    name: str, spec: DatasetSpec, files: Sequence[str], unfinished: Path, final: Path
) -> None:
    if spec.example_source and not files:
        raise UserError(f"{name} is prepared from your own copy; run: {prepare_command(name)}")
    _report(f"{name}: reading {', '.join(files) or 'the images that come with a library'}")
    spec, splits = readers.read_source(name, files)
    for split, raw in splits.items():
        _check_labels(name, split, raw, spec)
    _check_space(unfinished, splits, spec)
    if name in OFFICIAL:
        _report(f"{name}: {_compare_with_official(splits, OFFICIAL[name])}")
    folder = builders.write(
        unfinished,
        name,
        spec=spec,
        splits=splits,
        report=lambda line: _report(f"{name}: writing {line}"),
    )
    for split in splits:
        _, _, fingerprint = builders.read(folder, split, spec.image_shape)
        _report(f"{name}: {split} sha256 {fingerprint}, read back and compared")
    final.parent.mkdir(parents=True, exist_ok=True)
    os.rename(folder, final)
    _report(f"{name}: prepared in {final}")


def _check_labels(name: str, split: str, raw: RawSplit, spec: DatasetSpec) -> None:
    counts = np.zeros(spec.num_classes, np.int64)
    for _, labels in raw.blocks(0):
        if labels.max() >= spec.num_classes:
            raise UserError(
                f"{name}: label {labels.max()} in split {split!r} where {spec.num_classes - 1} is "
                "the largest; the source is another dataset or damaged"
            )
        counts += np.bincount(labels, minlength=spec.num_classes)
    if name in BALANCED and len(set(counts.tolist())) > 1:
        raise UserError(
            f"{name}: split {split!r} has {counts.min()} to {counts.max()} images a class where "
            f"each has {raw.count // spec.num_classes}; the source is damaged, download it again"
        )


def _check_space(folder: Path, splits: Mapping[str, RawSplit], spec: DatasetSpec) -> None:
    count = sum(raw.count for raw in splits.values())
    # TFDS writes each split twice: once as it comes, once in its shards.
    needed = 2 * count * (int(np.prod(spec.image_shape)) + 128)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder.parent} has {free >> 20} MiB free where {needed >> 20} MiB are needed; "
            "give another folder with --data_dir=DIR"
        )


def _compare_with_official(
    splits: Mapping[str, RawSplit], official: Mapping[str, Sequence[str]]
) -> str:
    equal = [
        found == known
        for split, hashes in official.items()
        for found, known in zip(
            cifar.binary_hashes(splits[split], len(hashes)), hashes, strict=True
        )
    ]
    if all(equal):
        return "the content equals the official one, byte for byte"
    return (
        f"notice: {sum(equal)} of {len(equal)} official files have this content, byte for byte; "
        "counts and labels are as they should be"
    )
