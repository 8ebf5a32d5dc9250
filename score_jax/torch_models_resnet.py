"""PreActResNets and ResNets in PyTorch."""

from torch import Tensor, nn
from torch.nn import functional

from score_jax.torch_models_layers import Classifier, SameConv2d, conv, group


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
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, 1)
        changes = stride != 1 or in_channels != channels
        shortcut = nn.Sequential(conv(in_channels, channels, 1, stride)) if changes else None
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(functional.relu(self.bn2(self.conv1(activated)))) + skip


class SwishPreActResNet(Classifier):
    def __init__(self, *, num_classes, image_shape, mean, std):
        super().__init__(mean, std)
        self.conv_2d = SameConv2d(image_shape[-1], 64, 1)
        self.layer_0 = group(SwishPreActBlock, 2, 64, 64, 1)
        self.layer_1 = group(SwishPreActBlock, 2, 64, 128, 2)
        self.layer_2 = group(SwishPreActBlock, 2, 128, 256, 2)
        self.layer_3 = group(SwishPreActBlock, 2, 256, 512, 2)
        self.batchnorm = nn.BatchNorm2d(512, momentum=0.01)
        self.logits = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_2d(self.normalize(images))
        x = self.layer_3(self.layer_2(self.layer_1(self.layer_0(x))))
        return self.logits(functional.silu(self.batchnorm(x)).mean((2, 3)))


class ReluPreActResNet(Classifier):
    def __init__(
        self, *, num_classes, image_shape, mean, std, has_final_batchnorm=True,
        normalizes_input=False,
    ):  # fmt: skip
        super().__init__(*((mean, std) if normalizes_input else (None, None)))
        self.conv1 = conv(image_shape[-1], 64, 3, 1)
        self.layer1 = group(ReluPreActBlock, 2, 64, 64, 1)
        self.layer2 = group(ReluPreActBlock, 2, 64, 128, 2)
        self.layer3 = group(ReluPreActBlock, 2, 128, 256, 2)
        self.layer4 = group(ReluPreActBlock, 2, 256, 512, 2)
        self.bn = nn.BatchNorm2d(512) if has_final_batchnorm else None
        self.linear = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(self.normalize(images))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = x if self.bn is None else functional.relu(self.bn(x))
        return self.linear(x.mean((2, 3)))


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.shortcut is None else self.shortcut(x)
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + skip)


class Bottleneck(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        inside = channels // 4
        self.conv1 = conv(in_channels, inside, 1, 1)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = conv(inside, inside, 3, stride)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = conv(inside, channels, 1, 1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        return functional.relu(self.bn3(self.conv3(out)) + skip)


class ResNet18(Classifier):
    def __init__(self, *, num_classes, image_shape, mean, std):
        del mean, std  # This lineage takes the images as they are.
        super().__init__(None, None)
        self.conv1 = conv(image_shape[-1], 64, 3, 1)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = group(BasicBlock, 2, 64, 64, 1)
        self.layer2 = group(BasicBlock, 2, 64, 128, 2)
        self.layer3 = group(BasicBlock, 2, 128, 256, 2)
        self.layer4 = group(BasicBlock, 2, 256, 512, 2)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))


class ResNet50(Classifier):
    def __init__(self, *, num_classes, image_shape, mean, std):
        del mean, std  # This lineage takes the images as they are.
        super().__init__(None, None)
        self.conv1 = conv(image_shape[-1], 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = group(Bottleneck, 3, 64, 256, 1)
        self.layer2 = group(Bottleneck, 4, 256, 512, 2)
        self.layer3 = group(Bottleneck, 6, 512, 1024, 2)
        self.layer4 = group(Bottleneck, 3, 1024, 2048, 2)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(images)))
        x = functional.max_pool2d(x, 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))
