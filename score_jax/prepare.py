"""The data job: prepares a dataset from the user's files, lists datasets, tells about one."""

import contextlib
import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from score_jax.data import builders, cifar, formats, raw_split
from score_jax.data.datasets import DATASETS, DatasetSpec
from score_jax.data.raw_split import RawSplit
from score_jax.data.sources import data_folder, find, prepare_command, read_split
from score_jax.types import UserError, lookup

READERS: dict[str, Callable[..., dict[str, RawSplit]]] = {
    "cifar10": cifar.read_cifar10,
    "cifar100": cifar.read_cifar100,
    "cifar10_ti500k": formats.read_tiny_images,
    "digits": formats.read_digits,
}
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
    reader = READERS.get(name, raw_split.read_generated)
    if spec.example_source and not files:
        raise UserError(f"{name} is prepared from your own copy; run: {prepare_command(name)}")
    _report(f"{name}: reading {', '.join(files) or 'the images that come with a library'}")
    splits = reader(files, spec.image_shape, spec.split_sizes)
    for split, raw in splits.items():
        _check_labels(name, split, raw, spec)
    _check_space(unfinished, splits, spec)
    if name in OFFICIAL:
        _report(f"{name}: {_compare_with_official(splits, OFFICIAL[name])}")
    folder = builders.write(
        unfinished,
        name,
        image_shape=spec.image_shape,
        class_names=spec.class_names,
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


def list_datasets(data_dir: str = "") -> str:
    """The known datasets, a line each: sizes, and the folder or the command that makes it."""
    lines = [f"datasets in {data_folder(data_dir)}:"]
    for name, spec in DATASETS.items():
        sizes = ", ".join(
            f"{'any number of' if size is None else size} {split}"
            for split, size in spec.split_sizes.items()
        )
        shape = "x".join(map(str, spec.image_shape))
        folder = find(name, data_dir)
        state = f"prepared in {folder}" if folder else f"run: {prepare_command(name)}"
        kind = f"generated for {spec.extends}, " if spec.extends else ""
        lines.append(f"  {name:<14} {kind}{shape}, {spec.num_classes} classes, {sizes}; {state}")
    return "\n".join(lines)


def info(name: str, data_dir: str = "") -> str:
    """A prepared dataset's counts per class, content hash, and mean and deviation by channel."""
    spec = lookup(DATASETS, "dataset", name)
    lines = []
    for split in spec.split_sizes:
        images = read_split(name, split, data_dir)
        if not lines:
            lines.append(f"{name} in {images.path}")
        counts = np.bincount(images.labels, minlength=spec.num_classes)
        mean, std = _mean_and_std(images.images)
        lines += [
            f"{split}: {len(images)} images of {'x'.join(map(str, spec.image_shape))}, uint8",
            f"  sha256 {images.fingerprint}",
            "  per class: "
            + ", ".join(f"{c} {n}" for c, n in zip(spec.class_names, counts, strict=True)),
            "  mean " + ", ".join(f"{value:.4f}" for value in mean),
            "  std  " + ", ".join(f"{value:.4f}" for value in std),
        ]
    return "\n".join(lines)


def _mean_and_std(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each channel for images in [0, 1], exactly, from the counts of the 256 values."""
    values = np.arange(256) / 255
    channels = [images[..., channel].ravel() for channel in range(images.shape[-1])]
    weights = [np.bincount(channel, minlength=256) / len(channel) for channel in channels]
    mean = np.array([weight @ values for weight in weights])
    variance = [weight @ (values - m) ** 2 for weight, m in zip(weights, mean, strict=True)]
    return mean, np.sqrt(np.array(variance))
