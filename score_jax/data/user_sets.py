"""Datasets that the user names: what is known about them comes from their files."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from score_jax.data import image_folders, npz, tfds_folders
from score_jax.data.datasets import DATASETS, DatasetSpec
from score_jax.data.image_folders import Found
from score_jax.data.raw_split import (
    READ_ERRORS,
    RawSplit,
    damaged,
    is_zip,
    joined,
    largest_label,
    local_path,
    read_npz,
)
from score_jax.types import UserError, lookup, nearest

FORMS = (
    "npz files with image and label (several are joined), an npz with x_train and y_train "
    "(x_test, y_test), a folder or zip with a folder of images for each class, or a folder that "
    "TFDS prepared"
)
MAX_CLASSES = 100_000
LABELS = (("x_train", "y_train"), ("x_test", "y_test"))


def is_name(name: str) -> bool:
    """Whether a dataset may be called so: it names a folder."""
    return re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name) is not None


def check(
    name: str, sources: Sequence[str], extends: str, of: DatasetSpec | None, size: int = 0
) -> None:
    """Refuses what `read_user_set` cannot take whatever the files hold.

    Raises:
      UserError: no files, such a name, or another size.
    """
    if not sources:
        lookup(DATASETS, "dataset", name)
    if not is_name(name):
        raise UserError(
            f"{name!r} cannot name a dataset of your own; take letters a to z, digits and _, "
            "beginning with a letter"
        )
    if of is not None and size not in (0, of.image_shape[0]):
        raise UserError(f"--size={size} is not the size of {extends}: {of.image_shape[0]}")


def read_user_set(
    name: str, sources: Sequence[str], extends: str, of: DatasetSpec | None, size: int = 0
) -> tuple[DatasetSpec, dict[str, RawSplit]]:
    """What the files tell about a dataset that the table does not know, and its splits.

    Args:
      extends, of: for generated images, the dataset that they add to; their classes are its.
      size: height and width that image files are brought to; 0: they have one size.

    Raises:
      UserError: files of another kind, or images that do not fit.
    """
    paths = [local_path(source) for source in sources]
    found = _read(name, paths, of, size)
    if of is not None:
        if found.image_shape != of.image_shape:
            raise UserError(
                f"--source={sources[0]} holds images of shape {found.image_shape} where those of "
                f"{extends} have {of.image_shape}"
            )
        spec = replace(
            of,
            split_sizes={"train": None},
            extends=extends,
            example_source="",
            official_folder="",
            any_size=False,
        )
        return spec, {"train": found.splits["train"]}
    for class_name in found.class_names:
        _check_class_name(class_name, sources[0])
    spec = DatasetSpec(
        num_classes=len(found.class_names),
        image_shape=found.image_shape,
        mean=(),
        std=(),
        split_sizes={split: raw.count for split, raw in found.splits.items()},
        class_names=found.class_names,
    )
    if spec.num_classes < 2:
        raise UserError(f"--source={sources[0]} holds {spec.num_classes} class; two are needed")
    return spec, found.splits


def _check_class_name(name: str, source: str) -> None:
    """Refuses what TFDS's file of class names, a line each in UTF-8, cannot hold."""
    # Cc: control characters; Cs: what is not UTF-8.
    if name != name.strip() or any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise UserError(
            f"--source={source} has a class {name!r}; give its folder a name in UTF-8 without "
            "control characters, or spaces at its ends"
        )


def _read(name: str, paths: Sequence[Path], of: DatasetSpec | None, size: int) -> Found:
    if len(paths) == 1 and paths[0].is_dir():
        if folder := tfds_folders.tfds_folder(paths[0]):
            return tfds_folders.read_tfds_folder(folder, size)
    elif not all(is_zip(path) for path in paths):
        close = nearest(name, DATASETS)
        hint = f"; or did you mean {close!r}?" if close else ""
        raise UserError(f"{name} is no known dataset; of your own, give {FORMS}{hint}")
    elif any(key in _keys(path) for path in paths for key in ("image", "x_train")):
        if size:
            raise UserError("--size is for image files; the images of an npz are taken as they are")
        return _npz(paths, of)
    if len(paths) > 1:
        raise UserError(f"--source={paths[1]}: only npz files are joined; give one source")
    return image_folders.read_image_folder(
        paths[0],
        size,
        of.class_names if of else (),
        of.image_shape[2] if of else 0,
    )


def _keys(path: Path) -> list[str]:
    try:
        return npz.keys(path)
    except READ_ERRORS as error:
        raise damaged(path, error) from None


def _npz(paths: Sequence[Path], of: DatasetSpec | None) -> Found:
    keys = _keys(paths[0])
    pairs = [pair for pair in LABELS if pair[0] in keys] or [("image", "label")]
    if len(paths) > 1 and pairs[0][0] != "image":
        raise UserError(f"--source={paths[1]}: of npz files with x_train only one is taken")
    image_shape = _npz_shape(paths[0], pairs[0][0])
    splits = {}
    for split, (images, labels) in zip(("train", "test"), pairs, strict=False):
        splits[split] = joined([read_npz(p, images, labels, image_shape, None) for p in paths])
        if not splits[split].count:
            raise UserError(f"--source={paths[0]} holds no {split} images")
    if of is not None:
        return Found(image_shape, of.class_names, splits)
    largest = max(largest_label(p, labels) for p in paths for _, labels in pairs)
    if largest >= MAX_CLASSES:
        raise UserError(f"--source={paths[0]} has label {largest}; labels are classes from 0 on")
    return Found(image_shape, tuple(str(label) for label in range(largest + 1)), splits)


def _npz_shape(path: Path, key: str) -> tuple[int, int, int]:
    try:
        shape = npz.read_header(path, key).shape
    except READ_ERRORS as error:
        raise damaged(path, error) from None
    if len(shape) == 3:
        shape = (*shape, 1)
    if len(shape) != 4 or shape[3] not in (1, 3) or not np.all(shape[1:]):
        raise UserError(
            f"--source={path}: {key} has shape {shape}; (images, height, width, 1 or 3) is expected"
        )
    return shape[1], shape[2], shape[3]
