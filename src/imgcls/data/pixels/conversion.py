"""From a decoded image of any mode to 8-bit gray or RGB."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgcls.data.pixels.rendering import PLAIN, Rendering

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes for 16-bit gray
GRAY_MODES = ("1", "L", "LA", "La", *DEEP_MODES)
DEFINE = "save it with 8 or 16 bits, or train with dataset.depth=[low,high]"
STRIP = 2**17  # pixels that are converted to 8 bits or composited onto the background at once


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(first row, strip) over the whole image: operations that copy then need little memory."""
    width, height = image.size
    rows = max(1, STRIP // max(1, width))
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


@lru_cache(maxsize=1)
def _levels() -> NDArray[np.uint8]:
    """(65536,): each 16-bit value rounded to 8 bits."""
    return ((np.arange(65536) + 128) // 257).astype(np.uint8)


def rendered(image: Image.Image, channels: int, rendering: Rendering) -> Image.Image:
    """A decoded image of any mode as L (channels=1) or RGB (3)."""
    return _flatten(_to_8_bit(image, rendering), channels, rendering)


def _to_8_bit(image: Image.Image, rendering: Rendering) -> Image.Image:
    """More than 8 bits of gray -> 8-bit gray, scaled; ValueError if the pixels have no defined white.

    A value that means transparent becomes the background, or an alpha channel if that is not white.
    """
    if image.mode not in (*DEEP_MODES, "F"):
        return _stretched(image, rendering.depth) if rendering.depth and rendering.has_8_bits else image
    if image.mode == "F" and rendering.depth is None:
        raise ValueError(f"floating-point pixels have no defined range; {DEFINE}")
    key = image.info.get("transparency")
    is_white = rendering.background == PLAIN.background
    scaled = np.empty((image.height, image.width), np.uint8)
    alpha = np.full_like(scaled, 255) if isinstance(key, int) and not is_white else None
    for top, strip in strips(image):
        values = np.asarray(strip)
        rows = slice(top, top + len(values))
        scaled[rows] = _scaled(values, rendering.depth)
        if alpha is not None:
            alpha[rows][values == key] = 0
        elif isinstance(key, int):
            scaled[rows][values == key] = 255
    gray = Image.fromarray(scaled)
    return gray if alpha is None else Image.merge("LA", (gray, Image.fromarray(alpha)))


def _scaled(values: NDArray[Any], depth: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Values to 8 bits: all 16 of them, or from low to high; what is not a number becomes black."""
    if depth is None:
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"32-bit pixels have no defined range; {DEFINE}")
        levels: NDArray[np.uint8] = _levels()[values]
        return levels
    low, high = depth
    share = np.nan_to_num((values.astype(np.float64) - low) / (high - low), nan=0.0)
    scaled: NDArray[np.uint8] = np.floor(share.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return scaled


def _stretched(image: Image.Image, depth: tuple[float, float]) -> Image.Image:
    """An 8-bit image whose values from low to high become 0 to 255; transparency stays as it is."""
    is_gray = image.mode in GRAY_MODES
    keeps = has_alpha(image)
    image = image.convert(("LA" if keeps else "L") if is_gray else ("RGBA" if keeps else "RGB"))
    table = _scaled(np.arange(256), depth).tolist()
    bands = len(image.getbands())
    return image.point(table * (bands - keeps) + list(range(256)) * keeps)


def has_alpha(image: Image.Image) -> bool:
    """Whether some of it may be transparent."""
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _flatten(image: Image.Image, channels: int, rendering: Rendering = PLAIN) -> Image.Image:
    """Any 8-bit mode -> L or RGB, transparency composited onto the background."""
    if channels not in (1, 3):
        raise ValueError(f"it cannot be converted to {channels} channels, only to 1 (gray) or 3 (RGB)")
    mode = "L" if channels == 1 else "RGB"
    if not has_alpha(image):
        return _without_alpha(image, mode)
    if image.width * image.height <= STRIP:
        return _on_background(image, mode, rendering)
    flat = Image.new(mode, image.size)
    for top, strip in strips(image):
        flat.paste(_on_background(strip, mode, rendering), (0, top))
    return flat


def _on_background(image: Image.Image, mode: str, rendering: Rendering) -> Image.Image:
    rgba = image.convert("RGBA")
    behind = Image.new("RGBA", rgba.size, (*rendering.background, 255))
    return _without_alpha(Image.alpha_composite(behind, rgba), mode)


def _without_alpha(image: Image.Image, mode: str) -> Image.Image:
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image if image.mode == mode else image.convert(mode)
