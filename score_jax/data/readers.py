"""Which reader takes the files of which dataset."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from score_jax.data import (
    cifar,
    formats,
    image_folders,
    mnist,
    raw_split,
    restricted_imagenet,
    sources,
    svhn,
    tfds_folders,
    tiny_imagenet,
    user_sets,
)
from score_jax.data.datasets import DATASETS, DatasetSpec
from score_jax.data.image_folders import Found
from score_jax.data.raw_split import RawSplit
from score_jax.types import UserError

# Called as reader(files, image_shape, split_sizes); a dataset without an entry is a generated
# one, read by `raw_split.read_generated`.
READERS: dict[str, Callable[..., dict[str, RawSplit]]] = {
    "cifar10": cifar.read_cifar10,
    "cifar100": cifar.read_cifar100,
    "cifar10_ti500k": formats.read_tiny_images,
    "svhn": svhn.read_svhn,
    "mnist": mnist.read_digits_mnist,
    "fashion_mnist": mnist.read_mnist,
    "tiny_imagenet": tiny_imagenet.read_tiny_imagenet,
    "restricted_imagenet": restricted_imagenet.read_restricted_imagenet,
    "digits": formats.read_digits,
}
SIZES = (8, 1024)  # Of images, in pixels, that --size may ask for.


def check(
    name: str, files: Sequence[str], *, extends: str = "", size: int = 0, data_dir: str = ""
) -> DatasetSpec | None:
    """Refuses what `read_source` cannot take whatever the files hold.

    Returns:
      What is known about the dataset `extends`.

    Raises:
      UserError: of the arguments, some do not go together.
    """
    if size and not SIZES[0] <= size <= SIZES[1]:
        raise UserError(f"--size={size} is not within {SIZES[0]} to {SIZES[1]} pixels")
    if name not in DATASETS:
        of = sources.spec(extends, data_dir) if extends else None
        if of is not None and of.extends:
            raise UserError(f"--extends={extends} only adds to {of.extends}; give that")
        user_sets.check(name, files, extends, of, size)
        return of
    spec = DATASETS[name]
    if extends:
        raise UserError(f"--extends={extends} is for a name of your own; {name} is a known dataset")
    if size and not spec.any_size:
        raise UserError(f"--size={size}: the images of {name} have {spec.image_shape[0]} pixels")
    return None


def read_source(
    name: str, files: Sequence[str], *, extends: str = "", size: int = 0, data_dir: str = ""
) -> tuple[DatasetSpec, dict[str, RawSplit]]:
    """What is known about a dataset, and its splits as the source holds them.

    Any dataset may come from a folder that TFDS prepared, a generated one also from a folder or
    zip of images with a folder for each class.

    Args:
      name: an entry of `DATASETS`, or a name that the user gives.
      files: the user's; paths of files and folders.
      extends: for a set that the user names, the dataset whose generated images it holds.
      size: height and width in pixels of image files of many sizes; 0 for the usual ones.
      data_dir: where the dataset `extends` is looked for if the user named that too.

    Raises:
      UserError: the files are missing, damaged or not this dataset.
    """
    of = check(name, files, extends=extends, size=size, data_dir=data_dir)
    if name not in DATASETS:
        return user_sets.read_user_set(name, files, extends, of, size)
    spec = DATASETS[name]
    if spec.any_size:
        size = size or spec.image_shape[0]
        spec = replace(spec, image_shape=(size, size, spec.image_shape[2]))
    path = raw_split.local_path(files[0]) if len(files) == 1 else None
    if path is not None and path.is_dir() and (folder := tfds_folders.tfds_folder(path)):
        splits = _as_known(name, spec, tfds_folders.read_tfds_folder(folder, size), folder)
        if name == "mnist":
            mnist.check_digits(splits["train"], files[0])
        return spec, splits
    if path is not None and spec.extends and _holds_images(path):
        channels = spec.image_shape[2]
        found = image_folders.read_image_folder(path, 0, spec.class_names, channels)
        return spec, _as_known(name, spec, found, path)
    reader = READERS.get(name, raw_split.read_generated)
    return spec, reader(files, spec.image_shape, spec.split_sizes)


def _holds_images(path: Path) -> bool:
    if path.is_dir():
        return True
    return raw_split.is_zip(path) and path.suffix.lower() == ".zip"


def _as_known(name: str, spec: DatasetSpec, found: Found, path: Path) -> dict[str, RawSplit]:
    """The splits that were found, where they are those of the dataset."""
    if found.image_shape != spec.image_shape:
        raise UserError(
            f"--source={path} holds images of shape {found.image_shape} where {name} has "
            f"{spec.image_shape}"
        )
    if len(found.class_names) != spec.num_classes:
        raise UserError(
            f"--source={path} holds {len(found.class_names)} classes where {name} has "
            f"{spec.num_classes}"
        )
    numbers = tuple(map(str, range(spec.num_classes)))
    if found.class_names not in (spec.class_names, numbers):
        pairs = zip(found.class_names, spec.class_names, strict=True)
        theirs, ours = next(pair for pair in pairs if pair[0] != pair[1])
        raise UserError(
            f"--source={path} has a class {theirs!r} where {name} has {ours!r}; it is another "
            "dataset"
        )
    splits = {}
    for split, size in spec.split_sizes.items():
        if split not in found.splits:
            raise UserError(f"--source={path} has no {split} images, which {name} has")
        splits[split] = found.splits[split]
        if size not in (None, splits[split].count):
            raise UserError(
                f"--source={path} holds {splits[split].count} {split} images where {name} has "
                f"{size}"
            )
    return splits
