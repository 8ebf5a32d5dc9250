"""How long the sampler takes to choose a batch, and how much memory, from few images and from many.

    python benchmarks/sampler.py [--batch_size=1024] [--batches=300]

No image is read: the sets are numbers of images alone. Each line is one way to mix CIFAR-10 with
that many generated images. Milliseconds are of one batch, at steps all over a long run, on the
clock and, where a machine is busy of more use, of the processor; the slowest batches are those that
begin an epoch. Kilobytes are the most that was held while choosing.
"""

import argparse
import json
import os
import time
import tracemalloc

import numpy as np

from score_jax.data.sampling import LabelledImages, PooledSampler, Sampler

LABELLED = LabelledImages(train_size=50_000, validation_size=1024)
LAST_STEP = 10**6


def create(way: str, size: int, batch_size: int) -> Sampler | PooledSampler:
    """A sampler of 30% labelled images, or of a pool."""
    fields = dict(seed=0, labelled=LABELLED, batch_size=batch_size, epoch_steps=98)
    if way == "pool":
        return PooledSampler(**fields, generated_sizes=(size,))
    generated = int(batch_size * 0.7)
    if way == "three sets":
        parts = (generated // 2, generated // 4, generated - generated // 2 - generated // 4)
        sets = dict(generated_sizes=(size, size, size), generated_per_batch=parts)
        return Sampler(**fields, **sets, generated_sampling="permutation")
    sets = dict(generated_sizes=(size,), generated_per_batch=(generated,))
    return Sampler(**fields, **sets, generated_sampling=way)


def measure(way: str, size: int, batch_size: int, batches: int) -> dict[str, float | int | str]:
    """Facts of one line."""
    sampler = create(way, size, batch_size)
    starts = np.linspace(0, LAST_STEP, 3, dtype=int)
    steps = [int(start) + i for start in starts for i in range(batches // len(starts))]
    clocks = []
    for step in steps:
        begin = time.perf_counter(), time.thread_time()
        sampler.batch(step)
        clocks.append((time.perf_counter() - begin[0], time.thread_time() - begin[1]))
    clock, processor = 1000 * np.transpose(clocks)
    tracemalloc.start()
    for step in steps[:50]:
        sampler.batch(step)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return dict(
        way=way,
        generated=size,
        median_ms=round(float(np.median(clock)), 3),
        median_cpu_ms=round(float(np.median(processor)), 3),
        slowest_cpu_ms=round(float(np.max(processor)), 3),
        peak_kb=peak // 1024,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--batches", type=int, default=300)
    arguments = parser.parse_args()
    print(json.dumps(dict(load=os.getloadavg()[0], cores=os.cpu_count(), **vars(arguments))))
    for size in (1_000_000, 100_000_000, 10_000_000_000):
        for way in ("replacement", "permutation", "three sets", "pool"):
            found = measure(way, size, arguments.batch_size, arguments.batches)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
