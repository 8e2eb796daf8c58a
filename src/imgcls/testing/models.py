"""check_model: does a model behave as imgcls expects?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls import seeding
from imgcls.checkpoints.state import unstorable
from imgcls.config.components import Component, own_component
from imgcls.errors import ConfigError
from imgcls.models.build import MODEL_CONTEXT, build_model, initialize, takes_images
from imgcls.testing.require import require

Shape = tuple[int, tuple[int, int], int]  # channels, (height, width), classes
SHAPES: tuple[Shape, ...] = ((1, (28, 28), 10), (3, (32, 32), 2), (3, (24, 40), 7))
FIRST = 16  # images for a model that sets its weights from them
LARGE: Shape = (3, (224, 224), 3)  # for models that take none of the others


def check_model(function: Callable[..., Any], **params: Any) -> None:
    """Check a model: a function (channels, image_size, num_classes, ...) -> torch module, as behind ``model=``.

    It is built for gray and RGB images of several sizes and numbers of classes; a size may be refused by a ValueError
    that mentions the images. The module must map (B, channels, height, width) float images to finite (B, num_classes)
    float logits in training and evaluation, send gradients to every parameter that requires them, compute each image by
    itself in evaluation, start from the same weights for the same seed, and fit into a checkpoint. If it has a method
    ``initialize_from``, that is called with normalized images first.
    """
    part = own_component(function, "model", params, context=MODEL_CONTEXT)
    with torch.random.fork_rng(devices=[]):
        _check_model(part)


def _check_model(part: Component) -> None:
    modules = {shape: module for shape in SHAPES if (module := _built(part, shape)) is not None}
    if not modules:
        modules[LARGE] = _new(part, LARGE)
    for shape, module in modules.items():
        _check_training(part, module, shape)
        with torch.no_grad():
            _logits(part, module.eval(), _images(shape, 1), shape)
    shape, module = next(iter(modules.items()))
    _check_evaluation(part, module, shape)
    _check_weights(part, shape)


def _built(part: Component, shape: Shape) -> nn.Module | None:
    """The module as a run with seed 0 starts it; None if it does not take such images."""
    seeding.seed_default(0, "weights")
    try:
        module = build_model(part, *shape)
    except ConfigError as error:
        if isinstance(error.__cause__, ValueError) and "image" in str(error).lower():
            return None
        raise
    return _initialized(part, module, shape)


def _new(part: Component, shape: Shape) -> nn.Module:
    """As ``_built``, for images that it takes."""
    seeding.seed_default(0, "weights")
    return _initialized(part, build_model(part, *shape), shape)


def _initialized(part: Component, module: nn.Module, shape: Shape) -> nn.Module:
    if takes_images(module):
        initialize(part.name, module, _images(shape, FIRST))
    return module


def _images(shape: Shape, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, shape[0], *shape[1], generator=generator)


def _logits(part: Component, module: nn.Module, images: Tensor, shape: Shape) -> Tensor:
    """The module's output for these images, checked."""
    before = images.clone()
    logits = module(images)
    mode = "training" if module.training else "evaluation"
    expected = f"expected ({len(images)}, {shape[2]}) float logits in {mode}"
    require(isinstance(logits, Tensor), part, f"{expected}, got {type(logits).__name__}")
    given = f"{logits.dtype} {tuple(logits.shape)}".replace("torch.", "")
    is_right = logits.is_floating_point() and tuple(logits.shape) == (len(images), shape[2])
    require(is_right, part, f"{expected}, got {given}")
    require(bool(logits.isfinite().all()), part, f"the logits in {mode} are not finite for normalized images")
    require(torch.equal(images, before), part, "it changes its input; expected the images to be left as they are")
    return logits  # type: ignore[no-any-return]


def _check_training(part: Component, module: nn.Module, shape: Shape) -> None:
    module.train()
    logits = _logits(part, module, _images(shape, 4), shape)
    require(logits.requires_grad, part, "its logits have no gradient; compute them with torch alone, undetached")
    F.cross_entropy(logits.float(), torch.arange(4) % shape[2]).backward()  # type: ignore[no-untyped-call]
    trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
    for name, parameter in trained.items():
        gradient = parameter.grad
        if gradient is None:
            raise AssertionError(
                f"{part.name}: no gradient reaches '{name}'; use it in forward, or set its requires_grad to False"
            )
        require(bool(gradient.isfinite().all()), part, f"the gradient of '{name}' is not finite")


def _check_evaluation(part: Component, module: nn.Module, shape: Shape) -> None:
    module.eval()
    images = _images(shape, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        logits = _logits(part, module, images, shape)
        again = _logits(part, module, images, shape)
        alone = _logits(part, module, images[:1], shape)
    is_same = torch.equal(logits, again)
    require(is_same, part, "a second evaluation of the same images gives different logits; use no random numbers there")
    is_alone = torch.allclose(logits[:1], alone, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
    require(is_alone, part, "in evaluation an image's logits depend on the others in its batch")
    for name, value in module.state_dict().items():
        is_same = torch.equal(value, before[name])
        require(is_same, part, f"evaluation changes '{name}'; expected only training to do so")


def _check_weights(part: Component, shape: Shape) -> None:
    """The same weights for the same seed; other weights can be put in; a checkpoint can hold them."""
    module = _new(part, shape)
    own, again = module.state_dict(), _new(part, shape).state_dict()
    for name, value in own.items():
        is_same = name in again and torch.equal(value, again[name])
        require(
            is_same,
            part,
            f"'{name}' differs between two models with the same seed; draw weights with torch's generator",
        )
    if wrong := unstorable(module):
        raise AssertionError(f"{part.name}: a checkpoint cannot hold its {wrong}")
    seeding.seed_default(1, "weights")
    other = build_model(part, *shape)
    other.load_state_dict(own)
    images = _images(shape, 2)
    with torch.no_grad():
        is_restored = torch.equal(module.eval()(images), other.eval()(images))
    require(
        is_restored, part, "loading its state_dict into a new model gives different logits; keep all state in tensors"
    )
