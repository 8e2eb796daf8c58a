"""Augmentation: batched pure functions (images, draws) -> images, on the device where the images lie.

``draws`` are the rows of the epoch's table of random numbers that belong to the samples of the batch, so the same
sample gets the same augmentation in either loader, with any number of workers or processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.config.types import NonNegative, Probability, Range
from imgcls.data.transforms import ops
from imgcls.data.transforms import policies as policy_ops

WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def crop(images: Tensor, draws: Tensor, *, padding: int) -> Tensor:
    """Shift image i by up to ``padding`` pixels, black coming in: (B, H, W, C), (B, 2) in [0, 1) -> (B, H, W, C)"""
    batch, height, width, channels = images.shape
    tall, wide = height + 2 * padding, width + 2 * padding
    padded = F.pad(images, (0, 0, padding, padding, padding, padding)).reshape(-1)
    starts = padded.as_strided((batch * tall * wide - width + 1, width * channels), (channels, 1))
    down, right = (draws * (2 * padding + 1)).long().unbind(1)
    image, row = (torch.arange(count, device=images.device) for count in (batch, height))
    corner = (image * tall + down) * wide + right
    first = corner[:, None] + row * wide  # pixel where each row of each crop begins
    return starts.index_select(0, first.view(-1)).view(batch, height, width, channels)


def mirror(images: Tensor, draws: Tensor, *, p: float) -> Tensor:
    """Flip image i left-right where draws[i] < p: (B, H, W, C), (B,) in [0, 1) -> (B, H, W, C); in place on a CPU"""
    chosen = draws < p
    if images.device.type == "cpu":
        rows = chosen.nonzero()[:, 0]
        flipped = images.index_select(0, rows).flip(2)
        size = math.prod(images.shape[1:])
        word = next(kind for kind in WORDS if size % kind.itemsize == 0)  # 8 bytes take half the time of 1
        whole, part = (some.view(len(some), size).view(word) for some in (images, flipped))
        whole.index_copy_(0, rows, part)
        return images
    return torch.where(chosen[:, None, None, None], images.flip(2), images)  # on a GPU, nonzero would wait for it


@dataclass(frozen=True)
class Mix:
    """Images of a batch mixed with one another, and their labels with them.

    mixup: weighted sums, Zhang et al. 2018, https://arxiv.org/abs/1710.09412; cutmix: a rectangle of the other image,
    Yun et al. 2019, https://arxiv.org/abs/1905.04899. Each number is the alpha of Beta(alpha, alpha), from which the
    share of the other image is drawn, 0 for never; where both are above 0 one of them is drawn for each batch.
    """

    mixup: float
    cutmix: float
    num_classes: int

    def __call__(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) float, (B,) int64 -> the same mixed, (B, num_classes) float shares that sum to 1"""
        is_cut = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.cutmix if is_cut else self.mixup
        own = float(rng.beta(alpha, alpha))
        if is_cut:
            images, own = _paste(images, own, rng.random(2).tolist())
        else:
            images = own * images + (1 - own) * images.flip(0)
        shares = F.one_hot(labels, self.num_classes).to(images.dtype)
        return images, own * shares + (1 - own) * shares.flip(0)


def _paste(images: Tensor, own: float, place: list[float]) -> tuple[Tensor, float]:
    """A rectangle of 1 - own of the area from the batch's opposite image, centred anywhere; the share that is left."""
    height, width = images.shape[2:]
    ends = []
    for size, where in zip((height, width), place, strict=True):
        half, centre = size * math.sqrt(1 - own) / 2, where * size
        ends.append((round(max(0.0, centre - half)), round(min(size, centre + half))))
    (top, bottom), (left, right) = ends
    mixed = images.clone(memory_format=torch.preserve_format)
    mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


Stage = tuple[str, int, Callable[[Tensor, Tensor], Tensor]]  # words, numbers a sample, the function


