"""Where the prepared folders of datasets lie, and their splits in memory."""

import functools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from score_jax.data import builders
from score_jax.data.datasets import DATASETS
from score_jax.types import UserError, lookup


class Source(Protocol):
    """A split whose images are given by their index, wherever they lie.

    name, split: of the dataset; path: of its folder; fingerprint: sha256 of the content, the same
    whichever way it was prepared.
    """

    name: str
    split: str
    path: str
    fingerprint: str

    @property
    def labels(self) -> np.ndarray:
        """All labels, int32[n]; reading them may take a while."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8[k, h, w, c] and labels int32[k] at int64[k] `indices`, in their order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """A split in memory, read-only: images uint8[n, h, w, c], labels int32[n].

    fingerprint: sha256 of the content, the same whichever way it was prepared; path: the
    folder it was read from.
    """

    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    fingerprint: str
    name: str
    split: str
    path: str

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
    """The prepared folder of a dataset: ours, else TFDS's own; None where there is neither."""
    spec = lookup(DATASETS, "dataset", name)
    root = data_folder(data_dir)
    folders = [root / builders.relative_path(name)]
    if spec.official_folder:
        folders += sorted(root.glob(spec.official_folder), key=_version, reverse=True)
    return next((path for path in folders if (path / "dataset_info.json").is_file()), None)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", path.name))


def prepare_command(name: str) -> str:
    """The command that prepares a dataset."""
    source = DATASETS[name].example_source
    return f"score-jax data prepare {name}" + (f" --source={source}" if source else "")


def read_split(name: str, split: str, data_dir: str = "") -> Images:
    """A split of a prepared dataset, checked against its table entry and kept for later calls.

    Raises:
      UserError: unknown dataset, not prepared, damaged, or of another size than the table's.
    """
    folder = find(name, data_dir)
    if folder is None:
        raise UserError(
            f"dataset {name!r} is not prepared in {data_folder(data_dir)}; run: "
            f"{prepare_command(name)}, or give the folder with --config.data.dir=DIR"
        )
    return _read(name, split, folder)


@functools.lru_cache(maxsize=4)
def _read(name: str, split: str, folder: Path) -> Images:
    spec = DATASETS[name]
    images, labels, fingerprint = builders.read(folder, split, spec.image_shape)
    expected = spec.split_sizes.get(split)
    if expected is not None and len(labels) != expected:
        raise UserError(
            f"{folder} holds {len(labels)} images in split {split!r} where {name} has {expected}; "
            "move it away and prepare it again"
        )
    if len(labels) and not (0 <= labels.min() and labels.max() < spec.num_classes):
        raise UserError(
            f"{folder} has labels from {labels.min()} to {labels.max()} where {name} has "
            f"0 to {spec.num_classes - 1}; move it away and prepare it again"
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
