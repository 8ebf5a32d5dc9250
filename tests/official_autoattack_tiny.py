"""A network of one hidden layer, and the official AutoAttack with few steps, for quick tests."""

import dataclasses
import functools

import numpy as np
import torch

from score_jax import autoattack_adapter, official_autoattack
from score_jax import official_autoattack_recount as recount

NUM_IMAGES, SIDE = 14, 6


def network(seed=0, num_classes=10):
    torch.manual_seed(seed)
    layers = torch.nn.Linear(SIDE * SIDE, 16), torch.nn.SiLU(), torch.nn.Linear(16, num_classes)
    return torch.nn.Sequential(torch.nn.Flatten(), *layers).eval().requires_grad_(False)


def images_and_labels(num_classes=10):
    """Labels are what the network says, but for one image."""
    images = np.random.default_rng(0).random((NUM_IMAGES, SIDE, SIDE, 1)).astype(np.float32)
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    labels = network(num_classes=num_classes)(inputs).max(1)[1].numpy()
    labels[3] = (labels[3] + 1) % num_classes
    return images, labels


def shorten(adversary):
    """Few steps; every attack still runs."""
    for part in (adversary.apgd, adversary.apgd_targeted):
        part.n_iter = part.n_iter_orig = 6
    adversary.fab.n_iter = 3
    adversary.square.n_queries = 12
    adversary.apgd_targeted.n_target_classes = 2
    adversary.fab.n_target_classes = 2
    return adversary


def shorten_library(monkeypatch):
    """The adapter finds an AutoAttack of few steps, which is returned."""
    library = autoattack_adapter.find_library()

    @functools.wraps(library.factory)
    def factory(*arguments, **options):
        return shorten(library.factory(*arguments, **options))

    short = dataclasses.replace(library, factory=factory)
    monkeypatch.setattr(autoattack_adapter, "find_library", lambda: short)
    return short


def evaluate(folder, **changes):
    """The whole evaluation of the tiny network."""
    images, labels = images_and_labels()
    options = dict(
        num_classes=10, threat=recount.Threat(norm="linf", eps=0.03), model_sha256="m" * 64,
        folder=folder, chunk_size=5, report=lambda line: None,
    )  # fmt: skip
    model = changes.pop("model", None) or network()
    images, labels = changes.pop("images", images), changes.pop("labels", labels)
    return official_autoattack.evaluate(model, images, labels, **{**options, **changes})
