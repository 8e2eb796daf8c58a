"""check_augment: does an augmentation behave as imgcls expects?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgcls import seeding
from imgcls.config.components import Component, own_component
from imgcls.data.transforms.augment import Augment
from imgcls.testing.require import require

SIDE = 32  # pixels, of the image that shows whether it is mirrored
JUST_BELOW_1 = float(np.nextafter(np.float32(1), np.float32(0)))


def check_augment(function: Callable[..., Any], **params: Any) -> None:
    """Check an augmentation: a function (image_size, can_mirror, ...) -> Augment, as behind ``augment=``.

    The Augment must map (B, H, W, C) uint8 images, gray or RGB, and (B, draws) numbers in [0, 1) to uint8 images of the
    same shape; depend on an image and its numbers alone, not on its batch or on another random generator; and, unless
    ``flip`` is set, not mirror images that can_mirror=False forbids.
    """
    part = own_component(function, "augment", params, context=("image_size", "can_mirror"))
    for size, channels in (((32, 32), 1), ((24, 40), 3)):
        augment = part(size, True)
        require(isinstance(augment, Augment), part, f"expected an Augment, got {type(augment).__name__}")
        images = torch.randint(256, (9, *size, channels), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        draws = torch.rand(9, augment.draws, generator=torch.Generator().manual_seed(1))
        whole = _augmented(part, augment, images, draws)
        for extreme in (0.0, JUST_BELOW_1):
            _augmented(part, augment, images, torch.full_like(draws, extreme))
        again = _augmented(part, augment, images, draws)
        require(
            torch.equal(whole, again),
            part,
            "the same images and draws give different results; use no other random numbers",
        )
        order = torch.tensor([5, 0, 8, 3, 1, 7, 2, 6, 4])
        parts = [_augmented(part, augment, images[rows], draws[rows]) for rows in order.split_with_sizes([1, 5, 3])]
        is_alone = torch.equal(torch.cat(parts), whole[order])
        require(is_alone, part, "an image's augmentation depends on the others in its batch")
        _check_mix(part, augment, channels)
    if params.get("flip") is None:
        share = _mirrored_share(part((SIDE, SIDE), False))
        require(share < 0.25, part, f"can_mirror=False, but {share:.0%} of the images are mirrored; expected none")


def _augmented(part: Component, augment: Augment, images: Tensor, draws: Tensor) -> Tensor:
    """The augmented images, checked; the images themselves stay as they are."""
    out = augment(images.clone(), draws.clone())
    given = f"{out.dtype} {tuple(out.shape)}".replace("torch.", "")
    is_right = (out.dtype, out.shape) == (torch.uint8, images.shape)
    require(is_right, part, f"expected uint8 {tuple(images.shape)} images back, got {given}")
    return out


def _check_mix(part: Component, augment: Augment, channels: int) -> None:
    mix = augment.mix(3)
    if mix is not None:
        images, shares = mix(torch.randn(4, channels, 8, 8), torch.arange(4) % 3, seeding.rng(0, "mix"))
        is_right = images.shape == (4, channels, 8, 8) and shares.shape == (4, 3)
        require(is_right, part, "mixing changes the shapes of the batch; expected (B, C, H, W) and (B, num_classes)")
        require(torch.allclose(shares.sum(1), torch.ones(4)), part, "the shares of mixed images do not sum to 1")


def _mirrored_share(augment: Augment) -> float:
    """The share of 400 augmented images that are mirrored.

    The image grows brighter clockwise around its center: whatever turns, moves or shades it, most of the steps from one
    quadrant to the next go up, unless it is mirrored.
    """
    half = SIDE // 2
    rows, columns = torch.meshgrid(*[torch.arange(SIDE) - half + 0.5] * 2, indexing="ij")
    angle = torch.atan2(rows, columns)  # rows grow downward: clockwise
    image = ((angle / (2 * torch.pi) + 0.5) * 200 + 25).to(torch.uint8)
    images = image[None, :, :, None].repeat(400, 1, 1, 1)
    draws = torch.rand(400, augment.draws, generator=torch.Generator().manual_seed(2))
    out = augment(images, draws).float()[..., 0]
    top, bottom = out[:, :half], out[:, half:]
    clockwise = [top[..., :half], top[..., half:], bottom[..., half:], bottom[..., :half]]
    means = torch.stack([quadrant.mean((1, 2)) for quadrant in clockwise], 1)
    ups = (means.roll(-1, 1) > means).sum(1)
    return float((ups == 1).float().mean())
