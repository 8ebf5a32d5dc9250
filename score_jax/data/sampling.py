"""Which images make up a batch: a pure function of the seed and the step.

Nothing is drawn from a state that advances, so any step can be asked for at once, in any order
and on any host, and gives the same answer.
"""

import functools
from dataclasses import dataclass

import numpy as np

from score_jax.types import UserError

# Each use of the seed has a stream of its own.
LABELLED, GENERATED, POSITIONS = range(3)


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


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Batches of labelled images, without replacement, and generated ones, with replacement.

    An epoch starts a fresh permutation of the labelled images and takes them in order; when it
    runs out inside the epoch, another follows, so that every batch is full.

    train_size: labelled images in the official training split.
    validation_size: how many of them, from index 0 on, are never given.
    epoch_steps: steps between fresh permutations.
    generated_size: images in the generated set; generated_per_batch: how many a batch takes.
    labelled_repeats: how often a batch holds each of its labelled images, which it takes that
      many times fewer of (the emulated workers of Gowal et al., 2021, whose workers read the same
      images); generated images are not repeated.
    """

    seed: int
    train_size: int
    validation_size: int
    batch_size: int
    epoch_steps: int
    generated_size: int = 0
    generated_per_batch: int = 0
    labelled_repeats: int = 1

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed={self.seed} is negative; give 0 or more")
        if self.batch_size < 1:
            raise UserError(f"data.batch_size={self.batch_size}; give 1 or more")
        if self.epoch_steps < 1:
            raise UserError(f"steps_per_epoch={self.epoch_steps}; give 0 (automatic) or more")
        if not 0 <= self.validation_size < self.train_size:
            raise UserError(
                f"data.validation_size={self.validation_size} leaves no image to train on; "
                f"the training split has {self.train_size}"
            )
        if not 0 <= self.generated_per_batch <= self.batch_size:
            raise UserError(
                f"data.generated_fraction asks for {self.generated_per_batch} generated images in "
                f"a batch of {self.batch_size}; give a fraction from 0 to 1"
            )
        if self.generated_per_batch and not self.generated_size:
            raise UserError("data.generated is empty but data.generated_fraction asks for images")
        if self.labelled_repeats < 1:
            raise UserError(
                f"data.repeats={self.labelled_repeats}; give 1 (each image once) or more"
            )
        if self._labelled_per_batch % self.labelled_repeats:
            raise UserError(
                f"data.repeats={self.labelled_repeats} does not divide the "
                f"{self._labelled_per_batch} labelled images of a batch of {self.batch_size}; "
                "change data.batch_size or data.generated_fraction until it does"
            )

    @property
    def _labelled_per_batch(self) -> int:
        return self.batch_size - self.generated_per_batch

    def batch(self, step: int) -> Selection:
        """The images of batch `step`, counted from 0 over the whole run."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        epoch, step_in_epoch = divmod(step, self.epoch_steps)
        distinct = self._labelled_per_batch // self.labelled_repeats
        labelled = self._labelled(epoch, step_in_epoch * distinct, distinct)
        labelled = np.tile(labelled, self.labelled_repeats)
        extra = _bits(self.generated_per_batch, self.seed, GENERATED, step)
        extra %= np.uint64(max(1, self.generated_size))
        indices = np.concatenate([labelled, extra.astype(np.int64)])
        source = (np.arange(self.batch_size) >= self._labelled_per_batch).astype(np.int8)
        # BatchNorm's groups are contiguous slices of the batch: each must hold the same mixture.
        positions = np.argsort(_bits(self.batch_size, self.seed, POSITIONS, step), kind="stable")
        return Selection(indices[positions], source[positions])

    def _labelled(self, epoch: int, start: int, count: int) -> np.ndarray:
        """`count` entries from `start` of the epoch's endless row of permutations."""
        length = self.train_size - self.validation_size
        parts, end = [np.empty(0, np.int64)], start + count
        while start < end:
            part, offset = divmod(start, length)
            permutation = _permutation(self.seed, epoch, part, self.validation_size, length)
            parts.append(permutation[offset : offset + end - start])
            start += len(parts[-1])
        return np.concatenate(parts)


def _bits(count: int, seed: int, stream: int, *counters: int) -> np.ndarray:
    """uint64[count] of Philox's own output, which is specified: NumPy's `permutation` and
    `integers` may change between its versions, and a run's images must not."""
    return np.random.Philox(np.random.SeedSequence([seed, stream, *counters])).random_raw(count)


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, part: int, first: int, length: int) -> np.ndarray:
    permutation = first + np.argsort(_bits(length, seed, LABELLED, epoch, part), kind="stable")
    permutation.setflags(write=False)
    return permutation
