"""From a config and the sizes of its sets to the sampler, and how often a run sees an image."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from score_jax.config import loaded_images, steps_per_epoch
from score_jax.config_rules_data import generated_sets
from score_jax.data.sampling import BatchSampler, LabelledImages, PooledSampler, Sampler, counts
from score_jax.types import UserError


def create_sampler(
    config: Any, train_size: int, sizes: Sequence[int], labels: Callable[[], np.ndarray]
) -> BatchSampler:
    """The sampler of a config.

    Args:
      train_size: of the official training split, which an epoch is counted by.
      sizes: images in the labelled set and in each of `config.data.generated`.
      labels: gives those of the labelled set, i32[n]; called for `config.data.take` alone.

    Raises:
      UserError: sizes that do not fit.
    """
    data, loaded = config.data, loaded_images(config)
    labelled = LabelledImages(train_size=sizes[0], validation_size=data.validation_size)
    if data.take:
        subset = balanced(labels(), data.validation_size, data.take)
        labelled = LabelledImages(
            train_size=sizes[0], validation_size=data.validation_size, subset=subset
        )
    weights = generated_sets(data.generated)
    fields = dict(
        seed=config.seed,
        labelled=labelled,
        batch_size=loaded,
        epoch_steps=steps_per_epoch(config, train_size),
        generated_sizes=_taken(weights, sizes[1:], data.generated_take),
    )
    if data.mixing == "pool":
        return PooledSampler(**fields)
    return Sampler(
        **fields,
        generated_per_batch=_shares(weights, loaded, data.generated_fraction),
        generated_sampling=data.generated_sampling,
        labelled_repeats=data.repeats,
        emulated_workers=data.emulated_workers,
    )


def _taken(names: Mapping[str, float], sizes: Sequence[int], take: int) -> tuple[int, ...]:
    for name, size in zip(names, sizes, strict=True):
        if take > size:
            raise UserError(
                f"data.generated_take={take} is more than the {size} images of {name}; give up to "
                f"{size}, or 0 for all"
            )
    return tuple(take or size for size in sizes)


def _shares(weights: Mapping[str, float], loaded: int, fraction: float) -> tuple[int, ...]:
    if not weights:
        return ()
    _, generated = counts(loaded, fraction)
    shares = apportion(generated, list(weights.values()))
    for name, share in zip(weights, shares, strict=True):
        if not share:
            raise UserError(
                f"data.generated gives {name} none of the {generated} generated images in a batch "
                f"of {loaded}; raise its weight, data.generated_fraction or data.batch_size"
            )
    return shares


def apportion(total: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Whole shares of `total` that are proportional to the weights, by the largest remainder.

    Equal remainders are served in order.
    """
    exact = [total * weight / math.fsum(weights) for weight in weights]
    shares = [math.floor(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return tuple(shares)


def balanced(labels: np.ndarray, first: int, count: int) -> np.ndarray:
    """The indices of `count` images, the same number of each class, or one more of the first ones.

    Of each class, the first ones in order.

    Args:
      labels: i32[n].
      first: index below which none is taken.

    Returns:
      int64[count], ascending.

    Raises:
      UserError: a class has too few, or would have none.
    """
    classes = np.unique(labels)
    if count < len(classes):
        raise UserError(
            f"data.take={count} is less than one labelled image of each of {len(classes)} classes; "
            f"take {len(classes)} or more, or 0 for all"
        )
    shares = apportion(count, [1.0] * len(classes))
    chosen = []
    for label, share in zip(classes, shares, strict=True):
        having = first + np.flatnonzero(labels[first:] == label)
        if len(having) < share:
            raise UserError(
                f"data.take={count} asks for {share} labelled images of class {label} and there "
                f"are {len(having)} after data.validation_size={first}; take fewer"
            )
        chosen.append(having[:share])
    return np.sort(np.concatenate(chosen))


def epochs(sampler: BatchSampler, names: Sequence[str], step: int) -> dict[str, float]:
    """How often the first `step` batches hold an image, on average over a set: metrics.

    Args:
      names: of the sets, the labelled one first.
    """
    times = [
        step * places / size for places, size in zip(sampler.per_batch, sampler.sizes, strict=True)
    ]
    found = {"data/labelled_epochs": times[0]}
    if generated := sum(sampler.sizes[1:]):
        found["data/generated_epochs"] = step * sum(sampler.per_batch[1:]) / generated
    if len(names) > 2:
        for name, each in zip(names[1:], times[1:], strict=True):
            found[f"data/{name}_epochs"] = each
    return found


def images(sampler: BatchSampler, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many labelled and how many generated images a run trains on: by kind and by set."""
    sizes = list(zip(names, sampler.sizes, strict=True))
    return {"labelled": dict(sizes[:1]), "generated": dict(sizes[1:])}


def describe(sampler: BatchSampler, names: Sequence[str], num_steps: int) -> Iterator[str]:
    """What a run's batches are made of, for the start of its log.

    Args:
      names: of the sets, the labelled one first.
    """
    kinds = ["labelled", *["generated"] * (len(names) - 1)]
    if len(names) > 2:
        kinds[1:] = names[1:]
    about = "" if all(float(places).is_integer() for places in sampler.per_batch) else "about "
    words = [f"{places:.0f} {kind}" for places, kind in zip(sampler.per_batch, kinds, strict=True)]
    yield f"{about}{' + '.join(words)} images a batch"
    for places, size, kind in zip(sampler.per_batch, sampler.sizes, kinds, strict=True):
        yield (
            f"the run sees each of the {size:,} {kind} images {num_steps * places / size:.1f} times"
        )
