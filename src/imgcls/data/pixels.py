"""One path from a file to the numbers a model sees, shared by train, evaluate and predict."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from imgcls.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes for 16-bit grey
GREY_MODES = ("1", "L", "LA", "La", *DEEP_MODES)
ORIENTATION = 0x0112  # EXIF's tag
LYING = (5, 6, 7, 8)  # orientations that swap height and width
MAX_PIXELS = 64_000_000  # 8000 x 8000: a larger one is refused before it is decoded
BACKGROUND = 255  # transparent images are laid on white

WIDTH, HEIGHT = 0x0100, 0x0101  # TIFF's tags

@contextlib.contextmanager
def quiet_decoders() -> Iterator[None]:
    """Without Pillow's warnings (odd metadata, large images): a file is either read or refused with a message.

    For the thread that starts the work, around it: the filters belong to the process and must not change meanwhile.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _open(path: str) -> Image.Image:
    """The image at path, header read but not yet decoded."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a regular file")
    image = Image.open(path, formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")
    return image


def _is_lying(image: Image.Image) -> bool:
    """Whether it is stored on its side, as far as its header says: a PNG's own getexif would decode the image."""
    return Image.Image.getexif(image).get(ORIENTATION) in LYING


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey -> 8-bit grey, scaled; what has no defined white is refused."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save it with 8 or 16 bits")
    if image.mode not in DEEP_MODES:
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels have no defined range; save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _flatten(image: Image.Image, channels: int) -> Image.Image:
    """Any 8-bit mode -> L or RGB, transparency laid on the background."""
    if channels not in (1, 3):
        raise ValueError(f"it cannot be brought to {channels} channels, only to 1 (grey) or 3 (RGB)")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        image = Image.alpha_composite(white, rgba)
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; the same object if it stands upright, as exif_transpose would copy it."""
    image.load()  # a PNG's orientation may stand behind its pixels
    return image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)


def _shrink(image: Image.Image, height: int, width: int) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 if that is large enough: the cheapest way to make it smaller."""
    if image.format in ("JPEG", "MPO") and min(image.size) >= 2 * min(height, width):
        image.draft(None, (height, width) if _is_lying(image) else (width, height))


def header(path: str) -> tuple[int, int, bool]:
    """Upright height and width, and whether the image is grey, without decoding it."""
    try:
        with _open(path) as image:
            tags = getattr(image, "tag_v2", None)  # a TIFF's: newer versions of Pillow swap its size themselves
            width, height = (tags[WIDTH], tags[HEIGHT]) if tags else image.size
            if _is_lying(image):
                width, height = height, width
            return height, width, image.mode in GREY_MODES
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything
        raise _unreadable(path, error) from error


def load_image(path: str, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """Decode a file: upright, grey or RGB, scaled to cover (height, width) and cropped to its centre.

    Returns uint8 (height, width, channels). Raises DataError with the file's name if it is no readable image.
    """
    try:
        with _open(path) as image:
            _shrink(image, height, width)
            return fit_image(image, channels, height, width)
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def fit_image(image: Image.Image, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """An image of any mode -> uint8 (height, width, channels): upright, grey or RGB, scaled to cover, the centre of it.

    Raises ValueError if its pixels have no defined range.
    """
    image = _flatten(_to_8_bit(_upright(image)), channels)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def fit_pixels(pixels: NDArray[np.uint8], channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """(N, H, W, 1 to 4) uint8 -> (N, height, width, channels) by the rules of load_image; 2 and 4 have transparency.

    Raises ValueError for other numbers of channels, unless nothing has to be changed.
    """
    if pixels.shape[1:] == (height, width, channels):
        return pixels
    if not 1 <= pixels.shape[-1] <= 4 or 0 in pixels.shape[1:]:
        raise ValueError(f"an array of shape {pixels.shape[1:]} is no image: expected (height, width, 1 to 4)")
    out = np.empty((len(pixels), height, width, channels), np.uint8)
    for i, one in enumerate(pixels):
        image = Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one)
        out[i] = fit_image(image, channels, height, width)
    return out


def _unreadable(path: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"no such file: {path}")
    reason = (
        f"cannot identify it as one of {', '.join(FORMATS)}"
        if type(error).__name__ == "UnidentifiedImageError"
        else error
    )
    return DataError(f"not a readable image: {path} ({reason})")


@dataclass(frozen=True)
class Preprocessing:
    """What turns an image into a model's input; it travels in the checkpoint.

    mean and std are per channel, in units of [0, 1].
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)"""
        return self.height, self.width, self.channels

    def load(self, path: str) -> NDArray[np.uint8]:
        """A file -> uint8 (height, width, channels)."""
        return load_image(path, self.channels, self.height, self.width)

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (N, H, W, 1 or 3) -> (N, height, width, channels)."""
        return fit_pixels(pixels, self.channels, self.height, self.width)

    def normaliser(self, device: torch.device) -> Normalise:
        """The step from pixels to the model's input, on that device."""
        return _normaliser(self, device)

    def as_dict(self) -> dict[str, Any]:
        """As it is stored in a checkpoint."""
        return {
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "mean": list(self.mean),
            "std": list(self.std),
        }


@lru_cache(maxsize=8)
def _normaliser(preprocessing: Preprocessing, device: torch.device) -> Normalise:
    return Normalise(preprocessing, device)


class Normalise:
    """(B, H, W, C) uint8 -> (B, C, H, W) float32 with mean 0 and deviation 1, channels last in memory.

    Mean and deviation are laid out along a whole image (H * W * C): broadcasting over a last dimension of 3 is five
    times slower, over a row of a small image (28x28) half as slow again (benchmarks/LOG.md).
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
        """A normalised batch back to uint8 (B, H, W, C), for pictures."""
        flat = images.permute(0, 2, 3, 1).flatten(1).float()
        pixels = ((flat - self.shift) / self.scale).round().clamp(0, 255).to(torch.uint8)
        return pixels.view(len(images), images.shape[2], images.shape[3], images.shape[1]).cpu().numpy()


def statistics(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (N, H, W, C) uint8, in units of [0, 1].

    Exact integer sums, so that the order of the images does not matter; a channel without contrast gets deviation 1.
    """
    means, stds = [], []
    levels = np.arange(256) / 255
    for channel in range(pixels.shape[-1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(pixels), 64):  # in parts: bincount makes 8 bytes of each
            counts += np.bincount(pixels[start : start + 64, ..., channel].ravel(), minlength=256)
        mean = float((counts * levels).sum() / counts.sum())
        variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
        means.append(mean)
        stds.append(variance**0.5 if variance > 1e-8 else 1.0)
    return tuple(means), tuple(stds)
