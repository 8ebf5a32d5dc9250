"""Two tiny sets, labelled and generated, in many shards; and a folder for one test alone."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from score_jax.data import builders, memory_maps, shards, sources
from score_jax.data.raw_split import in_memory

SHAPE = (4, 4, 3)
CLASSES = 200  # So that some labels take two bytes.


def spec(extends=""):
    return dataclasses.replace(
        sources.DATASETS["cifar10"],
        image_shape=SHAPE,
        num_classes=CLASSES,
        class_names=tuple(f"class {number}" for number in range(CLASSES)),
        split_sizes={"train": None} if extends else {"train": 600, "test": 5},
        extends=extends,
        official_folder="",
    )


def add_sets(patch: pytest.MonkeyPatch) -> None:
    """Adds `tiny` and `tiny_generated` to the table of datasets."""
    patch.setitem(sources.DATASETS, "tiny", spec())
    patch.setitem(sources.DATASETS, "tiny_generated", spec("tiny"))


def write(folder: Path, name: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Writes random images and labels, of the size that the table tells; gives them."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, count).astype(np.int32)
    splits = {"train": in_memory([(images, labels)])}
    if not sources.DATASETS[name].extends:
        splits["test"] = in_memory([(images[:5], labels[:5])])
    builders.write(
        folder, name, spec=sources.DATASETS[name], splits=splits, report=lambda line: None
    )
    return images, labels


def prepare(folder: Path) -> None:
    """Writes 600 labelled images in six shards, and 1000 generated ones in ten."""
    with pytest.MonkeyPatch.context() as patch:
        add_sets(patch)
        patch.setattr(shards, "SMALL", 0)
        size = 100 * (48 + shards.RECORD_OVERHEAD)
        patch.setattr(shards, "SHARD_BYTES", (size, size))
        write(folder, "tiny", 600, 1)
        write(folder, "tiny_generated", 1000, 2)


def copy(prepared: Path, folder: Path) -> Path:
    """The labelled set's folder in another place, without its decoded files."""
    shutil.copytree(prepared / "score_jax_tiny", folder / "score_jax_tiny")
    found = folder / "score_jax_tiny" / "1.0.0"
    shutil.rmtree(found / memory_maps.FOLDER, ignore_errors=True)
    return found
