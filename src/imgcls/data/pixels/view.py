"""What of a picture a model gets to see, and at which size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from imgcls.data.pixels.rendering import PLAIN, Rendering
from imgcls.text import show

Fit = Literal["crop", "pad", "squash"]
LARGEST = 4096  # pixels per side
LEEWAY = 1.1  # a picture that is larger by less than this is not reduced: it costs more than the whole crop


def size_of(value: Any) -> tuple[int, int] | None:
    """dataset.image_size as (height, width): N or [height,width]; None for null. Raises ValueError."""
    if value is None:
        return None
    size = (value, value) if not isinstance(value, list | tuple) else tuple(value)
    if len(size) != 2 or any(isinstance(side, bool) or not isinstance(side, int) for side in size):
        raise ValueError(f"dataset.image_size: expected an integer or [height,width], got {show(value)}")
    if not all(1 <= side <= LARGEST for side in size):
        raise ValueError(f"dataset.image_size: must be at least 1 and at most {LARGEST:,}, got {show(value)}")
    return size


@dataclass(frozen=True)
class View:
    """The view for testing: a picture of any size -> uint8 (height, width, channels).

    channels: 1 (gray) or 3 (RGB). height, width: in pixels. rendering: how stored pixels become 8 bits. fit: crop
    scales the picture to cover the view and cuts off the rest; pad scales it to fit in, on the background; squash
    changes its shape. crop_share: of what crop keeps, the share of each side that is seen, at most 1: 0.875 for a view
    of 224 pixels from a shorter side of 256. scaled_decoding: a JPEG much larger than the view may be decoded at a
    half, a quarter or an eighth of its size, which is faster and a little less sharp.
    """

    channels: int
    height: int
    width: int
    rendering: Rendering = PLAIN
    fit: Fit = "crop"
    crop_share: float = 1.0
    scaled_decoding: bool = False

    def visible(self, height: int, width: int) -> float:
        """The share of a picture of that size that the view shows, from 0 to 1."""
        if self.fit != "crop":
            return 1.0
        shape, own = self.width / self.height, width / height
        return min(shape / own, own / shape) * self.crop_share**2


@dataclass(frozen=True)
class Reduction:
    """Makes whole pictures smaller, but large enough for random crops; never larger.

    height, width: the size that a reduced picture still covers (fit=crop), has (squash) or fits in (pad: it is then
    padded to this shape).
    """

    height: int
    width: int
    fit: Fit

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The size that a picture of that size is brought to; its own if that is hardly smaller."""
        tall, wide = self.height / height, self.width / width
        if self.fit == "squash":
            down, right = tall, wide
        else:
            down = right = max(tall, wide) if self.fit == "crop" else min(tall, wide)
        return _reduced(height, down), _reduced(width, right)

    def room(self, height: int, width: int) -> int:
        """The most pixels that a picture of that size has when it is reduced and padded, also if it is turned."""
        return max(self._room(height, width), self._room(width, height))

    def _room(self, height: int, width: int) -> int:
        sides = zip((height, width), self.size(height, width), strict=True)
        tall, wide = (min(own, math.ceil(side * LEEWAY) + 2) for own, side in sides)  # JPEG's scaling rounds up
        return math.prod(self.canvas(tall, wide))

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """The size of a reduced picture of that size once it is padded, which only fit=pad does."""
        if self.fit != "pad":
            return height, width
        return (
            max(height, round(width * self.height / self.width)),
            max(width, round(height * self.width / self.height)),
        )


def _reduced(side: int, factor: float) -> int:
    return side if factor * LEEWAY >= 1 else max(1, round(side * factor))
