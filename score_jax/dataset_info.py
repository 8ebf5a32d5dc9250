"""Lists the datasets there are, and tells about one that is prepared."""

from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data import builders, sources
from score_jax.data.datasets import DATASETS
from score_jax.data.sheet import sheet
from score_jax.data.sources import data_folder, find, prepare_command
from score_jax.dataset_splits import Split, open_splits
from score_jax.types import UserError

PER_CLASS = 10  # Images of each class on a sheet,
ON_SHEET = 600  # of no more than these in all.
LOOKED_AT = 100_000  # Images among which those of each class are looked for.


def list_datasets(data_dir: str = "") -> str:
    """The known datasets, a line each: sizes, and the folder or the command that makes it."""
    lines = [f"datasets in {data_folder(data_dir)}:"]
    names = [*DATASETS, *sources.user_sets(data_dir)]
    width = max(map(len, names))
    for name in names:
        spec = sources.spec(name, data_dir)
        sizes = ", ".join(
            f"{'any number of' if size is None else size} {split}"
            for split, size in spec.split_sizes.items()
        )
        shape = "x".join(map(str, spec.image_shape))
        folder = find(name, data_dir)
        state = f"prepared in {folder}" if folder else f"run: {prepare_command(name)}"
        kind = f"generated for {spec.extends}, " if spec.extends else ""
        known = f"{kind}{shape}, {spec.num_classes} classes, {sizes}"
        lines.append(f"  {name:<{width}} {known}; {state}")
    return "\n".join(lines)


def info(name: str, data_dir: str = "", out: str = "") -> str:
    """What is known about a prepared dataset.

    For each split: counts per class, content hash, mean and deviation by channel, how much room it
    takes, and what it was made from. What was noted when it was prepared is not counted again.

    Args:
      name: the dataset.
      out: a PNG file to write, with images of each class of each split; '' for none.

    Raises:
      UserError: unknown, not prepared, damaged, or the file cannot be written.
    """
    if out and not out.endswith(".png"):
        raise UserError(f"--out={out} is not the name of a PNG file; give such as --out=sheet.png")
    splits = open_splits(name, data_dir)
    spec, folder = splits[0].spec, splits[0].folder
    noted = builders.facts(folder) if (folder / "metadata.json").is_file() else {}
    lines = [f"{name} in {folder}"]
    if spec.extends:
        lines.append(f"generated for {spec.extends}")
    for source in noted.get("sources", []):
        lines.append(f"made from {_source(source)}")
    for split in splits:
        counts, mean, std = _measures(split, noted)
        most = f", {min(counts)} to {max(counts)} a class" if min(counts) < max(counts) else ""
        lines += [
            f"{split.split}: {sum(counts)} images of {'x'.join(map(str, spec.image_shape))}, "
            f"uint8{most}",
            f"  sha256 {split.source.fingerprint}",
            "  per class: "
            + ", ".join(f"{c} {n}" for c, n in zip(spec.class_names, counts, strict=True)),
            "  mean " + ", ".join(f"{value:.4f}" for value in mean),
            "  std  " + ", ".join(f"{value:.4f}" for value in std),
            f"  {_room(split)}",
        ]
    if out:
        lines.append(f"sheet in {_write(Path(out), splits)}")
    return "\n".join(lines)


def _source(source: Any) -> str:
    if not isinstance(source, dict):
        return str(source)
    size = source.get("size")
    return f"{source.get('name')}" + (f", {size:,} bytes" if isinstance(size, int) else "")


def _room(split: Split) -> str:
    files = list(split.folder.glob(f"*-{split.split}.array_record-*"))
    pixels = int(np.prod(split.spec.image_shape))
    return (
        f"{sum(file.stat().st_size for file in files) / 2**20:,.1f} MiB in {len(files)} shards "
        "(data.storage=records); "
        f"{len(split.source) * (pixels + 4) / 2**20:,.1f} MiB decoded (memory, memmap, device)"
    )


def _measures(split: Split, noted: dict[str, Any]) -> tuple[list[int], list[float], list[float]]:
    """Images of each class, mean and deviation of each channel, for images in [0, 1]."""
    fields = [noted.get(field, {}) for field in ("class_counts", "mean", "std")]
    if all(split.split in field for field in fields):
        return tuple(field[split.split] for field in fields)  # type: ignore[return-value]
    channels = split.spec.image_shape[2]
    values = np.zeros((channels, 256), np.int64)
    counts = np.zeros(split.spec.num_classes, np.int64)
    for images, labels in split.blocks():
        counts += np.bincount(labels, minlength=len(counts))
        for channel in range(channels):
            values[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
    shades = np.arange(256) / 255
    weights = values / values.sum(1, keepdims=True)
    mean = weights @ shades
    variance = (weights * (shades - mean[:, None]) ** 2).sum(1)
    return counts.tolist(), mean.tolist(), np.sqrt(variance).tolist()


def _write(path: Path, splits: list[Split]) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_draw(splits))
    except OSError as error:
        raise UserError(f"--out={path} cannot be written: {error.strerror}") from None
    return path


def _draw(splits: list[Split]) -> bytes:
    images, captions = [], []
    for split in splits:
        for index, image, label in _of_each_class(split, len(splits)):
            images.append(image)
            captions.append(f"{split.spec.class_names[label]}\n{split.split} {index}")
    few = len(splits[0].spec.class_names) <= ON_SHEET // PER_CLASS
    return sheet(np.stack(images), captions, PER_CLASS if few else 20, title=splits[0].name)


def _of_each_class(split: Split, splits: int) -> list[tuple[int, np.ndarray, int]]:
    """The first images of each class: (index, image, label), class by class."""
    classes = split.spec.num_classes
    wanted = max(1, min(PER_CLASS, ON_SHEET // (classes * splits)))
    found: dict[int, list[tuple[int, np.ndarray, int]]] = {label: [] for label in range(classes)}
    first = 0
    for images, labels in split.blocks():
        for label in range(classes):
            for place in np.flatnonzero(labels == label)[: wanted - len(found[label])].tolist():
                found[label].append((first + place, images[place], label))
        first += len(labels)
        if first >= LOOKED_AT or all(len(some) == wanted for some in found.values()):
            break
    return [one for some in found.values() for one in some]
