"""The layers and the base class of the PyTorch networks."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SameConv2d(nn.Conv2d):
    """A 3x3 convolution without bias; at stride 2 only right and bottom are padded, by 1."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__(
            in_channels, channels, 3, stride, padding=1 if stride == 1 else 0, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.stride[0] == 1 else functional.pad(x, (0, 1, 0, 1)))


def conv(in_channels: int, channels: int, size: int, stride: int) -> nn.Conv2d:
    """A symmetrically padded convolution without bias."""
    return nn.Conv2d(in_channels, channels, size, stride, padding=size // 2, bias=False)


class Classifier(nn.Module):
    """Owns the input normalisation; None takes the images as they are."""

    def __init__(self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None):
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            column = None if values is None else torch.tensor(values).reshape(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        return images if self.mean is None else (images - self.mean) / self.std


def group(block: type[nn.Module], count: int, in_channels: int, channels: int, stride: int):
    """`count` blocks, the first of which changes width and size."""
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(count - 1)))


class Named(nn.Module):
    """Holds one child under the name that the stored files give it."""

    def __init__(self, name: str, child: nn.Module):
        super().__init__()
        self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x
