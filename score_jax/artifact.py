"""Reading an exported classifier: hashes, names, shapes and values checked, no code of it run."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from score_jax import models
from score_jax.types import Array, BatchStats, Params, UserError

FORMAT, FORMAT_VERSION = "score_jax artifact", 1
WEIGHTS, SPEC = "model.safetensors", "model.json"
MODEL_FIELDS = ("name", "num_classes", "image_shape", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A classifier and its weights, as `load` verified them.

    Attributes:
      spec: model.json.
      path: the folder.
    """

    classifier: models.Classifier
    params: Params
    batch_stats: BatchStats
    spec: dict[str, Any]
    path: Path


def sha256(path: Path) -> str:
    """The digest of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flatten(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """('prefix/a/b', leaf) for every leaf of nested dicts."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}/{name}")
        else:
            yield f"{prefix}/{name}", value


def _unflatten(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for path, values in tensors.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = values
    return tree


def check_finite(tensors: Mapping[str, np.ndarray], where: str) -> None:
    """Refuses weights with NaN or infinite values.

    Raises:
      UserError: naming the first such tensor.
    """
    for path, values in tensors.items():
        if not np.isfinite(values).all():
            raise UserError(
                f"{path} of {where} holds NaN or infinite values: the training diverged; "
                "use an earlier checkpoint."
            )


def build_classifier(model: Mapping[str, Any], precision: str = "float32") -> models.Classifier:
    """The classifier that the `model` section of model.json describes.

    Raises:
      UserError: a field is missing, or the model is unknown.
    """
    absent = [field for field in MODEL_FIELDS if field not in model]
    if absent:
        raise UserError(f"{SPEC} lacks model.{absent[0]}; export the run again.")
    return models.create(
        model["name"],
        num_classes=model["num_classes"],
        image_shape=tuple(model["image_shape"]),
        mean=tuple(model["mean"]),
        std=tuple(model["std"]),
        precision=precision,
    )


def load(path: str | os.PathLike[str], precision: str = "float32") -> Artifact:
    """Reads and verifies an artifact.

    Args:
      path: the folder of model.json, or the run folder above it.
      precision: of the classifier, as in `models.create`; float32 for every reported number.

    Raises:
      UserError: not an artifact, a damaged or changed file, weights that do not fit the model or
        are not finite.
    """
    folder = _find(Path(path).expanduser().absolute())
    spec = _read_spec(folder / SPEC)
    _check_digest(folder / WEIGHTS, spec)
    try:
        tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{folder / WEIGHTS} is not readable: {error}; export again.") from None
    classifier = build_classifier(spec["model"], precision)
    _check_shapes(tensors, classifier, folder / WEIGHTS)
    check_finite(tensors, str(folder / WEIGHTS))
    variables = _unflatten(tensors)
    return Artifact(classifier=classifier, spec=spec, path=folder, **variables)


def _find(path: Path) -> Path:
    for folder in (path, path / "export"):
        if (folder / SPEC).is_file():
            return folder
    raise UserError(f"{path} holds no {SPEC}; run `score-jax export --workdir=DIR` first.")


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        spec = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as JSON: {error}; export again.") from None
    if not isinstance(spec, dict) or spec.get("format") != FORMAT:
        raise UserError(f"{path} does not describe a {FORMAT}; give the folder of an export.")
    if spec.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format_version {spec.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}; use the score_jax version it names under 'versions'."
        )
    if not isinstance(spec.get("model"), dict) or WEIGHTS not in (spec.get("sha256") or {}):
        raise UserError(f"{path} lacks 'model' or the sha256 of {WEIGHTS}; export again.")
    return spec


def _check_digest(path: Path, spec: Mapping[str, Any]) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise UserError(f"{path} is not readable ({error.strerror}); export again.") from None
    expected = str(spec["sha256"][path.name])
    if found != expected:
        raise UserError(
            f"{path} is damaged or was changed: its sha256 is {found[:12]}..., "
            f"{SPEC} says {expected[:12]}...; copy it again or export again."
        )


def _check_shapes(
    tensors: Mapping[str, np.ndarray], classifier: models.Classifier, where: Path
) -> None:
    params, batch_stats = jax.eval_shape(classifier.init, jax.random.key(0))
    expected = {
        name: f"float32{list(leaf.shape)}"
        for tree, prefix in ((params, "params"), (batch_stats, "batch_stats"))
        for name, leaf in flatten(tree, prefix)
    }
    given = {name: f"{values.dtype}{list(values.shape)}" for name, values in tensors.items()}
    wrong = [
        f"{name} is {given.get(name, 'missing')}, the model has {expected.get(name, 'no such')}"
        for name in sorted(expected.keys() | given.keys())
        if expected.get(name) != given.get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{where} does not fit its model: {'; '.join(wrong[:3])}{more}.")


def logits_fn(artifact: Artifact) -> Callable[[Array], Array]:
    """A jitted function from images f32[b, h, w, c] in [0, 1] to logits f32[b, k]."""
    variables = jax.device_put({"params": artifact.params, "batch_stats": artifact.batch_stats})
    # Weights as arguments: as constants they would be compiled into every program.
    forward = jax.jit(lambda held, images: artifact.classifier.logits(**held, images=images))
    return lambda images: forward(variables, images)
