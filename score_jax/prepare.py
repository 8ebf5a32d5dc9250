"""Prepares a dataset from the user's files, or from the official ones."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from score_jax import control_groups, prepare_request
from score_jax.data import builders, cifar, download, readers
from score_jax.data.datasets import DATASETS, DatasetSpec
from score_jax.data.raw_split import RawSplit
from score_jax.data.shards import RECORD_OVERHEAD
from score_jax.data.sources import data_folder
from score_jax.data.unfinished import ShardLog, source_files, source_key
from score_jax.stopping import interrupted_by_sigterm
from score_jax.types import UserError, lookup

OFFICIAL: dict[str, Mapping[str, Sequence[str]]] = {"cifar10": cifar.OFFICIAL_CIFAR10}
# Every class has the same number of images in each split.
BALANCED = ("cifar10", "cifar100", "fashion_mnist", "tiny_imagenet")
UNFINISHED = ".score_jax_preparing_"
MOST_WORKERS = 8  # More have nothing to do: the source is read by one process.


def prepare(
    name: str,
    sources: Sequence[str] = (),
    data_dir: str = "",
    *,
    workers: int = 0,
    extends: str = "",
    size: int = 0,
    mirror: str = "",
) -> str:
    """Writes a dataset as TFDS folders of ArrayRecord shards; gives the folder.

    The source is read once, a few images at a time. The folder appears under its name only when it
    is whole and was read back. What is already prepared is left as it is, and what a preparation
    of the same files has left that was stopped or killed is gone on with. Processes that prepare
    the same dataset wait for each other.

    Args:
      name: an entry of `DATASETS`, or a name of the user's own, of letters, digits and `_`.
      sources: the user's files; none for those that the dataset is published in, which are then
        downloaded, and for datasets that come with a library.
      data_dir: '' for $TFDS_DATA_DIR or ~/tensorflow_datasets.
      workers: processes that write the shards of large splits; 0: as many as cores, 8 at most.
      extends, size: as for `readers.read_source`.
      mirror: as for `download.fetch`.

    Raises:
      UserError: the files are missing, damaged or not this dataset, what is already prepared came
        from something else, or the folder cannot be written.
      KeyboardInterrupt: after Ctrl-C or SIGTERM.
    """
    if not re.fullmatch(r"\w+", name, re.ASCII):
        lookup(DATASETS, "dataset", name)
    root = data_folder(data_dir)
    final = root / builders.relative_path(name)
    if _is_there(final, name):
        prepare_request.check_same(final, name, sources, extends, size)
        return str(final)
    prepare_request.check(name, sources, data_dir, extends=extends, size=size, mirror=mirror)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with interrupted_by_sigterm(), _only_one(root, name) as alone:
            if _is_there(final, name):
                prepare_request.check_same(final, name, sources, extends, size)
                return str(final)
            if not sources and DATASETS[name].example_source:
                sources = download.fetch(name, root, _report, mirror)
            come = ", ".join(sources) or "the images that come with a library"
            _report(f"{name}: reading {come}")
            spec, splits = readers.read_source(
                name, sources, extends=extends, size=size, data_dir=data_dir
            )
            key = source_key(name, sources, {"extends": extends, "size": size, **_facts(splits)})
            with _unfinished(root, name, key, alone) as folder:
                writers = workers or min(control_groups.cores(), MOST_WORKERS)
                _write(name, spec, splits, sources, folder, writers)
                final.parent.mkdir(parents=True, exist_ok=True)
                os.rename(folder / builders.relative_path(name), final)
                shutil.rmtree(folder)
            _report(f"{name}: prepared in {final}")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"data.dir={root} cannot be written ({reason}); make room and run it again, or give "
            "another with --data_dir=DIR"
        ) from None
    return str(final)


def _facts(splits: Mapping[str, RawSplit]) -> dict[str, int]:
    return {f"images of {split}": raw.count for split, raw in splits.items()}


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
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _report(f"{name}: another process prepares it in {root}; waiting for that")
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
                raise
            yield False
        else:
            yield True


@contextlib.contextmanager
def _unfinished(root: Path, name: str, key: str, alone: bool) -> Iterator[Path]:
    """The folder to write to: what was left of the same source, else a new one.

    What is wrong with the source takes it away; what stopped the preparation or kept the source
    from being read does not, where the caller holds the dataset's lock and some shards are whole.
    """
    folder = root / f"{UNFINISHED}{name}-{key}"
    if alone:
        _remove_others(root, name, folder.name)
        folder.mkdir(exist_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{name}-", dir=root))
    try:
        yield folder
    except BaseException as error:
        whole = 0
        # Readers tell of all they meet as a `UserError`; an error number is not the file's fault.
        unread = getattr(error.__context__, "errno", None)
        if alone and (unread or isinstance(error, OSError | KeyboardInterrupt)):
            log = ShardLog(folder / builders.relative_path(name))
            log.tidy()
            whole = len(log.whole)
        if whole:
            _report(f"{name}: {whole} shards are kept in {folder}; the same command goes on")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _remove_others(root: Path, name: str, keep: str) -> None:
    """Removes what stopped preparations of other sources left; the caller holds the lock."""
    for path in root.glob(f"{UNFINISHED}{name}-*"):
        if path.name != keep and path.is_dir() and not path.is_symlink():
            _report(f"{name}: removing {path.name}, left by a preparation of other files")
            shutil.rmtree(path)


def _write(
    name: str,
    spec: DatasetSpec,
    splits: Mapping[str, RawSplit],
    sources: Sequence[str],
    unfinished: Path,
    workers: int,
) -> None:
    _check_space(unfinished, splits, spec)
    folder = builders.write(
        unfinished,
        name,
        spec=spec,
        splits=splits,
        report=lambda line: _report(f"{name}: writing {line}"),
        workers=workers,
        sources=source_files(sources),
        source_key=source_key(name, sources, {}),
    )
    known = builders.facts(folder)
    for split in splits:
        if name in BALANCED:
            _check_balance(name, split, known["class_counts"][split])
        fingerprint = known["fingerprints"][split]
        counts = known["class_counts"][split]
        for notice in prepare_request.notices(name, split, spec.class_names, counts):
            _report(f"{name}: {notice}")
        _report(f"{name}: {split} sha256 {fingerprint}, read back and compared")
    if name in OFFICIAL:
        _report(f"{name}: {_compare_with_official(folder, OFFICIAL[name])}")


def _check_balance(name: str, split: str, counts: Sequence[int]) -> None:
    if len(set(counts)) > 1:
        raise UserError(
            f"{name}: split {split!r} has {min(counts)} to {max(counts)} images a class where "
            f"each has {sum(counts) // len(counts)}; the source is damaged, download it again"
        )


def _check_space(folder: Path, splits: Mapping[str, RawSplit], spec: DatasetSpec) -> None:
    count = sum(raw.count for raw in splits.values())
    needed = count * (int(np.prod(spec.image_shape)) + RECORD_OVERHEAD + 4)  # 4: of the labels.
    needed -= sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder.parent} has {_amount(free)} free where {_amount(needed)} are needed; "
            "give another folder with --data_dir=DIR"
        )


def _amount(size: int) -> str:
    if size < 10 << 20:
        return f"{size} bytes"
    return f"{size >> 20} MiB"


def _compare_with_official(folder: Path, official: Mapping[str, Sequence[str]]) -> str:
    equal = [
        found == known
        for split, hashes in official.items()
        for found, known in zip(
            cifar.binary_hashes(builders.stored(folder, split), len(hashes)), hashes, strict=True
        )
    ]
    if all(equal):
        return "the content equals the official one, byte for byte"
    return (
        f"notice: {sum(equal)} of {len(equal)} official files have this content, byte for byte; "
        "counts and labels are as they should be"
    )
