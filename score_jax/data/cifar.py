"""Readers of CIFAR-10 and CIFAR-100 in each of the three forms that users have them in.

Every reader gives `RawSplit`s in the official order and refuses what is not exactly what the
dataset's table says: counts, shapes, types, labels. Nothing is unpacked to disk, and no file
can make a reader allocate more than the dataset needs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from score_jax.data.archives import folder_contents, tar_contents
from score_jax.data.official_pickle import load_batch
from score_jax.data.raw_split import (
    RawSplit,
    check_labels,
    first_bytes,
    in_memory,
    is_zip,
    local_path,
    read_npz_splits,
)
from score_jax.types import UserError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the official archives of CIFAR-10 or CIFAR-100 are laid out.

    archives, python_folder, binary_folder: their names; files: of each split, without '.bin'.
    labels_key: of the wanted labels in the pickles; label_bytes: before each image of the binary
    form, of which the last is wanted.
    """

    name: str
    archives: str
    python_folder: str
    binary_folder: str
    files: Mapping[str, tuple[str, ...]]
    labels_key: str
    label_bytes: int

    @property
    def forms(self) -> str:
        """What may be given as a source, in words."""
        return (
            f"{self.archives}, a folder {self.python_folder} or {self.binary_folder}, or an npz "
            "with x_train, y_train, x_test, y_test"
        )


CIFAR10 = Layout(
    name="cifar10",
    archives="cifar-10-python.tar.gz, cifar-10-binary.tar.gz",
    python_folder="cifar-10-batches-py",
    binary_folder="cifar-10-batches-bin",
    files={
        "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test": ("test_batch",),
    },
    labels_key="labels",
    label_bytes=1,
)
CIFAR100 = Layout(
    name="cifar100",
    archives="cifar-100-python.tar.gz, cifar-100-binary.tar.gz",
    python_folder="cifar-100-python",
    binary_folder="cifar-100-binary",
    files={"train": ("train",), "test": ("test",)},
    labels_key="fine_labels",
    label_bytes=2,  # The coarse one of 20, then the fine one of 100.
)

# sha256 of the six files of cifar-10-binary.tar.gz. Each holds, for 10,000 images, the label and
# then the pixels, so that images from any form can be compared with them.
OFFICIAL_CIFAR10 = {
    "train": (
        "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    ),
    "test": ("8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",),
}


def binary_hashes(split: RawSplit, num_files: int) -> tuple[str, ...]:
    """sha256 of each file that CIFAR-10's binary form would hold for these images."""
    hashes = [hashlib.sha256() for _ in range(num_files)]
    per_file = max(1, -(-split.count // num_files))
    index = 0
    for images, labels in split.blocks(0):
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        rows = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1)
        while len(rows):
            taken = rows[: per_file - index % per_file]
            hashes[index // per_file].update(taken.tobytes())
            index += len(taken)
            rows = rows[len(taken) :]
    return tuple(value.hexdigest() for value in hashes)


def read_cifar10(
    sources: Sequence[str], image_shape: tuple[int, int, int], sizes: Mapping[str, int]
) -> dict[str, RawSplit]:
    """CIFAR-10 from any of its forms, told apart by content: {'train': ..., 'test': ...}.

    Raises:
      UserError: no such file, an unknown form, or content that is not whole.
    """
    return _read(CIFAR10, sources, image_shape, sizes)


def read_cifar100(
    sources: Sequence[str], image_shape: tuple[int, int, int], sizes: Mapping[str, int]
) -> dict[str, RawSplit]:
    """CIFAR-100 with its fine labels, as `read_cifar10`; an npz holds the fine labels."""
    return _read(CIFAR100, sources, image_shape, sizes)


def _read(
    layout: Layout,
    sources: Sequence[str],
    image_shape: tuple[int, int, int],
    sizes: Mapping[str, int],
) -> dict[str, RawSplit]:
    if len(sources) != 1:
        raise UserError(
            f"{layout.name} needs exactly one --source, got {len(sources)}; "
            f"give one of: {layout.forms}"
        )
    source = local_path(sources[0])
    form = _form(source, layout)
    if form == "npz":
        return read_npz_splits(source, image_shape, sizes)
    per_file = {
        file: sizes[split] // len(files) for split, files in layout.files.items() for file in files
    }
    names = _member_names(per_file, int(np.prod(image_shape)), layout)
    contents = tar_contents(source, names) if form == "tar" else folder_contents(source, names)
    folder = _whole_folder(source, contents, layout)
    splits = {}
    for split, files in layout.files.items():
        parts = []
        for file in files:
            name = file if folder == layout.python_folder else f"{file}.bin"
            parse = _parse_python if folder == layout.python_folder else _parse_binary
            content = contents.pop(f"{folder}/{name}")
            parts.append(parse(content, f"{source}: {name}", image_shape, per_file[file], layout))
        splits[split] = in_memory(parts)
    return splits


def _form(source: Path, layout: Layout) -> str:
    """'folder', 'npz' or 'tar'."""
    if source.is_dir():
        return "folder"
    if is_zip(source):
        return "npz"
    head = first_bytes(source)
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        return "tar"
    raise UserError(
        f"--source={source} is neither a tar nor an npz file; give one of: {layout.forms}"
    )


def _member_names(per_file: Mapping[str, int], pixels: int, layout: Layout) -> dict[str, int]:
    """Each file that may be read, with the largest size it may have in bytes."""
    names = {}
    for file, count in per_file.items():
        names[f"{layout.binary_folder}/{file}.bin"] = count * (layout.label_bytes + pixels)
        # Beside the pixels, a pickle spends some bytes on each label and file name.
        names[f"{layout.python_folder}/{file}"] = count * (pixels + 256) + 65536
    return names


def _whole_folder(source: Path, contents: Mapping[str, bytes], layout: Layout) -> str:
    """Which of the two forms is here with all its files."""
    missing = {}
    for folder, ending in ((layout.python_folder, ""), (layout.binary_folder, ".bin")):
        files = [f"{file}{ending}" for split in layout.files.values() for file in split]
        missing[folder] = [file for file in files if f"{folder}/{file}" not in contents]
        if not missing[folder]:
            return folder
    folder = min(missing, key=lambda name: len(missing[name]))
    raise UserError(
        f"--source={source} has no {', '.join(missing[folder])}; it must be one of: {layout.forms}"
    )


def _parse_python(
    content: bytes,
    where: str,
    image_shape: tuple[int, int, int],
    count: int,
    layout: Layout,
) -> tuple[np.ndarray, np.ndarray]:
    height, width, channels = image_shape
    data, labels = load_batch(content, where, layout.labels_key)
    expected = (count, height * width * channels)
    if data.shape != expected:
        raise UserError(
            f"{where} holds images of shape {data.shape} where {expected} is expected; "
            "download the official archive again"
        )
    images = data.reshape(count, channels, height, width).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), check_labels(labels, count, where)


def _parse_binary(
    content: bytes,
    where: str,
    image_shape: tuple[int, int, int],
    count: int,
    layout: Layout,
) -> tuple[np.ndarray, np.ndarray]:
    height, width, channels = image_shape
    record = layout.label_bytes + height * width * channels
    if len(content) != count * record:
        raise UserError(
            f"{where} holds {len(content)} bytes where {count * record} ({count} images) are "
            "expected; download the official archive again"
        )
    rows = np.frombuffer(content, np.uint8).reshape(count, record)
    planes = rows[:, layout.label_bytes :].reshape(count, channels, height, width)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return images, check_labels(rows[:, layout.label_bytes - 1], count, where)
