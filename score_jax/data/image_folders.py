"""Reader of folders and zips of images, a folder a class, and perhaps train and test above them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data import image_files
from score_jax.data.raw_split import READ_ERRORS, RawSplit
from score_jax.types import UserError

FORM = "folders named after the classes, each of images; perhaps within train and test"
SIZES = "; where images have many sizes, give --size=PIXELS, to which all are brought"
TEST_FOLDERS = ("test", "val", "validation")  # The first that is there.


@dataclass(frozen=True, eq=False)
class Found:
    """What a source of unknown images holds: image shape (h, w, c), class names, splits."""

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    splits: dict[str, RawSplit]


def read_image_folder(
    path: Path, size: int = 0, class_names: Sequence[str] = (), channels: int = 0
) -> Found:
    """The images of a folder or zip, in `image_files.mixed_order`.

    Args:
      size: the shorter side becomes so many pixels, of which the square in the middle is taken;
        0: all images have one size.
      class_names: as which, or as whose positions, the folders are named; none: of the folders,
        sorted, or in the order of their numbers where they are 0, 1, ..., k - 1.
      channels: 1 or 3; 0: one where the first image of each class is grey, else three.

    Raises:
      UserError: no such folders, no images in them, a damaged one, or different sizes.
    """
    with image_files.open_files(path) as files:
        root = _root(files)
        there = files.folders(root)
        places = {"train": root}
        if "train" in there:
            places = {"train": _join(root, "train")}
            test = next((name for name in TEST_FOLDERS if name in there), None)
            if test:
                places["test"] = _join(root, test)
        found = {split: _images(files, at) for split, at in places.items()}
        if not any(found["train"].values()):
            raise UserError(f"--source={path} holds no classes of images; give {FORM}")
        for split, at in places.items():
            _check_folders(files, at, found[split])
        labels = _labels(path, list(found["train"]), class_names)
        first = [names[0] for names in found["train"].values()]
        image_shape = _shape(files, first, size, channels)
    splits = {}
    for split, classes in found.items():
        other = sorted(set(classes) - set(labels))
        if other:
            raise UserError(f"--source={path}: {split} has class {other[0]!r}, train has not")
        names = [name for inside in classes.values() for name in inside]
        ids = [labels[folder] for folder, inside in classes.items() for _ in inside]
        # Below the root, so that a zip has the order of the folder that it was packed from.
        order = image_files.mixed_order([name[len(root) :].lstrip("/") for name in names])
        splits[split] = image_files.split_of(
            path,
            [names[i] for i in order],
            np.array(ids, np.int32)[order],
            image_shape,
            resize=size,
            remedy="take it away" + ("" if size else SIZES),
        )
    return Found(image_shape, tuple(class_names) or tuple(labels), splits)


def _root(files: Any) -> str:
    """The folder in which to look: a zip often holds all in one."""
    at = ""
    while True:
        there = files.folders(at)
        if len(there) != 1 or there == ["train"] or not files.folders(_join(at, there[0])):
            return at
        at = _join(at, there[0])


def _join(at: str, name: str) -> str:
    return f"{at}/{name}" if at else name


def _images(files: Any, at: str) -> dict[str, list[str]]:
    """Of each class, the names of its images from the source on."""
    return {
        folder: [f"{_join(at, folder)}/{name}" for name in files.images(_join(at, folder))]
        for folder in files.folders(at)
    }


def _check_folders(files: Any, at: str, classes: dict[str, list[str]]) -> None:
    """Refuses a split without classes, and classes without images: labels would shift."""
    where = f"--source={files.path}"
    if not classes:
        raise UserError(
            f"{where}: {at} holds no folders of classes; sort its images into folders named as "
            "those of train, or take it away"
        )
    empty = next((folder for folder, names in classes.items() if not names), None)
    if empty is None:
        return
    place = _join(at, empty)
    others = len(files.files(place))
    raise UserError(
        f"{where}: {place!r} holds no images, and {others} other files; take it away, or convert "
        f"them to one of {', '.join(image_files.ENDINGS)}"
    )


def _labels(path: Path, folders: list[str], class_names: Sequence[str]) -> dict[str, int]:
    numbers = {str(i): i for i in range(len(class_names) or len(folders))}
    if class_names:
        known = numbers | {name: label for label, name in enumerate(class_names)}
        other = [folder for folder in folders if folder not in known]
        if other:
            raise UserError(
                f"--source={path} has a folder {other[0]!r}, which is no class; name the folders "
                f"as {', '.join(class_names[:3])}, ..., or 0 to {len(class_names) - 1}"
            )
        return {folder: known[folder] for folder in folders}
    if set(folders) == set(numbers):
        return numbers
    return {folder: label for label, folder in enumerate(sorted(folders))}


def _shape(files: Any, first: list[str], size: int, channels: int) -> tuple[int, int, int]:
    shapes = []
    for name in first:
        try:
            image = image_files.open_image(files.read(name))
        except READ_ERRORS as error:
            raise UserError(
                f"--source={files.path}: {name} is damaged or no image ({error}); take it away"
            ) from None
        shapes.append((image.height, image.width))
        if image.mode not in ("1", "L"):
            channels = channels or 3
    different = [name for name, shape in zip(first, shapes, strict=True) if shape != shapes[0]]
    if different and not size:
        raise UserError(
            f"--source={files.path}: {first[0]} and {different[0]} have different sizes; "
            "give --size=PIXELS, to which they are brought"
        )
    height, width = (size, size) if size else shapes[0]
    return height, width, channels or 1
