"""Reader of folders that TFDS prepared, as ArrayRecord or TFRecord files, without TensorFlow."""

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from score_jax.data import image_files
from score_jax.data.image_folders import TEST_FOLDERS, Found
from score_jax.data.raw_split import Block, RawSplit
from score_jax.data.record_files import ArrayRecords, TFRecords
from score_jax.types import UserError

FORMS = {"array_record": ArrayRecords, "tfrecord": TFRecords}
BLOCK = 256  # Records read at once.


def tfds_folder(source: Path) -> Path | None:
    """The folder with dataset_info.json that a path names, or the newest version in it."""
    places = [source, *sorted(source.glob("*/"), key=_version, reverse=True)]
    return next((path for path in places if (path / "dataset_info.json").is_file()), None)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", path.name))


def read_tfds_folder(folder: Path, size: int = 0) -> Found:
    """The images and labels of a dataset with the features `image` and `label`.

    'test' is its split of that name, else 'validation'. Records with TFDS's ids ('train_00017')
    come in the order of their numbers, which is the official one; others as they are stored.

    Args:
      size: as for `image_folders.read_image_folder`.

    Raises:
      UserError: not a whole TFDS folder, or one of something else.
    """
    with _told(folder):
        builder = tfds.builder_from_directory(str(folder))
        features, infos = dict(builder.info.features), builder.info.splits
        files = {split: tuple(map(Path, info.filepaths)) for split, info in infos.items()}
        counts = {split: int(info.num_examples) for split, info in infos.items()}
    image, label = features.get("image"), features.get("label")
    if image is None or not isinstance(label, tfds.features.ClassLabel):
        raise UserError(
            f"--source={folder} has {', '.join(sorted(features))}; an `image` and a `label` with "
            "classes are needed"
        )
    if tuple(image.shape[:2]) == (size, size):
        size = 0  # They have it.
    image_shape = _shape(folder, tuple(image.shape), size)
    places = {"train": "train"}
    test = next((name for name in TEST_FOLDERS if name in infos), None)
    if "train" not in infos:
        raise UserError(f"--source={folder} has no split 'train'; it has {', '.join(infos)}")
    if test:
        places["test"] = test
    splits = {}
    for split, name in places.items():
        stored = _Stored(
            folder=folder,
            split=name,
            files=files[name],
            image_shape=image_shape,
            resize=size,
            encoded=isinstance(image, tfds.features.Image),
        )
        if stored.form not in FORMS:
            raise UserError(
                f"--source={folder} is in format {stored.form!r}; array_record and tfrecord are "
                "read"
            )
        blocks = functools.partial(_blocks, stored, counts[name])
        splits[split] = RawSplit(counts[name], blocks)
    return Found(image_shape, tuple(label.names), splits)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Tells of what TFDS, protobuf, ArrayRecord and Pillow raise: types of their own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"--source={folder} is not a whole TFDS folder ({reason}); prepare it there again"
        ) from None


def _shape(folder: Path, shape: Sequence[Any], size: int) -> tuple[int, int, int]:
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise UserError(f"--source={folder} has images of shape {shape}; (h, w, 1 or 3) is needed")
    height, width = (size, size) if size else shape[:2]
    if height is None or width is None:
        raise UserError(
            f"--source={folder} has images of different sizes; give --size=PIXELS, to which they "
            "are brought"
        )
    return int(height), int(width), int(shape[2])


@dataclass(frozen=True)
class _Stored:
    """A split of a TFDS folder: its files, and how its images are kept."""

    folder: Path
    split: str
    files: tuple[Path, ...]
    image_shape: tuple[int, int, int]
    resize: int
    encoded: bool

    @property
    def form(self) -> str:
        """'array_record', 'tfrecord', or what else the files end in."""
        match = re.search(r"\.([a-z_]+)-\d+-of-\d+", self.files[0].name if self.files else "")
        return match.group(1) if match else "unknown"


def _blocks(stored: _Stored, count: int, start: int) -> Iterator[Block]:
    with _told(stored.folder), contextlib.ExitStack() as stack:
        files = []
        for path in stored.files:
            records = FORMS[stored.form](path)
            stack.callback(records.close)
            files.append(records)
        ends = np.cumsum([len(records) for records in files])
        if ends[-1] != count:
            raise ValueError(f"{stored.split} holds {ends[-1]} records where {count} were written")
        order = _official_order(files)
        for begin in range(start, count, BLOCK):
            chosen = np.arange(begin, min(begin + BLOCK, count))
            yield _decoded(stored, _read(files, ends, chosen if order is None else order[chosen]))


def _read(files: Sequence[Any], ends: np.ndarray, positions: np.ndarray) -> list[bytes]:
    """The records at positions that count through all files, in their order."""
    records: list[bytes] = [b""] * len(positions)
    owners = np.searchsorted(ends, positions, side="right")
    for owner in np.unique(owners):
        places = np.flatnonzero(owners == owner)
        first = ends[owner] - len(files[owner])
        inside = (positions[places] - first).tolist()
        for place, record in zip(places, files[owner].read(inside), strict=True):
            records[place] = record
    return records


def _official_order(files: Sequence[Any]) -> np.ndarray | None:
    """The positions of ids '<split>_0', '<split>_1', ..., or None where ids say nothing."""
    numbers: list[int] = []
    for records in files:
        for begin in range(0, len(records), BLOCK):
            for record in records.read(range(begin, min(begin + BLOCK, len(records)))):
                feature = _features(record)
                name = feature["id"].bytes_list.value[0] if "id" in feature else b""
                match = re.fullmatch(rb"[a-z]+_(\d{1,9})", name)
                if not match:
                    return None
                numbers.append(int(match.group(1)))
    found = np.array(numbers, np.int64)
    order = np.argsort(found, kind="stable")
    return order if np.array_equal(found[order], np.arange(len(found))) else None


def _features(record: bytes) -> Mapping[str, Any]:
    return tf_example_pb2.Example.FromString(record).features.feature


def _decoded(stored: _Stored, records: Sequence[bytes]) -> Block:
    images = np.empty((len(records), *stored.image_shape), np.uint8)
    labels = np.empty(len(records), np.int32)
    for index, record in enumerate(records):
        feature = _features(record)
        content = feature["image"]
        if stored.encoded:
            images[index] = image_files.decode(
                content.bytes_list.value[0], stored.image_shape, stored.resize
            )
        elif stored.resize:
            raise ValueError("its images are not files that --size could bring to a size")
        elif content.bytes_list.value:
            pixels = np.frombuffer(content.bytes_list.value[0], np.uint8)
            images[index] = pixels.reshape(stored.image_shape)
        else:
            pixels = np.array(content.int64_list.value, np.int64)
            if len(pixels) and not 0 <= pixels.min() <= pixels.max() <= 255:
                raise ValueError("its images are not of bytes")
            images[index] = pixels.reshape(stored.image_shape)
        labels[index] = feature["label"].int64_list.value[0]
    return images, labels
