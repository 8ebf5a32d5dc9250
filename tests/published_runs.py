"""Runs with an artifact and the result of an evaluation, made up, for tests of what reads them."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from score_jax import artifact as artifacts
from score_jax import export, models

MODEL = dict(
    name="wrn-10-1-swish",
    num_classes=10,
    image_shape=(32, 32, 3),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2471, 0.2435, 0.2616),
)
CONFIG = {
    "objective": {"name": "score", "beta": 4.0},
    "attack": {"num_steps": 10, "step_size": 2 / 255},
    "data": {"name": "cifar10", "generated": "cifar10_ddpm", "dir": "/home/secret/data"},
    "seed": 0,
}
SPEC = dict(
    dataset="cifar10", eps=8 / 255, norm="linf", config=CONFIG, weights="ema", checkpoint="best",
    step=7,
)  # fmt: skip


def write_run(run: Path, **spec) -> Path:
    """RUN/export with random weights; the program, which takes long to compile, is left out."""
    model = {**MODEL, **spec.pop("model", {})}
    params, batch_stats = _weights(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "program", lambda *_: b"")
        export.save_artifact(
            run / "export",
            model=model,
            params=params,
            batch_stats=batch_stats,
            info={**SPEC, **spec},
        )
    return run


def _weights(model):
    """Random ones of order 1, so that a swapped pair shows in the logits."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        values = rng.uniform(0.5, 1.5, leaf.shape)
        if len(leaf.shape) > 1:
            values = rng.normal(0, 1, leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        return values.astype(np.float32)

    return jax.tree.map(draw, jax.eval_shape(models.create(**model).init, jax.random.key(0)))


def write_result(run: Path, *, images: np.ndarray | None = None, **changes) -> dict:
    """RUN/eval/autoattack as a finished standard evaluation leaves it.

    Args:
      images: f32[n, h, w, c], to be saved as the adversarial ones, half of them robust.
      changes: fields of result.json in place of the usual ones.
    """
    folder = run / "eval" / "autoattack"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").write_text("robust accuracy: 50.00%\n")
    result = {
        "name": "autoattack",
        "attack": "AutoAttack",
        "attack_version": "standard",
        "attack_library": {"name": "pyautoattack", "version": "0.2.0"},
        "clean_accuracy": 0.7512,
        "robust_accuracy": 0.5,
        "num_examples": 10000,
        "attacks": [
            {"name": name, "robust_accuracy": left}
            for name, left in (("apgd-ce", 0.6), ("apgd-t", 0.5), ("fab-t", 0.5), ("square", 0.5))
        ],
        "dataset": "cifar10",
        "norm": "linf",
        "eps": {"value": 8 / 255, "written": "8/255"},
        "flags": [],
        "seed": 0,
        "precision": "float32",
        "recount": {
            "robust_accuracy": 0.5, "disagreements_by_rounding": 0, "max_distance": 8 / 255,
        },
        "model_sha256": artifacts.load(run).spec["sha256"]["model.safetensors"],
    }  # fmt: skip
    if images is not None:
        robust = np.arange(len(images)) % 2 == 0
        np.savez(folder / "adversarial.npz", images=images, labels=robust, robust=robust)
        result["num_examples"] = len(images)
        result["adversarial_sha256"] = artifacts.sha256(folder / "adversarial.npz")
    result.update(changes)
    (folder / "result.json").write_text(json.dumps(result))
    return result
