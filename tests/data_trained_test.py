"""Which images a run was trained on and by what labels, as its own pipeline has it."""

import numpy as np
import pytest

from score_jax import config as config_module
from score_jax.data import mixing, relabelling, trained
from score_jax.data.sources import Images

CLASSES, SIZE = 10, 300


@pytest.mark.parametrize(
    "changes",
    [
        dict(validation_size=0),
        dict(validation_size=40),
        dict(validation_size=40, take=35),
        dict(validation_size=40, label_noise=0.2),
        dict(validation_size=40, take=35, label_noise=0.4, label_noise_seed=3),
    ],
)
def test_images_and_labels_are_those_of_training(changes):
    labels = np.random.default_rng(0).integers(0, CLASSES, SIZE).astype(np.int32)
    images = np.zeros((SIZE, 2, 2, 1), np.uint8)
    own = Images(images=images, labels=labels, fingerprint="", name="a", split="train", path="")
    config = config_module.default()
    config.data.update(name="digits", **changes)
    sampler = mixing.create_sampler(config, SIZE, [SIZE], lambda: labels)
    expected = sampler.labelled.indices(np.arange(len(sampler.labelled)))
    (given,) = relabelling.relabelled(config, (own,), sampler.labelled, CLASSES)
    data = config_module.to_dict(config)["data"]
    np.testing.assert_array_equal(trained.indices(data, labels), expected)
    assert trained.count(data, SIZE) == len(expected)
    np.testing.assert_array_equal(trained.given_labels(data, labels, CLASSES), given.labels)
    told = {name: value for name, value in changes.items() if name != "validation_size"}
    assert trained.facts(data) == told | (
        {"label_noise_seed": data["label_noise_seed"]} if "label_noise" in told else {}
    )
