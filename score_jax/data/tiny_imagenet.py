"""Reader of TinyImageNet-200: the official zip, its folder, or Wang et al.'s two npz."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data import image_files, wnids
from score_jax.data.raw_split import READ_ERRORS, RawSplit, is_zip, local_paths, read_npz
from score_jax.types import UserError

FORMS = "tiny-imagenet-200.zip, its folder, or train.npz and val.npz with image and label"
ANNOTATIONS = "val/val_annotations.txt"
LABEL = {wnid: label for label, wnid in enumerate(wnids.TINY_IMAGENET)}


def read_tiny_imagenet(
    sources: Sequence[str], image_shape: tuple[int, int, int], sizes: Mapping[str, int]
) -> dict[str, RawSplit]:
    """TinyImageNet: {'train': ..., 'test': ...}; its validation images are 'test', as in papers.

    The label is the class's place among the sorted WordNet identifiers, as torchvision's
    ImageFolder has it. Training images come in `image_files.mixed_order`, the others in the order
    of their numbers; those of npz files as they are.

    Raises:
      UserError: no such file, an unknown form, or content that is not whole.
    """
    paths = local_paths(sources, FORMS)
    if len(paths) == 2 and all(path.is_file() for path in paths):
        return _npz(paths, image_shape, sizes)
    if len(paths) != 1 or not (paths[0].is_dir() or is_zip(paths[0])):
        raise UserError(f"--source={paths[-1]} is no form of tiny_imagenet; give {FORMS}")
    path = paths[0]
    with image_files.open_files(path) as files:
        at = "" if files.has(ANNOTATIONS) else "tiny-imagenet-200/"
        if not files.has(at + ANNOTATIONS):
            raise UserError(f"--source={path} has no {ANNOTATIONS}; give {FORMS}")
        train = _train(files, at)
        test = _validation(files, at)
    splits = {}
    for split, (names, labels) in (("train", train), ("test", test)):
        if len(names) != sizes[split]:
            raise UserError(
                f"--source={path} holds {len(names)} {split} images where {sizes[split]} are "
                "expected; unpack the official zip again"
            )
        splits[split] = image_files.split_of(path, names, labels, image_shape)
    return splits


def _train(files: Any, at: str) -> tuple[list[str], np.ndarray]:
    folders = files.folders(f"{at}train")
    if set(folders) != set(LABEL):
        other = sorted(set(folders) ^ set(LABEL))[0]
        state = "has an unknown class" if other in folders else "has no class"
        raise UserError(
            f"--source={files.path}: {at}train {state} {other}; unpack the official zip again"
        )
    names, labels = [], []
    for wnid in folders:
        inside = files.images(f"{at}train/{wnid}")
        names += [f"train/{wnid}/{name}" for name in inside]
        labels += [LABEL[wnid]] * len(inside)
    order = image_files.mixed_order(names)
    return [at + names[i] for i in order], np.array(labels, np.int32)[order]


def _validation(files: Any, at: str) -> tuple[list[str], np.ndarray]:
    """The images of `val/images`, or of the class folders that people sort them into."""
    label_of = {}
    try:
        for line in files.read(at + ANNOTATIONS).decode("ascii").splitlines():
            name, wnid = line.split("\t")[:2]
            label_of[name] = LABEL[wnid]
    except (*READ_ERRORS, LookupError) as error:
        raise UserError(
            f"--source={files.path}: {at}{ANNOTATIONS} is damaged ({error}); unpack the official "
            "zip again"
        ) from None
    there = {name.rpartition("/")[2]: name for name in files.images(f"{at}val")}
    missing = sorted(set(label_of) - set(there))
    if missing:
        raise UserError(
            f"--source={files.path}: {at}val has no {missing[0]}; unpack the official zip again"
        )
    names = sorted(label_of, key=lambda name: (len(name), name))  # val_2 before val_10.
    labels = np.array([label_of[name] for name in names], np.int32)
    return [f"{at}val/{there[name]}" for name in names], labels


def _npz(
    paths: Sequence[Path], image_shape: tuple[int, int, int], sizes: Mapping[str, int]
) -> dict[str, RawSplit]:
    found = [read_npz(path, "image", "label", image_shape, None) for path in paths]
    splits = {}
    for split, size in sizes.items():
        raw = next((raw for raw in found if raw.count == size), None)
        if raw is None:
            counts = " and ".join(str(raw.count) for raw in found)
            raise UserError(
                f"--source={paths[0]} and {paths[1].name} hold {counts} images; {size} are "
                f"expected in one of them; give {FORMS}"
            )
        splits[split] = raw
    return splits
