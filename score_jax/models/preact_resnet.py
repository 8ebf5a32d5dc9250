"""PreActResNet-18 in the lineages that robustness papers use.

Swish: Rebuffi et al. (2021), the SCORE code and RobustBench's DMPreActResNet. ReLU: the networks of
Rice et al. (2020), of AWP and of SCORE's experiments without generated data. Headless: the same
without the last BatchNorm and ReLU, as in the GAIRAT and FAT code.
"""

import functools

import jax
from flax import nnx

from score_jax.models import initializers, layers
from score_jax.models.assembly import Options, add_groups, run_groups


class Block(nnx.Module):
    """BatchNorm, activation, convolution, twice, plus a shortcut.

    The swish form's shortcut is a 3x3 convolution of the raw input, the ReLU form's a 1x1
    convolution of the activated input.
    """

    def __init__(
        self, in_channels, channels, stride, *, raw_shortcut, conv, batchnorm, activation, rngs
    ):
        self.batchnorm_0 = batchnorm(in_channels)
        self.conv_2d_1 = conv(in_channels, channels, 3, stride, rngs=rngs)
        self.batchnorm_1 = batchnorm(channels)
        self.conv_2d_2 = conv(channels, channels, 3, 1, rngs=rngs)
        self.shortcut = (
            conv(in_channels, channels, 3 if raw_shortcut else 1, stride, rngs=rngs)
            if stride != 1 or in_channels != channels
            else None
        )
        self.raw_shortcut, self.activation = raw_shortcut, activation

    def __call__(self, x, mode):
        activated = self.activation(self.batchnorm_0(x, mode))
        skip = x
        if self.shortcut is not None:
            skip = self.shortcut(x if self.raw_shortcut else activated)
        out = self.activation(self.batchnorm_1(self.conv_2d_1(activated), mode))
        return self.conv_2d_2(out) + skip


class PreActResNet(nnx.Module):
    """A stem of 64 channels and four groups of two blocks at 64, 128, 256, 512 channels."""

    def __init__(
        self, options: Options, *, padding, momentum, activation, normalizes_input, raw_shortcut,
        has_final_batchnorm, rngs,
    ):  # fmt: skip
        conv = options.conv(padding=padding, init=initializers.fan_in_uniform)
        batchnorm = options.batchnorm(momentum=momentum)
        block = functools.partial(
            Block, raw_shortcut=raw_shortcut, conv=conv, batchnorm=batchnorm,
            activation=activation, rngs=rngs,
        )  # fmt: skip
        widths = (64, 64, 128, 256, 512)
        self.conv_2d = conv(options.image_shape[-1], widths[0], 3, 1, rngs=rngs)
        add_groups(self, block, counts=(2, 2, 2, 2), widths=widths, strides=(1, 2, 2, 2))
        self.batchnorm = batchnorm(widths[-1]) if has_final_batchnorm else None
        self.logits = options.logits(widths[-1], bias_init=initializers.fan_in_bias, rngs=rngs)
        self.activation, self.remat, self.batchnorm_momentum = activation, options.remat, momentum
        self.mean_std = (options.mean, options.std) if normalizes_input else None

    def __call__(self, images, mode):
        x = layers.normalize(images, *self.mean_std) if self.mean_std else images
        x = run_groups(self, self.conv_2d(x), mode, remat=self.remat)
        if self.batchnorm is not None:
            x = self.activation(self.batchnorm(x, mode))
        return self.logits(x.mean(axis=(1, 2)))


def swish(options: Options, *, rngs: nnx.Rngs) -> PreActResNet:
    """`preact-resnet-18-swish`: 'SAME' padding, momentum .01, input normalised inside."""
    return PreActResNet(
        options, padding=layers.same_padding, momentum=0.01, activation=jax.nn.silu,
        normalizes_input=True, raw_shortcut=True, has_final_batchnorm=True, rngs=rngs,
    )  # fmt: skip


def _relu(
    options: Options, *, rngs: nnx.Rngs, has_final_batchnorm: bool = True,
    normalizes_input: bool = False,
) -> PreActResNet:  # fmt: skip
    return PreActResNet(
        options, padding=layers.symmetric_padding, momentum=0.1, activation=jax.nn.relu,
        normalizes_input=normalizes_input, raw_shortcut=False,
        has_final_batchnorm=has_final_batchnorm,
        rngs=rngs,
    )  # fmt: skip


def relu(options: Options, *, rngs: nnx.Rngs) -> PreActResNet:
    """`preact-resnet-18-relu`: symmetric padding, momentum .1, images taken as they are."""
    return _relu(options, rngs=rngs)


def normalized_relu(options: Options, *, rngs: nnx.Rngs) -> PreActResNet:
    """`preact-resnet-18-relu-normalized`: with its input normalised inside (Rice et al.)."""
    return _relu(options, rngs=rngs, normalizes_input=True)


def headless(options: Options, *, rngs: nnx.Rngs) -> PreActResNet:
    """`preact-resnet-18-headless`: the ReLU form without the last BatchNorm and ReLU."""
    return _relu(options, has_final_batchnorm=False, rngs=rngs)
