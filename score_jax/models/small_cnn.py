"""A network of three convolutions for 8x8 digits: minutes on a laptop, AutoAttack included."""

import functools

import jax
from flax import nnx

from score_jax.models import layers


class SmallCNN(nnx.Module):
    """Three times convolution, BatchNorm, ReLU; then the mean over space and a linear layer."""

    def __init__(
        self, depth, *, num_classes, in_channels, mean, std, precision, batchnorm_groups, remat,
        rngs,
    ):  # fmt: skip
        del depth, remat  # Three convolutions, and nothing worth recomputing.
        conv = functools.partial(
            layers.Conv, padding=layers.symmetric_padding, init=layers.fan_out_normal,
            precision=precision, rngs=rngs,
        )  # fmt: skip
        self.batchnorm_momentum = 0.1
        batchnorm = functools.partial(
            layers.BatchNorm, momentum=self.batchnorm_momentum, groups=batchnorm_groups
        )
        self.conv_0, self.batchnorm_0 = conv(in_channels, 32, 3, 1), batchnorm(32)
        self.conv_1, self.batchnorm_1 = conv(32, 64, 3, 2), batchnorm(64)
        self.conv_2, self.batchnorm_2 = conv(64, 64, 3, 1), batchnorm(64)
        self.logits = layers.Linear(
            64, num_classes, bias_init=layers.zero_bias, precision=precision, rngs=rngs
        )
        self.mean_std = (mean, std)

    def __call__(self, images, mode):
        x = layers.normalize(images, *self.mean_std)
        x = jax.nn.relu(self.batchnorm_0(self.conv_0(x), mode))
        x = jax.nn.relu(self.batchnorm_1(self.conv_1(x), mode))
        x = jax.nn.relu(self.batchnorm_2(self.conv_2(x), mode))
        return self.logits(x.mean(axis=(1, 2)))


def build(depth: int, **arguments) -> SmallCNN:
    """`cnn-3`."""
    return SmallCNN(depth, **arguments)
