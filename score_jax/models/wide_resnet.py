"""WideResNet in the two lineages that robustness papers use.

Swish: Gowal et al. (2020), the SCORE code and RobustBench's DMWideResNet. ReLU: the TRADES code and
RobustBench's WideResNet. The graph is the same; padding, momentum and normalisation differ.
"""

import functools

import jax
from flax import nnx

from score_jax.models import layers
from score_jax.types import UserError


class Block(nnx.Module):
    """BatchNorm, activation, convolution, twice, plus the input.

    Where the width changes, the skip is a 1x1 convolution of the activated input; elsewhere it is
    the raw input.
    """

    def __init__(self, in_channels, channels, stride, *, conv, batchnorm, activation, rngs):
        self.batchnorm_0 = batchnorm(in_channels)
        self.conv_0 = conv(in_channels, channels, 3, stride, rngs=rngs)
        self.batchnorm_1 = batchnorm(channels)
        self.conv_1 = conv(channels, channels, 3, 1, rngs=rngs)
        self.shortcut = (
            conv(in_channels, channels, 1, stride, rngs=rngs) if in_channels != channels else None
        )
        self.activation = activation

    def __call__(self, x, mode):
        activated = self.activation(self.batchnorm_0(x, mode))
        skip = x if self.shortcut is None else self.shortcut(activated)
        out = self.activation(self.batchnorm_1(self.conv_0(activated), mode))
        return self.conv_1(out) + skip


class WideResNet(nnx.Module):
    """Three groups of (depth - 4) / 6 blocks at widths 16, 32, 64 times `width`."""

    def __init__(
        self, depth, width, *, num_classes, in_channels, mean, std, precision, batchnorm_groups,
        remat, rngs, padding, momentum, activation, normalizes_input,
    ):  # fmt: skip
        if depth < 10 or (depth - 4) % 6 or width < 1:
            below = max(10, depth - (depth - 4) % 6)
            raise UserError(
                f"config.model.name asks for depth {depth} and width {width}; a WideResNet has "
                f"depth 6n + 4 (10, 16, 22, 28, 34, ...) and width 1 or more; use {below} or "
                f"{below + 6}"
            )
        conv = functools.partial(
            layers.Conv, padding=padding, init=layers.fan_out_normal, precision=precision
        )
        batchnorm = functools.partial(
            layers.BatchNorm, momentum=momentum, groups=batchnorm_groups
        )  # fmt: skip
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.init_conv = conv(in_channels, widths[0], 3, 1, rngs=rngs)
        for group, stride in enumerate((1, 2, 2)):
            blocks = {}
            for index in range((depth - 4) // 6):
                blocks[f"block_{index}"] = Block(
                    widths[group] if index == 0 else widths[group + 1],
                    widths[group + 1],
                    stride if index == 0 else 1,
                    conv=conv, batchnorm=batchnorm, activation=activation, rngs=rngs,
                )  # fmt: skip
            setattr(self, f"layer_{group}", nnx.Dict(blocks))
        self.batchnorm = batchnorm(widths[-1])
        self.logits = layers.Linear(
            widths[-1], num_classes, bias_init=layers.zero_bias, precision=precision, rngs=rngs
        )
        self.activation, self.remat, self.batchnorm_momentum = activation, remat, momentum
        self.mean_std = (mean, std) if normalizes_input else None

    def __call__(self, images, mode):
        x = layers.normalize(images, *self.mean_std) if self.mean_std else images
        x = self.init_conv(x)
        for group in (self.layer_0, self.layer_1, self.layer_2):
            x = layers.run_blocks(group, x, mode, remat=self.remat)
        x = self.activation(self.batchnorm(x, mode))
        return self.logits(x.mean(axis=(1, 2)))


def swish(depth: int, width: int, **arguments) -> WideResNet:
    """`wrn-D-W-swish`: 'SAME' padding, BatchNorm momentum .01, input normalised inside."""
    return WideResNet(
        depth, width, padding=layers.same_padding, momentum=0.01, activation=jax.nn.silu,
        normalizes_input=True, **arguments,
    )  # fmt: skip


def relu(depth: int, width: int, **arguments) -> WideResNet:
    """`wrn-D-W-relu`: symmetric padding, BatchNorm momentum .1, images taken as they are."""
    return WideResNet(
        depth, width, padding=layers.symmetric_padding, momentum=0.1, activation=jax.nn.relu,
        normalizes_input=False, **arguments,
    )  # fmt: skip
