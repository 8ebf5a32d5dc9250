"""Readers of the files that users have: CIFAR-10 in its three forms, and the digits.

Every reader gives `RawSplit`s in the official order and refuses what is not exactly what the
dataset's table says: counts, shapes, types, labels. Nothing is unpacked to disk, and no file
can make a reader allocate more than the dataset needs.
"""

import gzip
import hashlib
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data.official_pickle import load_batch
from score_jax.data.raw_split import (
    READ_ERRORS,
    RawSplit,
    blocks_of,
    check_labels,
    local_path,
    read_npz,
)
from score_jax.types import UserError

TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILES = ("test_batch",)
PYTHON_FOLDER, BINARY_FOLDER = "cifar-10-batches-py", "cifar-10-batches-bin"
CIFAR_FORMS = (
    "cifar-10-python.tar.gz, cifar-10-binary.tar.gz, a folder cifar-10-batches-py or "
    "cifar-10-batches-bin, or an npz with x_train, y_train, x_test, y_test"
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
    per_file = max(1, -(-len(split.labels) // num_files))
    index = 0
    for images in split.blocks():
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        labels = split.labels[index : index + len(images), None].astype(np.uint8)
        rows = np.concatenate([labels, planes], axis=1)
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
    if len(sources) != 1:
        raise UserError(
            f"cifar10 needs exactly one --source, got {len(sources)}; give one of: {CIFAR_FORMS}"
        )
    source = local_path(sources[0])
    form = _cifar_form(source)
    if form == "npz":
        return {
            split: read_npz(source, f"x_{split}", f"y_{split}", image_shape, sizes[split])
            for split in sizes
        }
    per_file = {
        **dict.fromkeys(TRAIN_FILES, sizes["train"] // len(TRAIN_FILES)),
        **dict.fromkeys(TEST_FILES, sizes["test"]),
    }
    names = _member_names(per_file, int(np.prod(image_shape)))
    contents = _tar_contents(source, names) if form == "tar" else _folder_contents(source, names)
    folder = _whole_folder(source, contents)
    splits = {}
    for split, files in (("train", TRAIN_FILES), ("test", TEST_FILES)):
        parts = []
        for file in files:
            name = file if folder == PYTHON_FOLDER else f"{file}.bin"
            parse = _parse_python if folder == PYTHON_FOLDER else _parse_binary
            content = contents.pop(f"{folder}/{name}")
            parts.append(parse(content, f"{source}: {name}", image_shape, per_file[file]))
        labels = np.concatenate([part[1] for part in parts])
        splits[split] = RawSplit(labels, blocks_of([part[0] for part in parts]))
    return splits


def _cifar_form(source: Path) -> str:
    """'folder', 'npz' or 'tar'."""
    if source.is_dir():
        return "folder"
    try:
        with source.open("rb") as file:
            head = file.read(262)
    except OSError as error:
        raise UserError(f"--source={source} cannot be read: {error.strerror}") from None
    if head.startswith(b"PK\x03\x04"):
        return "npz"
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        return "tar"
    raise UserError(
        f"--source={source} is neither a tar nor an npz file; give one of: {CIFAR_FORMS}"
    )


def _member_names(per_file: Mapping[str, int], pixels: int) -> dict[str, int]:
    """Each file that may be read, with the largest size it may have in bytes."""
    names = {}
    for file, count in per_file.items():
        names[f"{BINARY_FOLDER}/{file}.bin"] = count * (1 + pixels)
        # Beside the pixels, a pickle spends some bytes on each label and file name.
        names[f"{PYTHON_FOLDER}/{file}"] = count * (pixels + 256) + 65536
    return names


class _Bounded:
    """A stream that gives at most `limit` bytes: a small file can unpack to anything."""

    def __init__(self, stream: Any, limit: int):
        self.stream, self.left = stream, limit

    def read(self, size: int = -1) -> bytes:
        content = self.stream.read(min(size, 1 << 20) if size >= 0 else 1 << 20)
        self.left -= len(content)
        if self.left < 0:
            raise ValueError("it unpacks to more than CIFAR-10 holds")
        return content


def _tar_contents(path: Path, names: Mapping[str, int]) -> dict[str, bytes]:
    """The expected members of a tar file, by name; whatever else it holds is passed over."""
    contents: dict[str, bytes] = {}
    limit = 4 * sum(names.values()) + (64 << 20)
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = _Bounded(gzip.open(raw) if zipped else raw, limit)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
                for member in tar:
                    name = member.name.removeprefix("./")
                    if name not in names:
                        continue
                    if not member.isreg() or member.size > names[name]:
                        raise ValueError(f"{name} is not a plain file of the expected size")
                    contents[name] = tar.extractfile(member).read()  # type: ignore[union-attr]
            while stream.read():  # To the end, where gzip's checksum is compared.
                pass
        except READ_ERRORS as error:
            raise UserError(
                f"--source={path} is damaged or cut short ({error}); download it again"
            ) from None
    return contents


def _folder_contents(path: Path, names: Mapping[str, int]) -> dict[str, bytes]:
    """The expected files of a folder, which is one of the two or holds one of them."""
    contents = {}
    for name, limit in names.items():
        folder, file = name.split("/")
        for place in (path / file, path / folder / file):
            if not place.is_file():
                continue
            if place.stat().st_size > limit:
                raise UserError(
                    f"{place} holds {place.stat().st_size} bytes where at most {limit} are "
                    "expected; unpack the official archive again"
                )
            contents.setdefault(name, place.read_bytes())
    return contents


def _whole_folder(source: Path, contents: Mapping[str, bytes]) -> str:
    """Which of the two forms is here with all its files."""
    missing = {}
    for folder, ending in ((PYTHON_FOLDER, ""), (BINARY_FOLDER, ".bin")):
        files = [f"{file}{ending}" for file in TRAIN_FILES + TEST_FILES]
        missing[folder] = [file for file in files if f"{folder}/{file}" not in contents]
        if not missing[folder]:
            return folder
    folder = min(missing, key=lambda name: len(missing[name]))
    raise UserError(
        f"--source={source} has no {', '.join(missing[folder])}; it must be one of: {CIFAR_FORMS}"
    )


def _parse_python(
    content: bytes, where: str, image_shape: tuple[int, int, int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    height, width, channels = image_shape
    data, labels = load_batch(content, where)
    expected = (count, height * width * channels)
    if data.shape != expected:
        raise UserError(
            f"{where} holds images of shape {data.shape} where {expected} is expected; "
            "download the official archive again"
        )
    if any(type(label) is not int or abs(label) > 1 << 30 for label in labels):
        raise UserError(f"{where} has labels that are not integers; download it again")
    images = data.reshape(count, channels, height, width).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), check_labels(np.array(labels, np.int64), count, where)


def _parse_binary(
    content: bytes, where: str, image_shape: tuple[int, int, int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    height, width, channels = image_shape
    record = 1 + height * width * channels
    if len(content) != count * record:
        raise UserError(
            f"{where} holds {len(content)} bytes where {count * record} ({count} images) are "
            "expected; download the official archive again"
        )
    rows = np.frombuffer(content, np.uint8).reshape(count, record)
    images = rows[:, 1:].reshape(count, channels, height, width).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), check_labels(rows[:, 0], count, where)


def read_digits(
    sources: Sequence[str], image_shape: tuple[int, int, int], sizes: Mapping[str, int]
) -> dict[str, RawSplit]:
    """scikit-learn's 8x8 digits: every fifth image (i % 5 == 4) is test, the others train.

    The 17 grey values 0..16 become round(v * 255 / 16).
    """
    if sources:
        raise UserError(f"digits comes with scikit-learn; leave out --source={sources[0]}")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "digits needs scikit-learn; run: pip install 'score-jax[quickstart]'"
        ) from None
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8).reshape(-1, *image_shape)
    is_test = np.arange(len(images)) % 5 == 4
    splits = {}
    for split, chosen in (("train", ~is_test), ("test", is_test)):
        labels = check_labels(digits.target[chosen], sizes[split], "scikit-learn's digits")
        splits[split] = RawSplit(labels, blocks_of([images[chosen]]))
    return splits
