"""The networks of plain convolutions in PyTorch, without dropout: they are for evaluation."""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from score_jax.torch_models_layers import Classifier, conv


class CNN3(Classifier):
    def __init__(self, *, num_classes, image_shape, mean, std):
        super().__init__(mean, std)
        self.conv_0, self.batchnorm_0 = conv(image_shape[-1], 32, 3, 1), nn.BatchNorm2d(32)
        self.conv_1, self.batchnorm_1 = conv(32, 64, 3, 2), nn.BatchNorm2d(64)
        self.conv_2, self.batchnorm_2 = conv(64, 64, 3, 1), nn.BatchNorm2d(64)
        self.logits = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.batchnorm_0(self.conv_0(self.normalize(images))))
        x = relu(self.batchnorm_1(self.conv_1(x)))
        x = relu(self.batchnorm_2(self.conv_2(x)))
        return self.logits(x.mean((2, 3)))


class CNN001(Classifier):
    def __init__(self, *, num_classes, image_shape, mean, std):
        del mean, std  # This lineage takes the images as they are.
        super().__init__(None, None)
        height, width, channels = image_shape
        self.conv1 = nn.Conv2d(channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.fc1 = nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = max_pool2d(self.conv2(relu(self.conv1(images))), 2)
        return self.fc2(relu(self.fc1(x.flatten(1))))


class CNN002(Classifier):
    def __init__(self, *, num_classes, image_shape, mean, std):
        del mean, std  # This lineage takes the images as they are.
        super().__init__(None, None)
        height, width = (((side - 4) // 2 - 4) // 2 for side in image_shape[:2])
        self.feature_extractor = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(image_shape[-1], 32, 3),
                "conv2": nn.Conv2d(32, 32, 3),
                "conv3": nn.Conv2d(32, 64, 3),
                "conv4": nn.Conv2d(64, 64, 3),
            }
        )
        self.classifier = nn.ModuleDict(
            {
                "fc1": nn.Linear(64 * height * width, 200),
                "fc2": nn.Linear(200, 200),
                "fc3": nn.Linear(200, num_classes),
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        convs, linears = self.feature_extractor, self.classifier
        x = max_pool2d(relu(convs["conv2"](relu(convs["conv1"](images)))), 2)
        x = max_pool2d(relu(convs["conv4"](relu(convs["conv3"](x)))), 2)
        x = relu(linears["fc2"](relu(linears["fc1"](x.flatten(1)))))
        return linears["fc3"](x)


class SmallCNN(Classifier):
    def __init__(self, *, num_classes, image_shape, mean, std):
        del mean, std  # This lineage takes the images as they are.
        super().__init__(None, None)
        height, width, before = image_shape
        for block, channels in enumerate((64, 128, 196), start=1):
            self.add_module(f"block{block}_conv1", nn.Conv2d(before, channels, 3, padding=1))
            self.add_module(f"block{block}_conv2", nn.Conv2d(channels, channels, 3, padding=1))
            self.add_module(f"batchnorm{block}_1", nn.BatchNorm2d(channels))
            self.add_module(f"batchnorm{block}_2", nn.BatchNorm2d(channels))
            before = channels
        self.fc1 = nn.Linear(before * (height // 8) * (width // 8), 256)
        self.fc2 = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in (1, 2, 3):
            for half in (1, 2):
                x = self.get_submodule(f"block{block}_conv{half}")(x)
                x = relu(self.get_submodule(f"batchnorm{block}_{half}")(x))
            x = max_pool2d(x, 2)
        return self.fc2(relu(self.fc1(x.flatten(1))))
