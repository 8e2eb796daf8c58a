"""AUGMENTS: name -> function (image_size, can_mirror, *, parameters) -> Augment, a batched pure function.

It maps (images, draws) to images, on the device of the images; large ones a few at a time, from several threads.
``draws`` are the rows of the epoch's table of random numbers that belong to the samples of the batch, so a sample gets
the same augmentation in either loader and with any number of workers or processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.config.options import option_node
from imgcls.config.types import NonNegative, Probability, Range
from imgcls.data.pixels.crops import RandomCrop
from imgcls.data.transforms import ops, policies

MOST_RATIO = 100
Interval = list[float]  # low, high
WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def crop(images: Tensor, draws: Tensor, *, padding: int, reflects: bool = False) -> Tensor:
    """Shift image i by up to ``padding`` pixels: (B, H, W, C), (B, 2) in [0, 1) -> (B, H, W, C).

    What comes in is black, or the image's reflection.
    """
    batch, height, width, channels = images.shape
    tall, wide = height + 2 * padding, width + 2 * padding
    if reflects and padding < min(height, width):
        padded = images.new_empty((batch, tall, wide, channels))
        middle = padded[:, padding : padding + height]
        middle[:, :, padding : padding + width] = images
        middle[:, :, :padding] = images[:, :, 1 : padding + 1].flip(2)
        middle[:, :, padding + width :] = images[:, :, -padding - 1 : -1].flip(2)
        padded[:, :padding] = middle[:, 1 : padding + 1].flip(1)
        padded[:, padding + height :] = middle[:, -padding - 1 : -1].flip(1)
        padded = padded.reshape(-1)
    else:
        padded = F.pad(images, (0, 0, padding, padding, padding, padding)).reshape(-1)
    starts = padded.as_strided((batch * tall * wide - width + 1, width * channels), (channels, 1))
    down, right = (draws * (2 * padding + 1)).long().unbind(1)
    image, row = (torch.arange(count, device=images.device) for count in (batch, height))
    corner = (image * tall + down) * wide + right
    first = corner[:, None] + row * wide  # pixel where each row of each crop begins
    return starts.index_select(0, first.view(-1)).view(batch, height, width, channels)


def mirror(images: Tensor, draws: Tensor, *, p: float, dim: int = 2) -> Tensor:
    """Flip image i if draws[i] < p: (B, H, W, C), (B,) in [0, 1) -> (B, H, W, C); in place on a CPU.

    dim: 2 left to right, 1 upside down.
    """
    return _replace(images, draws < p, lambda some: some.flip(dim))


def quarter_turns(images: Tensor, draws: Tensor) -> Tensor:
    """Turn image i by 0, 90, 180 or 270 degrees: (B, S, S, C), (B,) in [0, 1) -> (B, S, S, C); in place on a CPU."""
    turns = (draws * 4).long()
    for turn in (1, 2, 3):
        images = _replace(images, turns == turn, partial(torch.rot90, k=turn, dims=(1, 2)))
    return images


def _replace(images: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The images, those that are chosen (B,) changed; in place on a CPU."""
    if images.device.type == "cpu":
        rows = chosen.nonzero()[:, 0]
        changed = change(images.index_select(0, rows)).contiguous()
        size = math.prod(images.shape[1:])
        word = next(kind for kind in WORDS if size % kind.itemsize == 0)  # 8 bytes take half the time of 1
        whole, part = (some.view(len(some), size).view(word) for some in (images, changed))
        whole.index_copy_(0, rows, part)
        return images
    return torch.where(chosen[:, None, None, None], change(images), images)  # on a GPU nonzero would synchronize


