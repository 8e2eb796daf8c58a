"""The network of Jordan 2024, https://arxiv.org/abs/2404.00498, which learns CIFAR-10 in seconds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.config.types import Width
from imgcls.models.layers import shown

KERNEL = 2  # pixels per side of the patches that are whitened
RIDGE = 5e-4  # added to the variances, so that noise is not blown up
LOGIT_SCALE = 1 / 9  # the first logits are small, and the last layer learns slowly
NEW_SHARE = 0.4  # of a batch in batch norm's statistics: a run may last only a hundred updates


class Airbench(nn.Sequential):
    """Layers in order: (B, C, H, W) -> (B, num_classes)."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * LOGIT_SCALE  # type: ignore[no-any-return, no-untyped-call]


class WhitenedAirbench(Airbench):
    """The first convolution's outputs are uncorrelated and of variance 1; its weight is not trained."""

    stem: nn.Conv2d

    @torch.no_grad()
    def initialize_from(self, images: Tensor) -> None:
        """Set the first convolution: (N, C, H, W) training images, normalized.

        Its filters are the principal components of the images' patches, divided by their standard deviations, and the
        same with the opposite sign.
        """
        patches = F.unfold(images.cpu(), KERNEL).transpose(0, 1).flatten(1)
        covariance = (patches @ patches.T / patches.shape[1]).double()
        variances, components = torch.linalg.eigh(covariance)
        filters = (components / (variances + RIDGE).sqrt()).T.float()
        weight = self.stem.weight
        weight.copy_(torch.cat([filters, -filters]).view(weight.shape))


def airbench(
    channels: int, image_size: tuple[int, int], num_classes: int, *, widths: list[Width], whiten: bool
) -> nn.Module:
    """A 2x2 convolution, groups of two 3x3 convolutions with 2x2 max-pooling, a linear layer.

    widths: channels of each group. whiten: whether the first convolution is set from the training images and only its
    bias is trained. Raises ValueError for images too small for that many groups.
    """
    least = 2 ** len(widths) + KERNEL - 1
    if min(image_size) < least:
        raise ValueError(
            f"airbench with {len(widths)} groups needs images of at least {least}x{least} pixels, got "
            f"{shown(image_size)}; shorten model.widths or set dataset.image_size={least}"
        )
    width, sides = 2 * channels * KERNEL**2, [side - KERNEL + 1 for side in image_size]
    net: Airbench = WhitenedAirbench() if whiten else Airbench()
    net.add_module("stem", stem := nn.Conv2d(channels, width, KERNEL))
    stem.weight.requires_grad_(not whiten)
    net.add_module("act", nn.GELU())
    for i, outputs in enumerate(widths, start=1):
        net.add_module(f"group{i}", _group(width, outputs))
        width, sides = outputs, [side // 2 for side in sides]
    net.add_module("pool", nn.MaxPool2d((sides[0], sides[1])))
    net.add_module("flatten", nn.Flatten())
    net.add_module("head", nn.Linear(width, num_classes, bias=False))
    return net


def _group(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, max-pooling after the first: (B, inputs, H, W) -> (B, outputs, H // 2, W // 2)."""
    return nn.Sequential(
        _conv(inputs, outputs),
        nn.MaxPool2d(2),
        _norm(outputs),
        nn.GELU(),
        _conv(outputs, outputs),
        _norm(outputs),
        nn.GELU(),
    )


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution whose first outputs are its inputs."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    same = torch.arange(min(inputs, outputs))
    with torch.no_grad():  # as nn.init.dirac_, which takes a loop in Python
        conv.weight[same] = 0.0
        conv.weight[same, same, 1, 1] = 1.0
    return conv


def _norm(width: int) -> nn.BatchNorm2d:
    """Batch norm with a bias that is trained, and a scale that is not."""
    norm = nn.BatchNorm2d(width, momentum=NEW_SHARE)
    norm.weight.requires_grad_(False)
    return norm
