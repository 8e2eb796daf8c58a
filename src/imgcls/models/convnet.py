"""A small convolutional network of any depth and width, built like LeNet."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from imgcls.config.types import Fraction, Width
from imgcls.models.layers import Activation, convolution, dense, shown


def convnet(
    channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    *,
    widths: list[Width],
    hidden: list[Width],
    activation: Activation,
    batch_norm: bool,
    dropout: Fraction,
) -> nn.Module:
    """5x5 convolutions with 2x2 max-pooling, then linear layers: (B, C, H, W) -> (B, num_classes).

    The convolutions are padded only if the images are too small otherwise: padding 28x28 to 32x32 takes a third longer.
    Raises ValueError for images too small for that many convolutions.
    """
    params: Any = {"activation": activation, "batch_norm": batch_norm}
    layers: list[nn.Module] = []
    sides, width = list(image_size), channels
    for i, units in enumerate(widths, start=1):
        side = min(sides)
        if side < 2:
            raise ValueError(
                f"convnet with {len(widths)} convolutions needs larger images than {shown(image_size)}; "
                "shorten model.widths or set dataset.image_size"
            )
        padding = 0 if side >= 10 else 2
        layers += convolution(i, width, units, padding=padding, **params).values()
        sides, width = [(side + 2 * padding - 4) // 2 for side in sides], units
    layers.append(nn.Flatten())
    head = dense(width * math.prod(sides), hidden, num_classes, dropout=dropout, **params)
    return nn.Sequential(*layers, *head.values())
