"""Writes datasets as TFDS folders of ArrayRecord shards, without TensorFlow, in bounded memory.

The shards hold plain bytes (`tfds.features.Tensor(encoding='bytes')`) in the official order, not
shuffled.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from score_jax.data import shards
from score_jax.data.content import ContentHash
from score_jax.data.datasets import DatasetSpec
from score_jax.data.lanes import SLICE_BYTES, Lanes
from score_jax.data.raw_split import Block, RawSplit
from score_jax.data.unfinished import ShardLog
from score_jax.types import UserError

VERSION = "1.0.0"
PREFIX = "score_jax_"  # Keeps our folders apart from TFDS's own of the same name.


def relative_path(dataset: str) -> Path:
    """Where a prepared dataset lies below the data folder."""
    return Path(PREFIX + dataset) / VERSION


@dataclasses.dataclass(frozen=True)
class _Place:
    """A shard that is to be: the images from `start` up to `stop` of its split."""

    file: str
    start: int
    stop: int


def write(
    folder: Path,
    dataset: str,
    *,
    spec: DatasetSpec,
    splits: Mapping[str, RawSplit],
    report: Callable[[str], None],
    workers: int = 1,
    sources: Sequence[Mapping[str, Any]] = (),
    source_key: str = "",
) -> Path:
    """Writes a dataset below `folder`; gives the folder that holds its shards.

    Each split is read once, from its start, and never whole in memory. What an earlier call that
    was stopped has written there, of the same splits, is kept.

    Args:
      spec: shape, classes; mean and deviation may be empty, for those of the images.
      report: told in words how far it is.
      workers: processes that write beside this one, where a split has several shards.
      sources: what to note about where the images come from: name and size of each file.
      source_key: to note too, what tells these files from others.

    Raises:
      UserError: labels or images that do not fit `spec`, or not as many as the split says.
      OSError: the folder cannot be written.
    """
    path = folder / relative_path(dataset)
    path.mkdir(parents=True, exist_ok=True)
    places = {split: _places(dataset, split, raw, spec) for split, raw in splits.items()}
    count = sum(map(len, places.values()))
    log = ShardLog(path)
    log.check(workers)
    if log.whole:
        report(f"the rest: {len(log.whole)} of {count} shards are whole already")
    try:
        with Lanes(1 if count == len(splits) else min(workers, count), log.add) as lanes:
            fingerprints = {
                split: _stream(_Split(dataset, split, raw, spec, places[split]), lanes, log, report)
                for split, raw in splits.items()
            }
    except shards.DamagedShard as error:
        raise UserError(f"{error}; prepare {dataset} again") from None
    whole = {split: [log.whole[place.file] for place in places[split]] for split in splits}
    noted = {"sources": list(sources), "source_key": source_key}
    _describe(path, spec, whole, fingerprints, noted)
    log.remove()
    return path


@dataclasses.dataclass(frozen=True)
class _Split:
    """A split that is to be written: of which dataset, its source, its shards."""

    dataset: str
    name: str
    raw: RawSplit
    spec: DatasetSpec
    places: Sequence[_Place]

    def __str__(self) -> str:
        return f"{self.dataset}: split {self.name!r}"


def _places(dataset: str, split: str, raw: RawSplit, spec: DatasetSpec) -> list[_Place]:
    lengths = shards.shard_lengths(raw.count, int(np.prod(spec.image_shape)))
    name = f"{PREFIX}{dataset}-{split}.array_record"
    stops = np.cumsum(lengths).tolist()
    return [
        _Place(f"{name}-{index:05d}-of-{len(lengths):05d}", stop - length, stop)
        for index, (length, stop) in enumerate(zip(lengths, stops, strict=True))
    ]


def _stream(split: _Split, lanes: Lanes, log: ShardLog, report: Callable[[str], None]) -> str:
    """Gives a split's images to the lanes; its content hash."""
    content, count = ContentHash(log.folder), split.raw.count
    every = max(10_000, count // 10)
    index = 0
    ahead = iter(split.places)
    place = _Place("", 0, 0)
    for images, labels in _sliced(_blocks(split, log), split.places):
        _check(split, index, images, labels)
        if index == place.stop:
            place = next(ahead)
            lanes.open(
                path=log.temporary(place.file),
                file=place.file,
                image_shape=split.spec.image_shape,
                num_classes=split.spec.num_classes,
                known=log.whole.get(place.file),
            )
        lanes.add(images, labels)
        content.add(images, labels)
        before, index = index, index + len(labels)
        if index == place.stop:
            lanes.close()
        if index // every > before // every or index == count:
            report(f"{split.name}: {index} of {count} images ({index / count:.0%})")
    if index != count or not index:
        raise UserError(f"{split} has {index} images where {count} are due; the source is damaged")
    return content.hexdigest()


def _check(split: _Split, index: int, images: np.ndarray, labels: np.ndarray) -> None:
    spec = split.spec
    if images.dtype != np.uint8 or images.shape != (len(labels), *spec.image_shape):
        raise UserError(
            f"{split} has images of {images.dtype} and shape {images.shape[1:]} where uint8 of "
            f"{spec.image_shape} is expected; the source is another dataset or damaged"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= spec.num_classes:
        raise UserError(
            f"{split} has label {low if low < 0 else high} where {spec.num_classes - 1} is the "
            "largest; the source is another dataset or damaged"
        )
    if index + len(labels) > split.raw.count:
        raise UserError(f"{split} has more images than {split.raw.count}; the source is damaged")


def _blocks(split: _Split, log: ShardLog) -> Iterator[Block]:
    """A split's blocks in order; where its source allows that, from the shards that are whole."""
    raw, places = split.raw, split.places
    if not raw.independent:
        yield from raw.blocks(0)
        return
    blocks, index = None, 0
    for place in places:
        if place.file in log.whole:
            yield from shards.read_blocks(log.folder / place.file, split.spec.image_shape)
            blocks = None
            continue
        if blocks is None:
            blocks, index = _sliced(raw.blocks(place.start), places, place.start), place.start
        while index < place.stop and (block := next(blocks, None)) is not None:
            yield block
            index += len(block[1])


def _sliced(blocks: Iterator[Block], places: Sequence[_Place], index: int = 0) -> Iterator[Block]:
    """Blocks cut where a shard ends, and small enough to be handed on."""
    stops = iter([place.stop for place in places if place.stop > index])
    stop = next(stops, index)
    for images, labels in blocks:
        at_most = max(1, SLICE_BYTES // max(1, images[:1].nbytes))
        while len(labels):
            if index == stop:
                stop = next(stops, index + len(labels))
            size = min(len(labels), stop - index, at_most)
            yield images[:size], labels[:size]
            images, labels = images[size:], labels[size:]
            index += size


def _describe(
    folder: Path,
    spec: DatasetSpec,
    whole: Mapping[str, Sequence[shards.ShardFacts]],
    fingerprints: Mapping[str, str],
    noted: Mapping[str, Any],
) -> None:
    """Writes TFDS's description of the folder, and what `facts` gives."""
    counts = {split: sum(shard.count for shard in parts) for split, parts in whole.items()}
    moments = {split: _mean_and_std(parts, spec) for split, parts in whole.items()}
    mean, std = next(iter(moments.values()))
    known = dataclasses.asdict(spec) | {"split_sizes": counts}
    known |= {"mean": spec.mean or mean, "std": spec.std or std}
    metadata = {
        "fingerprints": fingerprints,
        "counts": counts,
        "class_counts": {
            split: np.sum([shard.class_counts for shard in parts], 0).tolist()
            for split, parts in whole.items()
        },
        "mean": {split: mean for split, (mean, _) in moments.items()},
        "std": {split: std for split, (_, std) in moments.items()},
        "shards": {
            split: [
                {"file": s.file, "count": s.count, "size": s.size, "sha256": s.sha256}
                for s in parts
            ]
            for split, parts in whole.items()
        },
        "spec": known,
        **noted,
    }
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features={
            "image": tfds.features.Tensor(shape=spec.image_shape, dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.ClassLabel(names=list(spec.class_names)),
        },
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[shard.count for shard in parts],
                num_bytes=sum(shard.size for shard in parts),
            )
            for split, parts in whole.items()
        ],
        version=VERSION,
        check_data=False,  # That would need TensorFlow; each shard was read back.
        description="uint8 images and labels in the official order, prepared by score_jax.",
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(metadata),
    )


def _mean_and_std(
    parts: Sequence[shards.ShardFacts], spec: DatasetSpec
) -> tuple[list[float], list[float]]:
    """Of each channel for images in [0, 1]; from whole numbers, so that nothing is rounded."""
    count = sum(shard.count for shard in parts) * spec.image_shape[0] * spec.image_shape[1]
    mean, std = [], []
    for channel in range(spec.image_shape[2]):
        total = sum(shard.sums[channel] for shard in parts)
        squares = sum(shard.squares[channel] for shard in parts)
        mean.append(total / (255 * count))
        std.append((count * squares - total**2) ** 0.5 / (255 * count))
    return mean, std
