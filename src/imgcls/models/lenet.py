"""LeNet-5 (LeCun et al. 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf) with ReLU and max-pooling."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Annotated, Any

from torch import nn

from imgcls.config.types import Fraction, Length, Width
from imgcls.models.layers import Activation, convolution, dense, shown

LEAST_SIZE = 4  # pixels: of smaller images nothing is left after pooling


def lenet(
    channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    *,
    widths: Annotated[list[Width], Length(2)],
    hidden: list[Width],
    activation: Activation,
    batch_norm: bool,
    dropout: Fraction,
) -> nn.Module:
    """Two 5x5 convolutions of 6 and 16 channels, three linear layers: (B, C, H, W) -> (B, num_classes).

    The published network takes 32x32. Smaller images are padded by 2 pixels per side before the first convolution, as
    MNIST's 28x28 are, and below 20 pixels before the second one, too; below 16 pixels there is no first pooling. Larger
    images make the first linear layer larger. Raises ValueError below 4 pixels.
    """
    smallest = min(image_size)
    if smallest < LEAST_SIZE:
        raise ValueError(
            f"lenet needs images of at least {LEAST_SIZE}x{LEAST_SIZE} pixels, got {shown(image_size)}; "
            f"set dataset.image_size={LEAST_SIZE} or more, or model=mlp"
        )
    first, second, pools = 2 if smallest < 32 else 0, 2 if smallest < 20 else 0, smallest >= 16
    params: Any = {"activation": activation, "batch_norm": batch_norm}
    layers = convolution(1, channels, widths[0], padding=first, has_pool=pools, **params)
    layers |= convolution(2, widths[0], widths[1], padding=second, **params)
    features = nn.Sequential(OrderedDict(layers, flatten=nn.Flatten()))
    sides = [((side + 2 * first - 4) // (2 if pools else 1) + 2 * second - 4) // 2 for side in image_size]
    head = dense(widths[1] * math.prod(sides), hidden, num_classes, dropout=dropout, **params)
    return nn.Sequential(OrderedDict(features=features, classifier=nn.Sequential(OrderedDict(head))))
