"""Where the prepared folders of datasets lie, and their splits, in memory or read when asked."""

import functools
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from score_jax import control_groups
from score_jax.data import builders, memory_maps, records
from score_jax.data.datasets import DATASETS, DatasetSpec, from_facts
from score_jax.data.download_urls import URLS
from score_jax.types import UserError, lookup


class Source(Protocol):
    """A split whose images are given by their index, wherever they lie.

    name, split: of the dataset; path: of its folder; fingerprint: sha256 of the content, the same
    whichever way it was prepared; storage: 'memory', 'memmap' or 'records'.
    """

    name: str
    split: str
    path: str
    fingerprint: str
    storage: str

    @property
    def labels(self) -> np.ndarray:
        """All labels, int32[n]; reading them may take a while."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8[k, h, w, c] and labels int32[k] at int64[k] `indices`, in their order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """A split in memory, or mapped into it, read-only: images uint8[n, h, w, c], labels int32[n].

    fingerprint: sha256 of the content, the same whichever way it was prepared; path: the
    folder it was read from.
    """

    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    fingerprint: str
    name: str
    split: str
    path: str
    storage: str = "memory"

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some of the images and labels, copied; see `Source`."""
        return self.images[indices], self.labels[indices]


def data_folder(data_dir: str = "") -> Path:
    """The folder of prepared datasets: `data_dir`, or $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if re.match(r"[a-z0-9]+://", chosen):
        raise UserError(
            f"data.dir={chosen} is not a local folder; copy it to a local disk first and give that"
        )
    return Path(chosen).expanduser().absolute()


def find(name: str, data_dir: str = "") -> Path | None:
    """The prepared folder of a dataset: ours, else TFDS's own; None where there is neither.

    Raises:
      UserError: neither the table nor a prepared folder knows the name.
    """
    entry = DATASETS.get(name)
    root = data_folder(data_dir)
    if entry is None:
        own = user_sets(data_dir)
        lookup(dict.fromkeys([*DATASETS, *own]), "dataset", name)
    folders = [root / builders.relative_path(name)]
    if entry is not None and entry.official_folder:
        folders += sorted(root.glob(entry.official_folder), key=_version, reverse=True)
    return next((path for path in folders if (path / "dataset_info.json").is_file()), None)


def user_sets(data_dir: str = "") -> list[str]:
    """The names of the prepared datasets that the user named: those without a table entry."""
    pattern = builders.relative_path("*") / "dataset_info.json"
    prefix = len(builders.relative_path("").parts[0])
    names = [path.parts[-3][prefix:] for path in data_folder(data_dir).glob(str(pattern))]
    return sorted(set(names) - set(DATASETS))


def spec(name: str, data_dir: str = "") -> DatasetSpec:
    """What is known about a dataset: its table entry, else what its prepared folder tells.

    Of a dataset of `any_size` the folder tells size and number of images, once there is one.

    Raises:
      UserError: neither the table nor a prepared folder knows the name.
    """
    entry = DATASETS.get(name)
    if entry is not None and not entry.any_size:
        return entry
    return _spec(name, find(name, data_dir))


def generated_for(name: str, data_dir: str = "") -> list[str]:
    """The generated sets that add to a dataset: of the table, and of the user."""
    own = [other for other in user_sets(data_dir) if _extends(other, data_dir) == name]
    return [other for other, entry in DATASETS.items() if entry.extends == name] + own


def _extends(name: str, data_dir: str) -> str:
    try:
        return spec(name, data_dir).extends
    except UserError:  # A damaged set is told of where it is named.
        return ""


def train_size(name: str, data_dir: str = "") -> int | None:
    """How many training images a dataset has; None where nobody knows, or the name is unknown."""
    try:
        return spec(name, data_dir).split_sizes["train"]
    except UserError:
        return None


def class_names(name: str, data_dir: str = "") -> tuple[str, ...]:
    """The names of a dataset's classes; none where the name is unknown."""
    try:
        return spec(name, data_dir).class_names
    except UserError:
        return ()


def _spec(name: str, folder: Path | None) -> DatasetSpec:
    entry = DATASETS.get(name)
    if entry is not None and not (entry.any_size and folder):
        return entry
    assert folder is not None  # `find` refuses a name that has neither.
    told = from_facts(builders.facts(folder).get("spec"), str(folder / "metadata.json"))
    if entry is None:
        return told
    return replace(entry, image_shape=told.image_shape, split_sizes=told.split_sizes)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", path.name))


