"""Some images of a run and what an attack made of them, as evaluations saved them."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data import sources
from score_jax.types import UserError
from score_jax.workdir import Workdir


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Some test images and what an attack made of them.

    Attributes:
      clean, adversarial, gradients: f32[n, h, w, c]; gradients may be absent.
      clean_answers, adversarial_answers: a class name each, '' where it is not known.
      is_right: bool[n], whether the adversarial image is still classified right.
      attack: its name.
    """

    clean: np.ndarray
    adversarial: np.ndarray
    gradients: np.ndarray | None
    labels: tuple[str, ...]
    clean_answers: tuple[str, ...]
    adversarial_answers: tuple[str, ...]
    is_right: tuple[bool, ...]
    attack: str


def examples_of(
    workdir: Workdir,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    quick: str,
    official: str,
    data_dir: str,
) -> Examples | None:
    """What a PGD result (`quick`) saved, else what AutoAttack (`official`) did, else nothing.

    Raises:
      UserError: a file of images that cannot be read.
    """
    names = sources.class_names(config["data"]["name"], data_dir)

    def written(classes: Any) -> tuple[str, ...]:
        return tuple(names[c] if c < len(names) else f"class {c}" for c in np.asarray(classes))

    path = workdir.eval(quick) / "examples.npz"
    if quick and path.exists():
        found = _read_arrays(path)
        predictions = found["adversarial_predictions"]
        return Examples(
            clean=found["clean"],
            adversarial=found["adversarial"],
            gradients=found["gradients"],
            labels=written(found["labels"]),
            clean_answers=written(found["clean_predictions"]),
            adversarial_answers=written(predictions),
            is_right=tuple((predictions == found["labels"]).tolist()),
            attack=f"PGD-{results[quick]['num_steps']}, cross-entropy",
        )
    path = workdir.eval(official) / "adversarial.npz"
    if official and path.exists():
        return _saved_by_autoattack(_read_arrays(path), config["data"]["name"], data_dir, written)
    return None


def _saved_by_autoattack(
    found: Mapping[str, np.ndarray], dataset: str, data_dir: str, written: Any
) -> Examples | None:
    """One image a class of what AutoAttack saved; its file holds no predictions."""
    try:
        clean = sources.test_split(dataset, data_dir).images
    except UserError:
        return None  # Without the dataset there is nothing to show them beside.
    _, first = np.unique(found["labels"], return_index=True)
    first = first[:10]
    unknown = ("",) * len(first)
    return Examples(
        clean=clean[first].astype(np.float32) / 255,
        adversarial=found["images"][first],
        gradients=None,
        labels=written(found["labels"][first]),
        clean_answers=unknown,
        adversarial_answers=unknown,
        is_right=tuple(found["robust"][first].tolist()),
        attack="AutoAttack",
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not readable ({error}); run the evaluation again") from None
