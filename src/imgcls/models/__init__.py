"""MODELS: name -> function (channels, image_size, num_classes, *, knobs) -> torch module.

A module takes float images (B, C, H, W) and gives logits (B, num_classes). Its optional attribute ``note`` (text) is
shown in the run's header. To add one: write the function, add a line here, and conf/model/NAME.yaml with its knobs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imgcls.models.convnet import convnet
from imgcls.models.lenet import lenet
from imgcls.models.mlp import linear, mlp
from imgcls.models.resnet import RESNETS
from imgcls.models.torchvision import TORCHVISION_MODELS

MODELS: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "mlp": mlp,
    "lenet": lenet,
    "convnet": convnet,
    **RESNETS,
    **TORCHVISION_MODELS,
}
