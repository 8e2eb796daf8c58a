"""A small convolutional network of chosen width: LeNet's plan without its figures of 1998."""

from __future__ import annotations

import math

from torch import nn

from imgcls.knobs import Width


def convnet(
    channels: int, image_size: tuple[int, int], num_classes: int, *, widths: list[Width], hidden: list[Width]
) -> nn.Module:
    """5x5 convolutions with 2x2 max-pooling and ReLU, then linear layers: (B, C, H, W) -> (B, num_classes)

    The convolutions are not padded (padding 28x28 to 32x32 costs a third more time), but for images that would not be
    large enough. ReLU after pooling gives what it gives before it, for a quarter of the work.
    """
    layers: list[nn.Module] = []
    sides, width = list(image_size), channels
    for units in widths:
        side = min(sides)
        if side < 2:
            raise ValueError(
                f"convnet with {len(widths)} convolutions needs larger images than {image_size[0]}x{image_size[1]}; "
                "shorten model.widths or set dataset.image_size"
            )
        padding = 0 if side >= 10 else 2
        layers += [nn.Conv2d(width, units, 5, padding=padding), nn.MaxPool2d(2), nn.ReLU()]
        sides, width = [(side + 2 * padding - 4) // 2 for side in sides], units
    layers.append(nn.Flatten())
    width *= math.prod(sides)
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, num_classes))
