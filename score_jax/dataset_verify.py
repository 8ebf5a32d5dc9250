"""Is a prepared dataset what was written, and are test images among those to train on?"""

import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from score_jax import control_groups, dataset_duplicates
from score_jax.data import builders, memory_maps, sources
from score_jax.data.content import ContentHash, file_sha256
from score_jax.data.datasets import DATASETS, DatasetSpec
from score_jax.data.duplicates import Pair, TestImages, digests, has_near
from score_jax.dataset_duplicates import Against, Within
from score_jax.dataset_splits import Split, open_splits, wrong_size
from score_jax.types import UserError

MOVED_UP_TO = 200_000  # Images that are also looked for moved; for more it takes too long.
WITHIN_NEAR = 100_000  # Images of a labelled split that are all compared with each other.
WITHIN_EXACT = 20_000_000  # Images of which equal ones are found: 12 bytes each are kept.


def verify(name: str, data_dir: str = "", against: Sequence[str] = (), out: str = "") -> str:
    """Reads a prepared dataset again, compares it with what was written, and finds duplicates.

    Args:
      name: the dataset.
      against: datasets whose test images are looked for; none for the one that it extends, or
        itself, where there are such images here.
      out: folder for duplicates.json and sheets of pairs; '' writes neither.

    Returns:
      What was found, in lines; the last is the verdict. Duplicates are told, not an error.

    Raises:
      UserError: it is damaged, or not prepared; or `out` cannot be written.
    """
    own = sources.spec(name, data_dir)
    for other in against:
        if not _has_tests(other, own, data_dir):
            raise UserError(
                f"--against={other} has no test images of {own.image_shape} as {name} has; give "
                f"a dataset that has"
            )
        if other != name:
            sources.test_split(other, data_dir)  # Tells before the run that it is not prepared.
    against, not_compared = (against, "") if against else _default(name, own, data_dir)
    folder = sources.find(name, data_dir)
    if out and folder is not None:
        dataset_duplicates.make_folder(out)
    workers = control_groups.cores()
    lines = []
    if folder is not None:
        lines += [f"{name} in {folder}", _check_shards(name, folder, workers)]
        lines += _check_decoded(name, folder)
    findings: list[Against | Within] = []
    gaps = [f"duplicates of test images: {not_compared}"] if not_compared else []
    for split in open_splits(name, data_dir):
        tests = {
            other: TestImages(
                sources.test_split(other, data_dir).images, len(split.source) <= MOVED_UP_TO
            )
            for other in against
            if (other, "test") != (name, split.split)
        }
        said, found = _read_through(split, tests, workers, data_dir)
        lines += said
        findings += found
        gaps += _gaps(split, found)
    lines += dataset_duplicates.tell(findings)
    lines += [f"not looked for: {gap}" for gap in gaps]
    verdict = f"verdict: {name} is whole; " + _verdict(findings, not_compared)
    if out:
        try:
            lines += dataset_duplicates.write(findings, gaps, Path(out))
        except UserError:
            _report("\n".join([*lines, verdict]))  # What took minutes to find.
            raise
    return "\n".join([*lines, verdict])


def _has_tests(other: str, own: DatasetSpec, data_dir: str) -> bool:
    spec = sources.spec(other, data_dir)
    return "test" in spec.split_sizes and spec.image_shape == own.image_shape


def _default(name: str, own: DatasetSpec, data_dir: str) -> tuple[tuple[str, ...], str]:
    """The dataset whose test images are looked for unasked; or none, and why."""
    other = own.extends or name
    if other not in DATASETS and other not in sources.user_sets(data_dir):
        return (), f"{other} is not prepared here"
    if sources.find(other, data_dir) is None:
        return (), f"{other} is not prepared here; run: {sources.prepare_command(other)}"
    if not _has_tests(other, own, data_dir):
        size = "x".join(map(str, own.image_shape))
        return (), f"{other} has no test images of {size}; give some with --against=NAME"
    return (other,), ""


def _gaps(split: Split, found: Sequence[Against | Within]) -> list[str]:
    """What was not looked for in a split, and why."""
    count, gaps = len(split.source), []
    if not has_near(split.spec.image_shape):
        gaps.append("near pairs: not colour images of 24 pixels a side or more")
    elif any(isinstance(one, Against) for one in found) and count > MOVED_UP_TO:
        gaps.append(f"moved copies of test images: more than {MOVED_UP_TO:,} images")
    within = [one for one in found if isinstance(one, Within)]
    if not within:
        gaps.append(f"equal images within it: more than {WITHIN_EXACT:,} images")
    if any(one.is_compared for one in within):
        gaps.append("near pairs within it that are moved by more than a sixteenth of the side")
    elif has_near(split.spec.image_shape):
        is_many = _is_labelled_train(split)
        why = f"more than {WITHIN_NEAR:,} images" if is_many else "no labelled training images"
        gaps.append(f"near pairs within it: {why}")
    return [f"in {split.split}, {gap}" for gap in gaps]


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check_shards(name: str, folder: Path, workers: int) -> str:
    """Compares the files with their noted sizes and digests, several at a time."""
    if not (folder / "metadata.json").is_file():
        return "shards: prepared by TFDS itself, which notes no digests; their content is read"
    noted = [part for parts in builders.facts(folder).get("shards", {}).values() for part in parts]
    if not noted:
        return "shards: an earlier version noted no digests; the content's is compared"
    _report(f"{name}: comparing {len(noted)} files with their digests")

    def wrong(part: dict[str, Any]) -> str:
        reason = wrong_size(folder, part)
        if reason:
            return reason
        try:
            digest = file_sha256(folder / part["file"])
        except OSError as error:
            return f"{part['file']}: {error.strerror}"
        return "" if digest == part["sha256"] else f"{part['file']} differs"

    with ThreadPoolExecutor(workers) as pool:
        bad = [reason for reason in pool.map(wrong, noted) if reason]
    if bad:
        raise UserError(
            f"{name} is damaged: {len(bad)} of {len(noted)} files are not as written "
            f"({'; '.join(bad[:5])}{'; ...' if len(bad) > 5 else ''}); move {folder} away and "
            "prepare it again"
        )
    return f"shards: {len(noted)} files, {sum(p['size'] for p in noted):,} bytes, as written"


