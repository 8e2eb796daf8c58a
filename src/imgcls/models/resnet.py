"""ResNets (He et al. 2016, https://arxiv.org/abs/1512.03385) with a stem that fits the images.

Layers, names and initialization are torchvision's, so weights can be exchanged; torchvision itself, whose import takes
seconds, is not needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from imgcls.models.layers import Stem, has_small_stem, stem_note

WIDTHS = (64, 128, 256, 512)  # of the four stages
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
DEEP = 50  # layers: from here on the blocks are bottlenecks


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, inputs, H, W) -> (B, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x.add_(shortcut))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut: (B, inputs, H, W) -> (B, 4 width, H / stride, W / stride).

    The 3x3 convolution has the stride, as in torchvision.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x.add_(shortcut))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A stem, four stages of blocks, global average pooling, a linear layer: (B, C, H, W) -> (B, num_classes)."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, depth: int, channels: int, num_classes: int, *, has_small_stem: bool) -> None:
        super().__init__()
        block = BasicBlock if depth < DEEP else Bottleneck
        self.conv1 = _conv(channels, WIDTHS[0], 3) if has_small_stem else _conv(channels, WIDTHS[0], 7, 2)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if has_small_stem else nn.MaxPool2d(3, stride=2, padding=1)
        inputs = WIDTHS[0]
        for i, (width, count) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True), start=1):
            outputs, stride = width * block.expansion, 1 if i == 1 else 2
            shortcut = None
            if stride > 1 or inputs != outputs:
                shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
            first = block(inputs, width, stride, shortcut)
            setattr(
                self, f"layer{i}", nn.Sequential(first, *(block(outputs, width, 1, None) for _ in range(count - 1)))
            )
            inputs = outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))  # type: ignore[no-any-return]


def _resnet(
    depth: int,
    channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    *,
    stem: Stem,
) -> nn.Module:
    """ResNet of the given depth: (B, C, H, W) -> (B, num_classes).

    stem: small is a 3x3 convolution without max-pooling (the paper's for CIFAR), large a 7x7 one with stride 2 and
    max-pooling (the paper's for ImageNet), auto is small up to 64 pixels.
    """
    is_small = has_small_stem(stem, image_size)
    net: nn.Module = ResNet(depth, channels, num_classes, has_small_stem=is_small)
    net.note = stem_note("3x3 stem without max-pool" if is_small else "7x7 stem with max-pool", stem)  # type: ignore[assignment]
    return net


RESNETS: dict[str, Callable[..., nn.Module]] = {f"resnet{depth}": partial(_resnet, depth) for depth in BLOCKS}
