"""A model built for images of one shape, and what the program knows of models by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from imgcls.config.components import Component
from imgcls.errors import ConfigError
from imgcls.models.layers import ACTIVATIONS
from imgcls.models.resnet import BasicBlock, Bottleneck, ResNet
from imgcls.models.torchvision import TORCHVISION_MODELS
from imgcls.models.torchvision import check as check_zoo

MODEL_CONTEXT = ("channels", "image_size", "num_classes")


def build_model(component: Component, channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    """The module for images of that kind; one forward pass shows that it gives a logit for each class."""
    module = component(channels=channels, image_size=image_size, num_classes=num_classes)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"model.name={component.name}: expected a torch module, got {type(module).__name__}")
    if ":" in component.name:
        _try_out(component.name, module, (channels, *image_size), num_classes)  # which makes lazy layers whole
    return module


def _try_out(name: str, module: nn.Module, shape: tuple[int, int, int], num_classes: int) -> None:
    images = torch.zeros(2, *shape)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            given = tuple(module(images).shape)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"model.name={name}: fails on images of shape {tuple(images.shape)}: {error}") from error
    finally:
        module.train(was_training)
    if given != (2, num_classes):
        raise ConfigError(f"model.name={name}: expected logits of shape (2, {num_classes}) for 2 images, got {given}")


FLAT_SIZE = 32  # pixels: files of unequal size, for models that see all pixels at once
PHOTO_SIZE = 224  # pixels: files of unequal size, for the others
FLAT_MODELS = ("linear", "mlp", "lenet", "convnet")

DRAW_NOTHING = (
    *(nn.Sequential, nn.Flatten, nn.Identity, nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d),
    *(nn.MaxPool2d, nn.AdaptiveAvgPool2d, ResNet, BasicBlock, Bottleneck, *ACTIVATIONS.values()),
)  # layers that need no random numbers to compute

AUTO_SMALL = 64  # pixels: model=auto is lenet up to here, resnet18 above


def is_random(module: nn.Module) -> bool:
    """Whether a forward pass may draw random numbers: any layer that is not known to draw none, such as dropout."""
    return any(type(one) not in DRAW_NOTHING for one in module.modules())


def check_params(name: str, params: Mapping[str, Any]) -> None:
    """Raises ValueError for knobs that this model cannot have, as far as that is known before the images are."""
    if name in TORCHVISION_MODELS:
        check_zoo(name, **params)


def default_image_size(name: str) -> int:
    """Pixels a side that files of unequal size are scaled to for this model (``auto``: as for a ResNet)."""
    return FLAT_SIZE if name in FLAT_MODELS else PHOTO_SIZE


def automatic(image_size: tuple[int, int]) -> str:
    """The name of the model that ``model=auto`` stands for."""
    return "lenet" if max(image_size) <= AUTO_SMALL else "resnet18"
