"""The PyTorch half of `input_pipeline`: a DataLoader with the official transforms.

    python -m benchmarks.input_pipeline_torch FOLDER SECONDS WORKERS

A process of its own, without JAX. FOLDER holds images.npy, uint8[n, 32, 32, 3], and labels.npy.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

BATCH = 1024


class PilImages(Dataset):
    """CIFAR-10 as torchvision gives it: arrays in memory, and for each a PIL image, transformed."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self._images, self._labels = images, labels.tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self._images[index])
        # RandomCrop(32, padding=4): zeros around, then a place that torch draws.
        padded = Image.new("RGB", (40, 40))
        padded.paste(image, (4, 4))
        top, left = (int(torch.randint(0, 9, (1,))) for _ in range(2))
        image = padded.crop((left, top, left + 32, top + 32))
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # ToTensor.
        pixels = torch.from_numpy(np.array(image, np.uint8, copy=True))
        pixels = pixels.view(32, 32, 3).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255), self._labels[index]


def batches(data: PilImages, workers: int) -> Iterator[Any]:
    """Endless epochs of a DataLoader as the official code has it."""
    torch.set_num_threads(1)  # Workers with more would only disturb each other.
    loader = DataLoader(
        data, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )
    while True:
        yield from loader


def cpu_seconds() -> float:
    """That this process and its living children, a DataLoader's workers, have used."""
    used = time.process_time()
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            # After the name, which may hold blanks: state is field 3, user and system time 14, 15.
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def measure(source: Iterator[Any], seconds: float) -> tuple[float, float]:
    """Images a second, and CPU milliseconds a batch, once three batches have come."""
    for _ in range(3):
        next(source)
    begin, used, count = time.monotonic(), cpu_seconds(), 0
    while time.monotonic() - begin < seconds:
        next(source)
        count += 1
    wall, used = time.monotonic() - begin, cpu_seconds() - used
    source.close()
    return count * BATCH / wall, 1000 * used / count


def main() -> None:
    folder, seconds, workers = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    images, labels = (np.load(folder / f"{name}.npy") for name in ("images", "labels"))
    print(json.dumps(measure(batches(PilImages(images, labels), workers), seconds)))


if __name__ == "__main__":
    main()
