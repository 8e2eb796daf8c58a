"""Preprocessing: from an image's pixels to a model's normalized input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgcls.data.pixels.decoding import fit_pixels, load_image
from imgcls.data.pixels.rendering import PLAIN, Rendering
from imgcls.data.pixels.view import Fit, View
from imgcls.parallel.threads import each_share
from imgcls.runtime.kept_memory import KeptMemory

LARGE = 1 << 14  # numbers of an image: a thread prepares a few such images at a time


@dataclass(frozen=True)
class Preprocessing:
    """What turns an image into a model's input; it is stored in the checkpoint.

    channels: 1 (gray) or 3 (RGB), or as many as the arrays have. height, width: in pixels. mean, std: of each channel,
    for pixels from 0 to 1. rendering: how stored pixels become 8 bits. fit, crop_share, scaled_decoding: see View.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rendering: Rendering = PLAIN
    fit: Fit = "crop"
    crop_share: float = 1.0
    scaled_decoding: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)"""
        return self.height, self.width, self.channels

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.height, self.width

    @property
    def view(self) -> View:
        """What of a picture the model gets to see."""
        return View(
            self.channels, self.height, self.width, self.rendering, self.fit, self.crop_share, self.scaled_decoding
        )

    def load(self, path: str) -> NDArray[np.uint8]:
        """A file -> uint8 (height, width, channels)."""
        return load_image(path, self.view)

    def fit_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (N, H, W, 1 or 3) -> (N, height, width, channels)."""
        return fit_pixels(pixels, self.view)

    def normalizer(self, device: torch.device) -> Normalize:
        """The step from pixels to the model's input, on that device."""
        return _normalizer(self, device)

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return {
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "mean": list(self.mean),
            "std": list(self.std),
            "fit": self.fit,
            "crop_share": self.crop_share,
            "scaled_decoding": self.scaled_decoding,
            **self.rendering.as_dict(),
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Preprocessing:
        """What a checkpoint says; one without the newer keys crops, and decodes large JPEGs at reduced size.

        Raises KeyError, TypeError or ValueError for anything else than ``as_dict`` returns.
        """
        fit = stored.get("fit", "crop")
        if fit not in get_args(Fit):
            raise ValueError(f"unknown fit '{fit}'")
        return cls(
            int(stored["channels"]),
            int(stored["height"]),
            int(stored["width"]),
            tuple(stored["mean"]),
            tuple(stored["std"]),
            Rendering.from_dict(stored),
            fit,
            float(stored.get("crop_share", 1.0)),
            bool(stored.get("scaled_decoding", True)),
        )


@lru_cache(maxsize=8)
def _normalizer(preprocessing: Preprocessing, device: torch.device) -> Normalize:
    return Normalize(preprocessing, device)


class Normalize:
    """(B, H, W, C) uint8 -> (B, C, H, W) float32 with mean 0 and standard deviation 1, channels last in memory.

    Both are laid out along a whole image (H * W * C): broadcasting over a last dimension of 3 is five times slower,
    over a row of a small image (28x28) 1.5 times (benchmarks/LOG.md).
    """

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        count = preprocessing.height * preprocessing.width
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64).repeat(count) * 255
        std = torch.tensor(preprocessing.std, dtype=torch.float64).repeat(count) * 255
        self.scale = (1 / std).to(device, torch.float32)
        self.shift = (-mean / std).to(device, torch.float32)
        self.is_large = len(self.scale) >= LARGE
        self.memory = KeptMemory()

    def __call__(self, images: Tensor) -> Tensor:
        if self.is_large and images.device.type == "cpu":
            return self.changed(images, lambda rows: images[rows])
        batch, height, width, channels = images.shape
        flat = images.reshape(batch, height * width * channels).to(torch.float32)
        return flat.mul_(self.scale).add_(self.shift).view(batch, height, width, channels).permute(0, 3, 1, 2)

    def changed(self, images: Tensor, change: Callable[[slice], Tensor]) -> Tensor:
        """change(rows) of large images in main memory, normalized; each thread takes a few of them at a time.

        The result lies in memory that is kept: new memory would cost more than all the arithmetic.
        """
        batch, height, width, channels = images.shape
        out = self.memory.empty((batch, height * width * channels), np.float32)
        scale, shift, normal = self.scale.numpy(), self.shift.numpy(), out.numpy()

        def work(rows: slice) -> None:
            for row, pixels in zip(normal[rows], change(rows).flatten(1).numpy(), strict=True):
                row[:] = pixels
                row *= scale
                row += shift

        each_share(work, batch)
        return out.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def inverse(self, images: Tensor) -> NDArray[np.uint8]:
        """A normalized batch (B, C, H, W) back to uint8 (B, H, W, C), for plots."""
        flat = images.permute(0, 2, 3, 1).flatten(1).float()
        pixels = ((flat - self.shift) / self.scale).round().clamp(0, 255).to(torch.uint8)
        return pixels.view(len(images), images.shape[2], images.shape[3], images.shape[1]).cpu().numpy()


def statistics(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (N, H, W, C) uint8, in units of [0, 1].

    From exact integer counts, so that the order of the images does not matter; a constant channel gets 1.
    """
    means, stds = [], []
    levels = np.arange(256) / 255
    for channel in range(pixels.shape[-1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(pixels), 64):  # in chunks: bincount takes 8 bytes per pixel
            counts += np.bincount(pixels[start : start + 64, ..., channel].ravel(), minlength=256)
        mean = float((counts * levels).sum() / counts.sum())
        variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
        means.append(mean)
        stds.append(variance**0.5 if variance > 1e-8 else 1.0)
    return tuple(means), tuple(stds)
