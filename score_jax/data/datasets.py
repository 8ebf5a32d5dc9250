"""Which datasets there are, and what is known about each before it is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from score_jax.data import wnids
from score_jax.types import UserError

CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
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
    mean, std: of each channel, for images in [0, 1], with which networks normalize: what the
      papers' networks take, which is not that of the images for SVHN and MNIST.
    extends: for generated images, the dataset they add to; '' for labelled ones.
    official_folder: the TFDS folder of the same content, as a glob below the data folder.
    any_size: height and width are chosen, and the training images counted, when it is prepared;
      `sources.spec` tells both.
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
    any_size: bool = False


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
_SVHN = DatasetSpec(
    num_classes=10,
    image_shape=(32, 32, 3),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    split_sizes={"train": 73257, "test": 26032},
    class_names=tuple("0123456789"),
    example_source="/path/to/train_32x32.mat --source=/path/to/test_32x32.mat",
    official_folder="svhn_cropped/3.*",
)
_MNIST = DatasetSpec(
    num_classes=10,
    image_shape=(28, 28, 1),
    mean=(0.5,),
    std=(0.5,),
    split_sizes={"train": 60000, "test": 10000},
    class_names=tuple("0123456789"),
    example_source="/path/to/MNIST/raw",
    official_folder="mnist/3.*",
)
_FASHION_MNIST = DatasetSpec(
    num_classes=10,
    image_shape=(28, 28, 1),
    mean=(0.2860,),
    std=(0.3530,),
    split_sizes={"train": 60000, "test": 10000},
    class_names=FASHION_MNIST_CLASSES,
    example_source="/path/to/FashionMNIST/raw",
    official_folder="fashion_mnist/3.*",
)
# The official validation images, whose labels are public, are the test split of every paper.
_TINY_IMAGENET = DatasetSpec(
    num_classes=200,
    image_shape=(64, 64, 3),
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2302, 0.2265, 0.2262),
    split_sizes={"train": 100000, "test": 10000},
    class_names=tuple(wnids.TINY_IMAGENET),
    example_source="/path/to/tiny-imagenet-200.zip",
)
# Yang et al. 2020; the constants are those of Tsipras et al. 2019's.
_RESTRICTED_IMAGENET = DatasetSpec(
    num_classes=9,
    image_shape=(64, 64, 3),
    mean=(0.4717, 0.4499, 0.3837),
    std=(0.2600, 0.2516, 0.2575),
    split_sizes={"train": None, "test": 10150},
    class_names=tuple(wnids.RESTRICTED_IMAGENET),
    example_source="/path/to/imagenet",
    any_size=True,
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
    "svhn": _SVHN,
    "mnist": _MNIST,
    "fashion_mnist": _FASHION_MNIST,
    "tiny_imagenet": _TINY_IMAGENET,
    "restricted_imagenet": _RESTRICTED_IMAGENET,
    "digits": DatasetSpec(
        num_classes=10,
        image_shape=(8, 8, 1),
        mean=(0.3059,),
        std=(0.3763,),
        split_sizes={"train": 1438, "test": 359},
        class_names=tuple("0123456789"),
    ),
    # One million images of Gowal et al. 2021's DDPM, and up to 50 million, of which the files hold
    # parts (one --source each), of Wang et al. 2023's EDM; one million where no number is named.
    "cifar10_ddpm": _generated_like(_CIFAR10, "cifar10", "/path/to/cifar10_ddpm.npz"),
    "cifar10_edm": _generated_like(_CIFAR10, "cifar10", "/path/to/1m.npz"),
    "cifar10_edm_5m": _generated_like(_CIFAR10, "cifar10", "/path/to/5m.npz"),
    "cifar10_edm_10m": _generated_like(_CIFAR10, "cifar10", "/path/to/10m.npz"),
    "cifar10_edm_20m": _generated_like(_CIFAR10, "cifar10", "/path/to/20m_part1.npz"),
    "cifar10_edm_50m": _generated_like(_CIFAR10, "cifar10", "/path/to/50m_part1.npz"),
    "cifar100_ddpm": _generated_like(_CIFAR100, "cifar100", "/path/to/cifar100_ddpm.npz"),
    "cifar100_edm": _generated_like(_CIFAR100, "cifar100", "/path/to/1m.npz"),
    "cifar100_edm_50m": _generated_like(_CIFAR100, "cifar100", "/path/to/50m_part1.npz"),
    "svhn_ddpm": _generated_like(_SVHN, "svhn", "/path/to/svhn_ddpm.npz"),
    "svhn_edm": _generated_like(_SVHN, "svhn", "/path/to/svhn_1m.npz"),
    "svhn_edm_50m": _generated_like(_SVHN, "svhn", "/path/to/svhn_50m_part1.npz"),
    "tiny_imagenet_edm": _generated_like(
        _TINY_IMAGENET, "tiny_imagenet", "/path/to/tiny_edm_1m.npz"
    ),
    # Carmon et al. 2019: half a million TinyImages, labelled by a network.
    "cifar10_ti500k": _generated_like(
        _CIFAR10, "cifar10", "/path/to/ti_500K_pseudo_labeled.pickle"
    ),
}


# How many images a generated set was published with.
GENERATED_SIZES = {
    "cifar10_ddpm": 1_000_000,
    "cifar10_edm": 1_000_000,
    "cifar10_edm_5m": 5_000_000,
    "cifar10_edm_10m": 10_000_000,
    "cifar10_edm_20m": 20_000_000,
    "cifar10_edm_50m": 50_000_000,
    "cifar100_ddpm": 1_000_000,
    "cifar100_edm": 1_000_000,
    "cifar100_edm_50m": 50_000_000,
    "svhn_ddpm": 1_000_000,
    "svhn_edm": 1_000_000,
    "svhn_edm_50m": 50_000_000,
    "tiny_imagenet_edm": 1_000_000,
    "cifar10_ti500k": 500_000,
}


def from_facts(facts: Any, where: str) -> DatasetSpec:
    """The entry of a dataset that its prepared folder tells about.

    Args:
      facts: the fields of a `DatasetSpec`, with numbers for the split sizes.
      where: the file that holds them, for errors.

    Raises:
      UserError: something is missing or of another kind.
    """
    try:
        spec = DatasetSpec(
            num_classes=int(facts["num_classes"]),
            image_shape=_three([int(size) for size in facts["image_shape"]]),
            mean=tuple(float(value) for value in facts["mean"]),
            std=tuple(float(value) for value in facts["std"]),
            split_sizes={str(k): int(v) for k, v in facts["split_sizes"].items()},
            class_names=tuple(str(name) for name in facts["class_names"]),
            extends=str(facts["extends"]),
        )
        channels = spec.image_shape[2]
        if not (len(spec.mean) == len(spec.std) == channels and min(spec.image_shape) > 0):
            raise ValueError("mean and std do not fit the images")
        if len(spec.class_names) != spec.num_classes or "train" not in spec.split_sizes:
            raise ValueError("classes or splits are missing")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where} does not tell what its dataset is ({error}); prepare it again"
        ) from None
    return spec


def _three(sizes: list[int]) -> tuple[int, int, int]:
    height, width, channels = sizes
    return height, width, channels
