"""What a preparation is asked for: checked, and compared with what is there already."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_jax.data import builders, readers
from score_jax.data.datasets import DATASETS, GENERATED_SIZES, from_facts
from score_jax.data.raw_split import local_path
from score_jax.data.unfinished import source_key
from score_jax.types import UserError


def check(
    name: str, sources: Sequence[str], data_dir: str, *, extends: str, size: int, mirror: str
) -> None:
    """Refuses what cannot be prepared, before anything is written or locked.

    Args:
      as for `prepare.prepare`.

    Raises:
      UserError: an unknown name, no such file, or arguments that do not go together.
    """
    readers.check(name, sources, extends=extends, size=size, data_dir=data_dir)
    if mirror and (sources or not DATASETS[name].example_source):
        raise UserError(f"--mirror={mirror} is for what is downloaded; leave it out")
    seen = set()
    for source in sources:
        path = os.path.realpath(local_path(source))
        if path in seen:
            raise UserError(f"--source={source} is given twice; give each file once")
        seen.add(path)


def check_same(folder: Path, name: str, sources: Sequence[str], extends: str, size: int) -> None:
    """Refuses what was asked for where `folder` holds the dataset prepared from something else.

    Files that are not there any more are taken by their names. Folders of earlier versions, which
    do not tell what they were prepared from, are taken as they are.

    Raises:
      UserError: other files, another size, or another dataset that is extended.
    """
    if not (sources or extends or size):
        return
    known = builders.facts(folder)
    if not known.get("source_key"):
        return
    spec = from_facts(known.get("spec"), str(folder / "metadata.json"))
    height, width, _ = spec.image_shape
    if extends and extends != spec.extends:
        difference = f"it extends {spec.extends or 'nothing'}, not {extends}"
    elif size and (height, width) != (size, size):
        difference = f"its images have {height}x{width} pixels, not {size}x{size}"
    elif sources and not _same_files(name, sources, known):
        difference = "from other files, or from what these were before a change"
    else:
        return
    raise UserError(
        f"{name} is already prepared in {folder}: {difference}; leave the flags out to use it, or "
        "move that folder away to prepare it again"
    )


def _same_files(name: str, sources: Sequence[str], known: Mapping[str, Any]) -> bool:
    if any(Path(source).expanduser().exists() for source in sources):
        return source_key(name, sources, {}) == known["source_key"]
    return [Path(source).name for source in sources] == [file["name"] for file in known["sources"]]


def notices(name: str, split: str, class_names: Sequence[str], counts: Sequence[int]) -> list[str]:
    """What is worth telling about a split, given the number of images of each class."""
    told = []
    empty = [label for label, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        more = ", ..." if len(empty) > 5 else ""
        told.append(
            f"notice: {split} has no images of {len(empty)} of {len(counts)} classes: "
            f"{', '.join(empty[:5])}{more}"
        )
    published = GENERATED_SIZES.get(name, sum(counts))
    if sum(counts) != published:
        told.append(f"notice: {sum(counts)} images where {published} were published")
    return told
