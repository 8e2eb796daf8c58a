"""MODELS: name -> function (channels, image_size, num_classes, *, parameters) -> torch module.

A module maps float images (B, C, H, W) to logits (B, num_classes). Its optional attribute ``note`` (text) is printed at
the top of a run. Its optional method ``initialize_from`` is called once with normalized training images (B, C, H, W)
when a run begins, to set weights in place. To add a model: write the function, add a line here, and
conf/model/NAME.yaml with its parameters. The function raises ValueError for images that are too small and for
parameters that it cannot use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imgcls.models.airbench import airbench
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
    "airbench": airbench,
    **RESNETS,
    **TORCHVISION_MODELS,
}
