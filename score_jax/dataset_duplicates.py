"""Duplicates that a dataset was found to have: counted, told, written, drawn."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data import duplicates, sources
from score_jax.data.duplicates import Pair, TestImages
from score_jax.data.sheet import save, sheet
from score_jax.dataset_splits import Split
from score_jax.types import UserError
from score_jax.workdir import write_json_atomic

KEPT = 5  # Pairs of one test image that are told; all are counted.
DRAWN = 120  # Pairs on a sheet.
FEW = 8  # Pairs named in a line.


@contextlib.contextmanager
def threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that compare images: each multiplies matrices on a core of its own.

    BLAS's threads, where threadpoolctl can hold them back, would get in each other's way: with
    them, two cores take two to four times as long.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        limits: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    else:
        limits = threadpool_limits(1, "blas")
    with limits, ThreadPoolExecutor(workers) as pool:
        yield pool


class Against:
    """The duplicates that test images of one dataset have in a split of another, or its own."""

    def __init__(self, split: Split, other: str, images: TestImages, data_dir: str) -> None:
        """Of a split and the test images of the dataset `other`."""
        self.split, self.other, self.images, self._data_dir = split, other, images, data_dir
        self.exact = self.near = 0
        self.tests: dict[int, list[Pair]] = {}

    def add(self, pairs: Iterable[Pair]) -> None:
        """Counts pairs, and keeps the likest of each test image."""
        for pair in pairs:
            self.exact += pair.is_exact
            self.near += not pair.is_exact
            kept = self.tests.setdefault(pair.test, [])
            kept.append(pair)
            kept.sort(key=_likest)
            del kept[KEPT:]

    @property
    def pairs(self) -> list[Pair]:
        """Those that are kept, the likest first."""
        return sorted((pair for kept in self.tests.values() for pair in kept), key=_likest)

    @property
    def class_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Those of test images and of the others."""
        other = sources.class_names(self.other, self._data_dir)
        return other, self.split.spec.class_names

    @property
    def left_out(self) -> int:
        """Pairs that are counted but not kept."""
        return self.exact + self.near - sum(map(len, self.tests.values()))

    def arrays(self) -> tuple[sources.Source, sources.Source]:
        """The sources of test images and of the others."""
        return sources.test_split(self.other, self._data_dir), self.split.source

    @property
    def words(self) -> tuple[str, str]:
        """What the two of a pair are called."""
        return f"{self.other} test", f"{self.split.name} {self.split.split}"


class Within:
    """Equal images of one split, and near ones where `compare` was called."""

    def __init__(self, split: Split, hashes: np.ndarray, labels: np.ndarray) -> None:
        """Of a split, from the digests and labels of all its images."""
        self.split, self._labels = split, labels
        order = np.argsort(hashes, kind="stable")
        ends = np.flatnonzero(np.diff(hashes[order])) + 1
        first = np.zeros(len(order), np.int64)
        first[ends] = ends
        first = np.maximum.accumulate(first)
        again = np.flatnonzero(first != np.arange(len(order)))
        # Each image that equals an earlier one, with the first of its like.
        self.exact, self.near = len(again), 0
        self.is_compared = False
        self.conflicts = [
            Pair(int(order[first[place]]), int(order[place]), 1.0, is_exact=True)
            for place in again[labels[order[again]] != labels[order[first[again]]]].tolist()
        ]

    def compare(self, workers: int) -> None:
        """Finds near pairs, all images with each other: for splits that fit in memory."""
        whole, labels = self.split.source.take(np.arange(len(self._labels)))
        images = TestImages(whole, moved=False)
        starts = range(0, len(labels), duplicates.ROWS)
        with threads(workers) as pool:
            for pairs in pool.map(
                lambda start: images.find(whole[start : start + duplicates.ROWS], start, True),
                starts,
            ):
                near = [pair for pair in pairs if not pair.is_exact]
                self.near += len(near)
                self.conflicts += [p for p in near if labels[p.test] != labels[p.other]]
        self.is_compared = True

    @property
    def left_out(self) -> int:
        """Pairs that are counted but not kept: those of equal labels."""
        return self.exact + self.near - len(self.conflicts)

    @property
    def pairs(self) -> list[Pair]:
        """Those of different labels, the likest first."""
        return sorted(self.conflicts, key=_likest)

    @property
    def class_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Those of both images of a pair."""
        return (self.split.spec.class_names,) * 2

    def arrays(self) -> tuple[sources.Source, sources.Source]:
        """The sources of both images of a pair."""
        return self.split.source, self.split.source

    @property
    def words(self) -> tuple[str, str]:
        """What the two of a pair are called."""
        return (f"{self.split.name} {self.split.split}",) * 2


def _likest(pair: Pair) -> tuple[Any, ...]:
    return (not pair.is_exact, -pair.likeness, pair.test, pair.other)


def tell(findings: Sequence[Against | Within]) -> list[str]:
    """A line or two for each."""
    lines = []
    for one in findings:
        named = ", ".join(
            f"{pair.test}-{pair.other}{' (mirrored)' if pair.is_mirrored else ''}"
            for pair in one.pairs[:FEW]
        )
        named = f": {named}{', ...' if len(one.pairs) > FEW else ''}" if named else ""
        if isinstance(one, Against):
            near = f"{one.near} near" if one.images.finds_near else "(of such images) no near"
            lines.append(
                f"{one.words[0]} in {one.split.split}: {one.exact} exact and {near} "
                f"pairs; {len(one.tests)} of {len(one.images)} test images{named}"
            )
        else:
            near = f" and {one.near} near pairs" if one.is_compared else ""
            lines.append(
                f"within {one.split.split}: {one.exact} images equal an earlier one{near}; "
                f"{len(one.conflicts)} pairs of different labels{named}"
            )
    return lines


def make_folder(path: str) -> None:
    """Makes the folder that findings will be written to, before they are looked for.

    Raises:
      UserError: naming the flag.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(
            f"--out={path} is no folder that can be written to: {error.strerror}; give another"
        ) from None


