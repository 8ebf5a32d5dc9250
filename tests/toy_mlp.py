"""A tanh network on six-pixel images, every number a closed formula, in any floating type.

Source of the numbers that tests compare with: the official code of Yang et al. 2020, GAIRAT, MART,
AWP and others, run on this network. There the images are f[3, 3, 1, 2, 3], channels first; here
they have one channel, so that flattening keeps the order of the pixels.
"""

import jax.numpy as jnp
import numpy as np

from score_jax.models import Classifier

LABELS = np.array([0, 3, 1], np.int32)
SHAPE = (2, 3, 1)
NUM_CLASSES = 4


def images(dtype):
    """f[3, 2, 3, 1] in [0, 1]: pixel k of image n is 0.5 + 0.4 sin(1.7 n + 0.9 k)."""
    return jnp.asarray(0.5 + 0.4 * np.sin(_phases(1.7, 0.9)), dtype).reshape(3, *SHAPE)


def eta():
    """float64[3, 2, 3, 1], given where the official code draws N(0, 1): cos(2.3 n + 1.1 k)."""
    return np.cos(_phases(2.3, 1.1)).reshape(3, *SHAPE)


def params(dtype):
    """Two dense layers, kernels f[in, out]."""
    hidden, logits = np.arange(5), np.arange(NUM_CLASSES)
    tree = {
        "hidden": {
            "kernel": np.sin(1 + 6 * hidden[None, :] + np.arange(6)[:, None]),
            "bias": 0.1 * hidden - 0.2,
        },
        "logits": {
            "kernel": np.cos(2 + 5 * logits[None, :] + hidden[:, None]),
            "bias": 0.05 * logits,
        },
    }
    return {
        layer: {name: jnp.asarray(leaf, dtype) for name, leaf in leaves.items()}
        for layer, leaves in tree.items()
    }


def apply(params, images):
    """Logits f[b, 4] of images f[b, 2, 3, 1]."""
    flat = images.reshape(len(images), -1)
    hidden = jnp.tanh(flat @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    return hidden @ params["logits"]["kernel"] + params["logits"]["bias"][None]


def classifier():
    """The network behind the project's seam; its parameters do not depend on the key."""

    def apply_(params, batch_stats, images, *, normalize_by, momentum=None, dropout_key=None):
        del batch_stats, normalize_by, momentum, dropout_key
        return apply(params, images), {}

    return Classifier(
        init=lambda key: (params(jnp.float32), {}),
        apply=apply_,
        roles={layer: {"kernel": "kernel", "bias": "bias"} for layer in ("hidden", "logits")},
        batchnorm_momentum=0.1,
        image_shape=SHAPE,
    )


def _phases(per_image, per_pixel):
    return per_image * np.arange(3)[:, None] + per_pixel * np.arange(6)[None, :]
