"""Which datasets there are, where their prepared folders lie, and their splits in memory."""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from score_jax.data import builders
from score_jax.types import UserError, lookup

CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch "
    "crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo "
    "keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain "
    "mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate "
    "poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone "
    "television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What is known about a dataset before it is read.

    split_sizes: images in each split; None where any number may come.
    mean, std: of each channel over the training split, for images in [0, 1].
    extends: for generated images, the dataset they add to; '' for labelled ones.
    official_folder: the TFDS folder of the same content, as a glob below the data folder.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split_sizes: Mapping[str, int | None]
    class_names: tuple[str, ...]
    example_source: str = ""
    extends: str = ""
    official_folder: str = ""


_CIFAR10 = DatasetSpec(
    num_classes=10,
    image_shape=(32, 32, 3),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2471, 0.2435, 0.2616),
    split_sizes={"train": 50000, "test": 10000},
    class_names=tuple(CIFAR10_CLASSES.split()),
    example_source="/path/to/cifar-10-python.tar.gz",
    official_folder="cifar10/3.*",
)
_CIFAR100 = DatasetSpec(
    num_classes=100,
    image_shape=(32, 32, 3),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    split_sizes={"train": 50000, "test": 10000},
    class_names=tuple(CIFAR100_CLASSES.split()),
    example_source="/path/to/cifar-100-python.tar.gz",
    official_folder="cifar100/3.*",
)


def _generated_like(spec: DatasetSpec, extends: str, example_source: str) -> DatasetSpec:
    return DatasetSpec(
        num_classes=spec.num_classes,
        image_shape=spec.image_shape,
        mean=spec.mean,
        std=spec.std,
        split_sizes={"train": None},
        class_names=spec.class_names,
        example_source=example_source,
        extends=extends,
    )


DATASETS: dict[str, DatasetSpec] = {
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR100,
    "digits": DatasetSpec(
        num_classes=10,
        image_shape=(8, 8, 1),
        mean=(0.3059,),
        std=(0.3763,),
        split_sizes={"train": 1438, "test": 359},
        class_names=tuple("0123456789"),
    ),
    # One million images of Gowal et al. 2021's DDPM, and up to 50 million, of which the files hold
    # parts (one --source each), of Wang et al. 2023's EDM.
    "cifar10_ddpm": _generated_like(_CIFAR10, "cifar10", "/path/to/cifar10_ddpm.npz"),
    "cifar10_edm": _generated_like(_CIFAR10, "cifar10", "/path/to/1m.npz"),
    "cifar10_edm_20m": _generated_like(_CIFAR10, "cifar10", "/path/to/20m_part1.npz"),
    "cifar10_edm_50m": _generated_like(_CIFAR10, "cifar10", "/path/to/50m_part1.npz"),
    "cifar100_ddpm": _generated_like(_CIFAR100, "cifar100", "/path/to/cifar100_ddpm.npz"),
    "cifar100_edm": _generated_like(_CIFAR100, "cifar100", "/path/to/1m.npz"),
    "cifar100_edm_50m": _generated_like(_CIFAR100, "cifar100", "/path/to/50m_part1.npz"),
    # Carmon et al. 2019: half a million TinyImages, labelled by a network.
    "cifar10_ti500k": _generated_like(
        _CIFAR10, "cifar10", "/path/to/ti_500K_pseudo_labeled.pickle"
    ),
}


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
