"""Random resized crops: which box of a whole picture a training view shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgcls.data.pixels.resizing import resize
from imgcls.data.pixels.view import Reduction, View

KEEP = 1.67  # whole pictures are kept at this multiple of the image size (benchmarks/results/photos.md)
TRIES = 10  # boxes that are drawn before the whole picture, or its middle, is taken
STEPS = 4096  # shapes of a box to choose from
Boxes = NDArray[np.int64]  # (N, 4): top, left, height, width in pixels
Sizes = NDArray[np.int32]  # (N, 2): height and width in pixels


@dataclass(frozen=True)
class RandomCrop:
    """A random box of a picture, as torchvision's RandomResizedCrop draws it (Szegedy et al. 2014, arXiv:1409.4842).

    area: its share of the picture, from low to high in (0, 1]. ratio: its width over its height, from low to high,
    relative to that of the image size. draws: random numbers for each box.
    """

    area: tuple[float, float]
    ratio: tuple[float, float]
    draws: int = 2 * TRIES + 2

    def __str__(self) -> str:
        """'random crop of 35% to 100%', for the summary of a run."""
        return "random crop of {:.0%} to {:.0%}".format(*self.area)

    def boxes(self, draws: NDArray[np.float32], sizes: Sizes, shapes: Any) -> Boxes:
        """(N, 4) for pictures of these sizes (N, 2); draws: (N, 22) in [0, 1); shapes: what a ratio of 1 is, (N,).

        Only arithmetic that every processor rounds alike, so that a box is the same alone and among others.
        """
        height, width = sizes[:, 0, None].astype(np.float64), sizes[:, 1, None].astype(np.float64)
        numbers = draws.astype(np.float64)
        low, high = self.area
        areas = height * width * (low + (high - low) * numbers[:, :TRIES])
        steps = _ratios(*self.ratio)[(numbers[:, TRIES : 2 * TRIES] * STEPS).astype(np.int64)]
        ratios = steps * np.reshape(shapes, (-1, 1))
        wide, tall = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
        fits = (wide > 0) & (tall > 0) & (wide <= width) & (tall <= height)
        first, rows = fits.argmax(1), np.arange(len(sizes))
        box = np.stack([tall[rows, first], wide[rows, first]], 1)
        none = ~fits.any(1)
        if none.any():
            box[none] = _middle(sizes[none], np.broadcast_to(shapes, len(sizes))[none], self.ratio)
        box = box.astype(np.int64)
        spare = sizes - box
        corner = (numbers[:, 2 * TRIES :] * (spare + 1)).astype(np.int64)
        corner[none] = spare[none] // 2
        return np.concatenate([corner, box], 1)


@lru_cache(maxsize=8)
def _ratios(low: float, high: float) -> NDArray[np.float64]:
    """(STEPS,): evenly spaced logarithms, each in the middle of its step."""
    return np.exp(math.log(low) + (np.arange(STEPS) + 0.5) / STEPS * (math.log(high) - math.log(low)))


def _middle(sizes: Sizes, shapes: NDArray[np.float64], ratio: tuple[float, float]) -> NDArray[np.float64]:
    """(N, 2): height and width of the largest box whose ratio is allowed."""
    height, width = sizes.T.astype(np.float64)
    own = width / height / shapes
    wanted = own.clip(*ratio) * shapes
    return np.stack([np.minimum(height, np.rint(width / wanted)), np.minimum(width, np.rint(height * wanted))], 1).clip(
        1
    )


@dataclass(frozen=True)
class CroppedView:
    """The view for training with random crops: a whole, reduced picture and its numbers -> uint8 (H, W, channels)."""

    view: View
    crop: RandomCrop

    @property
    def reduction(self) -> Reduction:
        """How much smaller whole pictures are kept."""
        return Reduction(round(KEEP * self.view.height), round(KEEP * self.view.width), self.view.fit)

    def boxes(self, draws: NDArray[np.float32] | None, sizes: Sizes) -> Boxes:
        """(N, 4) for reduced pictures of these sizes (N, 2): random with draws, without them what the view shows."""
        shape = self.view.width / self.view.height
        shapes = sizes[:, 1] / sizes[:, 0] if self.view.fit == "squash" else np.full(len(sizes), shape)
        if draws is not None:
            return self.crop.boxes(draws, sizes, shapes)
        box = _middle(sizes, shapes, (1.0, 1.0))
        if self.view.fit == "crop":
            box *= self.view.crop_share
        box = np.rint(box).clip(1).astype(np.int64)
        return np.concatenate([(sizes - box) // 2, box], 1)

    def render(self, picture: NDArray[np.uint8], box: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Fill out (height, width, channels) with that box of the picture."""
        top, left, height, width = box.tolist()
        resize(picture[top : top + height, left : left + width], out)
