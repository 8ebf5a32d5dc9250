"""Images of a test split that are also, or nearly, among the images to train on.

Barz and Denzler ("Do we train on test data?", 2020: ciFAIR) sort pairs by eye: exact duplicates;
near-duplicates, "the same camera shot" after changes of colour, place or scale; very similar ones.
Here *exact* means equal bytes, and *near* is measured, in two steps:

1. At a glance: both images averaged to 4x4 cells, each cosine of that grid over its spread in the
   test split. Pairs whose glances have a correlation of `GLANCE` or more go on.
2. In detail: the Fourier coefficients of up to `DETAIL` waves an image, over their spread in the
   test split, so that fine structure counts as much as coarse, and brightness and contrast do not.
   The highest correlation over shifts of up to an eighth of the side is the pair's likeness.
   It falls with what the shift replaced: of CIFAR-10's images moved by 4 pixels of 32 both ways,
   five in six are found where the edge is repeated, one in six where it is filled with black (by
   2 pixels: all, and five in six). Of images padded with black and cropped, many are missed.

Test images are compared as they are and mirrored, at a glance also when moved by `MOVED` in eight
directions, unless that would take too long. A pair is near where its likeness reaches
`LIKENESS + CROWDING * log2(1 + n)`: n test images, of 10,000, look like this one at a glance. A
small dark thing in a blue sky looks like a hundred others, and needs more than a busy street.
The rule depends on the pair and the test split alone: not on the size or order of what is compared.
Near pairs are looked for among colour images of at least `SMALLEST` pixels a side: written digits
look alike by the hundred without being copies.
"""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np

