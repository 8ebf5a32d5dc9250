"""What the networks share beyond layers: the options of `create`, and groups of blocks."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from flax import nnx

from score_jax.models import initializers, layers
from score_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What `models.create` asks of a network; the fields are explained there."""

    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: layers.Precision
    remat: bool = False
    batchnorm_groups: int = 1
    batchnorm_unbiased: bool = True
    dropout: float = 0.0
    init: str = "torch"

    def conv(self, *, padding, init, bias_init=None) -> Callable[..., layers.Conv]:
        """A maker of convolutions; where Haiku's initialisation is asked for, it replaces `init`.

        The maker takes (in_channels, out_channels, size, stride, rngs=...).
        """
        if self.init == "haiku":
            init = initializers.fan_in_truncated_normal
        return functools.partial(
            layers.Conv, padding=padding, init=init, bias_init=bias_init, precision=self.precision
        )

    def batchnorm(self, *, momentum: float) -> Callable[[int], layers.BatchNorm]:
        """A maker of BatchNorm layers, of a number of channels."""
        return functools.partial(
            layers.BatchNorm, momentum=momentum, groups=self.batchnorm_groups,
            unbiased=self.batchnorm_unbiased,
        )  # fmt: skip

    def logits(self, in_features: int, *, bias_init, rngs) -> layers.Linear:
        """The last layer: PyTorch's kernel and the given bias, or Haiku's zeros."""
        haiku = self.init == "haiku"
        return layers.Linear(
            in_features,
            self.num_classes,
            init=initializers.zeros if haiku else initializers.fan_in_uniform,
            bias_init=initializers.zero_bias if haiku else bias_init,
            precision=self.precision,
            rngs=rngs,
        )


def add_groups(
    network: nnx.Module,
    block: Callable[[int, int, int], nnx.Module],
    *,
    counts: Sequence[int],
    widths: Sequence[int],
    strides: Sequence[int],
) -> None:
    """Gives the network layer_0, layer_1, ...: groups of blocks block_0, block_1, ...

    Args:
      block: (in_channels, channels, stride) -> a module of (x, mode).
      counts: blocks in each group.
      widths: channels before the first group and after each.
      strides: of the first block of each group; the others have 1.
    """
    for group, (count, stride) in enumerate(zip(counts, strides, strict=True)):
        before, channels = widths[group : group + 2]
        blocks = {"block_0": block(before, channels, stride)}
        for index in range(1, count):
            blocks[f"block_{index}"] = block(channels, channels, 1)
        setattr(network, f"layer_{group}", nnx.Dict(blocks))
    network.num_groups = len(counts)


def run_groups(network: nnx.Module, x: Array, mode: layers.Mode, *, remat: bool) -> Array:
    """Runs what `add_groups` gave; with `remat` each block keeps only its input."""
    for group in range(network.num_groups):
        x = run_blocks(getattr(network, f"layer_{group}"), x, mode, remat=remat)
    return x


def run_blocks(blocks: nnx.Dict, x: Array, mode: layers.Mode, *, remat: bool) -> Array:
    """Runs the blocks of one group in order."""
    for index in range(len(blocks)):  # By number: the keys themselves sort as strings.
        block = blocks[f"block_{index}"]
        x = nnx.remat(lambda block, x: block(x, mode))(block, x) if remat else block(x, mode)
    return x
