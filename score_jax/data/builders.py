"""Prepared datasets on disk: TFDS folders of ArrayRecord shards, without TensorFlow.

Our own folders hold plain bytes (`tfds.features.Tensor(encoding='bytes')`), written in the
official order and not shuffled. Folders of TFDS's own `cifar10`, prepared elsewhere as
array_record, are read too; their PNG images are decoded with Pillow.
"""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from score_jax.data import shards
from score_jax.data.content import ContentHash as ContentHash
from score_jax.data.content import fingerprint as fingerprint
from score_jax.data.raw_split import RawSplit
from score_jax.data.writing import relative_path as relative_path
from score_jax.data.writing import write as write
from score_jax.types import UserError


def facts(folder: Path) -> dict[str, Any]:
    """What is noted about a prepared dataset of ours: its metadata.json, checked.

    Always there: fingerprints (content hash by split). In folders that are not of an earlier
    version, each by split: counts, class_counts, mean and std by channel for images in [0, 1],
    shards (of each file, count, size in bytes, sha256); and sources (name and size of each), spec
    (the fields of `DatasetSpec`, with the counts as split_sizes). In newer ones also source_key.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = folder / "metadata.json"
    try:
        known = json.loads(path.read_text())
        shapes = {"fingerprints": str, "counts": int, "class_counts": list, "shards": list}
        for field, kind in shapes.items():
            if field in known or field == "fingerprints":
                fine = all(isinstance(value, kind) for value in known[field].values())
                if not fine:
                    raise ValueError(f"{field} is {str(known[field])[:80]!r}")
        for shard in (shard for parts in known.get("shards", {}).values() for shard in parts):
            for field, kind in {"file": str, "count": int, "size": int, "sha256": str}.items():
                if not isinstance(shard[field], kind) or "/" in str(shard[field]):
                    raise ValueError(f"a shard has {field} {shard[field]!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is missing or damaged ({reason}); move {folder} away and prepare it again"
        ) from None
    return known


def stored(folder: Path, split: str) -> RawSplit:
    """A split of a folder of ours, to be read again a few images at a time.

    Raises:
      UserError: it was prepared by an earlier version, or has no such split.
    """
    known = facts(folder)
    parts = known.get("shards", {}).get(split)
    if parts is None:
        raise UserError(
            f"{folder} does not tell of shards in split {split!r}; move it away and prepare it "
            "again"
        )
    image_shape = tuple(known["spec"]["image_shape"])

    def blocks(start: int) -> Any:
        for part in parts:
            if start < part["count"]:
                yield from shards.read_blocks(folder / part["file"], image_shape, start)
            start = max(0, start - part["count"])

    return RawSplit(sum(part["count"] for part in parts), blocks, independent=True)


def _open(folder: Path) -> Any:
    try:
        file_format = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat")
        if file_format not in (None, "array_record"):
            # `--source` takes TFDS's older format, which cannot be read at random.
            name = folder.parent.name.removesuffix("_cropped")  # svhn_cropped
            raise UserError(
                f"{folder} is a TFDS folder in format {file_format!r}; make it one that is read "
                f"with: score-jax data prepare {name} --source={folder}"
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
