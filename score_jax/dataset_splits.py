"""The splits of a prepared dataset, to be read through once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data import builders, records, sources
from score_jax.data.datasets import DatasetSpec


@dataclass(frozen=True, eq=False)
class Split:
    """A split that is read through once, in order."""

    name: str
    split: str
    folder: Path
    spec: DatasetSpec
    source: sources.Source

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images and labels, some at a time."""
        return records.in_blocks(self.source)


def wrong_size(folder: Path, part: Mapping[str, Any]) -> str:
    """What is wrong with the size of a file, given what `builders.facts` tells of it; or ''."""
    path = folder / part["file"]
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    return "" if size == part["size"] else f"{path.name} has {size} bytes, not {part['size']}"


def open_splits(name: str, data_dir: str = "") -> list[Split]:
    """The splits of a prepared dataset; of one that we wrote, the images stay in their shards.

    Raises:
      UserError: unknown, not prepared, or its description is damaged.
    """
    folder = sources.find(name, data_dir)
    spec = sources.spec(name, data_dir)
    if folder is None or not records.is_readable(folder):
        return [
            Split(name, split, Path(images.path), spec, images)
            for split in spec.split_sizes
            for images in [sources.read_split(name, split, data_dir)]
        ]
    return [
        Split(name, split, folder, spec, records.Records(name, split, folder, spec.image_shape))
        for split in builders.facts(folder)["fingerprints"]
    ]
