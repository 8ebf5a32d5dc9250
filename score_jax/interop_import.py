"""The job that makes an artifact of ours from a file of the field's weights."""

import logging
import os
import shlex
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import artifact as artifacts
from score_jax import config as configs
from score_jax import config_rules, export, interop_load
from score_jax.data import sources
from score_jax.types import UserError, lookup

LOGGER = logging.getLogger("score_jax")
# The radii of the field's tables, for images of 32 pixels; l1: Croce and Hein (2021).
USUAL_EPS = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0}
BATCH_SIZE = 250


def import_checkpoint(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str = "",
    dataset: str = "cifar10",
    eps: float | None = None,
    norm: str = "linf",
    weights: str = "ema",
    normalization: str = "",
    num_examples: int = 0,
    data_dir: str = "",
) -> dict[str, Any]:
    """Writes a file of weights as an artifact, which every other job takes.

    Args:
      path: a local .pt, .pth, .safetensors, or Haiku .npy file.
      out: as the folder of a run: the artifact is OUT/export; an earlier one is replaced.
      eps, norm: what the model was trained for; None: the usual radius of the norm.
      num_examples: the first so many test images are classified, as a check of the import; 0:
        none.
      model, dataset, weights, normalization: as in `interop_load.load`.

    Raises:
      UserError: as `interop_load.load` and `export.save_artifact`, an impossible radius, or a
        folder of a training run, whose own export would be lost.
    """
    lookup(USUAL_EPS, "norm", norm)
    config_rules.check_eps(eps or 0.0, norm, "--eps")
    # As in a run's folder, so that its evaluations find a place beside it.
    folder = Path(out) if Path(out).name == "export" else Path(out) / "export"
    if any((folder.parent / record).exists() for record in ("config.json", "run.json")):
        raise UserError(f"{folder.parent} is the folder of a training run; give another --out.")
    found = interop_load.load(
        path,
        model=model,
        dataset=dataset,
        weights=weights,
        normalization=normalization,
        data_dir=data_dir,
    )
    notes = list(found.notes)
    if eps is None:
        if sources.spec(dataset, data_dir).image_shape[0] != 32:
            raise UserError(f"--eps is needed: {dataset} has no usual radius; give 0.2, say.")
        eps = USUAL_EPS[norm]
        notes.append(f"--eps was not given: the usual {configs.write_eps(eps)} of {norm} is noted")
    for note in notes:
        LOGGER.info(note)
    folder = export.save_artifact(
        folder,
        model=found.model,
        params=found.params,
        batch_stats=found.batch_stats,
        info={
            "dataset": dataset,
            "eps": eps,
            "eps_written": configs.write_eps(eps),
            "norm": norm,
            "weights": weights,
            "origin": found.origin,
        },
    )
    facts = {
        "artifact": str(folder),
        "model": found.model["name"],
        "dataset": dataset,
        "num_parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(found.params)),
        "normalization": found.origin["normalization"],
    }
    if num_examples:
        facts |= _check_accuracy(folder, dataset, data_dir, num_examples)
    return facts | {"next": f"score-jax evaluate --artifact={shlex.quote(str(folder))}"}


def _check_accuracy(folder: Path, dataset: str, data_dir: str, num_examples: int) -> dict[str, Any]:
    """The clean accuracy on the first test images, as a check of model and normalisation."""
    if sources.find(dataset, data_dir) is None:
        return {"clean_accuracy": f"not measured: {dataset} is not prepared"}
    split = sources.test_split(dataset, data_dir)
    count = min(num_examples, len(split))
    forward = artifacts.logits_fn(artifacts.load(folder))
    right = 0
    for start in range(0, count, BATCH_SIZE):
        images = split.images[start : min(start + BATCH_SIZE, count)]
        logits = forward(jnp.asarray(images, jnp.float32) / 255)
        right += int((np.argmax(logits, -1) == split.labels[start : start + len(images)]).sum())
    chance = 2 / sources.spec(dataset, data_dir).num_classes
    if right < chance * count:
        LOGGER.warning(
            "%d of %d test images right, near chance: model, normalisation or dataset is another",
            right, count,
        )  # fmt: skip
    return {"clean_accuracy": right / count, "num_examples": count}
