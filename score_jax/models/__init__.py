"""The networks, behind one functional seam. `create` is the only way in."""

import functools
import re
from collections.abc import Callable

from flax import nnx

from score_jax.models import preact_resnet, small_cnn, wide_resnet
from score_jax.models.classifier import Classifier, NormalizeBy, from_nnx
from score_jax.models.layers import Precision
from score_jax.types import UserError, nearest

__all__ = ["Classifier", "NormalizeBy", "create", "known_names"]

# A pattern's groups are the builder's leading arguments; the others are those given in `create`.
MODELS: dict[str, tuple[str, Callable[..., nnx.Module]]] = {
    "wrn-D-W-swish": (r"wrn-(\d+)-(\d+)-swish", wide_resnet.swish),
    "wrn-D-W-relu": (r"wrn-(\d+)-(\d+)-relu", wide_resnet.relu),
    "preact-resnet-18-swish": (r"preact-resnet-(18)-swish", preact_resnet.swish),
    "preact-resnet-18-relu": (r"preact-resnet-(18)-relu", preact_resnet.relu),
    "cnn-3": (r"cnn-(3)", small_cnn.build),
}


def known_names() -> list[str]:
    """The names that `create` understands; D and W stand for numbers."""
    return sorted(MODELS)


def _builder(name: str) -> Callable[..., nnx.Module]:
    for pattern, build in MODELS.values():
        if match := re.fullmatch(pattern, name):
            return functools.partial(build, *map(int, match.groups()))
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

    Raises:
      UserError: the name, or its depth, is unknown.
    """
    build = _builder(name)
    kinds = Precision.of(precision)

    def module(rngs: nnx.Rngs) -> nnx.Module:
        return build(
            num_classes=num_classes,
            in_channels=image_shape[-1],
            mean=tuple(mean),
            std=tuple(std),
            precision=kinds,
            batchnorm_groups=batchnorm_groups,
            remat=remat,
            rngs=rngs,
        )

    return from_nnx(module, image_shape)
