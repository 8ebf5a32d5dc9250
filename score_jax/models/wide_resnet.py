"""WideResNet in the two lineages that robustness papers use.

Swish: Gowal et al. (2020), the SCORE code and RobustBench's DMWideResNet. ReLU: the TRADES code and
RobustBench's WideResNet. The graph is the same; padding, momentum and normalisation differ.
"""

import functools

import jax
from flax import nnx

from score_jax.models import initializers, layers
from score_jax.models.assembly import Options, add_groups, run_groups
from score_jax.types import UserError


class Block(nnx.Module):
    """BatchNorm, activation, convolution, twice, plus the input.

    Where the width changes, the skip is a 1x1 convolution of the activated input; elsewhere it is
    the raw input. Dropout stands before the second convolution (Yang et al., 2020).
    """

    def __init__(
        self, in_channels, channels, stride, *, conv, batchnorm, dropout, activation, rngs
    ):  # fmt: skip
        self.batchnorm_0 = batchnorm(in_channels)
        self.conv_0 = conv(in_channels, channels, 3, stride, rngs=rngs)
        self.batchnorm_1 = batchnorm(channels)
        self.dropout = dropout()
        self.conv_1 = conv(channels, channels, 3, 1, rngs=rngs)
        self.shortcut = (
            conv(in_channels, channels, 1, stride, rngs=rngs) if in_channels != channels else None
        )
        self.activation = activation

    def __call__(self, x, mode):
        activated = self.activation(self.batchnorm_0(x, mode))
        skip = x if self.shortcut is None else self.shortcut(activated)
        out = self.activation(self.batchnorm_1(self.conv_0(activated), mode))
        return self.conv_1(self.dropout(out, mode)) + skip


class WideResNet(nnx.Module):
    """Three groups of (depth - 4) / 6 blocks at widths 16, 32, 64 times `width`."""

    def __init__(
        self, depth, width, options: Options, *, padding, momentum, activation, normalizes_input,
        rngs,
    ):  # fmt: skip
        if depth < 10 or (depth - 4) % 6 or width < 1:
            below = max(10, depth - (depth - 4) % 6)
            raise UserError(
                f"config.model.name asks for depth {depth} and width {width}; a WideResNet has "
                f"depth 6n + 4 (10, 16, 22, 28, 34, ...) and width 1 or more; use {below} or "
                f"{below + 6}"
            )
        conv = options.conv(padding=padding, init=initializers.fan_out_normal)
        batchnorm = options.batchnorm(momentum=momentum)
        block = functools.partial(
            Block, conv=conv, batchnorm=batchnorm, activation=activation,
            dropout=layers.numbered_dropout(options.dropout), rngs=rngs,
        )  # fmt: skip
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.init_conv = conv(options.image_shape[-1], widths[0], 3, 1, rngs=rngs)
        counts = ((depth - 4) // 6,) * 3
        add_groups(self, block, counts=counts, widths=widths, strides=(1, 2, 2))
        self.batchnorm = batchnorm(widths[-1])
        self.logits = options.logits(widths[-1], bias_init=initializers.zero_bias, rngs=rngs)
        self.activation, self.remat, self.batchnorm_momentum = activation, options.remat, momentum
        self.mean_std = (options.mean, options.std) if normalizes_input else None

    def __call__(self, images, mode):
        x = layers.normalize(images, *self.mean_std) if self.mean_std else images
        x = run_groups(self, self.init_conv(x), mode, remat=self.remat)
        x = self.activation(self.batchnorm(x, mode))
        return self.logits(x.mean(axis=(1, 2)))


def swish(depth: int, width: int, options: Options, *, rngs: nnx.Rngs) -> WideResNet:
    """`wrn-D-W-swish`: 'SAME' padding, BatchNorm momentum .01, input normalised inside."""
    return WideResNet(
        depth, width, options, padding=layers.same_padding, momentum=0.01,
        activation=jax.nn.silu, normalizes_input=True, rngs=rngs,
    )  # fmt: skip


def relu(
    depth: int, width: int, options: Options, *, rngs: nnx.Rngs, normalizes_input: bool = False
) -> WideResNet:
    """`wrn-D-W-relu`: symmetric padding, BatchNorm momentum .1, images taken as they are."""
    return WideResNet(
        depth, width, options, padding=layers.symmetric_padding, momentum=0.1,
        activation=jax.nn.relu, normalizes_input=normalizes_input, rngs=rngs,
    )  # fmt: skip


def normalized_relu(depth: int, width: int, options: Options, *, rngs: nnx.Rngs) -> WideResNet:
    """`wrn-D-W-relu-normalized`: the ReLU form with its input normalised inside (Rice et al.)."""
    return relu(depth, width, options, rngs=rngs, normalizes_input=True)
