"""Lists the datasets there are, and tells about one that is prepared."""

from typing import Any

import numpy as np

from score_jax.data import builders, sources
from score_jax.data.datasets import DATASETS
from score_jax.data.sheet import check_name, save, sheet
from score_jax.data.sources import data_folder, find, prepare_command
from score_jax.dataset_splits import Split, open_splits, wrong_size
from score_jax.types import UserError

PER_CLASS = 10  # Images of each class on a sheet,
ON_SHEET = 600  # of no more than these in all.
LOOKED_AT = 100_000  # Images, all over a split, among which those of each class are looked for,
ROUND = 2048  # so many at once.


def list_datasets(data_dir: str = "") -> str:
    """The known datasets, a line each: sizes, and the folder or the command that makes it."""
    lines = [f"datasets in {data_folder(data_dir)}:"]
    names = [*DATASETS, *sources.user_sets(data_dir)]
    width = max(map(len, names))
    for name in names:
        try:
            spec = sources.spec(name, data_dir)
        except UserError as error:
            lines.append(f"  {name:<{width}} damaged: {error}")
            continue
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
    if out:
        check_name(out)
    splits = open_splits(name, data_dir)
    spec, folder = splits[0].spec, splits[0].folder
    noted = builders.facts(folder) if (folder / "metadata.json").is_file() else {}
    lines = [f"{name} in {folder}"]
    if spec.extends:
        lines.append(f"generated for {spec.extends}")
    for source in noted.get("sources", []):
        lines.append(f"made from {_source(source)}")
    present = []
    for split in splits:
        room = _room(split, noted)  # First: it tells of files that are gone.
        counts, mean, std = _measures(split, noted)
        present.append(counts)
        most = f", {min(counts)} to {max(counts)} a class" if min(counts) < max(counts) else ""
        lines += [
            f"{split.split}: {sum(counts)} images of {'x'.join(map(str, spec.image_shape))}, "
            f"uint8{most}",
            f"  sha256 {split.source.fingerprint}",
            "  per class: "
            + ", ".join(f"{c} {n}" for c, n in zip(spec.class_names, counts, strict=True)),
            "  mean " + ", ".join(f"{value:.4f}" for value in mean),
            "  std  " + ", ".join(f"{value:.4f}" for value in std),
            f"  {room}",
        ]
    if out:
        png, missing = _draw(splits, present)
        few = f"; no image of {', '.join(missing)} was come upon" if missing else ""
        lines.append(f"sheet in {save(out, png)}{few}")
    return "\n".join(lines)


def _source(source: Any) -> str:
    if not isinstance(source, dict):
        return str(source)
    size = source.get("size")
    return f"{source.get('name')}" + (f", {size:,} bytes" if isinstance(size, int) else "")


def _room(split: Split, noted: dict[str, Any]) -> str:
    """How much room it takes; in our folders, of files that have their noted sizes."""
    parts = noted.get("shards", {}).get(split.split, [])
    bad = [reason for part in parts if (reason := wrong_size(split.folder, part))]
    if bad:
        raise UserError(
            f"{split.name} is damaged: {len(bad)} of {len(parts)} files of split {split.split!r} "
            f"are not as written ({'; '.join(bad[:5])}{'; ...' if len(bad) > 5 else ''}); move "
            f"{split.folder} away and prepare it again"
        )
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


def _draw(splits: list[Split], counts: list[list[int]]) -> tuple[bytes, list[str]]:
    """The sheet, and the classes of which there are images, but none among those looked at."""
    images, captions, missing = [], [], []
    for split, present in zip(splits, counts, strict=True):
        names = split.spec.class_names
        found = _of_each_class(split, len(splits), present)
        for index, image, label in found:
            images.append(image)
            captions.append(f"{names[label]}\n{split.split} {index}")
        drawn = {label for _, _, label in found}
        missing += [
            f"{name} of {split.split}"
            for label, name in enumerate(names)
            if present[label] and label not in drawn
        ]
    few = len(splits[0].spec.class_names) <= ON_SHEET // PER_CLASS
    png = sheet(np.stack(images), captions, PER_CLASS if few else 20, title=splits[0].name)
    return png, missing


def _of_each_class(
    split: Split, splits: int, counts: list[int]
) -> list[tuple[int, np.ndarray, int]]:
    """Images of each class: (index, image, label), class by class.

    Looked for all over the split, in rounds: sets may be sorted by class.
    """
    classes = split.spec.num_classes
    wanted = max(1, min(PER_CLASS, ON_SHEET // (classes * splits)))
    found: dict[int, list[tuple[int, np.ndarray, int]]] = {label: [] for label in range(classes)}
    size = len(split.source)
    places = np.unique(np.linspace(0, size - 1, min(size, LOOKED_AT)).astype(np.int64))
    rounds = -(-len(places) // ROUND)
    for turn in range(rounds):
        looked_at = places[turn::rounds]
        images, labels = split.source.take(looked_at)
        for label in range(classes):
            for place in np.flatnonzero(labels == label)[: wanted - len(found[label])].tolist():
                found[label].append((int(looked_at[place]), images[place], label))
        if all(len(found[label]) >= min(wanted, counts[label]) for label in range(classes)):
            break
    return [one for some in found.values() for one in some]