def prepare_command(name: str) -> str:
    """The command that prepares a dataset; without a source where it can be downloaded."""
    if name in URLS:
        return f"score-jax data prepare {name}"
    entry = DATASETS.get(name)
    source = entry.example_source if entry else "FILE"
    return f"score-jax data prepare {name}" + (f" --source={source}" if source else "")


def read_split(name: str, split: str, data_dir: str = "") -> Images:
    """A split of a prepared dataset, checked against its table entry and kept for later calls.

    Raises:
      UserError: unknown dataset, not prepared, damaged, or of another size than the table's.
    """
    return _open(name, split, _folder(name, data_dir), "memory")


def train_source(name: str, data_dir: str = "", storage: str = "auto") -> Source:
    """The training images, where and as `config.data.storage` says.

    Index i is official training index i in every form, and the bytes are the same.

    Args:
      storage: 'memory', read whole; 'memmap', decoded once into files that all processes of a host
        share; 'records', read from the shards when they are asked for; 'device', as 'memory', for
        `resident`; 'auto': 'memory' where the set takes less than a quarter of what is free,
        else 'records', or 'memmap' for a folder that TFDS itself prepared.

    Raises:
      UserError: as `read_split`, and what a form cannot do.
    """
    return _open(name, "train", _folder(name, data_dir), storage)


def release() -> None:
    """Forgets the splits that are kept for later calls: who still has one keeps it."""
    _open.cache_clear()


def _folder(name: str, data_dir: str) -> Path:
    folder = find(name, data_dir)
    if folder is None:
        raise UserError(
            f"dataset {name!r} is not prepared in {data_folder(data_dir)}; run: "
            f"{prepare_command(name)}, or give the folder with --data_dir=DIR"
        )
    return folder


@functools.lru_cache(maxsize=8)
def _open(name: str, split: str, folder: Path, storage: str) -> Source:
    image_shape = _spec(name, folder).image_shape
    if storage == "auto":
        # Asked once: a later answer would find less free memory, and hold the set twice.
        return _open(name, split, folder, _fitting(name, split, folder, image_shape))
    if storage == "records":
        source = records.Records(name, split, folder, image_shape)
        _check_size(name, split, folder, len(source))
        return source

    def read_whole() -> tuple[np.ndarray, np.ndarray, str]:
        return builders.read(folder, split, image_shape)

    if storage == "memmap":
        whole = memory_maps.open_split(folder, split, image_shape, read_whole)
        return replace(_checked(name, split, folder, *whole), storage=storage)
    return _checked(name, split, folder, *read_whole())


def _fitting(name: str, split: str, folder: Path, image_shape: tuple[int, int, int]) -> str:
    """The form of storage for a set of its size on this machine."""
    count = sum(records.files(folder, split)[1])
    size, free = count * (int(np.prod(image_shape)) + 4), control_groups.free_memory()
    if free is None or size < free / 4:
        return "memory"
    return "records" if records.is_readable(folder) else "memmap"


def _check_size(name: str, split: str, folder: Path, count: int) -> None:
    expected = _spec(name, folder).split_sizes.get(split)
    if expected is not None and count != expected:
        raise UserError(
            f"{folder} holds {count} images in split {split!r} where {name} has {expected}; "
            "move it away and prepare it again"
        )


def _checked(
    name: str, split: str, folder: Path, images: np.ndarray, labels: np.ndarray, fingerprint: str
) -> Images:
    _check_size(name, split, folder, len(labels))
    num_classes = _spec(name, folder).num_classes
    if len(labels) and not (0 <= labels.min() and labels.max() < num_classes):
        raise UserError(
            f"{folder} has labels from {labels.min()} to {labels.max()} where {name} has "
            f"0 to {num_classes - 1}; move it away and prepare it again"
        )
    images.setflags(write=False)
    labels.setflags(write=False)
    return Images(
        images=images,
        labels=labels,
        fingerprint=fingerprint,
        name=name,
        split=split,
        path=str(folder),
    )


def train_split(name: str, data_dir: str = "") -> Images:
    """The training images in the official order; index i is official training index i."""
    return read_split(name, "train", data_dir)


def test_split(name: str, data_dir: str = "") -> Images:
    """The test images in the official order. For evaluation only: training never imports this."""
    return read_split(name, "test", data_dir)


def test_source(name: str, data_dir: str = "") -> Source:
    """The test images as `train_source` gives the training ones. For evaluation only."""
    return _open(name, "test", _folder(name, data_dir), "auto")
