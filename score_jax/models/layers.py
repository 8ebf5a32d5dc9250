"""The layers all networks are made of: convolution, BatchNorm, dropout, linear, max pooling."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from score_jax.types import Array, Key, lookup

Padding = tuple[tuple[int, int], tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Mode:
    """What one forward pass asks of the BatchNorm and dropout layers.

    Attributes:
      by_batch: normalise by this batch's moments and record them; else by running averages.
      momentum: f32[] overriding the layers' own, or None.
      dropout_key: draws the masks; None where dropout is off.
    """

    by_batch: bool
    momentum: Array | float | None = None
    dropout_key: Key | None = None


@dataclasses.dataclass(frozen=True)
class Precision:
    """How a network computes: the activations' dtype (None: the parameters') and the products."""

    dtype: Any
    products: lax.Precision

    @staticmethod
    def of(name: str) -> "Precision":
        return lookup(PRECISIONS, "precision", name)


PRECISIONS = {
    "float32": Precision(None, lax.Precision.HIGHEST),
    "tf32": Precision(None, lax.Precision.DEFAULT),
    "bfloat16": Precision(jnp.bfloat16, lax.Precision.DEFAULT),
}


class KernelParam(nnx.Param):
    role = "kernel"


class BiasParam(nnx.Param):
    role = "bias"


class BatchNormParam(nnx.Param):
    role = "batchnorm"


_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _plain_convolution(images, kernel, stride, padding, precision):
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), padding,
        dimension_numbers=_DIMENSIONS, precision=precision,
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolution(
    images: Array, kernel: Array, stride: int, padding: Padding, precision: lax.Precision
) -> Array:
    """Convolves f[b, h, w, c] with a kernel f[kh, kw, c, o].

    The gradient with respect to the images is written out as a convolution of the cotangent with
    the flipped kernel, its channel axes swapped. XLA derives the same numbers, but inside a loop
    on the CPU its form leaves the fast path, and the attack is such a loop.
    """
    return _plain_convolution(images, kernel, stride, padding, precision)


def _convolution_forward(images, kernel, stride, padding, precision):
    return _plain_convolution(images, kernel, stride, padding, precision), (images, kernel)


def _convolution_backward(stride, padding, precision, saved, cotangent):
    images, kernel = saved
    pads = []
    for axis in (0, 1):
        size, taps = images.shape[1 + axis], kernel.shape[axis]
        dilated = (cotangent.shape[1 + axis] - 1) * stride + 1
        low = taps - 1 - padding[axis][0]
        pads.append((low, size + taps - 1 - dilated - low))
    image_gradient = lax.conv_general_dilated(
        cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), (1, 1), pads,
        lhs_dilation=(stride, stride), dimension_numbers=_DIMENSIONS, precision=precision,
    )  # fmt: skip
    # Unused in the attack, where the compiler drops it.
    _, kernel_vjp = jax.vjp(
        lambda k: _plain_convolution(images, k, stride, padding, precision), kernel
    )
    return image_gradient, kernel_vjp(cotangent)[0]


convolution.defvjp(_convolution_forward, _convolution_backward)


def symmetric_padding(size: int, stride: int) -> Padding:
    """PyTorch's `padding=size // 2`."""
    del stride
    return ((size // 2, size // 2),) * 2


def same_padding(size: int, stride: int) -> Padding:
    """What 'SAME' gives on even image sizes: at stride 2 only right and bottom are padded."""
    low = (size - stride) // 2 if size > stride else 0
    return ((low, max(size - stride, 0) - low),) * 2


class Conv(nnx.Module):
    """A convolution, with a bias where `bias_init` is given."""

    def __init__(
        self, in_channels, out_channels, size, stride, *, padding, init, precision, rngs,
        bias_init=None,
    ):  # fmt: skip
        shape = (size, size, in_channels, out_channels)
        self.kernel = KernelParam(init(rngs.params(), shape))
        self.bias = BiasParam(bias_init(rngs.params(), shape)) if bias_init else None
        self.stride, self.padding, self.precision = stride, padding(size, stride), precision

    def __call__(self, x):
        kernel = self.kernel[...]
        dtype = self.precision.dtype or kernel.dtype
        out = convolution(
            x.astype(dtype), kernel.astype(dtype), self.stride, self.padding,
            self.precision.products,
        )  # fmt: skip
        return out if self.bias is None else out + self.bias[...].astype(dtype)[None, None, None]


class Linear(nnx.Module):
    """A linear layer; its result is never narrower than the parameters."""

    def __init__(self, in_features, out_features, *, init, bias_init, precision, rngs):
        shape = (in_features, out_features)
        self.kernel = KernelParam(init(rngs.params(), shape))
        self.bias = BiasParam(bias_init(rngs.params(), shape))
        self.precision = precision

    def __call__(self, x):
        kernel = self.kernel[...]
        dtype = self.precision.dtype or kernel.dtype
        product = jnp.matmul(
            x.astype(dtype), kernel.astype(dtype),
            precision=self.precision.products, preferred_element_type=kernel.dtype,
        )  # fmt: skip
        return product + self.bias[...][None, :]


class Dropout(nnx.Module):
    """Inverted dropout as PyTorch does it: kept values are divided by the share that is kept.

    The mask is a function of the pass's key and of `number`, by which the layers of a network
    differ, and of nothing else: no state, and the same mask however the batch is spread over
    devices. With `by_channel` whole channels f[b, :, :, c] are dropped.
    """

    def __init__(self, rate: float, number: int, *, by_channel: bool = False):
        self.rate, self.number, self.by_channel = rate, number, by_channel

    def __call__(self, x, mode: Mode):
        if mode.dropout_key is None or self.rate == 0:
            return x
        shape = (x.shape[0], 1, 1, x.shape[-1]) if self.by_channel else x.shape
        key = jax.random.fold_in(mode.dropout_key, self.number)
        kept = jax.random.bernoulli(key, 1 - self.rate, shape)
        return jnp.where(kept, x / (1 - self.rate), 0)


def numbered_dropout(rate: float) -> Callable[[], Dropout]:
    """A maker of Dropout layers of one network, each with its own number."""
    numbers = itertools.count()
    return lambda: Dropout(rate, next(numbers))


class BatchNorm(nnx.Module):
    """Batch normalisation as PyTorch does it.

    The running variance is the unbiased one; with `unbiased=False` the biased one, as Haiku and
    Flax record it. With G groups the batch is cut into G equal contiguous parts, each normalised by
    its own moments, and the running averages follow the first part: what DataParallel's replicas
    and DeepMind's pmap workers do. G belongs to the recipe, not to the machine.
    """

    eps = 1e-5

    def __init__(self, channels, *, momentum, groups, unbiased=True):
        zeros, ones = jnp.zeros(channels, jnp.float32), jnp.ones(channels, jnp.float32)
        self.scale, self.bias = BatchNormParam(ones), BatchNormParam(zeros)
        self.mean, self.var = nnx.BatchStat(zeros), nnx.BatchStat(ones)
        self.momentum, self.groups, self.unbiased = momentum, groups, unbiased

    def __call__(self, x, mode: Mode):
        groups = self.groups if mode.by_batch else 1
        if x.shape[0] % groups:
            raise ValueError(f"a batch of {x.shape[0]} does not divide into {groups} groups")
        grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
        wide = grouped.astype(self.scale.dtype)
        if mode.by_batch:
            mean = _moment(wide)
            # Two passes: E[x²] - E[x]² loses digits where the mean is large.
            var = _moment(jnp.square(wide - _spread(mean)))
            self._record(mean[0], var[0], wide[0].size // x.shape[-1], mode.momentum)
        else:
            mean, var = self.mean[...][None], self.var[...][None]
        factor = self.scale[...][None] * lax.rsqrt(var + self.eps)
        offset = self.bias[...][None] - mean * factor
        return (wide * _spread(factor) + _spread(offset)).astype(x.dtype).reshape(x.shape)

    def _record(self, mean, var, count, momentum):
        momentum = jnp.asarray(self.momentum if momentum is None else momentum, mean.dtype)
        if self.unbiased:
            var = var * (count / max(count - 1, 1))
        for average, value in ((self.mean, mean), (self.var, var)):
            average[...] = (1 - momentum) * average[...] + momentum * lax.stop_gradient(value)


def _moment(grouped: Array) -> Array:
    """The mean of f[g, b, h, w, c] per group and channel, f[g, c].

    First over each image, then over images: one long sum in float32 loses digits, and differently
    on different numbers of devices.
    """
    return grouped.mean(axis=(2, 3)).mean(axis=1)


def _spread(per_channel: Array) -> Array:
    """f[g, c] as f[g, 1, 1, 1, c], beside grouped activations."""
    return per_channel[:, None, None, None]


def max_pool(x: Array, size: int, stride: int, padding: int = 0) -> Array:
    """The largest of each window of f[b, h, w, c], as PyTorch's MaxPool2d.

    The gradient goes to the first of equal values, row by row, and NaN stays NaN. Comparisons of
    shifted views: XLA's own gradient of a window's maximum leaves the CPU's fast path.
    """
    height, width = ((side + 2 * padding - size) // stride + 1 for side in x.shape[1:3])
    if padding:
        edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        x = jnp.pad(x, edges, constant_values=-jnp.inf)
    largest = None
    for top in range(size):
        rows = x[:, top : top + stride * (height - 1) + 1 : stride]
        for left in range(size):
            view = rows[:, :, left : left + stride * (width - 1) + 1 : stride]
            if largest is None:
                largest = view
            else:
                largest = jnp.where((view > largest) | jnp.isnan(view), view, largest)
    return largest


def flatten(x: Array) -> Array:
    """f[b, h, w, c] as f[b, c·h·w], channels first: the order of PyTorch's linear weights."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def normalize(images: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """(images - mean) / std per channel, in the images' dtype."""
    center, scale = (jnp.asarray(v, images.dtype)[None, None, None] for v in (mean, std))
    return (images - center) / scale
