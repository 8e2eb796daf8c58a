"""RandAugment and TrivialAugment: one drawn operation per image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from imgcls.data.transforms.ops import (
    autocontrast,
    brightness,
    contrast,
    equalize,
    posterize,
    rotate,
    saturation,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    translate_x,
    translate_y,
    where,
)


@dataclass(frozen=True)
class Op:
    """An operation: its greatest strength in RandAugment and in TrivialAugment, and whether its sign is random.

    moves: it moves the image, so that something comes in from beyond its edges.
    """

    change: Callable[..., Tensor]
    narrow: float
    wide: float
    has_sign: bool = True
    moves: bool = False


OPS: dict[str, Op] = {
    "identity": Op(lambda images, _: images, 0, 0),
    "shear_x": Op(shear_x, 0.3, 0.99, moves=True),
    "shear_y": Op(shear_y, 0.3, 0.99, moves=True),
    "translate_x": Op(translate_x, 150 / 331, 0.5, moves=True),
    "translate_y": Op(translate_y, 150 / 331, 0.5, moves=True),
    "rotate": Op(rotate, 30, 135, moves=True),
    "brightness": Op(brightness, 0.9, 0.99),
    "saturation": Op(saturation, 0.9, 0.99),
    "contrast": Op(contrast, 0.9, 0.99),
    "sharpness": Op(sharpness, 0.9, 0.99),
    "posterize": Op(posterize, 4, 6, has_sign=False),
    "solarize": Op(solarize, 1, 1, has_sign=False),
    "autocontrast": Op(autocontrast, 0, 0, has_sign=False),
    "equalize": Op(equalize, 0, 0, has_sign=False),
}
DRAWS = 3  # for each operation: which one, how strong, which sign


def randaugment(images: Tensor, draws: Tensor, *, operations: int, magnitude: float, reflects: bool = False) -> Tensor:
    """Random operations one after another, at a magnitude from 0 to 1 of their strengths; draws: (B, 3 operations).

    Cubuk et al. 2020, https://arxiv.org/abs/1909.13719, with torchvision's operations and strengths.
    """
    for numbers in draws.split_with_sizes([DRAWS] * operations, 1):
        images = _one_of(images, numbers, torch.full_like(numbers[:, 1], magnitude), is_wide=False, reflects=reflects)
    return images


def trivialaugment(images: Tensor, draws: Tensor, *, reflects: bool = False) -> Tensor:
    """One random operation at a random strength; draws: (B, 3). Müller & Hutter 2021, https://arxiv.org/abs/2103.10158

    Translations reach half the image instead of the paper's 32 pixels.
    """
    return _one_of(images, draws, draws[:, 1], is_wide=True, reflects=reflects)


def _one_of(images: Tensor, draws: Tensor, levels: Tensor, *, is_wide: bool, reflects: bool) -> Tensor:
    choice = (draws[:, 0] * len(OPS)).long()
    signs = torch.where(draws[:, 2] < 0.5, -1.0, 1.0)
    for i, op in enumerate(OPS.values()):
        strengths = levels * (op.wide if is_wide else op.narrow) * (signs if op.has_sign else 1.0)
        change = partial(op.change, reflects=reflects) if op.moves else op.change
        images = where(choice == i, images, strengths, change)
    return images
