"""A file of the field's weights as a network of ours, checked entry by entry."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_jax import artifact as artifacts
from score_jax import interop, interop_guess, interop_normalization
from score_jax.data import sources
from score_jax.interop_read import Stored, as_floats, read
from score_jax.types import BatchStats, Params, UserError


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A network out of a file.

    Attributes:
      model: name, num_classes, image_shape, mean, std, as in model.json.
      origin: the file and its sha256, the format, and what was taken off or converted.
      notes: what was found or assumed, a line each.
    """

    model: dict[str, Any]
    params: Params
    batch_stats: BatchStats
    origin: dict[str, Any]
    notes: tuple[str, ...]


def load(
    path: str | os.PathLike[str],
    *,
    model: str = "",
    dataset: str = "cifar10",
    weights: str = "ema",
    normalization: str = "",
    data_dir: str = "",
) -> Imported:
    """The network that a file holds, checked entry by entry.

    Args:
      model: its name; '': told by names and shapes, where these tell.
      dataset: what it classifies: gives classes, image shape and the usual normalisation.
      weights: where the file has two sets, 'ema' takes the averaged ones, 'live' the others.
      normalization: of the input, 'dataset', 'none' or 'MEAN;STD' (a number a channel, by commas);
        '': the constants in the file, else those of the dataset.
      data_dir: where a dataset that the user named is prepared.

    Raises:
      UserError: what `interop_read.read` refuses; a model that is unknown, does not fit or cannot
        be told; classes or normalisation other than those of the file; values that are no numbers.
    """
    spec = sources.spec(dataset, data_dir)
    if spec.extends:
        raise UserError(f"--dataset={dataset} only adds to {spec.extends}; give that.")
    stored = read(path, weights)
    section = {
        "num_classes": spec.num_classes,
        "image_shape": spec.image_shape,
        "mean": spec.mean,
        "std": spec.std,
    }
    section["name"] = model or _guess(stored, section, normalization, str(path))
    expected = interop_guess.template(section)
    if size := interop_guess.head(interop.rules(section["name"]), stored.state):
        _check_classes(size[0], spec.num_classes, str(path), dataset)
    matched = interop.match(section["name"], stored.state, expected)
    if matched.problems:
        raise UserError(f"{path} does not fit {section['name']!r}: {matched.problems}.")
    section["mean"], section["std"], written = interop_normalization.choose(
        section, stored.constants, normalization, str(path)
    )
    params, batch_stats = interop.to_trees(section["name"], matched)
    _check_values(matched, str(path))
    origin = {
        "file": Path(path).name,
        "sha256": artifacts.sha256(Path(path).expanduser()),
        "format": stored.format,
        "wrappings": list(stored.wrappings),
        "prefix": stored.prefix,
        "dtypes": list(stored.dtypes),
        "renamed": len(matched.renamed),
        "unused": len(matched.unused),
        "normalization": written,
    }
    notes = _about(stored, matched, str(path))
    if not model:
        notes.append(
            f"the model is {section['name']} by names and shapes; weights do not show activation "
            "and padding, which are that network's"
        )
    return Imported(
        model=section, params=params, batch_stats=batch_stats, origin=origin, notes=tuple(notes)
    )


def _guess(stored: Stored, section: Mapping[str, Any], normalization: str, where: str) -> str:
    """The one network that a file is of."""
    names = interop_guess.guess(stored.state, section, where)
    if len(names) > 1 and (stored.constants or normalization):
        wanted = normalization != "none"
        names = [
            name for name in names if interop_normalization.normalizes(section, name) is wanted
        ] or names
    if len(names) > 1:
        raise UserError(
            f"{where} fits {' and '.join(names)}, which the weights do not tell apart: give "
            f"--model, such as --model={names[0]}."
        )
    return names[0]


def _check_classes(found: int, expected: int, where: str, dataset: str) -> None:
    if found != expected:
        fitting = [
            name
            for name, spec in sources.DATASETS.items()
            if spec.num_classes == found and not spec.extends
        ]
        remedy = f"give --dataset={fitting[0]}" if fitting else "no known dataset has so many"
        raise UserError(f"{where} tells {found} classes apart, {dataset} has {expected}; {remedy}.")


def _check_values(matched: interop.Match, where: str) -> None:
    for name, (_, _, _, value) in matched.found.items():
        values = as_floats(value)
        if not np.isfinite(values).all():
            raise UserError(
                f"{name} of {where} holds NaN or infinite values; use another checkpoint."
            )
        if name.endswith("running_var") and values.min() < 0:
            raise UserError(f"{name} of {where} holds a negative variance; the file is damaged.")


def _about(stored: Stored, matched: interop.Match, where: str) -> list[str]:
    """What was taken off and converted, a line each."""
    notes = [f"{where}: {stored.format}, {len(matched.found)} entries"]
    if stored.wrappings or stored.prefix:
        held = " in ".join(reversed(stored.wrappings))
        parts = [f"found under {held}"] if held else []
        parts += [f"prefix {stored.prefix!r} taken off"] if stored.prefix else []
        notes.append("; ".join(parts))
    if matched.renamed:
        ours, theirs = next(iter(matched.renamed.items()))
        notes.append(f"{len(matched.renamed)} entries are spelled otherwise: {theirs} is {ours}")
    if matched.unused:
        notes.append(
            f"{len(matched.unused)} entries belong to modules that the public class never calls: "
            f"{matched.unused[0]}, ...; left out"
        )
    others = [dtype for dtype in stored.dtypes if dtype != "float32"]
    if others:
        notes.append(f"converted {', '.join(others)} to float32")
    return notes
