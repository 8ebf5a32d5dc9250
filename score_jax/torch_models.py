"""The networks of `score_jax.models` once more, in PyTorch, under the names the field stores.

Each class has the parameter names, their order and the arithmetic of the public class it stands
for, so that a file written from one loads strictly into the other:

    wrn-D-W-swish              RobustBench DMWideResNet (Swish); the SCORE code's WideResNet
    wrn-D-W-relu               RobustBench WideResNet; the TRADES code
    preact-resnet-18-swish     RobustBench DMPreActResNet (Swish)
    preact-resnet-18-relu      RobustBench PreActResNet of V2 blocks, bn_before_fc
    preact-resnet-18-headless  PreActResNet18 of the GAIRAT and FAT code
    resnet-18                  ResNet18 of the MART and GAIRAT code
    resnet-50                  torchvision's resnet50; the code of Yang et al.
    small-cnn                  SmallCNN of the GAIRAT code
    cnn-001                    CNN001 of Yang et al.
    cnn-002                    CNN002 of Yang et al.; SmallCNN of the TRADES code
    cnn-3                      ours

Images are f32[b, c, h, w] in [0, 1], the result is f32[b, k] logits. Input mean and standard
deviation are buffers outside the state_dict.
"""

import functools
import re
from collections.abc import Callable

from torch import nn

from score_jax import torch_models_cnn as cnn
from score_jax import torch_models_resnet as resnet
from score_jax import torch_models_wide as wide
from score_jax.types import UserError

# The pattern's groups are the class's leading arguments.
MODELS: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "wrn-D-W-swish": (r"wrn-(\d+)-(\d+)-swish", wide.SwishWideResNet),
    "wrn-D-W-relu": (r"wrn-(\d+)-(\d+)-relu", wide.ReluWideResNet),
    "wrn-D-W-relu-normalized": (
        r"wrn-(\d+)-(\d+)-relu-normalized",
        functools.partial(wide.ReluWideResNet, normalizes_input=True),
    ),
    "preact-resnet-18-swish": ("preact-resnet-18-swish", resnet.SwishPreActResNet),
    "preact-resnet-18-relu": ("preact-resnet-18-relu", resnet.ReluPreActResNet),
    "preact-resnet-18-relu-normalized": (
        "preact-resnet-18-relu-normalized",
        functools.partial(resnet.ReluPreActResNet, normalizes_input=True),
    ),
    "preact-resnet-18-headless": (
        "preact-resnet-18-headless",
        functools.partial(resnet.ReluPreActResNet, has_final_batchnorm=False),
    ),
    "resnet-18": ("resnet-18", resnet.ResNet18),
    "resnet-50": ("resnet-50", resnet.ResNet50),
    "small-cnn": ("small-cnn", cnn.SmallCNN),
    "cnn-001": ("cnn-001", cnn.CNN001),
    "cnn-002": ("cnn-002", cnn.CNN002),
    "cnn-3": ("cnn-3", cnn.CNN3),
}


def create(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> nn.Module:
    """The PyTorch form of `models.create(name, ...)`, in evaluation mode, weights not yet set.

    Args:
      image_shape: (h, w, c), as everywhere in this project; the module takes f32[b, c, h, w].

    Raises:
      UserError: the name has no PyTorch form.
    """
    for pattern, build in MODELS.values():
        if match := re.fullmatch(pattern, name):
            module = build(
                *map(int, match.groups()),
                num_classes=num_classes,
                image_shape=tuple(image_shape),
                mean=tuple(mean),
                std=tuple(std),
            )
            return module.eval().requires_grad_(False)
    raise UserError(f"no PyTorch form of model {name!r}; known: {', '.join(sorted(MODELS))}.")
