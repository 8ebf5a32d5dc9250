"""ResNets with the activation last, in the two forms that robustness papers use.

ResNet-18 with the 3x3 stem: the MART and GAIRAT code. ResNet-50 with the stem of ImageNet: Yang et
al. (2020) on Restricted ImageNet at 64 pixels.
"""

import functools

import jax
from flax import nnx

from score_jax.models import initializers, layers
from score_jax.models.assembly import Options, add_groups, run_groups


class Shortcut(nnx.Module):
    """A 1x1 convolution and BatchNorm, where a block changes width or size."""

    def __init__(self, in_channels, channels, stride, *, conv, batchnorm):
        self.conv, self.batchnorm = conv(in_channels, channels, 1, stride), batchnorm(channels)

    def __call__(self, x, mode):
        return self.batchnorm(self.conv(x), mode)

    @classmethod
    def where_needed(cls, in_channels, channels, stride, **makers):
        """None where the input itself can be added."""
        if stride == 1 and in_channels == channels:
            return None
        return cls(in_channels, channels, stride, **makers)


class BasicBlock(nnx.Module):
    """Convolution, BatchNorm, ReLU, convolution, BatchNorm; the sum with the input; ReLU."""

    def __init__(self, in_channels, channels, stride, *, conv, batchnorm, dropout):
        del dropout  # Nobody's ResNet-18 has a place for it.
        self.conv_0, self.batchnorm_0 = conv(in_channels, channels, 3, stride), batchnorm(channels)
        self.conv_1, self.batchnorm_1 = conv(channels, channels, 3, 1), batchnorm(channels)
        self.shortcut = Shortcut.where_needed(
            in_channels, channels, stride, conv=conv, batchnorm=batchnorm
        )

    def __call__(self, x, mode):
        skip = x if self.shortcut is None else self.shortcut(x, mode)
        out = jax.nn.relu(self.batchnorm_0(self.conv_0(x), mode))
        return jax.nn.relu(self.batchnorm_1(self.conv_1(out), mode) + skip)


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions, inside at a quarter of the width.

    Dropout stands before the last convolution, in blocks without a shortcut only: the code of Yang
    et al. (2020) does not pass the rate to the first block of a group.
    """

    def __init__(self, in_channels, channels, stride, *, conv, batchnorm, dropout):
        inside = channels // 4
        self.conv_0, self.batchnorm_0 = conv(in_channels, inside, 1, 1), batchnorm(inside)
        self.conv_1, self.batchnorm_1 = conv(inside, inside, 3, stride), batchnorm(inside)
        self.conv_2, self.batchnorm_2 = conv(inside, channels, 1, 1), batchnorm(channels)
        self.shortcut = Shortcut.where_needed(
            in_channels, channels, stride, conv=conv, batchnorm=batchnorm
        )
        self.dropout = dropout() if self.shortcut is None else None

    def __call__(self, x, mode):
        skip = x if self.shortcut is None else self.shortcut(x, mode)
        out = jax.nn.relu(self.batchnorm_0(self.conv_0(x), mode))
        out = jax.nn.relu(self.batchnorm_1(self.conv_1(out), mode))
        if self.dropout is not None:
            out = self.dropout(out, mode)
        return jax.nn.relu(self.batchnorm_2(self.conv_2(out), mode) + skip)


class ResNet(nnx.Module):
    """A stem of 64 channels and four groups of blocks; images are taken as they are."""

    batchnorm_momentum = 0.1

    def __init__(self, options: Options, *, block, counts, widths, imagenet_stem, init, rngs):
        conv = functools.partial(
            options.conv(padding=layers.symmetric_padding, init=init), rngs=rngs
        )  # fmt: skip
        batchnorm = options.batchnorm(momentum=self.batchnorm_momentum)
        channels = options.image_shape[-1]
        self.conv = conv(channels, 64, 7, 2) if imagenet_stem else conv(channels, 64, 3, 1)
        self.batchnorm = batchnorm(64)
        make_block = functools.partial(
            block, conv=conv, batchnorm=batchnorm,
            dropout=layers.numbered_dropout(options.dropout),
        )  # fmt: skip
        add_groups(self, make_block, counts=counts, widths=(64, *widths), strides=(1, 2, 2, 2))
        self.logits = options.logits(widths[-1], bias_init=initializers.fan_in_bias, rngs=rngs)
        self.imagenet_stem, self.remat = imagenet_stem, options.remat

    def __call__(self, images, mode):
        x = jax.nn.relu(self.batchnorm(self.conv(images), mode))
        if self.imagenet_stem:
            x = layers.max_pool(x, 3, 2, padding=1)
        x = run_groups(self, x, mode, remat=self.remat)
        return self.logits(x.mean(axis=(1, 2)))


def resnet_18(options: Options, *, rngs: nnx.Rngs) -> ResNet:
    """`resnet-18`: basic blocks, the 3x3 stem, PyTorch's default initialisation."""
    return ResNet(
        options, block=BasicBlock, counts=(2, 2, 2, 2), widths=(64, 128, 256, 512),
        imagenet_stem=False, init=initializers.fan_in_uniform, rngs=rngs,
    )  # fmt: skip


def resnet_50(options: Options, *, rngs: nnx.Rngs) -> ResNet:
    """`resnet-50`: bottlenecks, the 7x7 stem with pooling, torchvision's initialisation."""
    return ResNet(
        options, block=Bottleneck, counts=(3, 4, 6, 3), widths=(256, 512, 1024, 2048),
        imagenet_stem=True, init=initializers.fan_out_normal, rngs=rngs,
    )  # fmt: skip