GLANCE = 0.66
CROWD_GLANCE = 0.6
LIKENESS = 0.66
CROWDING = 0.04
DETAIL = 7
SHIFT = 1 / 8  # Of the side.
MOVED = 3 / 32  # Of the side.
EDGE = 3 / 16  # Of the side: where the image fades out, so that its borders do not count.
SMALLEST = 24
FEW = 8  # Images that do not tell what is usual: their glances are taken as they are.
COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
MOVES = ((0, 0), *((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x))
ROWS = 256  # Images compared with the test split at once.
PAIRS = 4096  # Pairs measured in detail at once.


@dataclass(frozen=True, order=True)
class Pair:
    """A test image and one that is its duplicate.

    likeness: 1 for equal images, else the highest correlation of details; is_exact: equal bytes;
    is_mirrored: like the test image's mirror image.
    """

    test: int
    other: int
    likeness: float
    is_exact: bool = False
    is_mirrored: bool = False


def digests(images: np.ndarray) -> np.ndarray:
    """A number for each image uint8[n, h, w, c], uint64[n]: the same for equal images."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    parts = [hashlib.blake2b(row.data, digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(parts), np.uint64)


def has_near(image_shape: tuple[int, ...]) -> bool:
    """Whether near pairs are looked for among images of that shape (h, w, c)."""
    return image_shape[2] == 3 and min(image_shape[:2]) >= SMALLEST


class Glance:
    """How images look averaged to 4x4 cells: unit vectors, of which products are correlations."""

    def __init__(self, images: np.ndarray) -> None:
        """Takes the spread of each number from these images, of a test split."""
        self._spread = np.ones(1, np.float32)
        raw = self._raw(images)
        if len(images) < FEW:
            self._middle = np.float32(0)
            return
        self._middle = raw.mean(0)
        spread = raw.std(0)
        self._spread = np.maximum(spread, 1e-3 * spread.max(initial=0) + 1e-6)

    def _raw(self, images: np.ndarray) -> np.ndarray:
        _, height, width, channels = images.shape
        cells = _cells(height) @ images.astype(np.float32).reshape(len(images), height, -1)
        cells = cells.reshape(len(images), 4, width, channels)
        grid = np.einsum("ijwc,vw->ijvc", cells, _cells(width), optimize=True)
        if channels == 3:
            grid = grid @ COLOURS.T.astype(np.float32)
        # The first cosine, of brightness, is the mean: it says nothing of what is seen.
        return _units(grid.reshape(len(images), -1)[:, 1:])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """float32[n, d] of images uint8[n, h, w, c]; zero for images of one colour."""
        return _units((self._raw(images) - self._middle) / self._spread)


class Details:
    """The finer structure of images, in Fourier coefficients, and their likeness under shifts."""

    def __init__(self, images: np.ndarray) -> None:
        """Takes the spread of each coefficient from these images, of a test split."""
        self._basis, waves, shifts = _waves(images.shape[1], images.shape[2])
        angles = 2 * np.pi * waves @ shifts.T
        # Of the products' real and imaginary parts, to the correlation at each shift.
        self._at_shifts = np.concatenate([np.cos(angles), np.sin(angles)]).astype(np.float32)
        self._weights = np.ones(1, np.float32)
        power = np.zeros(len(waves))
        for start in range(0, len(images), ROWS):
            real, imaginary = np.split(self._raw(images[start : start + ROWS]), 2, axis=2)
            power += (real**2 + imaginary**2).sum((0, 1))
        radius = np.round(np.hypot(*(waves * images.shape[1:3]).T)).astype(int)
        count = np.maximum(np.bincount(radius), 1)
        spread = np.sqrt(np.bincount(radius, power) / count / max(1, len(images)))
        self._weights = np.tile(1 / np.maximum(spread[radius], 1e-3), 2).astype(np.float32)

    def _raw(self, images: np.ndarray) -> np.ndarray:
        """float32[n, c, 2k]: the real parts, then the imaginary ones."""
        pixels = np.moveaxis(images.astype(np.float32), 3, 1)
        pixels -= pixels.mean((2, 3), keepdims=True)
        return pixels.reshape(*pixels.shape[:2], -1) @ self._basis * self._weights

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """float32[n, c, 2k] of length 1 over c and k, for images uint8[n, h, w, c]."""
        raw = self._raw(images)
        return _units(raw.reshape(len(raw), -1)).reshape(raw.shape)

    def likeness(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """float32[n]: the highest correlation over shifts of pairs of details."""
        (a, b), (c, d) = np.split(one, 2, axis=2), np.split(other, 2, axis=2)
        real = np.einsum("nck,nck->nk", a, c) + np.einsum("nck,nck->nk", b, d)
        imaginary = np.einsum("nck,nck->nk", a, d) - np.einsum("nck,nck->nk", b, c)
        return (np.concatenate([real, imaginary], 1) @ self._at_shifts).max(1)


class TestImages:
    """The images of a test split, ready to be found among others.

    Holds some 7 kB an image of 32x32x3 beside the image itself. Several threads may use it.

    finds_near: whether it looks for more than equal images.
    """

    __test__ = False  # Not for pytest to collect.

    def __init__(self, images: np.ndarray, moved: bool = True) -> None:
        """Prepares images uint8[n, h, w, c].

        moved: look at them moved too; without, shifts of more than a sixteenth of the side are
        missed, and finding takes an eighth of the time.
        """
        self._images = images
        self._digests = digests(images)
        self._by_digest = np.argsort(self._digests, kind="stable")
        self.finds_near = has_near(images.shape[1:])
        if not self.finds_near:
            return
        self._glance, self._details = Glance(images), Details(images)
        parts = [images[start : start + ROWS] for start in range(0, len(images), ROWS)]
        mirrored = [part[:, :, ::-1] for part in parts]
        self._seen = np.concatenate([self._details(part) for part in parts + mirrored])
        self._glances = [
            (step, np.concatenate([self._glance(_moved(part, move)) for part in view]))
            for step, view in ((0, parts), (len(images), mirrored))
            for move in (MOVES if moved else MOVES[:1])
        ]
        self._required = np.tile(LIKENESS + CROWDING * np.log2(1 + self._crowd()), 2)

    def __len__(self) -> int:
        return len(self._images)

    def _crowd(self) -> np.ndarray:
        """How many test images look like each at a glance, of 10,000."""
        own = self._glances[0][1]
        counts = [
            (own[start : start + ROWS] @ own.T >= CROWD_GLANCE).sum(1)
            for start in range(0, len(own), ROWS)
        ]
        return np.maximum(np.concatenate(counts) - 1, 0) * 10_000 / max(10_000, len(own))

    def find(self, images: np.ndarray, first: int = 0, within: bool = False) -> list[Pair]:
        """The duplicates among images uint8[k, h, w, c], which have indices from `first` on.

        within: the images are the test images themselves, of which each pair is found once.
        """
        pairs = []
        for start in range(0, len(images), ROWS):
            some = images[start : start + ROWS]
            pairs += self._exact(some, first + start, within)
            if self.finds_near:
                pairs += self._near(some, first + start, within)
        exact = {(pair.test, pair.other) for pair in pairs if pair.is_exact}
        return [pair for pair in pairs if pair.is_exact or (pair.test, pair.other) not in exact]

    def _exact(self, images: np.ndarray, first: int, within: bool) -> list[Pair]:
        found, known = digests(images), self._digests[self._by_digest]
        lows, highs = np.searchsorted(known, found), np.searchsorted(known, found, side="right")
        return [
            Pair(int(test), first + index, 1.0, is_exact=True)
            for index in np.flatnonzero(lows < highs).tolist()
            for test in self._by_digest[lows[index] : highs[index]]
            if (not within or test < first + index)
            and np.array_equal(self._images[test], images[index])
        ]

    def _near(self, images: np.ndarray, first: int, within: bool) -> list[Pair]:
        glance, found = self._glance(images), []
        for step, view in self._glances:
            rows, tests = np.divmod(np.flatnonzero(glance @ view.T >= GLANCE), len(self))
            found.append(rows * len(self._seen) + step + tests)
        rows, views = np.divmod(np.unique(np.concatenate(found)), len(self._seen))
        if within:
            keep = views % len(self) < rows + first
            rows, views = rows[keep], views[keep]
        if not len(rows):
            return []
        wanted, places = np.unique(rows, return_inverse=True)
        details = self._details(images[wanted])
        best: dict[tuple[int, int], Pair] = {}
        for start in range(0, len(rows), PAIRS):
            view, row = views[start : start + PAIRS], rows[start : start + PAIRS]
            likeness = self._details.likeness(
                self._seen[view], details[places[start : start + PAIRS]]
            )
            for index in np.flatnonzero(likeness >= self._required[view]).tolist():
                flipped, test = divmod(int(view[index]), len(self))
                like = float(min(1.0, likeness[index]))
                pair = Pair(test, first + int(row[index]), like, is_mirrored=bool(flipped))
                other = best.get((pair.test, pair.other))
                if other is None or other.likeness < pair.likeness:
                    best[pair.test, pair.other] = pair
        return list(best.values())


def _moved(images: np.ndarray, move: tuple[int, int]) -> np.ndarray:
    """Images moved down and right by `MOVED`, each as often as told; their edges are repeated."""
    for axis, steps in enumerate(move, 1):
        side = images.shape[axis]
        places = np.arange(side) - steps * max(1, round(side * MOVED))
        images = images.take(np.clip(places, 0, side - 1), axis=axis)
    return images


def _units(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


@functools.cache
def _cells(side: int) -> np.ndarray:
    """float32[4, side]: averages over quarters of the side, then their four cosines."""
    edges = np.arange(5) * side / 4
    pixel = np.arange(side)
    inside = np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None])
    means = np.maximum(inside, 0) * 4 / side
    cosines = np.cos(np.pi * np.arange(4)[:, None] * (np.arange(4) + 0.5) / 4)
    cosines *= np.where(np.arange(4) == 0, 0.5, np.sqrt(0.5))[:, None]
    return (cosines @ means).astype(np.float32)


@functools.cache
def _waves(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The basis float32[h * w, 2k], its waves a pixel float[k, 2], and the shifts tried [s, 2]."""
    finest = max(1, min(DETAIL, min(height, width) // 2 - 1))
    down, across = np.meshgrid(np.arange(-finest, finest + 1), np.arange(finest + 1))
    half = ((across > 0) | (down > 0)) & (np.hypot(down, across) <= finest)  # The rest mirrors it.
    waves = np.stack([down[half] / height, across[half] / width], axis=1)
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    angles = 2 * np.pi * (rows[..., None] * waves[:, 0] + columns[..., None] * waves[:, 1])
    window = np.outer(_window(height), _window(width))[..., None]
    basis = np.concatenate([np.cos(angles), np.sin(angles)], axis=2) * window
    reach = [np.arange(-round(side * SHIFT), round(side * SHIFT) + 1) for side in (height, width)]
    if max(height, width) > 64:  # Of large images, as many shifts as of 64 pixels.
        reach = [steps[:: max(1, max(height, width) // 64)] for steps in reach]
    shifts = np.stack(np.meshgrid(*reach, indexing="ij"), axis=2).reshape(-1, 2)
    return basis.reshape(height * width, -1).astype(np.float32), waves, shifts


def _window(side: int) -> np.ndarray:
    near = np.minimum(np.arange(side) + 1, side - np.arange(side))
    return np.minimum(1, near / max(1, side * EDGE))
