"""The networks, behind one functional seam. `create` is the only way in."""

import dataclasses
import re
from collections.abc import Callable

from flax import nnx

from score_jax.models import plain_cnn, preact_resnet, resnet, small_cnn, wide_resnet
from score_jax.models.assembly import Options
from score_jax.models.classifier import Classifier, NormalizeBy, from_nnx
from score_jax.models.layers import Precision
from score_jax.types import UserError, lookup, nearest

__all__ = ["Classifier", "NormalizeBy", "create", "known_names"]


@dataclasses.dataclass(frozen=True)
class Network:
    """An entry of MODELS.

    Attributes:
      pattern: of the name; its groups are numbers, the leading arguments of `build`.
      build: (*numbers, options, rngs=...) -> module.
      takes_dropout: whether config.model.dropout has a place in it.
      takes_init: whether config.model.init may be other than 'torch'.
    """

    pattern: str
    build: Callable[..., nnx.Module]
    takes_dropout: bool = False
    takes_init: bool = False


MODELS = {
    "wrn-D-W-swish": Network(
        r"wrn-(\d+)-(\d+)-swish", wide_resnet.swish, takes_dropout=True, takes_init=True
    ),
    "wrn-D-W-relu": Network(
        r"wrn-(\d+)-(\d+)-relu", wide_resnet.relu, takes_dropout=True, takes_init=True
    ),
    "wrn-D-W-relu-normalized": Network(
        r"wrn-(\d+)-(\d+)-relu-normalized",
        wide_resnet.normalized_relu,
        takes_dropout=True,
        takes_init=True,
    ),
    "preact-resnet-18-swish": Network(
        "preact-resnet-18-swish", preact_resnet.swish, takes_init=True
    ),
    "preact-resnet-18-relu": Network("preact-resnet-18-relu", preact_resnet.relu, takes_init=True),
    "preact-resnet-18-relu-normalized": Network(
        "preact-resnet-18-relu-normalized", preact_resnet.normalized_relu, takes_init=True
    ),
    "preact-resnet-18-headless": Network(
        "preact-resnet-18-headless", preact_resnet.headless, takes_init=True
    ),
    "resnet-18": Network("resnet-18", resnet.resnet_18),
    "resnet-50": Network("resnet-50", resnet.resnet_50, takes_dropout=True),
    "small-cnn": Network("small-cnn", plain_cnn.SmallCNN),
    "cnn-001": Network("cnn-001", plain_cnn.CNN001),
    "cnn-002": Network("cnn-002", plain_cnn.CNN002),
    "cnn-3": Network("cnn-3", small_cnn.SmallCNN, takes_dropout=True),
}
INITS = {"torch": "PyTorch's, or the lineage's own", "haiku": "DeepMind's"}


def known_names() -> list[str]:
    """The names that `create` understands; D and W stand for numbers."""
    return sorted(MODELS)


def _network(name: str) -> tuple[Network, tuple[int, ...]]:
    for network in MODELS.values():
        if match := re.fullmatch(network.pattern, name):
            return network, tuple(map(int, match.groups()))
    close = nearest(name, MODELS)
    hint = f"; did you mean the form {close!r}?" if close else "."
    raise UserError(f"unknown config.model.name {name!r}; known: {', '.join(known_names())}{hint}")


def create(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    precision: str = "float32",
    remat: bool = False,
    batchnorm_groups: int = 1,
    batchnorm_unbiased: bool = True,
    dropout: float = 0.0,
    init: str = "torch",
) -> Classifier:
    """Builds a classifier of images f32[b, h, w, c] in [0, 1].

    Args:
      name: one of `known_names()`, for example `wrn-28-10-swish`.
      num_classes: width of the logits.
      image_shape: (h, w, c) of the images.
      mean: per channel, in [0, 1]; used by the networks that normalise their input.
      std: the same.
      precision: 'float32' (full precision products), 'tf32' (the platform's fast float32) or
        'bfloat16' (computes in bf16; parameters, BatchNorm statistics and logits stay f32).
      remat: recompute each block in the backward pass, for memory.
      batchnorm_groups: batch statistics are taken over this many equal, contiguous groups.
      batchnorm_unbiased: the running variance follows the unbiased batch variance (PyTorch), or
        the biased one (Haiku).
      dropout: the rate, in [0, 1), where the network has a place for it; active only in passes
        that are given a dropout_key. No parameter depends on it.
      init: 'torch', PyTorch's or the lineage's own, or 'haiku': N(0, 1 / fan_in) convolutions cut
        at two deviations and zero logits, as DeepMind's code starts.

    Raises:
      UserError: the name, or its depth, is unknown, or the network does not take the option or
        the image size.
    """
    network, numbers = _network(name)
    lookup(INITS, "config.model.init", init)
    if not 0 <= dropout < 1:
        raise UserError(f"config.model.dropout={dropout} is no rate; use 0.0 up to, not with, 1.0")
    if dropout and not network.takes_dropout:
        raise UserError(
            f"config.model.dropout={dropout} has no place in {name!r}; use 0.0, or one of: "
            + ", ".join(known for known in known_names() if MODELS[known].takes_dropout)
        )
    if init != "torch" and not network.takes_init:
        raise UserError(
            f"config.model.init={init!r} is not defined for {name!r}; use 'torch', or one of: "
            + ", ".join(known for known in known_names() if MODELS[known].takes_init)
        )
    options = Options(
        num_classes=num_classes,
        image_shape=tuple(image_shape),
        mean=tuple(mean),
        std=tuple(std),
        precision=Precision.of(precision),
        remat=remat,
        batchnorm_groups=batchnorm_groups,
        batchnorm_unbiased=batchnorm_unbiased,
        dropout=dropout,
        init=init,
    )
    return from_nnx(lambda rngs: network.build(*numbers, options, rngs=rngs), image_shape)
