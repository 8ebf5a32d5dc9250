"""Which images make up a batch: a pure function of the seed and the step.

Nothing is drawn from a state that advances, so any step can be asked for at once, in any order
and on any host, and gives the same answer.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from score_jax.data import permutation
from score_jax.data.permutation import bits
from score_jax.types import UserError

# Each use of the seed has a stream of its own.
LABELLED, GENERATED, POSITIONS, PASSES, POOL = range(5)


def counts(batch_size: int, generated_fraction: float) -> tuple[int, int]:
    """Labelled and generated images in a batch; SCORE's rounding: 512 at 0.7 gives (154, 358)."""
    generated = int(batch_size * generated_fraction)
    return batch_size - generated, generated


@dataclass(frozen=True, eq=False)
class Selection:
    """The images of one batch.

    source: int8[b], the set of each image: 0 the labelled one, 1 and up the generated ones;
    indices: int64[b], of each image in its set.
    """

    indices: np.ndarray
    source: np.ndarray

    @property
    def generated(self) -> np.ndarray:
        """bool[b]: whether an image is of a generated set."""
        return self.source > 0


class BatchSampler(Protocol):
    """What chooses the batches of a run.

    labelled: the labelled images that may come; batch_size: images in a batch; epoch_steps:
      batches in an epoch.
    sizes: images of each set that may come, the labelled set first; per_batch: how many places of
      a batch each set fills, on average.
    """

    labelled: "LabelledImages"
    batch_size: int
    epoch_steps: int

    @property
    def sizes(self) -> tuple[int, ...]: ...

    @property
    def per_batch(self) -> tuple[float, ...]: ...

    def batch(self, step: int) -> Selection: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """The labelled images that are trained on.

    train_size: images in the official training split.
    validation_size: how many of them, from index 0 on, are never given.
    subset: int64[n], the indices to give alone; None: all but those of the validation.
    """

    train_size: int
    validation_size: int
    subset: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.validation_size < self.train_size:
            raise UserError(
                f"data.validation_size={self.validation_size} leaves no image to train on; "
                f"the training split has {self.train_size}"
            )

    def __len__(self) -> int:
        if self.subset is not None:
            return len(self.subset)
        return self.train_size - self.validation_size

    def indices(self, numbers: np.ndarray) -> np.ndarray:
        """int64[k]: the indices of some of the images, counted from 0."""
        return numbers + self.validation_size if self.subset is None else self.subset[numbers]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampler:
    """Batches with exact numbers of labelled and of generated images of each set.

    An epoch starts a fresh permutation of the labelled images and takes them in order; when it
    runs out inside the epoch, another follows, so that every batch is full.

    epoch_steps: steps between fresh permutations.
    generated_sizes: images in each generated set; generated_per_batch: how many a batch takes.
    generated_sampling: 'replacement': each is drawn anew; 'permutation': none comes again before
      all others came, over the whole run.
    labelled_repeats: how often a batch holds each of its labelled images, which it takes that
      many times fewer of; generated images are not repeated.
    emulated_workers: 0, or the number of equal parts, one after the other, that a batch is made
      of: each has the same labelled images, which are repeated so often, and as many generated
      ones, its own (Gowal et al. 2021, whose workers read the same real images).
    """

    seed: int
    labelled: LabelledImages
    batch_size: int
    epoch_steps: int
    generated_sizes: tuple[int, ...] = ()
    generated_per_batch: tuple[int, ...] = ()
    generated_sampling: str = "replacement"
    labelled_repeats: int = 1
    emulated_workers: int = 0

    def __post_init__(self) -> None:
        _check_steps(self.seed, self.batch_size, self.epoch_steps)
        generated = sum(self.generated_per_batch)
        if not 0 <= generated <= self.batch_size:
            raise UserError(
                f"data.generated_fraction asks for {generated} generated images in "
                f"a batch of {self.batch_size}; give a fraction from 0 to 1"
            )
        sizes = (*self.generated_sizes, *[0] * len(self.generated_per_batch))
        if any(n and not size for n, size in zip(self.generated_per_batch, sizes, strict=False)):
            raise UserError("data.generated is empty but data.generated_fraction asks for images")
        if self.labelled_repeats < 1:
            raise UserError(
                f"data.repeats={self.labelled_repeats}; give 1 (each image once) or more"
            )
        self._check_divides("data.repeats", self.labelled_repeats)
        if self.emulated_workers:
            self._check_divides("data.emulated_workers", self.emulated_workers)
            if generated % self.emulated_workers:
                raise UserError(
                    f"data.emulated_workers={self.emulated_workers} does not divide the "
                    f"{generated} generated images of a batch of {self.batch_size}; "
                    "change data.batch_size or data.generated_fraction until it does"
                )

    def _check_divides(self, field: str, times: int) -> None:
        if self._labelled_per_batch % times:
            raise UserError(
                f"{field}={times} does not divide the "
                f"{self._labelled_per_batch} labelled images of a batch of {self.batch_size}; "
                "change data.batch_size or data.generated_fraction until it does"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        return len(self.labelled), *self.generated_sizes

    @property
    def per_batch(self) -> tuple[float, ...]:
        return self._labelled_per_batch, *self.generated_per_batch

    @property
    def _labelled_per_batch(self) -> int:
        return self.batch_size - sum(self.generated_per_batch)

    def batch(self, step: int) -> Selection:
        """The images of batch `step`, counted from 0 over the whole run."""
        epoch, step_in_epoch = _epoch(step, self.epoch_steps)
        repeats = self.emulated_workers or self.labelled_repeats
        distinct = self._labelled_per_batch // repeats
        labelled = self._labelled(epoch, step_in_epoch * distinct, distinct)
        parts = [np.tile(labelled, repeats)]
        parts += [self._generated(number, step) for number in range(len(self.generated_per_batch))]
        indices = np.concatenate(parts)
        source = np.repeat(np.arange(len(parts), dtype=np.int8), [len(part) for part in parts])
        # BatchNorm's groups are contiguous slices of the batch: each must hold the same mixture.
        order = bits(self.batch_size, self.seed, POSITIONS, step)
        if self.emulated_workers:
            places = _by_worker(len(parts[0]), self.batch_size, self.emulated_workers)
            shuffled = np.argsort(order.reshape(self.emulated_workers, -1), axis=1, kind="stable")
            positions = np.take_along_axis(places, shuffled, axis=1).ravel()
        else:
            positions = np.argsort(order, kind="stable")
        return Selection(indices[positions], source[positions])

    def _labelled(self, epoch: int, start: int, count: int) -> np.ndarray:
        """`count` entries from `start` of the epoch's endless row of permutations."""
        size = len(self.labelled)

        def part_of(number: int, positions: np.ndarray) -> np.ndarray:
            return permutation.stored(size, self.seed, LABELLED, epoch, number)[positions]

        return self.labelled.indices(permutation.row(start, count, size, part_of))

    def _generated(self, number: int, step: int) -> np.ndarray:
        count, size = self.generated_per_batch[number], self.generated_sizes[number]
        if self.generated_sampling == "permutation":
            return permutation.endless(step * count, count, size, self.seed, PASSES, number)
        # With a counter of 0 the bits are those without it: they are the same for a single set.
        drawn = bits(count, self.seed, GENERATED, step, number) % np.uint64(max(1, size))
        return drawn.astype(np.int64)


def _by_worker(labelled: int, batch_size: int, workers: int) -> np.ndarray:
    """int64[workers, b / workers]: which places of a sorted batch each worker has.

    Of the labelled images, tiled, one copy each; generated ones are dealt out in turn, so that
    each worker has its share of every set.
    """
    tiled = np.arange(labelled).reshape(workers, -1)
    dealt = np.arange(labelled, batch_size).reshape(-1, workers).T
    return np.concatenate([tiled, dealt], axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledSampler:
    """Batches of all images alike, labelled and generated ones in one pool.

    An epoch starts a fresh permutation of the pool and takes it in order, as SCORE's code does
    with a negative fraction of generated images.
    """

    seed: int
    labelled: LabelledImages
    batch_size: int
    epoch_steps: int
    generated_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_steps(self.seed, self.batch_size, self.epoch_steps)

    @property
    def sizes(self) -> tuple[int, ...]:
        return len(self.labelled), *self.generated_sizes

    @property
    def per_batch(self) -> tuple[float, ...]:
        return tuple(self.batch_size * size / sum(self.sizes) for size in self.sizes)

    def batch(self, step: int) -> Selection:
        """The images of batch `step`, counted from 0 over the whole run."""
        epoch, step_in_epoch = _epoch(step, self.epoch_steps)
        start, size = step_in_epoch * self.batch_size, sum(self.sizes)
        numbers = permutation.endless(start, self.batch_size, size, self.seed, POOL, epoch)
        ends = np.cumsum(self.sizes)
        source = np.searchsorted(ends, numbers, side="right").astype(np.int8)
        indices = numbers - np.concatenate([[0], ends])[source]
        is_labelled = source == 0
        indices[is_labelled] = self.labelled.indices(indices[is_labelled])
        return Selection(indices, source)


def _epoch(step: int, epoch_steps: int) -> tuple[int, int]:
    if step < 0:
        raise ValueError(f"step {step} is negative")
    return divmod(step, epoch_steps)


def _check_steps(seed: int, batch_size: int, epoch_steps: int) -> None:
    if seed < 0:
        raise UserError(f"seed={seed} is negative; give 0 or more")
    if batch_size < 1:
        raise UserError(f"data.batch_size={batch_size}; give 1 or more")
    if epoch_steps < 1:
        raise UserError(f"steps_per_epoch={epoch_steps}; give 0 (automatic) or more")
