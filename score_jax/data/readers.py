"""Which reader takes the files of which dataset."""

from collections.abc import Callable, Sequence

from score_jax.data import cifar, formats, mnist, raw_split, svhn
from score_jax.data.datasets import DATASETS, DatasetSpec
from score_jax.data.raw_split import RawSplit
from score_jax.types import lookup

# Called as reader(sources, image_shape, split_sizes); a dataset without an entry is a generated
# one, read by `raw_split.read_generated`.
READERS: dict[str, Callable[..., dict[str, RawSplit]]] = {
    "cifar10": cifar.read_cifar10,
    "cifar100": cifar.read_cifar100,
    "cifar10_ti500k": formats.read_tiny_images,
    "svhn": svhn.read_svhn,
    "mnist": mnist.read_mnist,
    "fashion_mnist": mnist.read_mnist,
    "digits": formats.read_digits,
}


def read_source(
    name: str, sources: Sequence[str], *, extends: str = "", size: int = 0
) -> tuple[DatasetSpec, dict[str, RawSplit]]:
    """What is known about a dataset, and its splits as the source holds them.

    Args:
      name: an entry of `DATASETS`.
      sources: the user's files.
      extends: for a set that the user names, the dataset whose generated images it holds.
      size: height and width in pixels of datasets that have a choice; 0 for the usual ones.

    Raises:
      UserError: the files are missing, damaged or not this dataset.
    """
    spec = lookup(DATASETS, "dataset", name)
    reader = READERS.get(name, raw_split.read_generated)
    return spec, reader(sources, spec.image_shape, spec.split_sizes)