@dataclass(frozen=True)
class Mix:
    """Mixes the images of a batch with one another, and their labels with them.

    mixup: weighted sums, Zhang et al. 2018, https://arxiv.org/abs/1710.09412. cutmix: a rectangle of the other image,
    Yun et al. 2019, https://arxiv.org/abs/1905.04899. Each is the alpha of Beta(alpha, alpha), from which the share of
    the other image is drawn, or 0 for never; if both are above 0, one of them is drawn for each batch.
    """

    mixup: float
    cutmix: float
    num_classes: int

    def __call__(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) float images, (B,) int64 labels -> mixed images, (B, num_classes) class shares that sum to 1."""
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
    """Paste a rectangle of 1 - own of the area, centered anywhere, from the opposite image of the batch.

    Returns the images, and the share of their own area that is left.
    """
    height, width = images.shape[2:]
    ends = []
    for size, where in zip((height, width), place, strict=True):
        half, center = size * math.sqrt(1 - own) / 2, where * size
        ends.append((round(max(0.0, center - half)), round(min(size, center + half))))
    (top, bottom), (left, right) = ends
    mixed = images.clone(memory_format=torch.preserve_format)
    mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


@dataclass(frozen=True)
class Augment:
    """A batched augmentation.

    draws: random numbers per sample. stages: the names of its steps, in order. function: (B, H, W, C) uint8 images and
    (B, draws) numbers -> images. growth: peak memory, as a multiple of the images' own. mixup, cutmix: see Mix; 0 is
    off. crop: the box of the whole picture that is resized to the images, before all else; None: what the test sees.
    """

    draws: int
    stages: tuple[str, ...]
    function: Callable[[Tensor, Tensor], Tensor]
    growth: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop: RandomCrop | None = None

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """(B, H, W, C) uint8, which may be overwritten, (B, draws) float in [0, 1) -> (B, H, W, C) uint8."""
        return self.function(images, draws)

    def mix(self, num_classes: int) -> Mix | None:
        """What is done to the normalized batch, if anything."""
        return Mix(self.mixup, self.cutmix, num_classes) if self.mixup or self.cutmix else None

    @property
    def words(self) -> str:
        """'crop 4 px + flip + mixup', for the summary of a run."""
        mixes = [name for name, alpha in (("mixup", self.mixup), ("cutmix", self.cutmix)) if alpha]
        crops = [] if self.crop is None else [str(self.crop)]
        return " + ".join([*crops, *self.stages, *mixes]) or "none"


@dataclass(frozen=True)
class Stage:
    """A step of an augmentation: its name (empty if it does nothing), the numbers it takes per sample, the function."""

    name: str
    draws: int
    function: Callable[[Tensor, Tensor], Tensor]


def none(image_size: tuple[int, int], can_mirror: bool) -> Augment:
    """The images as they are."""
    return Augment(0, (), _unchanged)


def augmented(
    image_size: tuple[int, int],
    can_mirror: bool,
    *,
    area: Literal["auto"] | Interval | None,
    ratio: Interval,
    padding: Annotated[int, Range(low=0, high=256)] | None,
    border: Literal["auto", "black", "reflect"],
    flip: Probability | None,
    vertical_flip: Probability,
    quarter_turns: bool,
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
    """Random crop and random mirroring (He et al. 2016, section 4.2), and more if asked for.

    image_size: (height, width). can_mirror: whether a mirrored image is still of its class. padding: pixels per side;
    null is an eighth of the image, 4 pixels of 32. flip: probability; null is 0.5, or 0 if can_mirror is false.
    conf/augment/standard.yaml explains the others. Raises ValueError for a padding as large as the image.
    """
    random_crop, reflects = _random_crop(area, ratio, image_size), _reflects(border, image_size)
    pixels = 0 if random_crop else _padding(padding, min(image_size))
    in_floats = [*_geometry(degrees, shift, scale, reflects), *_color(brightness, contrast, saturation)]
    stages = [
        *_crop_and_flip(pixels, (0.5 if can_mirror else 0.0) if flip is None else flip, reflects),
        *_turns(vertical_flip, quarter_turns, image_size),
        *in_floats,
        *_policy(policy, operations, magnitude, reflects),
        *([Stage("erasing", 5, partial(ops.erase, p=erasing))] if erasing else []),
    ]
    names, numbers = tuple(stage.name for stage in stages if stage.name), sum(stage.draws for stage in stages)
    padded = math.prod(1 + 2 * pixels / side for side in image_size)
    growth = max(padded, 12.0 if in_floats else 1.0)
    return Augment(numbers, names, partial(_run, stages), growth, mixup, cutmix, random_crop)


def _reflects(border: str, image_size: tuple[int, int]) -> bool:
    return border == "reflect" or (border == "auto" and max(image_size) > ops.SMALL)


def _random_crop(
    area: Literal["auto"] | Interval | None, ratio: Interval, image_size: tuple[int, int]
) -> RandomCrop | None:
    """area=auto: of photos."""
    if area is None or (area == "auto" and max(image_size) <= ops.SMALL):
        return None
    low, high = _interval("area", option_node("augment", "photo")["area"] if isinstance(area, str) else area)
    if high > 1:
        raise ValueError(f"augment.area: shares of the picture, at most 1, got {area}")
    return RandomCrop((low, high), _interval("ratio", ratio))


def _interval(key: str, given: list[float]) -> tuple[float, float]:
    if len(given) != 2 or not 0 < given[0] <= given[1] <= MOST_RATIO:
        raise ValueError(f"augment.{key}: expected [low,high] above 0, low first, such as [0.5,1], got {given}")
    return given[0], given[1]


def _run(stages: Sequence[Stage], images: Tensor, draws: Tensor) -> Tensor:
    """One stage after another, each with its own columns of the draws."""
    for stage, numbers in zip(stages, draws.split_with_sizes([stage.draws for stage in stages], 1), strict=True):
        images = stage.function(images, numbers)
    return images


def _crop_and_flip(padding: int, p: float, reflects: bool) -> list[Stage]:
    """Each takes its numbers even if it is off: switching it off leaves the others' numbers as they are."""
    stages = [Stage("", 2, _unchanged), Stage("", 1, _unchanged)]
    if padding:
        stages[0] = Stage(f"crop {padding} px", 2, partial(crop, padding=padding, reflects=reflects))
    if p > 0:
        stages[1] = Stage("flip", 1, lambda images, draws: mirror(images, draws[:, 0], p=p))
    return stages


