"""How fast batches come to the device, from each storage, beside a PyTorch DataLoader.

    python -m benchmarks.input_pipeline
    python -m benchmarks.input_pipeline --generated=200000 --seconds=10 --out=input.json

CIFAR-10's sizes with made-up images, prepared in a temporary folder: 50,000 labelled ones, and a
generated set for the mixture. Batches of 1024 are delivered to the first device, as the training
loop gets them: chosen by the sampler, gathered on threads, placed ahead by the thread that the loop
waits for. 'augmented' adds our random crop and flip, a compiled program on that device.

Beside them, in turns, so that all see the same load of the machine: PyTorch's DataLoader with the
transforms of the official code (RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor of
torchvision, which all work on PIL images; written out here with Pillow), one worker a core.

Images are in the page cache: the disk is not measured. The CPU time of a batch is that of all
threads and workers: it tells what is left for other work, whatever else the machine does.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import input_pipeline_torch
from benchmarks.input_pipeline_torch import BATCH, measure
from score_jax import config as config_lib
from score_jax import mesh
from score_jax.data import augment, builders, pipeline, sources
from score_jax.data.raw_split import RawSplit
from score_jax.data.waiting import Waiting

# Name: data.storage, generated images in the batch, our augmentation.
OURS = {
    "memory": ("memory", False, False),
    "memmap": ("memmap", False, False),
    "device": ("device", False, False),
    "records": ("records", False, False),
    "records + generated": ("records", True, False),
    "memory, augmented": ("memory", False, True),
    "records + generated, augmented": ("records", True, True),
}
PYTORCH = "PyTorch DataLoader, augmented"


def our_batches(
    config: ConfigDict, storage: str, generated: bool, is_augmented: bool
) -> Iterator[Any]:
    """Batches on the first device, as the training loop has them."""
    config = config.copy_and_resolve_references()
    config.data.storage = storage
    config.data.generated = "cifar10_ddpm" if generated else ""
    layout = mesh.create(jax.devices()[:1])
    data = pipeline.open_training_data(config)
    held = pipeline.place_resident(data, layout) if storage == "device" else None
    key = jax.random.key(0)
    augmented = jax.jit(
        lambda step, images: augment.pad_crop_flip(jax.random.fold_in(key, step), images)
    )

    def placed() -> Iterator[Any]:
        for local in pipeline.train_batches(config, 0, 10**9, data=data):
            yield layout.put_batch(local)

    waiting = Waiting(placed())
    try:
        step = np.uint32(0)
        while True:
            batch = waiting.take(lambda: False)
            batch = held.batch(batch) if held else batch
            if is_augmented:
                batch = batch | {"images": augmented(step, batch["images"])}
            yield jax.block_until_ready(batch)
            step += np.uint32(1)
    finally:
        waiting.close()


def measure_pytorch(folder: Path, seconds: float) -> tuple[float, float]:
    """As `input_pipeline_torch.measure`, in a process without JAX, a worker for each core."""
    module = [sys.executable, "-m", input_pipeline_torch.__name__]
    arguments = [str(folder), str(seconds), str(len(os.sched_getaffinity(0)))]
    done = subprocess.run(module + arguments, check=True, text=True, stdout=subprocess.PIPE)
    return tuple(json.loads(done.stdout))


def prepare(folder: Path, generated: int) -> None:
    """Writes both sets as `data prepare` would, and the labelled one as arrays for PyTorch."""

    def split(count: int, seed: int) -> RawSplit:
        def block(index: int) -> tuple[np.ndarray, np.ndarray]:
            size = min(2000, count - index)
            generator = np.random.default_rng([seed, index])
            images = generator.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
            return images, generator.integers(0, 10, size).astype(np.int32)

        return RawSplit(count, lambda start: map(block, range(start, count, 2000)))

    sets = {
        "cifar10": {"train": split(50_000, 0), "test": split(10_000, 1)},
        "cifar10_ddpm": {"train": split(generated, 2)},
    }
    for name, splits in sets.items():
        builders.write(
            folder, name, spec=sources.DATASETS[name], splits=splits, report=lambda line: None
        )
    held = sources.train_split("cifar10", str(folder))
    np.save(folder / "images.npy", held.images)
    np.save(folder / "labels.npy", held.labels)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--generated", type=int, default=100_000, help="images of the generated set"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=3, help="the best of which counts")
    parser.add_argument("--out", default="", help="a JSON file for the numbers")
    options = parser.parse_args(argv)
    config = config_lib.default()
    config.data.update(batch_size=BATCH, generated_fraction=0.7)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config.data.dir = name
        prepare(folder, options.generated)
        pipelines = {
            name: lambda form=form: measure(our_batches(config, *form), options.seconds)
            for name, form in OURS.items()
        } | {PYTORCH: lambda: measure_pytorch(folder, options.seconds)}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
        cores = len(os.sched_getaffinity(0))
        print(f"{cores} cores, batches of {BATCH}, to: {jax.devices()[0].device_kind}", flush=True)
        for turn in range(options.turns):
            for name, run in pipelines.items():
                found[name].append(run())
                print(
                    f"turn {turn + 1}  {name:31} {told(*found[name][-1])}"
                    f"  load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    report(found, options.out)


def told(rate: float, cpu: float) -> str:
    return f"{rate:9,.0f} images/s  {cpu:6.1f} ms CPU a batch"


def report(found: dict[str, list[tuple[float, float]]], out: str) -> None:
    """Prints each pipeline's best turn, and how many times PyTorch's of the same turn (median)."""
    rows = {}
    for name, turns in found.items():
        rate, cpu = max(turns)
        pairs = list(zip(turns, found[PYTORCH], strict=True))
        rows[name] = {
            "images_per_second": rate, "cpu_ms_per_batch": cpu,
            "times_pytorch": statistics.median(ours[0] / theirs[0] for ours, theirs in pairs),
            "times_pytorch_cpu": statistics.median(theirs[1] / ours[1] for ours, theirs in pairs),
        }  # fmt: skip
        print(
            f"{name:31} {told(rate, cpu)}   times PyTorch: {rows[name]['times_pytorch']:5.1f}"
            f" in images/s, {rows[name]['times_pytorch_cpu']:5.1f} in CPU time"
        )
    if out:
        Path(out).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