@dataclass(frozen=True)
class Augment:
    """A batched augmentation: ``draws`` random numbers a sample, a phrase for the header, and the function.

    growth: how many times the images' own memory it takes on the way. mixup, cutmix: see Mix; 0 for neither.
    """

    draws: int
    words: str
    function: Callable[[Tensor, Tensor], Tensor]
    growth: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """(B, H, W, C) uint8, which may be written to, (B, draws) float in [0, 1) -> (B, H, W, C) uint8"""
        return self.function(images, draws)

    def mix(self, num_classes: int) -> Mix | None:
        """What is to be done to the normalised batch, if anything."""
        return Mix(self.mixup, self.cutmix, num_classes) if self.mixup or self.cutmix else None


def none(image_size: tuple[int, int], can_mirror: bool) -> Augment:
    """The images as they are."""
    return Augment(0, "none", lambda images, draws: images)


def augmented(
    image_size: tuple[int, int],
    can_mirror: bool,
    *,
    padding: Annotated[int, Range(low=0, high=256)] | None,
    flip: Probability | None,
    degrees: Annotated[float, Range(low=0, high=180)],
    shift: Probability,
    scale: Annotated[float, Range(low=0, below=1)],
    brightness: Probability,
    contrast: Probability,
    saturation: Probability,
    policy: Literal["none", "randaugment", "trivialaugment"],
    operations: Annotated[int, Range(low=1, high=8)],
    magnitude: Annotated[float, Range(low=0, high=30)],
    erasing: Probability,
    mixup: NonNegative,
    cutmix: NonNegative,
) -> Augment:
    """Random crop after padding with black and random mirroring (He et al. 2016, section 4.2), and more where wanted.

    padding: pixels a side; null is an eighth of the image, 4 pixels of 32. flip: probability; null is 0.5, and 0 for
    data whose classes a mirror changes (digits). conf/augment/ says what the others mean.
    """
    pixels = _padding(padding, min(image_size))
    p = (0.5 if can_mirror else 0.0) if flip is None else flip
    affine = partial(ops.random_affine, degrees=degrees, shift=shift, scale=scale)
    policies: dict[str, Stage] = {
        "randaugment": (
            f"randaugment {operations} x {magnitude:g}",
            policy_ops.DRAWS * operations,
            partial(policy_ops.randaugment, operations=operations, magnitude=magnitude / 30),
        ),
        "trivialaugment": ("trivialaugment", policy_ops.DRAWS, policy_ops.trivialaugment),
    }
    colors = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    stages: list[Stage] = [
        (f"crop {pixels} px" * (pixels > 0), 2, partial(crop, padding=pixels) if pixels else _unchanged),
        ("flip" * (p > 0), 1, (lambda images, draws: mirror(images, draws[:, 0], p=p)) if p > 0 else _unchanged),
        *([("affine", 4, affine)] if degrees or shift or scale else []),
        *[
            (name, 1, partial(ops.jitter, change=getattr(ops, name), most=most))
            for name, most in colors.items()
            if most
        ],
        *([policies[policy]] if policy != "none" else []),
        *([("erasing", 5, partial(ops.erase, p=erasing))] if erasing else []),
    ]

    def augment(images: Tensor, draws: Tensor) -> Tensor:
        for (_, _, change), numbers in zip(stages, draws.split_with_sizes([one[1] for one in stages], 1), strict=True):
            images = change(images, numbers)
        return images

    mixes = {"mixup": mixup, "cutmix": cutmix}
    words = " + ".join(filter(None, [*(words for words, _, _ in stages), *(word for word in mixes if mixes[word])]))
    height, width = image_size
    is_float = degrees or shift or scale or brightness or contrast or saturation
    growth = max((1 + 2 * pixels / height) * (1 + 2 * pixels / width), 12.0 if is_float else 1.0)
    draws = sum(columns for _, columns, _ in stages)
    return Augment(draws, words or "none", augment, growth=growth, mixup=mixup, cutmix=cutmix)


def _padding(asked: int | None, side: int) -> int:
    """Pixels a side around images of that side."""
    if asked is not None and asked >= side:
        raise ValueError(f"padding {asked} would make images of {side} pixels black; lower augment.padding")
    return max(1, side // 8) if asked is None else asked


def _unchanged(images: Tensor, draws: Tensor) -> Tensor:
    return images


AUGMENTS: dict[str, Callable[..., Any]] = {
    "none": none,
    "standard": augmented,
    "strong": augmented,
    "trivialaugment": augmented,
}
