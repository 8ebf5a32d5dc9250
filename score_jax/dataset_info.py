"""Lists the datasets there are, and tells about one that is prepared."""

import numpy as np

from score_jax.data.datasets import DATASETS
from score_jax.data.sources import data_folder, find, prepare_command, read_split
from score_jax.types import lookup


def list_datasets(data_dir: str = "") -> str:
    """The known datasets, a line each: sizes, and the folder or the command that makes it."""
    lines = [f"datasets in {data_folder(data_dir)}:"]
    for name, spec in DATASETS.items():
        sizes = ", ".join(
            f"{'any number of' if size is None else size} {split}"
            for split, size in spec.split_sizes.items()
        )
        shape = "x".join(map(str, spec.image_shape))
        folder = find(name, data_dir)
        state = f"prepared in {folder}" if folder else f"run: {prepare_command(name)}"
        kind = f"generated for {spec.extends}, " if spec.extends else ""
        lines.append(f"  {name:<14} {kind}{shape}, {spec.num_classes} classes, {sizes}; {state}")
    return "\n".join(lines)


def info(name: str, data_dir: str = "") -> str:
    """A prepared dataset's counts per class, content hash, and mean and deviation by channel."""
    spec = lookup(DATASETS, "dataset", name)
    lines = []
    for split in spec.split_sizes:
        images = read_split(name, split, data_dir)
        if not lines:
            lines.append(f"{name} in {images.path}")
        counts = np.bincount(images.labels, minlength=spec.num_classes)
        mean, std = _mean_and_std(images.images)
        lines += [
            f"{split}: {len(images)} images of {'x'.join(map(str, spec.image_shape))}, uint8",
            f"  sha256 {images.fingerprint}",
            "  per class: "
            + ", ".join(f"{c} {n}" for c, n in zip(spec.class_names, counts, strict=True)),
            "  mean " + ", ".join(f"{value:.4f}" for value in mean),
            "  std  " + ", ".join(f"{value:.4f}" for value in std),
        ]
    return "\n".join(lines)


def _mean_and_std(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each channel for images in [0, 1], exactly, from the counts of the 256 values."""
    values = np.arange(256) / 255
    channels = [images[..., channel].ravel() for channel in range(images.shape[-1])]
    weights = [np.bincount(channel, minlength=256) / len(channel) for channel in channels]
    mean = np.array([weight @ values for weight in weights])
    variance = [weight @ (values - m) ** 2 for weight, m in zip(weights, mean, strict=True)]
    return mean, np.sqrt(np.array(variance))
