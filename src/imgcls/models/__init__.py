"""MODELS: name -> function (channels, image_size, num_classes, *, knobs) -> torch module.

A module takes float images (B, C, H, W) and gives logits (B, num_classes). Its optional attribute ``note`` (text) is
shown in the run's header. To add one: write the function, add a line here, and conf/model/NAME.yaml with its knobs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from imgcls.models.convnet import convnet
from imgcls.models.layers import ACTIVATIONS
from imgcls.models.lenet import lenet
from imgcls.models.mlp import linear, mlp
from imgcls.models.resnet import RESNETS, BasicBlock, Bottleneck, ResNet
from imgcls.models.zoo import ZOO
from imgcls.models.zoo import check as check_zoo

MODELS: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "mlp": mlp,
    "lenet": lenet,
    "convnet": convnet,
    **RESNETS,
    **ZOO,
}

DRAW_NOTHING = (
    *(nn.Sequential, nn.Flatten, nn.Identity, nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d),
    *(nn.MaxPool2d, nn.AdaptiveAvgPool2d, ResNet, BasicBlock, Bottleneck, *ACTIVATIONS.values()),
)  # layers that need no random numbers to compute

AUTO_SMALL = 64  # pixels: model=auto is lenet up to here, resnet18 above


def is_random(module: nn.Module) -> bool:
    """Whether a forward pass may draw random numbers: any layer that is not known to draw none, such as dropout."""
    return any(type(one) not in DRAW_NOTHING for one in module.modules())


def check_knobs(name: str, knobs: Mapping[str, Any]) -> None:
    """Raises ValueError for knobs that this model cannot have, as far as that is known before the images are."""
    if name in ZOO:
        check_zoo(name, **knobs)


def automatic(image_size: tuple[int, int]) -> str:
    """The name of the model that ``model=auto`` stands for."""
    return "lenet" if max(image_size) <= AUTO_SMALL else "resnet18"
