"""A model built for images of one shape, and what imgcls knows about models by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from imgcls.config.components import Component
from imgcls.errors import ConfigError
from imgcls.models.airbench import Airbench, WhitenedAirbench
from imgcls.models.layers import ACTIVATIONS
from imgcls.models.resnet import BasicBlock, Bottleneck, ResNet
from imgcls.models.timm import is_timm, own_size
from imgcls.models.torchvision import TORCHVISION_MODELS
from imgcls.models.torchvision import check as check_zoo

MODEL_CONTEXT = ("channels", "image_size", "num_classes")


def build_model(component: Component, channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    """The module for such images; image_size is (height, width).

    A user's own model and timm's are tried out with a forward pass. Raises ConfigError if it is not a module, or does
    not return (B, num_classes) logits.
    """
    module = component(channels=channels, image_size=image_size, num_classes=num_classes)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"model.name={component.name}: expected a torch module, got {type(module).__name__}")
    if ":" in component.name or is_timm(component.name):
        _try_out(component.name, module, (channels, *image_size), num_classes)  # materializes lazy layers, too
    return module


def _try_out(name: str, module: nn.Module, shape: tuple[int, int, int], num_classes: int) -> None:
    images = torch.zeros(2, *shape)
    key, hint = (f"model={name}", f"; {own_size(name)}") if is_timm(name) else (f"model.name={name}", "")
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            given = tuple(module(images).shape)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        if images.is_meta and (isinstance(error, NotImplementedError) or "meta" in str(error)):
            return  # a dry run, and it computes with numbers: left to its job
        text = str(error) if ":" in name else next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{key}: fails on images of shape {tuple(images.shape)}: {text}{hint}") from error
    finally:
        module.train(was_training)
    if given != (2, num_classes):
        raise ConfigError(f"{key}: expected logits of shape (2, {num_classes}) for 2 images, got {given}")


def takes_images(module: nn.Module) -> bool:
    """Whether the module sets some of its weights from training images."""
    return callable(getattr(module, "initialize_from", None))


def initialize(name: str, module: nn.Module, images: Tensor) -> None:
    """Have the module set its weights from (B, C, H, W) normalized training images. Raises ConfigError if it cannot."""
    assert takes_images(module)
    try:
        module.initialize_from(images)  # type: ignore[operator]
    except (RuntimeError, TypeError, ValueError) as error:
        shape = tuple(images.shape)
        raise ConfigError(f"model.name={name}: initialize_from fails on images of shape {shape}: {error}") from error


DRAW_NOTHING = (
    *(nn.Sequential, nn.Flatten, nn.Identity, nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d),
    *(nn.MaxPool2d, nn.AdaptiveAvgPool2d, *ACTIVATIONS.values()),
    *(ResNet, BasicBlock, Bottleneck, Airbench, WhitenedAirbench),
)  # layers that need no random numbers to compute


def is_random(module: nn.Module) -> bool:
    """Whether a forward pass may draw random numbers, as dropout does: unless every layer is known not to."""
    return any(type(one) not in DRAW_NOTHING for one in module.modules())


def check_params(name: str, params: Mapping[str, Any]) -> None:
    """Raises ValueError for parameters that this model does not have, as far as that is known without the images."""
    if name in TORCHVISION_MODELS:
        check_zoo(name, **params)
