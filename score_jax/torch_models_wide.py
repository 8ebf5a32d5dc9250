"""WideResNets in PyTorch."""

from torch import Tensor, nn
from torch.nn import functional

from score_jax.torch_models_layers import Classifier, Named, SameConv2d, conv, group


class SwishWideBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_channels, momentum=0.01)
        self.conv_0 = SameConv2d(in_channels, channels, stride)
        self.batchnorm_1 = nn.BatchNorm2d(channels, momentum=0.01)
        self.conv_1 = SameConv2d(channels, channels, 1)
        widens = in_channels != channels
        self.shortcut = conv(in_channels, channels, 1, stride) if widens else None

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.silu(self.batchnorm_0(x))
        skip = x if self.shortcut is None else self.shortcut(activated)
        return self.conv_1(functional.silu(self.batchnorm_1(self.conv_0(activated)))) + skip


class ReluWideBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, 1)
        widens = in_channels != channels
        self.convShortcut = conv(in_channels, channels, 1, stride) if widens else None

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(x))
        skip = x if self.convShortcut is None else self.convShortcut(activated)
        return self.conv2(functional.relu(self.bn2(self.conv1(activated)))) + skip


class SwishWideResNet(Classifier):
    def __init__(self, depth, width, *, num_classes, image_shape, mean, std):
        super().__init__(mean, std)
        count, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
        self.init_conv = SameConv2d(image_shape[-1], 16, 1)
        self.layer = nn.Sequential(
            *(
                Named("block", group(SwishWideBlock, count, *widths[g : g + 2], stride))
                for g, stride in enumerate((1, 2, 2))
            )
        )
        self.batchnorm = nn.BatchNorm2d(widths[3], momentum=0.01)
        self.logits = nn.Linear(widths[3], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer(self.init_conv(self.normalize(images)))
        return self.logits(functional.silu(self.batchnorm(x)).mean((2, 3)))


class ReluWideResNet(Classifier):
    def __init__(
        self, depth, width, *, num_classes, image_shape, mean, std, normalizes_input=False
    ):
        super().__init__(*((mean, std) if normalizes_input else (None, None)))
        count, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = conv(image_shape[-1], 16, 3, 1)
        self.block1 = Named("layer", group(ReluWideBlock, count, *widths[0:2], 1))
        self.block2 = Named("layer", group(ReluWideBlock, count, *widths[1:3], 2))
        self.block3 = Named("layer", group(ReluWideBlock, count, *widths[2:4], 2))
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(self.normalize(images)))))
        return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))
