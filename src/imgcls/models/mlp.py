"""Linear softmax regression and the multi-layer perceptron."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from imgcls.config.types import Fraction, Width
from imgcls.models.layers import Activation, dense


def linear(channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    """Softmax regression on the pixels, a baseline: (B, C, H, W) -> (B, num_classes)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * math.prod(image_size), num_classes))


def mlp(
    channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    *,
    hidden: list[Width],
    activation: Activation,
    batch_norm: bool,
    dropout: Fraction,
) -> nn.Module:
    """Fully connected layers of the given widths with activations in between: (B, C, H, W) -> (B, num_classes)."""
    inputs = channels * math.prod(image_size)
    params: Any = {"activation": activation, "batch_norm": batch_norm, "dropout": dropout}
    return nn.Sequential(nn.Flatten(), *dense(inputs, hidden, num_classes, **params).values())
