"""Artifacts: a trained classifier in files that outlive the training code.

`model.safetensors` and `model.json` are the archive, `model_robustbench.pt` is the same network for
PyTorch, `model.stablehlo` is the program. Reading one runs no code of the files.
"""

import datetime
import importlib.util
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

import score_jax
from score_jax import config as configs
from score_jax import models
from score_jax.artifact import (
    FORMAT,
    FORMAT_VERSION,
    MODEL_FIELDS,
    SPEC,
    WEIGHTS,
    Artifact,
    build_classifier,
    check_finite,
    flatten,
    load,
    logits_fn,
    sha256,
)
from score_jax.data import sources
from score_jax.types import BatchStats, Params, UserError, lookup
from score_jax.workdir import Workdir, find_workdir, library_versions, write_json_atomic

__all__ = ["Artifact", "export", "load", "logits_fn", "program", "save_artifact"]

TORCH, PROGRAM = "model_robustbench.pt", "model.stablehlo"
READABLE_DAYS = 180  # jax.export promises six months.
HOW_TO_CALL = (
    "logits = jax.export.deserialize(open('model.stablehlo', 'rb').read()).call("
    "{'params': params, 'batch_stats': batch_stats}, images), images f32[b, h, w, c] in [0, 1] "
    "for any b; params and batch_stats are the entries of model.safetensors, nested at '/'"
)


def program(classifier: models.Classifier, params: Params, batch_stats: BatchStats) -> bytes:
    """The evaluation forward pass, serialised: f({'params', 'batch_stats'}, images) -> logits.

    Weights are arguments, the batch size is free, gradients of first order come along, and it runs
    on CPU, CUDA and TPU.
    """
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *classifier.image_shape), jnp.float32)
    variables = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.float32),
        {"params": params, "batch_stats": batch_stats},
    )
    forward = jax.jit(lambda held, images: classifier.logits(**held, images=images))
    exported = jax.export.export(forward, platforms=("cpu", "cuda", "tpu"))(variables, images)
    return bytes(exported.serialize(vjp_order=1))


def _write_torch(path: Path, model_name: str, params: Params, batch_stats: BatchStats) -> bool:
    if importlib.util.find_spec("torch") is None:
        print(f"{TORCH} is left out: it needs torch; pip install 'score-jax[torch]', export again.")
        return False
    import torch

    from score_jax import interop

    torch.save(interop.to_state_dict(model_name, params, batch_stats), path)
    return True


def as_tensors(params: Params, batch_stats: BatchStats) -> dict[str, np.ndarray]:
    """The entries of model.safetensors: 'params/a/b' -> f32[...]."""
    return {
        name: np.ascontiguousarray(leaf, np.float32)
        for tree, prefix in ((params, "params"), (batch_stats, "batch_stats"))
        for name, leaf in flatten(tree, prefix)
    }


def as_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The content of model.safetensors."""
    return safetensors.numpy.save(dict(tensors), {"format": FORMAT})


def save_artifact(
    path: str | os.PathLike[str],
    *,
    model: Mapping[str, Any],
    params: Params,
    batch_stats: BatchStats,
    info: Mapping[str, Any],
) -> Path:
    """Writes a complete artifact; an earlier one at `path` stays until the new one is whole.

    Args:
      path: the folder, `DIR/export` of a run.
      model: name, num_classes, image_shape (h, w, c), mean, std.
      info: further fields of model.json: dataset, eps, norm, config, weights, checkpoint, step,
        validation, training_images.

    Raises:
      UserError: weights that do not fit the model or are not finite, or `path` holds other files.
    """
    path = Path(path).expanduser().absolute()
    classifier = build_classifier(model)
    tensors = as_tensors(params, batch_stats)
    check_finite(tensors, "the weights")
    compiled = program(classifier, params, batch_stats)
    _check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", suffix=".tmp", dir=path.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        (new / WEIGHTS).write_bytes(as_bytes(tensors))
        (new / PROGRAM).write_bytes(compiled)
        _write_torch(new / TORCH, model["name"], params, batch_stats)
        spec = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": {field: model[field] for field in MODEL_FIELDS},
            **info,
            "num_parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(params)),
            "program": _describe_program(),
            "sha256": {file.name: sha256(file) for file in sorted(new.iterdir())},
            "versions": {**library_versions(), "score_jax": score_jax.__version__},
        }
        write_json_atomic(new / SPEC, json.loads(json.dumps(spec)))
        _replace(path, new, Path(scratch) / "previous")
    return path


def _replace(path: Path, new: Path, previous: Path) -> None:
    if path.exists():
        path.rename(previous)
    try:
        new.rename(path)
    except OSError:
        if previous.exists():
            previous.rename(path)
        raise


def _describe_program() -> dict[str, str]:
    until = datetime.date.today() + datetime.timedelta(days=READABLE_DAYS)
    return {
        "file": PROGRAM,
        "how_to_call": HOW_TO_CALL,
        "precision": "float32, products at the highest precision",
        "jax": jax.__version__,
        "readable_until": f"{until.isoformat()} at least, by newer versions of jax; the archive "
        f"is {WEIGHTS} with {SPEC}",
    }


def _check_replaceable(path: Path) -> None:
    """Only what this program wrote may be replaced."""
    if not path.exists():
        return
    foreign = sorted({entry.name for entry in path.iterdir()} - {WEIGHTS, SPEC, TORCH, PROGRAM})
    if foreign:
        raise UserError(f"{path} holds {foreign[0]!r}, not written by export; move it away.")


def export(workdir: str | os.PathLike[str], checkpoint: str = "best", weights: str = "ema") -> Path:
    """Writes DIR/export of a run.

    Args:
      checkpoint: 'best' by the validation attack, or 'last'.
      weights: 'ema', the averaged weights, or 'live'.

    Raises:
      UserError: no such run or checkpoint.
    """
    lookup({"best": 0, "last": 0}, "checkpoint", checkpoint)
    lookup({"ema": 0, "live": 0}, "weights", weights)
    # Here, because whoever only loads an artifact needs no Orbax.
    from score_jax import checkpoint as checkpoints

    run = find_workdir(workdir)
    found = checkpoints.load_for_export(run, checkpoint, weights)
    model, info = describe(run, found, checkpoint, weights)
    return save_artifact(
        run.export,
        model=model,
        params=found["params"],
        batch_stats=found["batch_stats"],
        info=info,
    )


def describe(
    run: Workdir, found: Mapping[str, Any], checkpoint: str, weights: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What model.json tells of a checkpoint: its model, and `info` as in `save_artifact`.

    Args:
      found: of `checkpoint.load_for_export`.
    """
    config = found["config"]
    dataset = sources.spec(config["data"]["name"], config["data"]["dir"])
    model = {
        "name": config["model"]["name"],
        "num_classes": dataset.num_classes,
        "image_shape": list(dataset.image_shape),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }
    info = {
        "dataset": config["data"]["name"],
        "eps": config["eps"],
        "eps_written": configs.write_eps(config["eps"]),
        "norm": config["norm"],
        "config": config,
        "weights": weights,
        "checkpoint": checkpoint,
        "step": int(found["step"]),
        "validation": _finite_numbers(found["accuracies"]),
        **_training_images(run.run),
    }
    return model, info


def _training_images(record: Path) -> dict[str, Any]:
    """How many images of each set the run trained on, where its record says so."""
    try:
        return {"training_images": json.loads(record.read_text())["training_images"]}
    except (OSError, ValueError, KeyError):
        return {}


def _finite_numbers(accuracies: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: float(value) for name, value in accuracies.items()}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
