"""A toy model with its images, and calls of `analyze geometry` on them."""

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.analysis.jobs import ANALYZE
from score_jax.artifact import Artifact
from score_jax.command_line import parse
from score_jax.data import sources
from tests import toy_mlp

NUM_TRAIN, NUM_TEST, HELD_OUT = 23, 11, 3


def give_data(monkeypatch):
    """Training and test images of the dataset 'toy'."""
    random = np.random.default_rng(0)
    for name, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        split = sources.Images(
            images=random.integers(0, 256, (count, *toy_mlp.SHAPE)).astype(np.uint8),
            labels=random.integers(0, 4, count).astype(np.int32),
            fingerprint=name, name="toy", split=name, path="",
        )  # fmt: skip
        monkeypatch.setattr(sources, f"{name}_split", lambda dataset, data_dir, split=split: split)


def model(sha256="a", scale=1.0, **spec):
    """The toy network, its weights scaled; fields of model.json beside."""
    attack = {"num_steps": 4, "step_size": 0.02, "eps": 0.05}
    return Artifact(
        classifier=toy_mlp.classifier(),
        params=jax.tree.map(lambda leaf: scale * leaf, toy_mlp.params(jnp.float32)),
        batch_stats={},
        spec={
            "dataset": "toy",
            "norm": "linf",
            "eps": 0.1,
            "weights": "live",
            "checkpoint": "last",
            "step": 7,
            "sha256": {"model.safetensors": sha256},
            "model": {"image_shape": list(toy_mlp.SHAPE), "num_classes": 4},
            "config": {"attack": attack, "data": {"validation_size": HELD_OUT, "batch_size": 8}},
            **spec,
        },
        path=None,
    )


def call(**fields):
    """Of `analyze geometry` with these flags."""
    flags = {"artifact": "toy"} | fields
    words = ["geometry", *(f"--{flag}={value}" for flag, value in flags.items())]
    return parse("analyze", ANALYZE, words)
