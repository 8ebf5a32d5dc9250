"""Reader of MNIST and Fashion-MNIST: the four official IDX files, gzipped or not, or Keras' npz."""

import gzip
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from score_jax.data.raw_split import (
    READ_ERRORS,
    RawSplit,
    check_labels,
    first_bytes,
    in_memory,
    is_zip,
    local_paths,
    read_npz_splits,
)
from score_jax.types import UserError

IMAGES, LABELS = 0x0803, 0x0801  # Unsigned bytes with three axes, with one.
# Of each class in MNIST's training split; Fashion-MNIST, whose files have the same names and sizes,
# has 6000 of each.
MNIST_COUNTS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
FORMS = (
    "the four files *-ubyte.gz (or unpacked), their folder, or an npz with x_train, y_train, "
    "x_test, y_test"
)


def read_mnist(
    sources: Sequence[str], image_shape: tuple[int, int, int], sizes: Mapping[str, int]
) -> dict[str, RawSplit]:
    """MNIST and its like: {'train': ..., 'test': ...}.

    What each file holds, and of which split, is told by its content.

    Raises:
      UserError: no such file, an unknown form, or content that is not whole.
    """
    paths = local_paths(sources, FORMS)
    if len(paths) == 1 and is_zip(paths[0]):
        return read_npz_splits(paths[0], image_shape, sizes)
    found: dict[tuple[str, str], np.ndarray] = {}
    for path in _files(paths):
        kind, values = _parse(path, image_shape, sizes)
        split = next(split for split in sizes if sizes[split] == len(values))
        if (split, kind) in found:
            raise UserError(f"--source={path} holds the {split} {kind}, as another file does")
        found[split, kind] = values
    missing = [
        f"{split} {kind}"
        for split in sizes
        for kind in ("images", "labels")
        if (split, kind) not in found
    ]
    if missing:
        raise UserError(f"--source={sources[0]} has no {', no '.join(missing)}; give {FORMS}")
    return {
        split: in_memory(
            [
                (
                    found[split, "images"],
                    check_labels(found[split, "labels"], count, f"--source={sources[0]}: {split}"),
                )
            ]
        )
        for split, count in sizes.items()
    }


def read_digits_mnist(
    sources: Sequence[str], image_shape: tuple[int, int, int], sizes: Mapping[str, int]
) -> dict[str, RawSplit]:
    """MNIST itself: `read_mnist`, but nothing else that looks like it.

    Raises:
      UserError: as `read_mnist`, or the labels are of another dataset.
    """
    splits = read_mnist(sources, image_shape, sizes)
    check_digits(splits["train"], sources[0])
    return splits


def check_digits(train: RawSplit, source: str) -> None:
    """Refuses what has as many training images as MNIST, but not its labels.

    Raises:
      UserError: that is so.
    """
    if train.count != sum(MNIST_COUNTS):
        return
    counts = np.zeros(256, np.int64)
    for _, labels in train.blocks(0):
        counts += np.bincount(labels.clip(0, 255), minlength=256)
    if tuple(counts[:10]) != MNIST_COUNTS:
        raise UserError(
            f"--source={source} does not have the labels of MNIST: {counts[0]} are 0 where "
            f"{MNIST_COUNTS[0]} are; is it fashion_mnist?"
        )


def _files(paths: Sequence[Path]) -> list[Path]:
    """The IDX files among the sources and in the folders among them, each once."""
    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        # torchvision keeps them in 'raw', beside their unpacked forms.
        places = [path, path / "raw", *sorted(path.glob("*/raw"))]
        inside = [
            file
            for place in places
            if place.is_dir()
            for file in sorted(place.iterdir())
            if file.name.endswith(("-ubyte", "-ubyte.gz"))
            and not file.with_name(file.name + ".gz").exists()
        ]
        if not inside:
            raise UserError(f"--source={path} holds no file *-ubyte or *-ubyte.gz; give {FORMS}")
        files += inside
    return files


def _parse(
    path: Path, image_shape: tuple[int, int, int], sizes: Mapping[str, int]
) -> tuple[str, np.ndarray]:
    """('images', uint8[n, h, w, 1]) or ('labels', uint8[n]); nothing longer than the dataset."""
    zipped = first_bytes(path).startswith(b"\x1f\x8b")
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            magic, count = struct.unpack(">II", file.read(8))
            if magic not in (IMAGES, LABELS):
                raise ValueError("it is not an IDX file of images or labels")
            shape: tuple[int, ...] = ()
            if magic == IMAGES:
                shape = struct.unpack(">II", file.read(8))
                if shape != image_shape[:2]:
                    raise ValueError(f"its images are {shape[0]}x{shape[1]}")
            if count not in sizes.values():
                raise ValueError(f"it is of {count} {'images' if shape else 'labels'}")
            length = count * int(np.prod(shape))
            content = file.read(length + 1)  # One more, where gzip's checksum is compared.
            if len(content) != length:
                raise ValueError("its length is not what its header says")
    except READ_ERRORS as error:
        raise UserError(
            f"--source={path} is damaged or not of this dataset ({error}); download it again"
        ) from None
    values = np.frombuffer(content, np.uint8).reshape(count, *shape)
    return ("images", values[..., None]) if shape else ("labels", values)
