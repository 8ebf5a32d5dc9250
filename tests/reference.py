"""The fixture of the reference numbers: a network, images and noise given by formulas.

The numbers came from the PyTorch code of the papers, run in float64 on exactly these inputs; flat
indices count in PyTorch's layouts (NCHW images, OIHW kernels).
"""

import jax.numpy as jnp
import numpy as np

from score_jax import models

CIFAR10 = dict(
    num_classes=10,
    image_shape=(32, 32, 3),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2471, 0.2435, 0.2616),
)
LABELS = np.array([3, 0, 7, 9])


def nhwc(flat_nchw: np.ndarray) -> np.ndarray:
    """f[4·3·32·32] in NCHW order as f[4, 32, 32, 3]."""
    return flat_nchw.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1)


def images() -> np.ndarray:
    j = np.arange(4 * 3 * 32 * 32)
    return nhwc(0.5 + 0.5 * np.sin(0.05 * j) * np.cos(0.0003 * j))


def pattern() -> np.ndarray:
    """sin(.9j), which stands for every random draw."""
    return nhwc(np.sin(0.9 * np.arange(4 * 3 * 32 * 32)))


def probe() -> np.ndarray:
    """cos(.01j), a direction that distinguishes permutations of the pixels."""
    return nhwc(np.cos(0.01 * np.arange(4 * 3 * 32 * 32)))


def _entries(num_blocks: int):
    """(our path, leaf) in PyTorch's state_dict order, num_batches_tracked left out."""

    def batchnorm(path):
        return [(path, leaf) for leaf in ("scale", "bias", "mean", "var")]

    yield (("init_conv",), "kernel")
    for group in range(3):
        for index in range(num_blocks):
            block = (f"layer_{group}", f"block_{index}")
            yield from batchnorm((*block, "batchnorm_0"))
            yield ((*block, "conv_0"), "kernel")
            yield from batchnorm((*block, "batchnorm_1"))
            yield ((*block, "conv_1"), "kernel")
            if index == 0:
                yield ((*block, "shortcut"), "kernel")
    yield from batchnorm(("batchnorm",))
    yield (("logits",), "kernel")
    yield (("logits",), "bias")


def _value(path, leaf, shape, t):
    order = (3, 2, 0, 1) if len(shape) == 4 else (1, 0) if len(shape) == 2 else (0,)
    torch_shape = tuple(shape[axis] for axis in order)
    s = np.sin(0.37 * np.arange(np.prod(shape)) + 0.11 * t).reshape(torch_shape)
    if leaf == "var":
        value = 1 + 0.5 * s
    elif leaf == "scale":
        value = 1 + 0.1 * s
    elif len(shape) == 1:
        value = 0.1 * s
    else:
        value = s * np.sqrt(2 / np.prod(torch_shape[1:]))
        if path == ("logits",):
            value = 10 * value
    return value.transpose(np.argsort(order))


def _at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def network(name: str = "wrn-10-2-swish", dtype=np.float64):
    """The classifier, with the fixture's parameters and statistics in `dtype`."""
    import jax

    classifier = models.create(name, **CIFAR10)
    params, batch_stats = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape), jax.eval_shape(classifier.init, jax.random.key(0))
    )
    for t, (path, leaf) in enumerate(_entries(1)):
        tree = batch_stats if leaf in ("mean", "var") else params
        node = _at(tree, path)
        node[leaf] = _value(path, leaf, node[leaf].shape, t)
    return classifier, *jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, batch_stats))
