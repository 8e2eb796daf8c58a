"""MODELS: name -> function (channels, image_size, num_classes, *, parameters) -> torch module.

A module maps float images (B, C, H, W) to logits (B, num_classes). Its optional attribute ``note`` (text) is printed at
the top of a run. Its optional method ``initialize_from`` is called once with normalized training images (B, C, H, W)
when a run begins, to set weights in place. To add a model: write the function, add a line here, and
conf/model/NAME.yaml with its parameters. The function raises ValueError for images that are too small and for
parameters that it cannot use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from imgcls.models.airbench import airbench
from imgcls.models.convnet import convnet
from imgcls.models.lenet import lenet
from imgcls.models.mlp import linear, mlp
from imgcls.models.resnet import RESNETS
from imgcls.models.timm import is_timm, timm_model
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


def models_for(name: object) -> Mapping[str, Callable[..., Any]]:
    """The table that has the model of that name: MODELS, or one with a model of timm's, which is imported for it.

    Raises ConfigError if timm is missing or has no such model.
    """
    return {name: timm_model(name)} if isinstance(name, str) and is_timm(name) else MODELS
