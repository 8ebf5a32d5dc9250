"""Prepared datasets on disk: TFDS folders of ArrayRecord shards, without TensorFlow.

Our own folders hold plain bytes (`tfds.features.Tensor(encoding='bytes')`), written in the
official order and not shuffled. Folders of TFDS's own `cifar10`, prepared elsewhere as
array_record, are read too; their PNG images are decoded with Pillow.
"""

import contextlib
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from score_jax.data.datasets import DatasetSpec
from score_jax.data.raw_split import RawSplit
from score_jax.types import UserError

VERSION = "1.0.0"
PREFIX = "score_jax_"  # Keeps our folders apart from TFDS's own of the same name.


class ContentHash:
    """sha256 over the images' bytes in order, then over the labels as little-endian int32."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._labels: list[np.ndarray] = []

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        self._hash.update(np.ascontiguousarray(images).data)
        self._labels.append(np.asarray(labels, "<i4"))

    def hexdigest(self) -> str:
        whole = self._hash.copy()
        for labels in self._labels:
            whole.update(labels.tobytes())
        return whole.hexdigest()


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """The content hash of a whole split."""
    content = ContentHash()
    content.add(images, labels)
    return content.hexdigest()


class PreparedImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A dataset of uint8 images and labels, given as `RawSplit`s."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        dataset: str,
        *,
        image_shape: tuple[int, int, int],
        class_names: Sequence[str],
        splits: Mapping[str, RawSplit],
        report: Callable[[str], None],
        data_dir: str,
    ):
        self.name = PREFIX + dataset
        self._image_shape = image_shape
        self._class_names = list(class_names)
        self._splits = splits
        self._report = report
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="uint8 images and labels in the official order, prepared by score_jax.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(
                        shape=self._image_shape, dtype=np.uint8, encoding="bytes"
                    ),
                    "label": tfds.features.ClassLabel(names=self._class_names),
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(fingerprints={}),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        count = self._splits[split].count
        content = ContentHash()
        every = max(10_000, count // 10)
        index = 0
        for images, labels in self._splits[split].blocks(0):
            content.add(images, labels)
            for image, label in zip(images, labels, strict=True):
                yield index, {"image": image, "label": int(label)}
                index += 1
                if index % every == 0 or index == count:
                    self._report(f"{split}: {index} of {count} images ({index / count:.0%})")
        self.info.metadata["fingerprints"][split] = content.hexdigest()


def write(
    folder: Path,
    dataset: str,
    *,
    spec: DatasetSpec,
    splits: Mapping[str, RawSplit],
    report: Callable[[str], None],
    workers: int = 1,
) -> Path:
    """Writes a dataset below `folder`; gives the folder that holds its shards."""
    stdout = sys.stdout

    def report_aloud(line: str) -> None:
        with contextlib.redirect_stdout(stdout):
            report(line)

    builder = PreparedImages(
        dataset,
        image_shape=spec.image_shape,
        class_names=spec.class_names,
        splits=splits,
        report=report_aloud,
        data_dir=str(folder),
    )
    tfds.disable_progress_bar()
    # TFDS announces a download on stdout, which this is not.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    return Path(builder.data_dir)


def relative_path(dataset: str) -> Path:
    """Where a prepared dataset lies below the data folder."""
    return Path(PREFIX + dataset) / VERSION


def _open(folder: Path) -> Any:
    try:
        file_format = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat")
        if file_format not in (None, "array_record"):
            raise UserError(
                f"{folder} is a TFDS folder in format {file_format!r}, which only TensorFlow "
                "reads; prepare it again as array_record, or from the official files with: "
                f"score-jax data prepare {folder.parent.name} --source=..."
            )
        return tfds.builder_from_directory(str(folder))
    except UserError:
        raise
    except Exception as error:  # JSON, protobuf and TFDS each have error types of their own.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} is not a whole TFDS folder ({reason}); move it away and prepare it again"
        ) from None


def read(
    folder: Path, split: str, image_shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, str]:
    """A whole split in memory: images uint8[n, h, w, c], labels int32[n], content hash.

    Records that carry TFDS's ids ('train_00017') are put in the order of their numbers, which
    is the official one; TFDS stores them shuffled.

    Raises:
      UserError: not array_record, no such split, damaged shards, or content that differs from
        what was written.
    """
    builder = _open(folder)
    if split not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise UserError(f"{folder} has no split {split!r}; it has: {known}")
    info = builder.info.splits[split]
    is_file = isinstance(dict(builder.info.features).get("image"), tfds.features.Image)
    decode = _decode_file if is_file else _decode_bytes
    images = np.empty((info.num_examples, *image_shape), np.uint8)
    labels = np.empty(info.num_examples, np.int32)
    ids: list[bytes] = []
    index = 0
    try:
        for path in info.filepaths:
            for record in _records(str(path)):
                feature = tf_example_pb2.Example.FromString(record).features.feature
                images[index] = decode(feature["image"].bytes_list.value[0], image_shape)
                labels[index] = feature["label"].int64_list.value[0]
                if "id" in feature:
                    ids.append(feature["id"].bytes_list.value[0])
                index += 1
    except UserError:
        raise
    except Exception as error:  # ArrayRecord and protobuf have error types of their own.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} is damaged in split {split!r} ({reason}); move it away and prepare it again"
        ) from None
    if index != info.num_examples:
        raise UserError(
            f"{folder} holds {index} images in split {split!r} where {info.num_examples} were "
            "written; move it away and prepare it again"
        )
    order = _order(ids, split)
    if order is not None:
        images, labels = images[order], labels[order]
    found = fingerprint(images, labels)
    written = _written_fingerprint(folder, split)
    if written not in (None, found):
        raise UserError(
            f"{folder}: split {split!r} has content {found[:12]} where {written[:12]} was "
            "written; move it away and prepare it again"
        )
    return images, labels, found


def _records(path: str) -> list[bytes]:
    reader = array_record_module.ArrayRecordReader(path)
    try:
        return reader.read_all()
    finally:
        reader.close()


def _decode_bytes(content: bytes, image_shape: tuple[int, int, int]) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(image_shape)


def _decode_file(content: bytes, image_shape: tuple[int, int, int]) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        raise UserError("reading TFDS's PNG images needs Pillow; run: pip install pillow") from None
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
        return np.asarray(image, np.uint8).reshape(image_shape)


def _order(ids: Sequence[bytes], split: str) -> np.ndarray | None:
    """The positions of ids '<split>_0', '<split>_1', ..., or None where ids say nothing."""
    matches = [re.fullmatch(rb"[a-z]+_(\d{1,9})", name) for name in ids]
    if not matches or not all(matches):
        return None
    numbers = np.array([int(match.group(1)) for match in matches if match], np.int64)
    order = np.argsort(numbers, kind="stable")
    return order if np.array_equal(numbers[order], np.arange(len(ids))) else None


def _written_fingerprint(folder: Path, split: str) -> str | None:
    path = folder / "metadata.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())["fingerprints"].get(split)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
