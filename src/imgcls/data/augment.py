"""Augmentation: batched pure functions (images, draws) -> images, on the device where the images lie.

``draws`` are the rows of the epoch's table of random numbers that belong to the samples of the batch, so the same
sample gets the same augmentation in either loader, with any number of workers or processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.knobs import Probability, Range

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
class Augment:
    """A batched augmentation: ``draws`` random numbers a sample, a phrase for the header, and the function.

    growth: how many times the images' own memory it takes on the way.
    """

    draws: int
    words: str
    function: Callable[[Tensor, Tensor], Tensor]
    growth: float = 1.0

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """(B, H, W, C) uint8, which may be written to, (B, draws) float in [0, 1) -> (B, H, W, C) uint8"""
        return self.function(images, draws)


def none(image_size: tuple[int, int], can_mirror: bool) -> Augment:
    """The images as they are."""
    return Augment(0, "none", lambda images, draws: images)


def standard(
    image_size: tuple[int, int],
    can_mirror: bool,
    *,
    padding: Annotated[int, Range(low=0, high=256)] | None,
    flip: Probability | None,
) -> Augment:
    """Random crop after padding with black, and random mirroring: He et al. 2016, section 4.2.

    padding: pixels a side; null is an eighth of the image, 4 pixels of 32. flip: probability; null is 0.5, and 0 for
    data whose classes a mirror changes (digits).
    """
    pixels = max(1, min(image_size) // 8) if padding is None else padding
    p = (0.5 if can_mirror else 0.0) if flip is None else flip

    def augment(images: Tensor, draws: Tensor) -> Tensor:
        if pixels:
            images = crop(images, draws[:, :2], padding=pixels)
        return mirror(images, draws[:, 2], p=p) if p > 0 else images

    words = " + ".join(word for word, used in ((f"crop {pixels} px", pixels), ("flip", p)) if used) or "none"
    height, width = image_size
    return Augment(3, words, augment, growth=(1 + 2 * pixels / height) * (1 + 2 * pixels / width))


AUGMENTS: dict[str, Callable[..., Any]] = {"none": none, "standard": standard}
