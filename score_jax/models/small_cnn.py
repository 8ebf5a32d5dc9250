"""A network of three convolutions for 8x8 digits: minutes on a laptop, AutoAttack included."""

import functools

import jax
from flax import nnx

from score_jax.models import initializers, layers
from score_jax.models.assembly import Options


class SmallCNN(nnx.Module):
    """`cnn-3`: three times convolution, BatchNorm, ReLU; the mean over space; a linear layer.

    Dropout stands before the second and the third convolution.
    """

    batchnorm_momentum = 0.1

    def __init__(self, options: Options, *, rngs: nnx.Rngs):
        conv = functools.partial(
            options.conv(padding=layers.symmetric_padding, init=initializers.fan_out_normal),
            rngs=rngs,
        )
        batchnorm = options.batchnorm(momentum=self.batchnorm_momentum)
        self.conv_0, self.batchnorm_0 = conv(options.image_shape[-1], 32, 3, 1), batchnorm(32)
        self.conv_1, self.batchnorm_1 = conv(32, 64, 3, 2), batchnorm(64)
        self.conv_2, self.batchnorm_2 = conv(64, 64, 3, 1), batchnorm(64)
        dropout = layers.numbered_dropout(options.dropout)
        self.dropout_0, self.dropout_1 = dropout(), dropout()
        self.logits = options.logits(64, bias_init=initializers.zero_bias, rngs=rngs)
        self.mean_std = (options.mean, options.std)

    def __call__(self, images, mode):
        x = layers.normalize(images, *self.mean_std)
        x = jax.nn.relu(self.batchnorm_0(self.conv_0(x), mode))
        x = jax.nn.relu(self.batchnorm_1(self.conv_1(self.dropout_0(x, mode)), mode))
        x = jax.nn.relu(self.batchnorm_2(self.conv_2(self.dropout_1(x, mode)), mode))
        return self.logits(x.mean(axis=(1, 2)))
