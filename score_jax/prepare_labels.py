"""Pseudo-labels: what a network says of the images of a generated set, in a file.

The images are labelled in parts, each saved when it is done: a run that was stopped goes on.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import artifact as artifacts
from score_jax import mesh
from score_jax.artifact import WEIGHTS, Artifact
from score_jax.data import sources
from score_jax.data.datasets import DatasetSpec
from score_jax.data.relabelling import FORMAT
from score_jax.data.sources import Source
from score_jax.types import UserError
from score_jax.workdir import write_json_atomic

PART = 100_000  # Images that are saved together.
IDENTITY = "labelling.json"


def label(
    name: str, artifact: str, out: str, data_dir: str = "", batch_size: int = 500
) -> dict[str, Any]:
    """Writes the label and the confidence that a network gives to each image of a generated set.

    The file is for `config.data.pseudo_labels`: an npz with `label` int32[n], `confidence`
    f32[n] (the probability of that label), and what they are of. It appears when it is whole;
    until then the parts that are done lie beside it.

    Args:
      name: of a prepared set of generated images.
      artifact: folder of the exported model.
      out: the file.
      batch_size: images in one forward pass.

    Returns:
      Facts to print.

    Raises:
      UserError: no such set or model, a model of other images or classes, or a file that cannot
        be written.
    """
    spec = sources.spec(name, data_dir)
    if not spec.extends:
        raise UserError(
            f"{name} has labels of its own; pseudo-labels are for generated sets, such as those of "
            "`score-jax data list`"
        )
    if not out:
        raise UserError("--out=FILE.npz is needed: the file for config.data.pseudo_labels")
    file = Path(out).absolute()
    if file.exists():
        raise UserError(f"--out={file} is there already; move it away, or give another")
    loaded = artifacts.load(artifact)
    _check_fits(loaded, name, spec)
    source = sources.train_source(name, data_dir)
    identity = {
        "format": FORMAT,
        "dataset": name,
        "fingerprint": source.fingerprint,
        "model_sha256": loaded.spec["sha256"][WEIGHTS],
    }
    parts = file.with_name(f".{file.name}.parts")
    try:
        _begin(parts, identity)
        labelled = _label_parts(loaded, source, parts, batch_size)
        temporary = parts / "whole.npz"
        with temporary.open("wb") as opened:
            np.savez(opened, **labelled, **identity)
        temporary.rename(file)
        shutil.rmtree(parts)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"--out={file} cannot be written ({reason}); give another, the parts in {parts} may go"
        ) from None
    return {
        "pseudo_labels": str(file),
        "images": len(source),
        "mean_confidence": round(float(labelled["confidence"].mean(dtype=np.float64)), 4),
        "as_in_the_set": round(float((labelled["label"] == source.labels).mean()), 4),
        "next": f"score-jax train ... --config.data.generated={name} "
        f"--config.data.pseudo_labels={file}",
    }


def _check_fits(loaded: Artifact, name: str, spec: DatasetSpec) -> None:
    model = loaded.spec["model"]
    shape, classes = tuple(model["image_shape"]), model["num_classes"]
    if (shape, classes) != (spec.image_shape, spec.num_classes):
        raise UserError(
            f"--artifact={loaded.path} takes images of {shape} in {classes} classes and {name} has "
            f"{spec.image_shape} in {spec.num_classes}; give a model that was trained on "
            f"{spec.extends}"
        )


def _begin(parts: Path, identity: dict[str, str]) -> None:
    """A folder for parts of this labelling alone; those of another are removed."""
    record = parts / IDENTITY
    if parts.exists():
        try:
            is_same = json.loads(record.read_text()) == identity
        except (OSError, ValueError):
            is_same = False
        if not is_same:
            shutil.rmtree(parts)
    parts.mkdir(parents=True, exist_ok=True)
    write_json_atomic(record, identity)


def _label_parts(
    loaded: Artifact, source: Source, parts: Path, batch_size: int
) -> dict[str, np.ndarray]:
    layout = mesh.create()
    devices = layout.num_devices
    batch_size = -(-min(batch_size, len(source)) // devices) * devices
    held = jax.device_put(
        {"params": loaded.params, "batch_stats": loaded.batch_stats}, layout.replicated
    )

    def answer(held, images):
        logits = loaded.classifier.logits(**held, images=images.astype(jnp.float32) / 255)
        probabilities = jax.nn.softmax(logits)
        return probabilities.argmax(-1).astype(jnp.int32), probabilities.max(-1)

    answer = jax.jit(
        answer, in_shardings=(layout.replicated, layout.batch), out_shardings=layout.replicated
    )
    found = []
    for start in range(0, len(source), PART):
        stop = min(start + PART, len(source))
        part = parts / f"{start:012d}"
        values = _read_part(part, stop - start)
        if values is None:
            values = np.empty(stop - start, [("label", np.int32), ("confidence", np.float32)])
            for first in range(start, stop, batch_size):
                indices = np.arange(first, min(first + batch_size, stop))
                # One shape, one program: the last batch is filled up with copies.
                images, _ = source.take(np.resize(indices, batch_size))
                labels, confidences = answer(held, layout.put_whole_batch(images))
                place = slice(first - start, first - start + len(indices))
                values["label"][place] = np.asarray(labels)[: len(indices)]
                values["confidence"][place] = np.asarray(confidences)[: len(indices)]
            _save_part(part, values)
        done = f"{stop} of {len(source)} images ({stop / len(source):.0%})"
        print(f"{source.name}: labelled {done}", file=sys.stderr, flush=True)
        found.append(values)
    whole = np.concatenate(found)
    return {name: np.ascontiguousarray(whole[name]) for name in ("label", "confidence")}


def _save_part(part: Path, values: np.ndarray) -> None:
    """With its digest before it: what a crash of the machine leaves is told from a whole part."""
    temporary = part.with_name(f"{part.name}.{os.getpid()}.tmp")
    content = values.tobytes()
    temporary.write_bytes(hashlib.sha256(content).digest() + content)
    os.replace(temporary, part)


def _read_part(part: Path, count: int) -> np.ndarray | None:
    """A part that is done; None where it is not there or not whole."""
    try:
        content = part.read_bytes()
    except FileNotFoundError:
        return None
    digest, rest = content[:32], content[32:]
    if hashlib.sha256(rest).digest() != digest or len(rest) != 8 * count:
        return None
    return np.frombuffer(rest, [("label", np.int32), ("confidence", np.float32)])
