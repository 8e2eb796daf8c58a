"""From an image file to uint8 pixels: one way for train, evaluate and predict."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from imgcls.data.pixels.conversion import DEEP_MODES, GRAY_MODES, has_alpha, rendered
from imgcls.data.pixels.exif import SIDEWAYS, TURNS, orientation
from imgcls.data.pixels.opening import check_sums, read
from imgcls.data.pixels.rendering import PLAIN, Rendering

WIDTH, HEIGHT = 0x0100, 0x0101  # TIFF's tags


def upright(image: Image.Image) -> Image.Image:
    """The image as it is meant to be seen. Decodes it: a PNG may say so after its pixels."""
    image.load()
    turn = TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    if isinstance(image, ImageFile.ImageFile):  # ours: no second large image in memory
        image.im = turned.im
    return turned


def _shrink(image: Image.Image, height: int, width: int) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size if that is large enough, the cheapest way to shrink it."""
    if image.format in ("JPEG", "MPO") and min(image.size) >= 2 * min(height, width):
        image.draft(None, (height, width) if orientation(image) in SIDEWAYS else (width, height))


def header(path: str) -> tuple[int, int, bool]:
    """Upright height and width in pixels, and whether it is gray; reads the header only.

    Raises DataError, and ReadingFailed if the disk fails.
    """
    return read(path, _header)


def _header(image: ImageFile.ImageFile) -> tuple[int, int, bool]:
    tags = getattr(image, "tag_v2", None)  # of a TIFF: newer versions of Pillow swap its size themselves
    width, height = (tags[WIDTH], tags[HEIGHT]) if tags else image.size
    if orientation(image) in SIDEWAYS:
        width, height = height, width
    return height, width, image.mode in GRAY_MODES


def load_image(path: str, channels: int, height: int, width: int, rendering: Rendering = PLAIN) -> NDArray[np.uint8]:
    """Decode a file: upright, gray (channels=1) or RGB (3), scaled to cover (height, width), center-cropped.

    Returns uint8 (height, width, channels). Raises DataError with the file's name if it is not a readable image,
    ReadingFailed if the disk or the network fails.
    """
    return load_first(path, channels, height, width, rendering)[0]


def load_first(
    path: str, channels: int, height: int, width: int, rendering: Rendering = PLAIN
) -> tuple[NDArray[np.uint8], bool]:
    """What load_image returns, and whether the file has further images (animation frames, pages)."""
    pixels, seen = look(path, channels, height, width, rendering)
    return pixels, seen.has_more


class Seen(NamedTuple):
    """What is known of a file once it is decoded: its upright size in pixels, its mode and bits a value as stored.

    has_more: further images follow. has_alpha: some of it may be transparent.
    """

    height: int
    width: int
    mode: str
    bits: int
    has_more: bool
    has_alpha: bool


def look(
    path: str, channels: int, height: int, width: int, rendering: Rendering = PLAIN
) -> tuple[NDArray[np.uint8], Seen]:
    """What load_image returns, and what is known of the file."""

    def work(image: ImageFile.ImageFile) -> tuple[NDArray[np.uint8], Seen]:
        tall, wide, _ = _header(image)
        bits, mode = stored_bits(image), image.mode
        check_sums(image)
        _shrink(image, height, width)
        turned = upright(image)
        if image.format == "PNG":  # may say how it is turned after its pixels
            tall, wide = turned.height, turned.width
        pixels = _fit(turned, channels, height, width, rendering)
        return pixels, Seen(tall, wide, mode, bits, has_more(image), has_alpha(turned))

    return read(path, work)


def stored_bits(image: ImageFile.ImageFile) -> int:
    """Bits of each value as stored: 8, 16 or 32. Color of 16 bits is read as 8 (Pillow has no such mode)."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        return 32
    raw = str(image.tile[0][3]) if image.tile else ""
    return 16 if image.mode in DEEP_MODES or ";16" in raw else 8


def has_more(image: ImageFile.ImageFile) -> bool:
    """Whether further frames or pages follow; previews and depth maps of a JPEG (MPO) do not count."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - a GIF reads its second frame only now, which may be damaged
        return False


def fit_image(
    image: Image.Image, channels: int, height: int, width: int, rendering: Rendering = PLAIN
) -> NDArray[np.uint8]:
    """An image of any mode -> uint8 (height, width, channels): upright, gray or RGB, scaled to cover, center-cropped.

    Raises ValueError if its pixels have no defined range.
    """
    image.load()
    turn = TURNS.get(orientation(image))
    return _fit(image if turn is None else image.transpose(turn), channels, height, width, rendering)


def _fit(image: Image.Image, channels: int, height: int, width: int, rendering: Rendering) -> NDArray[np.uint8]:
    image = rendered(image, channels, rendering)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def fit_pixels(
    pixels: NDArray[np.uint8], channels: int, height: int, width: int, rendering: Rendering = PLAIN
) -> NDArray[np.uint8]:
    """(N, H, W, 1 to 4) uint8 -> (N, height, width, channels), as load_image does; with 2 or 4 the last one is alpha.

    Raises ValueError for other numbers of channels, unless nothing has to be changed.
    """
    if pixels.shape[1:] == (height, width, channels) and not rendering.has_8_bits:
        return pixels
    if not 1 <= pixels.shape[-1] <= 4 or 0 in pixels.shape[1:]:
        raise ValueError(f"an array of shape {pixels.shape[1:]} is not an image: expected (height, width, 1 to 4)")
    out = np.empty((len(pixels), height, width, channels), np.uint8)
    for i, one in enumerate(pixels):
        image = Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one)
        out[i] = fit_image(image, channels, height, width, rendering)
    return out