def _check_decoded(name: str, folder: Path) -> list[str]:
    """Compares what was decoded for data.storage=memmap, where it was, with what was written."""
    place = folder / memory_maps.FOLDER
    if not place.is_dir():
        return []
    if bad := memory_maps.check(folder):
        raise UserError(
            f"{name} is damaged where data.storage=memmap reads it ({'; '.join(bad)}); remove "
            f"{place}, it is made again"
        )
    return ["decoded: the files of data.storage=memmap are as written"]


def _read_through(
    split: Split, tests: dict[str, TestImages], workers: int, data_dir: str
) -> tuple[list[str], list[Against | Within]]:
    """One pass over a split: content, labels, counts, and duplicates of test images."""
    count, classes = len(split.source), split.spec.num_classes
    content, seen = ContentHash(), 0
    counts = np.zeros(classes, np.int64)
    found = {other: Against(split, other, images, data_dir) for other, images in tests.items()}
    few = count <= WITHIN_EXACT
    hashes, labels = np.empty(count if few else 0, np.uint64), np.empty(count if few else 0, "i4")
    every = max(20_000, count // 10)

    def compare(first: int, images: np.ndarray) -> tuple[np.ndarray, list[list[Pair]]]:
        pairs = [images_of.find(images, first) for images_of in tests.values()]
        return digests(images) if few else hashes, pairs

    with dataset_duplicates.threads(workers) as pool:
        waiting: deque[tuple[int, Any]] = deque()

        def take_one() -> None:
            first, result = waiting.popleft()
            some, pairs = result.result()
            if few:
                hashes[first : first + len(some)] = some
            for one, new in zip(found.values(), pairs, strict=True):
                one.add(new)

        for images, some in split.blocks():
            if some.min() < 0 or some.max() >= classes:
                raise _damaged(
                    split, f"labels from {some.min()} to {some.max()}, {classes} classes"
                )
            content.add(images, some)
            counts += np.bincount(some, minlength=classes)
            if few:
                labels[seen : seen + len(some)] = some
            waiting.append((seen, pool.submit(compare, seen, images)))
            if len(waiting) > 2 * workers:
                take_one()
            if (seen + len(some)) // every > seen // every:
                _report(f"{split.name}: {split.split}: {seen + len(some)} of {count} images")
            seen += len(some)
        while waiting:
            take_one()
    fingerprint = content.hexdigest()
    _compare_facts(split, seen, counts, fingerprint)
    within = Within(split, hashes, labels) if few else None
    if (
        within
        and _is_labelled_train(split)
        and count <= WITHIN_NEAR
        and has_near(split.spec.image_shape)
    ):
        _report(f"{split.name}: comparing the images of {split.split} with each other")
        within.compare(workers)
    lines = [
        f"{split.split}: {seen} images of {'x'.join(map(str, split.spec.image_shape))}, "
        f"{counts.min()} to {counts.max()} a class, sha256 {fingerprint}, as written"
    ]
    return lines, [*found.values(), *([within] if within else [])]


def _is_labelled_train(split: Split) -> bool:
    return split.split == "train" and not split.spec.extends


def _damaged(split: Split, reason: str) -> UserError:
    return UserError(
        f"{split.name} is damaged in split {split.split!r}: {reason}; move {split.folder} away and "
        "prepare it again"
    )


def _compare_facts(split: Split, seen: int, counts: np.ndarray, fingerprint: str) -> None:
    size = split.spec.split_sizes.get(split.split)
    if size not in (None, seen):
        raise _damaged(split, f"{seen} images where {split.name} has {size}")
    if fingerprint != split.source.fingerprint:
        raise _damaged(
            split,
            f"its content is {fingerprint[:12]} where {split.source.fingerprint[:12]} was written",
        )
    if not (split.folder / "metadata.json").is_file():
        return
    noted = builders.facts(split.folder)
    for field, value in (("counts", seen), ("class_counts", counts.tolist())):
        known = noted.get(field, {}).get(split.split, value)
        if known != value:
            raise _damaged(split, f"its {field} are {value} where {known} are noted")


def _verdict(findings: Sequence[Against | Within], not_compared: str) -> str:
    parts = [
        f"{len(one.tests)} of {len(one.images)} test images of {one.other} have a duplicate in "
        f"{one.split.split}"
        for one in findings
        if isinstance(one, Against)
    ]
    if not_compared:
        return f"duplicates of test images were not looked for: {not_compared}"
    return "; ".join(parts) or "it has no images to train on"
