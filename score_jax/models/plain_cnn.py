"""The papers' networks of plain convolutions and linear layers; images are taken as they are.

Their linear layers are sized by the images: 28x28 gives CNN001 and CNN002 of Yang et al. (2020) -
the second is the SmallCNN of the TRADES code - and 32x32 the SmallCNN of the GAIRAT code.
"""

import functools
from collections.abc import Callable

import jax
from flax import nnx

from score_jax.models import initializers, layers
from score_jax.models.assembly import Options
from score_jax.types import UserError

relu = jax.nn.relu


def no_padding(size: int, stride: int) -> layers.Padding:
    """None: a 3x3 convolution takes a pixel from each edge."""
    del size, stride
    return ((0, 0), (0, 0))


def _num_features(
    name: str, options: Options, channels: int, remaining: Callable[[int], int], smallest: int
) -> int:
    """Width of the flattened features; `remaining` is what a side of the image shrinks to."""
    height, width, _ = options.image_shape
    if min(height, width) < smallest:
        raise UserError(
            f"config.model.name={name!r} needs images of {smallest} pixels or more, these have "
            f"{height}x{width}; use a network that averages over space, such as 'cnn-3'"
        )
    return channels * remaining(height) * remaining(width)


def _linear(options: Options, rngs: nnx.Rngs) -> Callable[[int, int], layers.Linear]:
    return functools.partial(
        layers.Linear, init=initializers.fan_in_uniform, bias_init=initializers.fan_in_bias,
        precision=options.precision, rngs=rngs,
    )  # fmt: skip


class CNN001(nnx.Module):
    """`cnn-001`: two convolutions, the second without a ReLU; dropout .25 of channels, and .5."""

    batchnorm_momentum = 0.0

    def __init__(self, options: Options, *, rngs: nnx.Rngs):
        features = _num_features("cnn-001", options, 64, lambda side: (side - 4) // 2, 6)
        conv = options.conv(
            padding=no_padding, init=initializers.fan_in_uniform,
            bias_init=initializers.fan_in_bias,
        )  # fmt: skip
        self.conv_0 = conv(options.image_shape[-1], 32, 3, 1, rngs=rngs)
        self.conv_1 = conv(32, 64, 3, 1, rngs=rngs)
        self.dropout_0 = layers.Dropout(0.25, 0, by_channel=True)
        self.fc = _linear(options, rngs)(features, 128)
        self.dropout_1 = layers.Dropout(0.5, 1)
        self.logits = options.logits(128, bias_init=initializers.fan_in_bias, rngs=rngs)

    def __call__(self, images, mode):
        x = layers.max_pool(self.conv_1(relu(self.conv_0(images))), 2, 2)
        x = relu(self.fc(layers.flatten(self.dropout_0(x, mode))))
        return self.logits(self.dropout_1(x, mode))


class CNN002(nnx.Module):
    """`cnn-002`: four convolutions, three linear layers, the last zero; dropout .5."""

    batchnorm_momentum = 0.0

    def __init__(self, options: Options, *, rngs: nnx.Rngs):
        features = _num_features(
            "cnn-002", options, 64, lambda side: ((side - 4) // 2 - 4) // 2, 16
        )  # fmt: skip
        conv = functools.partial(
            options.conv(
                padding=no_padding, init=initializers.fan_in_normal,
                bias_init=initializers.zero_bias,
            ),
            rngs=rngs,
        )  # fmt: skip
        self.conv_0, self.conv_1 = conv(options.image_shape[-1], 32, 3, 1), conv(32, 32, 3, 1)
        self.conv_2, self.conv_3 = conv(32, 64, 3, 1), conv(64, 64, 3, 1)
        linear = _linear(options, rngs)
        self.fc_0, self.fc_1 = linear(features, 200), linear(200, 200)
        self.dropout = layers.Dropout(0.5, 0)
        self.logits = linear(
            200, options.num_classes, init=initializers.zeros, bias_init=initializers.zero_bias
        )

    def __call__(self, images, mode):
        x = layers.max_pool(relu(self.conv_1(relu(self.conv_0(images)))), 2, 2)
        x = layers.max_pool(relu(self.conv_3(relu(self.conv_2(x)))), 2, 2)
        x = self.dropout(relu(self.fc_0(layers.flatten(x))), mode)
        return self.logits(relu(self.fc_1(x)))


class SmallCNN(nnx.Module):
    """`small-cnn`: six convolutions with BatchNorm, pooled after every second; no dropout."""

    batchnorm_momentum = 0.1

    def __init__(self, options: Options, *, rngs: nnx.Rngs):
        features = _num_features("small-cnn", options, 196, lambda side: side // 8, 8)
        conv = options.conv(
            padding=layers.symmetric_padding, init=initializers.fan_in_uniform,
            bias_init=initializers.fan_in_bias,
        )  # fmt: skip
        batchnorm = options.batchnorm(momentum=self.batchnorm_momentum)
        widths = (options.image_shape[-1], 64, 64, 128, 128, 196, 196)
        for index in range(6):
            before, channels = widths[index : index + 2]
            setattr(self, f"conv_{index}", conv(before, channels, 3, 1, rngs=rngs))
            setattr(self, f"batchnorm_{index}", batchnorm(channels))
        self.fc = _linear(options, rngs)(features, 256)
        self.logits = options.logits(256, bias_init=initializers.fan_in_bias, rngs=rngs)

    def __call__(self, x, mode):
        for index in range(6):
            conv, batchnorm = getattr(self, f"conv_{index}"), getattr(self, f"batchnorm_{index}")
            x = relu(batchnorm(conv(x), mode))
            if index % 2:
                x = layers.max_pool(x, 2, 2)
        return self.logits(relu(self.fc(layers.flatten(x))))
