"""PreActResNet-18 in the two lineages that robustness papers use.

Swish: Rebuffi et al. (2021), the SCORE code and RobustBench's DMPreActResNet. ReLU: the networks of
Rice et al. (2020) and of SCORE's experiments without generated data.
"""

import functools

import jax
from flax import nnx

from score_jax.models import layers

NUM_BLOCKS = {18: (2, 2, 2, 2)}


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
    """A stem of 64 channels and four groups of blocks at 64, 128, 256, 512 channels."""

    def __init__(
        self, depth, *, num_classes, in_channels, mean, std, precision, batchnorm_groups, remat,
        rngs, padding, momentum, activation, normalizes_input, raw_shortcut,
    ):  # fmt: skip
        conv = functools.partial(
            layers.Conv, padding=padding, init=layers.fan_in_uniform, precision=precision
        )
        batchnorm = functools.partial(
            layers.BatchNorm, momentum=momentum, groups=batchnorm_groups
        )  # fmt: skip
        widths = (64, 64, 128, 256, 512)
        self.conv_2d = conv(in_channels, widths[0], 3, 1, rngs=rngs)
        for group, num_blocks in enumerate(NUM_BLOCKS[depth]):
            blocks = {}
            for index in range(num_blocks):
                blocks[f"block_{index}"] = Block(
                    widths[group] if index == 0 else widths[group + 1],
                    widths[group + 1],
                    2 if index == 0 and group > 0 else 1,
                    raw_shortcut=raw_shortcut, conv=conv, batchnorm=batchnorm,
                    activation=activation, rngs=rngs,
                )  # fmt: skip
            setattr(self, f"layer_{group}", nnx.Dict(blocks))
        self.batchnorm = batchnorm(widths[-1])
        self.logits = layers.Linear(
            widths[-1], num_classes, bias_init=layers.fan_in_bias, precision=precision, rngs=rngs
        )
        self.activation, self.remat, self.batchnorm_momentum = activation, remat, momentum
        self.mean_std = (mean, std) if normalizes_input else None

    def __call__(self, images, mode):
        x = layers.normalize(images, *self.mean_std) if self.mean_std else images
        x = self.conv_2d(x)
        for group in (self.layer_0, self.layer_1, self.layer_2, self.layer_3):
            x = layers.run_blocks(group, x, mode, remat=self.remat)
        x = self.activation(self.batchnorm(x, mode))
        return self.logits(x.mean(axis=(1, 2)))


def swish(depth: int, **arguments) -> PreActResNet:
    """`preact-resnet-18-swish`: 'SAME' padding, momentum .01, input normalised inside."""
    return PreActResNet(
        depth, padding=layers.same_padding, momentum=0.01, activation=jax.nn.silu,
        normalizes_input=True, raw_shortcut=True, **arguments,
    )  # fmt: skip


def relu(depth: int, **arguments) -> PreActResNet:
    """`preact-resnet-18-relu`: symmetric padding, momentum .1, images taken as they are."""
    return PreActResNet(
        depth, padding=layers.symmetric_padding, momentum=0.1, activation=jax.nn.relu,
        normalizes_input=False, raw_shortcut=False, **arguments,
    )  # fmt: skip
