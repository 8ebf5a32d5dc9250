"""Restricted ImageNet: nine groups of the classes of ImageNet, as Yang et al. 2020 take them."""

from collections.abc import Mapping, Sequence

import numpy as np

from score_jax.data import image_files, wnids
from score_jax.data.raw_split import RawSplit, local_path
from score_jax.types import UserError

FORMS = "the folder of ImageNet (ILSVRC2012), which has train and val with folders n01440764, ..."
FOLDERS = {"train": "train", "test": "val"}


def read_restricted_imagenet(
    sources: Sequence[str], image_shape: tuple[int, int, int], sizes: Mapping[str, int | None]
) -> dict[str, RawSplit]:
    """Restricted ImageNet: {'train': ..., 'test': ...}; ImageNet's validation images are 'test'.

    As Yang et al.'s scripts: the shorter side becomes 9/8 of the size (72 for 64), of which the
    centre is taken; labels in the order of the nine names. Only the folders of the 203 classes
    that belong to them are read. Both splits come in `image_files.mixed_order`.

    Raises:
      UserError: no such folder, or one of its classes or images is missing.
    """
    if len(sources) != 1 or not local_path(sources[0]).is_dir():
        raise UserError(f"restricted_imagenet needs exactly one folder as --source; give {FORMS}")
    path = local_path(sources[0])
    splits = {}
    with image_files.open_files(path) as files:
        folders = files.folders()
        for split, folder in FOLDERS.items():
            if folder not in folders:
                raise UserError(f"--source={path} has no folder {folder!r}; give {FORMS}")
            there = set(files.folders(folder))
            names, labels = [], []
            counts = {}
            for label, group in enumerate(wnids.RESTRICTED_IMAGENET.values()):
                for wnid in group:
                    inside = files.images(f"{folder}/{wnid}") if wnid in there else []
                    if not inside:
                        raise UserError(_missing(f"{path}/{folder}", wnid, bool(there)))
                    names += [f"{folder}/{wnid}/{name}" for name in inside]
                    labels += [label] * len(inside)
                    counts[wnid] = len(inside)
            expected = sizes[split]
            if expected not in (None, len(names)):
                raise UserError(
                    f"--source={path}: {folder} holds {len(names)} images of these classes where "
                    f"{expected} are expected; unpack ImageNet again"
                )
            if expected is not None:  # Of validation, where each class has the same number.
                each = expected // len(counts)
                other = next((wnid for wnid, count in counts.items() if count != each), None)
                if other:
                    raise UserError(
                        f"--source={path}: {folder}/{other} holds {counts[other]} images where "
                        f"{each} are expected; sort ImageNet's images into their classes again"
                    )
            order = image_files.mixed_order(names)
            splits[split] = image_files.split_of(
                path,
                [names[i] for i in order],
                np.array(labels, np.int32)[order],
                image_shape,
                resize=image_shape[0] * 9 // 8,
            )
    return splits


def _missing(folder: str, wnid: str, sorted_into_classes: bool) -> str:
    if sorted_into_classes:
        return f"--source: {folder} has no images of class {wnid}; unpack ImageNet again"
    return (
        f"--source: {folder} has no folders of classes; sort its images into them, such as with "
        "soumith/imagenetloader.torch's valprep.sh"
    )
