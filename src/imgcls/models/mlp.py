"""Linear softmax regression and the multi-layer perceptron."""

from __future__ import annotations

import math

from torch import nn

from imgcls.knobs import Fraction, Width


def linear(channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    """Softmax regression on the pixels, the baseline: (B, C, H, W) -> (B, num_classes)"""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * math.prod(image_size), num_classes))


def mlp(
    channels: int, image_size: tuple[int, int], num_classes: int, *, hidden: list[Width], dropout: Fraction
) -> nn.Module:
    """Fully connected layers of the given widths with ReLU between: (B, C, H, W) -> (B, num_classes)"""
    layers: list[nn.Module] = [nn.Flatten()]
    width = channels * math.prod(image_size)
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        width = units
    return nn.Sequential(*layers, nn.Linear(width, num_classes))
