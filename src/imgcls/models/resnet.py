"""torchvision's ResNets (He et al. 2016, https://arxiv.org/abs/1512.03385) with a stem that fits the images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import nn

SMALL = 64  # pixels: up to here the 7x7 stride-2 stem with max-pooling would throw away most of the image


def _resnet(
    depth: int,
    channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    *,
    stem: Literal["auto", "small", "large"],
) -> nn.Module:
    """ResNet of the given depth: (B, C, H, W) -> (B, num_classes)

    stem: small is a 3x3 convolution without max-pooling (the paper's for CIFAR), large the 7x7 one with stride 2 and
    max-pooling (its for ImageNet), auto the small one up to 64 pixels.
    """
    from torchvision import models  # 1.4 s of CPU: only for those who ask for it

    net: nn.Module = getattr(models, f"resnet{depth}")(weights=None, num_classes=num_classes)
    is_small = stem == "small" or (stem == "auto" and max(image_size) <= SMALL)
    size, stride = (3, 1) if is_small else (7, 2)
    conv = nn.Conv2d(channels, 64, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    net.conv1 = conv
    if is_small:
        net.maxpool = nn.Identity()
    words = "3x3 stem without max-pool" if is_small else "7x7 stem with max-pool"
    net.note = f"{words} ({'chosen for the image size' if stem == 'auto' else f'stem={stem}'})"  # type: ignore[assignment]
    return net


RESNETS: dict[str, Callable[..., nn.Module]] = {
    f"resnet{depth}": partial(_resnet, depth) for depth in (18, 34, 50, 101, 152)
}
