"""Do two networks compute the same thing? Measured on test images, example by example."""

import logging
import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from score_jax import (
    compare_attacks,
    compare_layers,
    compare_measures,
    compare_sides,
    threat_models,
)
from score_jax import config as configs
from score_jax.compare_sides import Side
from score_jax.config_rules import check_eps
from score_jax.data import sources
from score_jax.types import UserError, lookup
from score_jax.workdir import library_versions, write_json_atomic

LOGGER = logging.getLogger("score_jax")
ATTACKS = {"pgd": "PGD on the cross-entropy", "autoattack": "the official AutoAttack"}
PRECISIONS = ("float32", "tf32", "bfloat16")
DEFAULT_PRECISIONS = ("tf32", "bfloat16")  # Of each JAX side, against its float32.
SPELLINGS = {"bf16": "bfloat16", "f32": "float32", "fp32": "float32"}
NUM_EXAMPLES, NUM_STEPS = 256, 20
NUM_LAYER_IMAGES = 16  # Every activation of so many images is held in memory.


def compare(
    first: str,
    second: str = "",
    *,
    model: str = "",
    dataset: str = "",
    weights: str = "ema",
    normalization: str = "",
    data_dir: str = "",
    num_examples: int = 0,
    batch_size: int = 500,
    norm: str = "",
    eps: float | None = None,
    steps: int = NUM_STEPS,
    precisions: Sequence[str] = DEFAULT_PRECISIONS,
    attacks: Sequence[str] = ("pgd",),
    seed: int = 0,
    out: str = "",
    report: Callable[[str], None] = LOGGER.info,
) -> dict[str, Any]:
    """Compares two networks and writes `compare.json` and pictures.

    Args:
      first, second: as in `compare_sides.open_both`: folders are computed by JAX, files by
        PyTorch; without a second one an export's own PyTorch file.
      model, weights, normalization: of PyTorch files, as in `interop_load.load`; '' for a model:
        that of the other side, or as the file tells.
      dataset: test images to compare on; '': those that the artifact was trained for.
      num_examples: the first so many of them; 0: 256, or all where there are fewer.
      norm, eps: of the attacks; '' and None: the artifact's own.
      steps: of PGD.
      precisions: of `PRECISIONS`: each JAX side at these is compared with itself in float32.
      attacks: of `ATTACKS`.
      out: folder to write to; '': compare/SECOND-DIGESTS in the first one's run folder, or beside
        its file.

    Returns:
      What compare.json holds.

    Raises:
      UserError: networks, images or settings that cannot be compared.
    """
    for attack in attacks:
        lookup(ATTACKS, "attack", attack)
    precisions = [SPELLINGS.get(name, name) for name in precisions]
    for name in precisions:
        lookup(dict.fromkeys(PRECISIONS), "precision", name)
    if batch_size < 1 or steps < 1:
        raise UserError(f"batch_size={batch_size} and steps={steps} must be 1 or more.")
    options = dict(model=model, dataset=dataset, weights=weights, normalization=normalization)
    one, other = compare_sides.open_both(first, second, options)
    norm, eps = _threat(one, other, norm, eps) if attacks else (norm, eps)
    images, labels, data = _images(one, other, dataset, data_dir, num_examples)
    folder = Path(out) if out else _folder(one, other, second or compare_sides.OWN_EXPORT)
    folder.mkdir(parents=True, exist_ok=True)
    ask = _in_batches(batch_size)

    answers = {side: ask(side.logits, images) for side in (one, other)}
    slopes = {side: ask(side.input_gradient, images, labels) for side in (one, other)}
    _check_finite("logits", answers)
    _check_finite("input gradients", slopes)
    result = {
        "a": _describe(one),
        "b": _describe(other),
        **data,
        "num_examples": len(labels),
        "logits": compare_measures.compare_logits(answers[one], answers[other]),
        "gradients": compare_measures.compare_gradients(slopes[one], slopes[other]),
        "clean_accuracy": {
            name: float((answers[side].argmax(1) == labels).mean())
            for name, side in (("a", one), ("b", other))
        },
    }
    report(f"logits and input gradients of {len(labels)} images compared")
    result |= _inside(one, other, images[:NUM_LAYER_IMAGES])
    if attacks:
        result |= {"norm": norm, "eps": {"value": eps, "written": configs.write_eps(eps)}}
    found = {}
    if "pgd" in attacks:
        walk = compare_attacks.Walk(norm, eps, steps, seed)
        found = {side: walk(side, images, labels, ask) for side in (one, other)}
        result["pgd"] = {
            "num_steps": steps,
            "step_size": walk.step_size,
            **compare_attacks.compare_pgd((one, other), tuple(found.values()), labels, ask),
        }
        report(f"PGD-{steps} done against both")
    result["precisions"] = []
    for place, side in (("a", one), ("b", other)):
        for name in precisions if side.engine == "jax" else ():
            again = compare_sides.at_precision(side, name)
            row = _at_precision(again, answers[side], slopes[side], images, labels, ask)
            if found:
                walked = (found[side], walk(again, images, labels, ask))
                row["pgd"] = compare_attacks.compare_pgd((side, again), walked, labels, ask)
            result["precisions"].append({"side": place, "precision": name, **row})
            report(f"{again.label}: compared with its float32")
    result |= {
        "verdict": compare_measures.verdict(
            result["logits"], result["gradients"], result.get("layers")
        ),
        "seed": seed,
        "devices": {"jax": jax.devices()[0].device_kind, "torch": "cpu"},
        "versions": {
            **library_versions(), "torch": torch.__version__, "python": platform.python_version()
        },
    }  # fmt: skip
    write_json_atomic(folder / "compare.json", result)
    if "autoattack" in attacks:  # It may take hours, and what was found so far is written.
        official = compare_attacks.Official(
            **data, data_dir=data_dir, num_examples=len(labels), norm=norm, eps=eps,
            batch_size=batch_size, seed=seed,
        )  # fmt: skip
        both = compare_attacks.compare_autoattack((one, other), official, folder, report)
        result["autoattack"] = both
        write_json_atomic(folder / "compare.json", result)
    return result | {"folder": str(folder)}


