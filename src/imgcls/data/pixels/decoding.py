"""From an image file to uint8 pixels: one way for train, evaluate and predict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from imgcls.data.pixels.conversion import DEEP_MODES, GRAY_MODES, has_alpha, rendered
from imgcls.data.pixels.crops import CroppedView
from imgcls.data.pixels.exif import SIDEWAYS, TURNS, orientation
from imgcls.data.pixels.opening import check_sums, read
from imgcls.data.pixels.resizing import resize
from imgcls.data.pixels.view import View

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


def load_image(path: str, view: View) -> NDArray[np.uint8]:
    """Decode a file: upright, gray or RGB, fitted into the view.

    Returns uint8 (height, width, channels). Raises DataError with the file's name if it is not a readable image,
    ReadingFailed if the disk or the network fails.
    """
    return load_first(path, view)[0]


def load_first(path: str, view: View) -> tuple[NDArray[np.uint8], bool]:
    """What load_image returns, and whether the file has further images (animation frames, pages)."""
    pixels, seen = look(path, view)
    return pixels, seen.has_more


def load_whole(path: str, crops: CroppedView) -> NDArray[np.uint8]:
    """Decode a file: upright, gray or RGB as the view says, whole, but reduced.

    Returns uint8 (H, W, channels) of the picture's own shape, or the view's if it is padded. Raises as load_image does.
    """

    def work(image: ImageFile.ImageFile) -> NDArray[np.uint8]:
        height, width, _ = _header(image)
        check_sums(image)
        _shrink(image, *crops.reduction.size(height, width))
        return _reduced(as_array(rendered(upright(image), crops.view.channels, crops.view.rendering)), crops)

    return read(path, work)


def _reduced(pixels: NDArray[np.uint8], crops: CroppedView) -> NDArray[np.uint8]:
    """A whole picture (H, W, C) made smaller, and padded if the reduction says so; itself if nothing is to be done."""
    size = crops.reduction.size(*pixels.shape[:2])
    if size != pixels.shape[:2]:
        small = np.empty((*size, pixels.shape[2]), np.uint8)
        resize(pixels, small)
        pixels = small
    canvas = crops.reduction.canvas(*pixels.shape[:2])
    return pixels if canvas == pixels.shape[:2] else _padded(pixels, canvas, crops.view.rendering.background)


def _padded(pixels: NDArray[np.uint8], size: tuple[int, int], color: tuple[int, int, int]) -> NDArray[np.uint8]:
    """(H, W, C) in the middle of a larger picture of that color."""
    mode = "L" if pixels.shape[2] == 1 else "RGB"
    out = np.array(Image.new("RGB", size[::-1], color).convert(mode)).reshape(*size, -1)
    top, left = ((whole - part) // 2 for whole, part in zip(size, pixels.shape[:2], strict=True))
    out[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return out


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


def look(path: str, view: View) -> tuple[NDArray[np.uint8], Seen]:
    """What load_image returns, and what is known of the file."""

    def work(image: ImageFile.ImageFile) -> tuple[NDArray[np.uint8], Seen]:
        tall, wide, _ = _header(image)
        bits, mode = stored_bits(image), image.mode
        check_sums(image)
        if view.scaled_decoding:
            _shrink(image, view.height, view.width)
        turned = upright(image)
        if image.format == "PNG":  # may say how it is turned after its pixels
            tall, wide = turned.height, turned.width
        return _fit(turned, view), Seen(tall, wide, mode, bits, has_more(image), has_alpha(turned))

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


def fit_image(image: Image.Image, view: View) -> NDArray[np.uint8]:
    """An image of any mode -> uint8 (height, width, channels), as load_image does.

    Raises ValueError if its pixels have no defined range.
    """
    image.load()
    turn = TURNS.get(orientation(image))
    return _fit(image if turn is None else image.transpose(turn), view)


def _fit(image: Image.Image, view: View) -> NDArray[np.uint8]:
    image = rendered(image, view.channels, view.rendering)
    size = view.width, view.height
    if view.fit == "pad":
        color = view.rendering.background if image.mode == "RGB" else _gray(view.rendering.background)
        image = ImageOps.pad(image, size, method=Image.Resampling.BILINEAR, color=color)
    elif view.fit == "squash" and image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    elif image.size != size or view.crop_share < 1:
        cut_off = (1 - view.crop_share) / 2  # of each side, at each end
        image = ImageOps.fit(image, size, method=Image.Resampling.BILINEAR, bleed=cut_off)
    return as_array(image)


def _gray(color: tuple[int, int, int]) -> int:
    """That color as Pillow converts it to gray."""
    value = Image.new("RGB", (1, 1), color).convert("L").getpixel((0, 0))
    assert isinstance(value, int)
    return value


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """An image of mode L or RGB as (H, W, 1 or 3)."""
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def fit_pixels(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """(N, H, W, 1 to 4) uint8 -> (N, height, width, channels), as load_image does; with 2 or 4 the last one is alpha.

    Raises ValueError for other numbers of channels, unless nothing has to be changed.
    """
    if is_ready(pixels, view):
        return pixels
    out = np.empty((len(pixels), view.height, view.width, view.channels), np.uint8)
    for i, image in enumerate(_images(pixels)):
        out[i] = fit_image(image, view)
    return out


def is_ready(pixels: NDArray[np.uint8], view: View) -> bool:
    """Whether these pixels (N, H, W, C) are used as they are."""
    is_whole = view.crop_share == 1 and not view.rendering.has_8_bits
    return is_whole and pixels.shape[1:] == (view.height, view.width, view.channels)


def needs_change(pixels: NDArray[np.uint8], crops: CroppedView) -> bool:
    """Whether pictures (N, H, W, C) have to be converted, reduced or padded before they are cropped."""
    size = pixels.shape[1:3]
    is_whole = crops.reduction.size(*size) == size == crops.reduction.canvas(*size)
    return pixels.shape[3] != crops.view.channels or crops.view.rendering.has_8_bits or not is_whole


def whole_pixels(pixels: NDArray[np.uint8], crops: CroppedView) -> NDArray[np.uint8]:
    """(N, H, W, 1 to 4) uint8 -> (N, H', W', channels), whole, as load_whole does. Raises ValueError as fit_pixels."""
    view = crops.view
    if pixels.shape[3] == view.channels and not view.rendering.has_8_bits:
        return np.stack([_reduced(one, crops) for one in pixels])
    converted = (as_array(rendered(image, view.channels, view.rendering)) for image in _images(pixels))
    return np.stack([_reduced(one, crops) for one in converted])


def _images(pixels: NDArray[np.uint8]) -> Iterator[Image.Image]:
    if not 1 <= pixels.shape[-1] <= 4 or 0 in pixels.shape[1:]:
        raise ValueError(f"an array of shape {pixels.shape[1:]} is not an image: expected (height, width, 1 to 4)")
    for one in pixels:
        yield Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one)
