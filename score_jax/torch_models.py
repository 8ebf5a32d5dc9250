"""The networks of `score_jax.models` once more, in PyTorch, under the names the field stores.

Each class has the parameter names, their order and the arithmetic of the public class it stands
for, so that a file written from one loads strictly into the other:

    wrn-D-W-swish           RobustBench DMWideResNet (Swish); the SCORE code's WideResNet
    wrn-D-W-relu            RobustBench WideResNet; the TRADES code
    preact-resnet-18-swish  RobustBench DMPreActResNet (Swish)
    preact-resnet-18-relu   RobustBench PreActResNet of V2 blocks, bn_before_fc
    cnn-3                   ours

Images are f32[b, c, h, w] in [0, 1], the result is f32[b, k] logits. Input mean and standard
deviation are buffers outside the state_dict.
"""

import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from score_jax.types import UserError


class SameConv2d(nn.Conv2d):
    """A 3x3 convolution without bias; at stride 2 only right and bottom are padded, by 1."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__(
            in_channels, channels, 3, stride, padding=1 if stride == 1 else 0, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.stride[0] == 1 else functional.pad(x, (0, 1, 0, 1)))


def _conv(in_channels: int, channels: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, size, stride, padding=size // 2, bias=False)


class _Classifier(nn.Module):
    """Owns the input normalisation."""

    def __init__(self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None):
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            column = None if values is None else torch.tensor(values).reshape(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        return images if self.mean is None else (images - self.mean) / self.std


class SwishWideBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_channels, momentum=0.01)
        self.conv_0 = SameConv2d(in_channels, channels, stride)
        self.batchnorm_1 = nn.BatchNorm2d(channels, momentum=0.01)
        self.conv_1 = SameConv2d(channels, channels, 1)
        widens = in_channels != channels
        self.shortcut = _conv(in_channels, channels, 1, stride) if widens else None

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.silu(self.batchnorm_0(x))
        skip = x if self.shortcut is None else self.shortcut(activated)
        return self.conv_1(functional.silu(self.batchnorm_1(self.conv_0(activated)))) + skip


class ReluWideBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv(in_channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, 1)
        widens = in_channels != channels
        self.convShortcut = _conv(in_channels, channels, 1, stride) if widens else None

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(x))
        skip = x if self.convShortcut is None else self.convShortcut(activated)
        return self.conv2(functional.relu(self.bn2(self.conv1(activated)))) + skip


class SwishPreActBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_channels, momentum=0.01)
        self.conv_2d_1 = SameConv2d(in_channels, channels, stride)
        self.batchnorm_1 = nn.BatchNorm2d(channels, momentum=0.01)
        self.conv_2d_2 = SameConv2d(channels, channels, 1)
        changes = stride != 1 or in_channels != channels
        self.shortcut = SameConv2d(in_channels, channels, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.silu(self.batchnorm_0(x))
        skip = x if self.shortcut is None else self.shortcut(x)
        return self.conv_2d_2(functional.silu(self.batchnorm_1(self.conv_2d_1(activated)))) + skip


class ReluPreActBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv(in_channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, 1)
        changes = stride != 1 or in_channels != channels
        shortcut = nn.Sequential(_conv(in_channels, channels, 1, stride)) if changes else None
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(functional.relu(self.bn2(self.conv1(activated)))) + skip


def _group(block: type[nn.Module], count: int, in_channels: int, channels: int, stride: int):
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(count - 1)))


class _Named(nn.Module):
    """Holds one child under the name that the stored files give it."""

    def __init__(self, name: str, child: nn.Module):
        super().__init__()
        self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


class SwishWideResNet(_Classifier):
    def __init__(self, depth, width, *, num_classes, in_channels, mean, std):
        super().__init__(mean, std)
        count, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
        self.init_conv = SameConv2d(in_channels, 16, 1)
        self.layer = nn.Sequential(
            *(
                _Named("block", _group(SwishWideBlock, count, *widths[g : g + 2], stride))
                for g, stride in enumerate((1, 2, 2))
            )
        )
        self.batchnorm = nn.BatchNorm2d(widths[3], momentum=0.01)
        self.logits = nn.Linear(widths[3], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer(self.init_conv(self.normalize(images)))
        return self.logits(functional.silu(self.batchnorm(x)).mean((2, 3)))


class ReluWideResNet(_Classifier):
    def __init__(self, depth, width, *, num_classes, in_channels, mean, std):
        del mean, std  # This lineage takes the images as they are.
        super().__init__(None, None)
        count, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = _conv(in_channels, 16, 3, 1)
        self.block1 = _Named("layer", _group(ReluWideBlock, count, *widths[0:2], 1))
        self.block2 = _Named("layer", _group(ReluWideBlock, count, *widths[1:3], 2))
        self.block3 = _Named("layer", _group(ReluWideBlock, count, *widths[2:4], 2))
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))


class SwishPreActResNet(_Classifier):
    def __init__(self, *, num_classes, in_channels, mean, std):
        super().__init__(mean, std)
        self.conv_2d = SameConv2d(in_channels, 64, 1)
        self.layer_0 = _group(SwishPreActBlock, 2, 64, 64, 1)
        self.layer_1 = _group(SwishPreActBlock, 2, 64, 128, 2)
        self.layer_2 = _group(SwishPreActBlock, 2, 128, 256, 2)
        self.layer_3 = _group(SwishPreActBlock, 2, 256, 512, 2)
        self.batchnorm = nn.BatchNorm2d(512, momentum=0.01)
        self.logits = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_2d(self.normalize(images))
        x = self.layer_3(self.layer_2(self.layer_1(self.layer_0(x))))
        return self.logits(functional.silu(self.batchnorm(x)).mean((2, 3)))


class ReluPreActResNet(_Classifier):
    def __init__(self, *, num_classes, in_channels, mean, std):
        del mean, std  # This lineage takes the images as they are.
        super().__init__(None, None)
        self.conv1 = _conv(in_channels, 64, 3, 1)
        self.layer1 = _group(ReluPreActBlock, 2, 64, 64, 1)
        self.layer2 = _group(ReluPreActBlock, 2, 64, 128, 2)
        self.layer3 = _group(ReluPreActBlock, 2, 128, 256, 2)
        self.layer4 = _group(ReluPreActBlock, 2, 256, 512, 2)
        self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(images)))))
        return self.linear(functional.relu(self.bn(x)).mean((2, 3)))


class SmallCNN(_Classifier):
    def __init__(self, *, num_classes, in_channels, mean, std):
        super().__init__(mean, std)
        self.conv_0, self.batchnorm_0 = _conv(in_channels, 32, 3, 1), nn.BatchNorm2d(32)
        self.conv_1, self.batchnorm_1 = _conv(32, 64, 3, 2), nn.BatchNorm2d(64)
        self.conv_2, self.batchnorm_2 = _conv(64, 64, 3, 1), nn.BatchNorm2d(64)
        self.logits = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.batchnorm_0(self.conv_0(self.normalize(images))))
        x = functional.relu(self.batchnorm_1(self.conv_1(x)))
        x = functional.relu(self.batchnorm_2(self.conv_2(x)))
        return self.logits(x.mean((2, 3)))


# The pattern's groups are the class's leading arguments.
MODELS: dict[str, tuple[str, type[_Classifier]]] = {
    "wrn-D-W-swish": (r"wrn-(\d+)-(\d+)-swish", SwishWideResNet),
    "wrn-D-W-relu": (r"wrn-(\d+)-(\d+)-relu", ReluWideResNet),
    "preact-resnet-18-swish": (r"preact-resnet-18-swish", SwishPreActResNet),
    "preact-resnet-18-relu": (r"preact-resnet-18-relu", ReluPreActResNet),
    "cnn-3": (r"cnn-3", SmallCNN),
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
                in_channels=image_shape[-1],
                mean=tuple(mean),
                std=tuple(std),
            )
            return module.eval().requires_grad_(False)
    raise UserError(f"no PyTorch form of model {name!r}; known: {', '.join(sorted(MODELS))}.")