def _threat(one: Side, other: Side, norm: str, eps: float | None) -> tuple[str, float]:
    specs = [side.artifact.spec for side in (one, other)]
    norm = norm or next((spec["norm"] for spec in specs if spec.get("norm")), "")
    if eps is None:
        eps = next((spec["eps"] for spec in specs if spec.get("eps")), None)
    if not norm or eps is None:
        raise UserError("neither network names a norm and a radius; give --norm=linf --eps=8/255.")
    lookup(threat_models.THREAT_MODELS, "norm", norm)
    if not math.isfinite(eps) or eps <= 0:
        raise UserError(f"--eps={eps:g} leaves nothing to attack; give a radius such as 8/255.")
    check_eps(eps, norm, "--eps")
    return norm, float(eps)


def _images(
    one: Side, other: Side, dataset: str, data_dir: str, num_examples: int
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Images f32[n, h, w, c] in [0, 1], labels i64[n], and where they are from."""
    own = [side.artifact.spec.get("dataset") for side in (one, other)]
    name = dataset or next(filter(None, own), None)
    if name is None:
        raise UserError("neither network names a dataset; give --dataset=cifar10, say.")
    split = sources.test_split(name, data_dir)
    count = num_examples or min(NUM_EXAMPLES, len(split))
    if not 0 < count <= len(split):
        raise UserError(f"--num_examples={num_examples}: {name} has {len(split)} test images.")
    shape, num_classes = tuple(one.model["image_shape"]), one.model["num_classes"]
    if split.images.shape[1:] != shape:
        raise UserError(
            f"{name} has images of shape {split.images.shape[1:]}, {one.label} takes {shape}; give "
            "--dataset=NAME of images that it takes."
        )
    labels = np.asarray(split.labels[:count], np.int64)
    if labels.max() >= num_classes:
        raise UserError(f"{name} has label {labels.max()}, {one.label} has {num_classes} classes.")
    images = split.images[:count].astype(np.float32) / np.float32(255)
    return images, labels, {"dataset": name, "data_sha256": split.fingerprint}


def _folder(one: Side, other: Side, second: str) -> Path:
    """Digests of both stand in its name, so that networks of one name have folders of their own."""
    path = Path(second).expanduser().absolute()
    if other.engine == "torch":
        name = path.stem
    else:
        name = path.parent.name if path.name == "export" else path.name
    # `path` is an export, which lies in its run, or the folder of a file.
    home = one.artifact.path if one.engine == "torch" else one.artifact.path.parent
    return home / "compare" / f"{name}-{one.sha256[:6]}-{other.sha256[:6]}"


def _in_batches(batch_size: int) -> compare_attacks.Ask:
    """(function, *arrays) -> its result; the last batch is filled up, so that one size compiles."""

    def ask(function, *arrays):
        count = len(arrays[0])
        size, parts = min(batch_size, count), []
        for start in range(0, count, size):
            filled = np.resize(np.arange(start, min(start + size, count)), size)
            parts.append(function(*(array[filled] for array in arrays))[: count - start])
        return np.concatenate(parts)

    return ask


def _check_finite(what: str, answers: dict[Side, np.ndarray]) -> None:
    for side, values in answers.items():
        if not np.isfinite(values).all():
            raise UserError(f"{side.label} has NaN or infinite {what}; check its weights.")


def _describe(side: Side) -> dict[str, Any]:
    return {
        "label": side.label,
        "engine": side.engine,
        "model": side.model["name"],
        "model_sha256": side.sha256,
    }


def _inside(one: Side, other: Side, images: np.ndarray) -> dict[str, Any]:
    """Activations and parameters, where the architecture is one; else why there are none."""
    if one.model["name"] != other.model["name"]:
        names = f"{one.model['name']} and {other.model['name']}"
        return {"layers": None, "layers_note": f"{names} have no modules in common: skipped"}
    if one.artifact.classifier.activations is None:
        return {"layers": None, "layers_note": "the network does not show its activations"}
    seen = {side: side.activations(images) for side in (one, other)}
    for path in seen[one]:
        _check_finite(
            f"values in {path}",
            {side: found[path] for side, found in seen.items() if path in found},
        )
    layers = compare_layers.compare_activations(seen[one], seen[other])
    trees = [
        {"params": side.artifact.params, "batch_stats": side.artifact.batch_stats}
        for side in (one, other)
    ]
    return {"layers": layers, "parameters": compare_layers.compare_parameters(*trees)}


def _at_precision(
    again: Side, answers: np.ndarray, slopes: np.ndarray, images: np.ndarray,
    labels: np.ndarray, ask: compare_attacks.Ask,
) -> dict[str, Any]:  # fmt: skip
    logits = ask(again.logits, images)
    gradients = ask(again.input_gradient, images, labels)
    return {
        "logits": compare_measures.compare_logits(answers, logits),
        "gradients": compare_measures.compare_gradients(slopes, gradients),
        "clean_accuracy": float((logits.argmax(1) == labels).mean()),
        "is_float32_bit_by_bit": bool((logits == answers).all() and (gradients == slopes).all()),
    }
