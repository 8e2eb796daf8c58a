"""Preprocessing: from an image's pixels to a model's normalized input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgcls.data.pixels.decoding import fit_pixels, load_image
from imgcls.data.pixels.rendering import PLAIN, Rendering


@dataclass(frozen=True)
class Preprocessing:
    """What turns an image into a model's input; it is stored in the checkpoint.

    channels: 1 (gray) or 3 (RGB), or as many as the arrays have. height, width: in pixels. mean, std: of each channel,
    for pixels from 0 to 1. rendering: how stored pixels become 8 bits.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rendering: Rendering = PLAIN

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)"""
        return self.height, self.width, self.channels

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.height, self.width

    def load(self, path: str) -> NDArray[np.uint8]:
        """A file -> uint8 (height, width, channels)."""
        return load_image(path, self.channels, self.height, self.width, self.rendering)

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (N, H, W, 1 or 3) -> (N, height, width, channels)."""
        return fit_pixels(pixels, self.channels, self.height, self.width, self.rendering)

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
            **self.rendering.as_dict(),
        }


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

    def __call__(self, images: Tensor) -> Tensor:
        batch, height, width, channels = images.shape
        flat = images.reshape(batch, height * width * channels).to(torch.float32)
        return flat.mul_(self.scale).add_(self.shift).view(batch, height, width, channels).permute(0, 3, 1, 2)

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