def _turns(vertical_flip: float, has_turns: bool, image_size: tuple[int, int]) -> list[Stage]:
    if has_turns and image_size[0] != image_size[1]:
        raise ValueError("augment.quarter_turns needs images as high as wide; use vertical_flip, or another image_size")
    stages = []
    if vertical_flip:
        upside_down = partial(mirror, p=vertical_flip, dim=1)
        stages.append(Stage("vertical flip", 1, lambda images, draws: upside_down(images, draws[:, 0])))
    if has_turns:
        stages.append(Stage("quarter turns", 1, lambda images, draws: quarter_turns(images, draws[:, 0])))
    return stages


def _geometry(degrees: float, shift: float, scale: float, reflects: bool) -> list[Stage]:
    if not (degrees or shift or scale):
        return []
    change = partial(ops.random_affine, degrees=degrees, shift=shift, scale=scale, reflects=reflects)
    return [Stage("affine", 4, change)]


def _color(brightness: float, contrast: float, saturation: float) -> list[Stage]:
    jitters = (
        ("brightness", ops.brightness, brightness),
        ("contrast", ops.contrast, contrast),
        ("saturation", ops.saturation, saturation),
    )
    return [Stage(name, 1, partial(ops.jitter, change=change, most=most)) for name, change, most in jitters if most]


def _policy(name: str, operations: int, magnitude: float, reflects: bool) -> list[Stage]:
    if name == "randaugment":
        function = partial(policies.randaugment, operations=operations, magnitude=magnitude / 30, reflects=reflects)
        return [Stage(f"randaugment {operations} x {magnitude:g}", policies.DRAWS * operations, function)]
    if name == "trivialaugment":
        return [Stage(name, policies.DRAWS, partial(policies.trivialaugment, reflects=reflects))]
    return []


def _padding(asked: int | None, side: int) -> int:
    """Pixels of padding per side, for images of that side."""
    if asked is not None and asked >= side:
        raise ValueError(f"padding {asked} is too large for images of {side} pixels; lower augment.padding")
    return max(1, side // 8) if asked is None else asked


def _unchanged(images: Tensor, draws: Tensor) -> Tensor:
    return images


AUGMENTS: dict[str, Callable[..., Any]] = {
    "none": none,
    "standard": augmented,
    "photo": augmented,
    "strong": augmented,
    "trivialaugment": augmented,
}
