"""A small form of every network, with weights that show a swapped pair in the logits."""

import jax
import numpy as np

from score_jax import models

# The name that `models.known_names` lists: a name to create, and the smallest useful images.
SMALL = {
    "wrn-D-W-swish": ("wrn-16-2-swish", (8, 8, 3)),
    "wrn-D-W-relu": ("wrn-10-1-relu", (8, 8, 3)),
    "preact-resnet-18-swish": ("preact-resnet-18-swish", (8, 8, 3)),
    "preact-resnet-18-relu": ("preact-resnet-18-relu", (8, 8, 3)),
    "wrn-D-W-relu-normalized": ("wrn-10-1-relu-normalized", (8, 8, 3)),
    "preact-resnet-18-relu-normalized": ("preact-resnet-18-relu-normalized", (8, 8, 3)),
    "preact-resnet-18-headless": ("preact-resnet-18-headless", (8, 8, 3)),
    "resnet-18": ("resnet-18", (8, 8, 3)),
    "resnet-50": ("resnet-50", (32, 32, 3)),
    "small-cnn": ("small-cnn", (16, 24, 3)),
    "cnn-001": ("cnn-001", (8, 10, 1)),
    "cnn-002": ("cnn-002", (16, 20, 1)),
    "cnn-3": ("cnn-3", (8, 8, 1)),
}
SHAPES = dict(SMALL.values())


def arguments(shape, num_classes=10):
    """What `models.create` and `torch_models.create` both take."""
    channels = shape[-1]
    return dict(
        num_classes=num_classes,
        image_shape=shape,
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.3, 0.25)[:channels],
    )


def create(name, **fields):
    return models.create(name, **arguments(SHAPES[name]), **fields)


def template(name, shape=(32, 32, 3)):
    return jax.eval_shape(models.create(name, **arguments(shape)).init, jax.random.key(0))


def weights(name):
    """(params, batch_stats) as NumPy arrays: every leaf random and of order 1."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        values = rng.uniform(0.5, 1.5, leaf.shape)
        if len(leaf.shape) > 1:
            values = rng.normal(0, 1, leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        return values.astype(np.float32)

    return jax.tree.map(draw, template(name, SHAPES[name]))


def images(name, count=4):
    shape = (count, *SHAPES[name])
    return np.random.default_rng(1).uniform(0, 1, shape).astype(np.float32)
