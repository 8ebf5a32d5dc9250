"""Which datasets there are, and what is known about each before it is read."""

from collections.abc import Mapping
from dataclasses import dataclass

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
