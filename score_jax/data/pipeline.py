"""Batches for the training loop: chosen by `sampling`, gathered ahead of the step by Grain."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import grain
import jax
import numpy as np

from score_jax.config_rules_data import generated_sets
from score_jax.data import mixing, relabelling, resident, sources
from score_jax.data.sampling import BatchSampler
from score_jax.data.sources import Source
from score_jax.mesh import Layout
from score_jax.types import UserError

MAX_THREADS = 4  # Gathering a batch takes a millisecond or so; more threads only wait.

LOOKED_AT = 50  # Images of each class.


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What batches are made of.

    sources: the sets that `Selection.source` counts: the labelled one, then the generated ones.
    """

    sources: tuple[Source, ...]
    sampler: BatchSampler

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources."""
        return tuple(source.name for source in self.sources)

    @property
    def contents(self) -> dict[str, str]:
        """Fingerprints of what is trained on, by set; of pseudo-labels beside those of their set.

        Those of images and labels decide how many there are.
        """
        found = {source.name: source.fingerprint for source in self.sources}
        for source in self.sources:
            if digest := getattr(source, "pseudo_labels", ""):
                found[f"pseudo-labels of {source.name}"] = digest
        return found

    @property
    def storage(self) -> str:
        """Where each source lies, for the log of a run: 'cifar10: memory'."""
        return ", ".join(f"{source.name}: {source.storage}" for source in self.sources)

    def rows_at(self, step: int, part: slice = slice(None)) -> dict[str, np.ndarray]:
        """Where the images of batch `step` lie among those of all sources, for `Resident`."""
        selection = self.sampler.batch(step)
        found = resident.rows(self.sources, selection.indices[part], selection.source[part])
        return {"rows": found, "generated": selection.source[part] > 0}

    def without_images(self) -> "TrainingData":
        """What is enough for `rows_at`, once the images are on the devices."""
        emptied = tuple(resident.Emptied(len(source)) for source in self.sources)
        return replace(self, sources=emptied)

    def batch_at(self, step: int, part: slice = slice(None)) -> dict[str, np.ndarray]:
        """Batch `step`, or a part of its positions, as `train_batches` gives it."""
        selection = self.sampler.batch(step)
        indices, which = selection.indices[part], selection.source[part]
        parts = [
            source.take(indices[which == number]) for number, source in enumerate(self.sources)
        ]
        if len(parts) == 1:
            images, labels = parts[0]
        else:
            images = np.empty((len(indices), *parts[0][0].shape[1:]), np.uint8)
            labels = np.empty(len(indices), np.int32)
            for number, taken in enumerate(parts):
                images[which == number], labels[which == number] = taken
        return {"images": images, "labels": labels, "generated": which > 0}


def open_training_data(config: Any) -> TrainingData:
    """The training split and the generated sets of a config, with their sampler.

    Raises:
      UserError: unknown or unprepared data, or sizes that do not fit.
    """
    data = config.data
    spec = sources.spec(data.name, data.dir)
    if spec.extends:
        raise UserError(
            f"data.name={data.name} is a generated set; train on data.name={spec.extends} with "
            f"data.generated={data.name}"
        )
    names = (data.name, *generated_sets(data.generated))
    for name in names[1:]:
        if sources.spec(name, data.dir).extends != data.name:
            known = sources.generated_for(data.name, data.dir)
            raise UserError(
                f"data.generated={name} holds no generated images for "
                f"data.name={data.name}; known: {', '.join(known) or 'none'}"
            )
    held = tuple(sources.train_source(name, data.dir, data.storage) for name in names)
    if data.storage == "device":
        resident.check_size(held, spec.image_shape)
    sampler = mixing.create_sampler(
        config, len(held[0]), [len(source) for source in held], lambda: held[0].labels
    )
    held = relabelling.relabelled(config, held, sampler.labelled, spec.num_classes)
    return TrainingData(held, sampler)


def unequal_classes(config: Any, data: TrainingData) -> Iterator[str]:
    """A line for each generated set whose first `data.generated_take` images lack classes.

    Of many images a few are looked at: records are read one by one.
    """
    take = config.data.generated_take
    num_classes = sources.spec(config.data.name, config.data.dir).num_classes
    for source in data.sources[1:] if take else ():
        some = np.arange(take)
        if take > LOOKED_AT * num_classes:
            # At random: labels may come in turns.
            drawn = np.random.default_rng(0).integers(take, size=LOOKED_AT * num_classes)
            some = np.unique(drawn)
        counts = np.bincount(source.take(some)[1], minlength=num_classes)
        if few := np.sum(counts < len(some) / num_classes / 2):
            yield (
                f"data.generated_take={take} takes the first images of {source.name}, where {few} "
                f"of {num_classes} classes have less than half of their share; is it sorted by "
                "class? then prepare it from a file in another order, or take all of it"
            )


def batch_at(config: Any, step: int) -> dict[str, np.ndarray]:
    """The whole batch `step` as loaded, whatever the hosts: a pure function of seed and step."""
    return open_training_data(config).batch_at(step)


def train_batches(
    config: Any,
    start_step: int,
    num_steps: int,
    *,
    data: TrainingData | None = None,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches `start_step` to `start_step + num_steps - 1`, this process's part of each.

    Up to `config.data.prefetch` batches are gathered ahead on threads, which end with the
    iterator. With p processes, process i has the i-th of p equal contiguous slices.

    Args:
      data: of the config; opened unless given.
      process_index, process_count: JAX's own unless given.

    Returns:
      dicts of NumPy arrays: images uint8[b, h, w, c], labels int32[b], generated bool[b]. With
      CutMix, b counts the loaded images, of which the step makes `data.cutmix` versions. With
      `data.storage=device`: rows int32[b] and generated bool[b], see `Resident`.

    Raises:
      UserError: the batch does not divide by the processes, and those of `open_training_data`.
    """
    count = jax.process_count() if process_count is None else process_count
    index = jax.process_index() if process_index is None else process_index
    data = data or open_training_data(config)
    loaded = data.sampler.batch_size
    if loaded % count:
        raise UserError(
            f"data.batch_size={config.data.batch_size} loads {loaded} images a step, which do not "
            f"divide by {count} processes; give a multiple"
        )
    share = loaded // count
    part = slice(index * share, (index + 1) * share)
    read = data.rows_at if config.data.storage == "device" else data.batch_at
    # Errors of the arguments come from this call, not from the first batch.
    read = functools.partial(read, part=part)
    return _run_ahead(read, start_step, num_steps, config.data.prefetch)


def _run_ahead(
    read: Callable[[int], dict[str, np.ndarray]], start_step: int, num_steps: int, prefetch: int
) -> Iterator[dict[str, np.ndarray]]:
    if num_steps < 1:
        return
    steps = grain.MapDataset.range(start_step, start_step + num_steps)
    batches = iter(
        steps.map(read).to_iter_dataset(
            grain.ReadOptions(
                num_threads=min(max(prefetch, 0), MAX_THREADS),
                prefetch_buffer_size=max(prefetch, 0),
            )
        )
    )
    try:
        yield from batches
    finally:
        batches.close()


def place_resident(data: TrainingData, layout: Layout) -> resident.Resident:
    """The sets on the devices, for `data.storage=device`."""
    return resident.Resident(data.sources, layout)


def validation_images(config: Any, data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """The first `validation_size` training images, which are never trained on.

    Returns:
      images uint8[n, h, w, c], labels int32[n].
    """
    return data.sources[0].take(np.arange(config.data.validation_size))