def write(findings: Sequence[Against | Within], gaps: Sequence[str], folder: Path) -> list[str]:
    """Writes duplicates.json, and a sheet of pairs for each finding that has some.

    Args:
      findings: what was found.
      gaps: what was not looked for.
      folder: one that is there.

    Returns:
      A line for each file.

    Raises:
      UserError: a file cannot be written.
    """
    told, sheets = [], []
    for one in findings:
        first, second = one.arrays()
        pairs = one.pairs
        labels = [
            _labels(first, [p.test for p in pairs]),
            _labels(second, [p.other for p in pairs]),
        ]
        told.append(
            {
                "of": one.words[0],
                "in": one.words[1],
                "in_sha256": second.fingerprint,
                "of_sha256": first.fingerprint,
                "exact": one.exact,
                "near": one.near,
                "pairs_left_out": one.left_out,
                "pairs": [
                    {
                        "first": pair.test,
                        "second": pair.other,
                        "likeness": round(pair.likeness, 4),
                        "exact": pair.is_exact,
                        "mirrored": pair.is_mirrored,
                        "labels": [int(a), int(b)],
                    }
                    for pair, a, b in zip(pairs, *labels, strict=True)
                ],
            }
        )
        if isinstance(one, Against):
            told[-1]["test_images"] = len(one.tests)
        if pairs:
            file = f"duplicates-{'-'.join(' '.join(one.words).split())}.png"
            sheets.append((folder / file, one, pairs))
    rule = {
        "glance": duplicates.GLANCE,
        "likeness": duplicates.LIKENESS,
        "crowding": duplicates.CROWDING,
        "pairs_kept_of_a_test_image": KEPT,
    }
    file = folder / "duplicates.json"
    try:
        write_json_atomic(file, {"rule": rule, "not_looked_for": list(gaps), "found": told})
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}; give another --out") from None
    drawn = [save(path, _draw(one, pairs)) for path, one, pairs in sheets]
    lines = [f"pairs drawn in {path}" for path in drawn] + [f"pairs in {file}"]
    for kind, which in ((Against, f"beyond {KEPT} of a test image"), (Within, "of equal labels")):
        left_out = sum(one.left_out for one in findings if isinstance(one, kind))
        if left_out:
            lines[-1] += f", but for {left_out} {which}"
    return lines


def _labels(source: sources.Source, indices: Sequence[int]) -> np.ndarray:
    if not indices:
        return np.empty(0, np.int32)
    return source.take(np.asarray(indices, np.int64))[1]


def _draw(one: Against | Within, pairs: Sequence[Pair]) -> bytes:
    """The pairs as a sheet; of more than fit, one of each test image, from likest to least."""
    if len(pairs) > DRAWN:
        best: dict[int, Pair] = {}
        for pair in pairs:
            best.setdefault(pair.test, pair)
        chosen = list(best.values())
        places = np.unique(np.linspace(0, len(chosen) - 1, DRAWN).astype(int))
        pairs = [chosen[place] for place in places]
    images, captions = [], []
    places_of = ([p.test for p in pairs], [p.other for p in pairs])
    for source, names, places in zip(one.arrays(), one.class_names, places_of, strict=True):
        some, labels = source.take(np.asarray(places, np.int64))
        images.append(some)
        captions.append([f"{i}\n{names[label]}" for i, label in zip(places, labels, strict=True)])
    both = np.stack(images, 1).reshape(-1, *images[0].shape[1:])
    kinds = ["=" if p.is_exact else f"{p.likeness:.2f}" + "M" * p.is_mirrored for p in pairs]
    texts = [
        text
        for first, second, kind in zip(*captions, kinds, strict=True)
        for text in (first, f"{kind} {second}")
    ]
    title = f"{one.words[0]} (left) and {one.words[1]} (right), {len(pairs)} pairs; M: mirrored"
    if both.shape[3] not in (1, 3):
        both = both[..., :1]
    return sheet(both, texts, 12, title=title)
