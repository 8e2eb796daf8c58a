"""LeNet-5 (LeCun et al. 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf) with ReLU and max-pooling."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

LEAST_SIZE = 4  # pixels: below, hardly anything is left after the pooling


def lenet(channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    """Two 5x5 convolutions of 6 and 16 channels, three linear layers: (B, C, H, W) -> (B, num_classes)

    As published it takes 32x32. Smaller images are padded by 2 pixels a side before the first convolution, as MNIST's
    28x28 always was, and below 20 pixels before the second one too; below 16 pixels there is no first pooling. Larger
    images just leave more to the linear layers. ReLU after pooling gives the same numbers and gradients as before it,
    for a quarter of the work.
    """
    smallest = min(image_size)
    if smallest < LEAST_SIZE:
        raise ValueError(
            f"lenet needs images of at least {LEAST_SIZE}x{LEAST_SIZE} pixels, got {image_size[0]}x{image_size[1]}; "
            f"set dataset.image_size={LEAST_SIZE} or more, or model=mlp"
        )
    first, second, pools = 2 if smallest < 32 else 0, 2 if smallest < 20 else 0, smallest >= 16
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 6, 5, padding=first),
            pool1=nn.MaxPool2d(2) if pools else nn.Identity(),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(6, 16, 5, padding=second),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
        )
    )
    sides = [((side + 2 * first - 4) // (2 if pools else 1) + 2 * second - 4) // 2 for side in image_size]
    width = 16 * math.prod(sides)
    head = OrderedDict(
        fc1=nn.Linear(width, 120),
        relu3=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        fc3=nn.Linear(84, num_classes),
    )
    return nn.Sequential(OrderedDict(features=features, classifier=nn.Sequential(head)))
