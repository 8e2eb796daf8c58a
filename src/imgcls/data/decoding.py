"""From an image file to uint8 pixels: one way for train, evaluate and predict."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from imgcls.errors import DataError, UnreadableImage

HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None  # an extra: pip install 'imgcls[heif]'
HEIF_SUFFIXES = (".heic", ".heif", ".avif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
    *(".jfif", ".jpe", ".jif", ".jfi", ".pjpeg", ".pjp", ".dib", ".pnm", ".apng"),  # the same formats
    *(HEIF_SUFFIXES if HAS_HEIF else ()),
)
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes for 16-bit gray
GRAY_MODES = ("1", "L", "LA", "La", *DEEP_MODES)
ORIENTATION = 0x0112  # EXIF's tag
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
WIDTH, HEIGHT = 0x0100, 0x0101  # TIFF's tags
MAX_PIXELS = 64_000_000  # 8000 x 8000: a larger one is refused before it is decoded
MAX_BYTES = 2**29  # of a file: room for that many pixels of 8 bytes
SLOW_DECODERS = ("bmp_rle", "ppm", "ppm_plain")  # Pillow's in Python: up to 2 s a million pixels
MAX_SLOW_PIXELS = 3_000_000
STRIP = 2**17  # pixels that are converted to 8 bits or composited onto the background at once
READ = 2**16  # bytes of a chunk at once
BACKGROUND = 255  # transparent images are composited onto white


@contextlib.contextmanager
def quiet_decoders() -> Iterator[None]:
    """Silence Pillow's warnings (odd metadata, large images): a file is either read or refused with a message.

    Use it in the thread that starts the work, around all of it: warning filters are global to the process.
    """
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            yield
    finally:
        logger.setLevel(level)


def _open(path: str) -> ImageFile.ImageFile:
    """The image at path, header read but not yet decoded."""
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a regular file")
    if about.st_size > MAX_BYTES:
        raise ValueError(f"{about.st_size:,} bytes are more than {MAX_BYTES:,}")
    image = Image.open(path, formats=_formats())
    if reason := _too_large(image):
        image.close()
        raise ValueError(reason)
    return image


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """The formats that are read; registers those of pillow-heif with Pillow."""
    if not HAS_HEIF:
        return FORMATS
    import pillow_heif

    pillow_heif.register_heif_opener()
    Image.init()
    return (*FORMATS, *(name for name in ("HEIF", "AVIF") if name in Image.OPEN))


def _too_large(image: ImageFile.ImageFile) -> str | None:
    """Why it would take too much memory or time to decode it, if so."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        return f"{width}x{height} pixels are more than {MAX_PIXELS:,}"
    if width * height > MAX_SLOW_PIXELS and image.tile and image.tile[0][0] in SLOW_DECODERS:
        kind = "a run-length encoded BMP" if image.format == "BMP" else "a PPM in text or of an unusual depth"
        return f"{width}x{height} pixels are too slow to decode for {kind} (above {MAX_SLOW_PIXELS:,}); save it as PNG"
    return None


def _check_sums(image: ImageFile.ImageFile) -> None:
    """Raise ValueError if a PNG's pixel data is damaged: Pillow verifies only the chunks before it."""
    if image.format != "PNG" or not image.tile or image.fp is None:
        return
    file = image.fp
    file.seek(image.tile[0][2] - 8)
    while len(head := file.read(8)) == 8:
        left, kind = struct.unpack(">I4s", head)
        if kind != b"IDAT":
            return
        total = zlib.crc32(kind)
        while left:
            part = file.read(min(left, READ))
            if not part:
                raise ValueError("image file is truncated")
            total = zlib.crc32(part, total)
            left -= len(part)
        if file.read(4) != total.to_bytes(4, "big"):
            raise ValueError("damaged: the checksum of its pixels is wrong")


def _is_sideways(image: Image.Image) -> bool:
    """Whether the header says it is stored sideways; a PNG's own getexif would decode the whole image."""
    return Image.Image.getexif(image).get(ORIENTATION) in SIDEWAYS


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(first row, strip) over the whole image: operations that copy then need little memory."""
    width, height = image.size
    rows = max(1, STRIP // max(1, width))
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


@lru_cache(maxsize=1)
def _levels() -> NDArray[np.uint8]:
    """(65536,): each 16-bit value rounded to 8 bits."""
    return ((np.arange(65536) + 128) // 257).astype(np.uint8)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit gray -> 8-bit gray, scaled, transparency composited; ValueError if the pixels have no defined white."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save it with 8 or 16 bits")
    if image.mode not in DEEP_MODES:
        return image
    levels = _levels()
    if isinstance(key := image.info.get("transparency"), int):
        levels = levels.copy()
        levels[key : key + 1] = BACKGROUND
    scaled = np.empty((image.height, image.width), np.uint8)
    for top, strip in _strips(image):
        values = np.asarray(strip)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels have no defined range; save it with 8 or 16 bits")
        scaled[top : top + len(values)] = levels[values]
    return Image.fromarray(scaled)


def _flatten(image: Image.Image, channels: int) -> Image.Image:
    """Any 8-bit mode -> L or RGB, transparency composited onto the background."""
    if channels not in (1, 3):
        raise ValueError(f"it cannot be converted to {channels} channels, only to 1 (gray) or 3 (RGB)")
    mode = "L" if channels == 1 else "RGB"
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return _without_alpha(image, mode)
    if image.width * image.height <= STRIP:
        return _on_background(image, mode)
    flat = Image.new(mode, image.size)
    for top, strip in _strips(image):
        flat.paste(_on_background(strip, mode), (0, top))
    return flat


def _on_background(image: Image.Image, mode: str) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
    return _without_alpha(Image.alpha_composite(white, rgba), mode)


def _without_alpha(image: Image.Image, mode: str) -> Image.Image:
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image if image.mode == mode else image.convert(mode)


def _is_upright(image: Image.Image) -> bool:
    """Whether its EXIF data asks for no rotation. Decodes the image: a PNG may have the data after its pixels."""
    image.load()
    return bool(image.getexif().get(ORIENTATION, 1) == 1)


def _shrink(image: Image.Image, height: int, width: int) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size if that is large enough, the cheapest way to shrink it."""
    if image.format in ("JPEG", "MPO") and min(image.size) >= 2 * min(height, width):
        image.draft(None, (height, width) if _is_sideways(image) else (width, height))


def header(path: str) -> tuple[int, int, bool]:
    """Upright height and width in pixels, and whether it is gray; reads the header only. Raises DataError."""
    try:
        with _open(path) as image:
            tags = getattr(image, "tag_v2", None)  # of a TIFF: newer versions of Pillow swap its size themselves
            width, height = (tags[WIDTH], tags[HEIGHT]) if tags else image.size
            if _is_sideways(image):
                width, height = height, width
            return height, width, image.mode in GRAY_MODES
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything
        raise _unreadable(path, error) from error


def load_image(path: str, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """Decode a file: upright, gray (channels=1) or RGB (3), scaled to cover (height, width), center-cropped.

    Returns uint8 (height, width, channels). Raises DataError with the file's name if it is not a readable image.
    """
    return load_first(path, channels, height, width)[0]


def load_first(path: str, channels: int, height: int, width: int) -> tuple[NDArray[np.uint8], bool]:
    """What load_image returns, and whether the file has further images (animation frames, pages)."""
    try:
        with _open(path) as image:
            _check_sums(image)
            _shrink(image, height, width)
            if not _is_upright(image):
                ImageOps.exif_transpose(image, in_place=True)  # in place: no second large image in memory
            return _fit(image, channels, height, width), _has_more(image)
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _has_more(image: ImageFile.ImageFile) -> bool:
    """Whether further frames or pages follow; previews and depth maps of a JPEG (MPO) do not count."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - a GIF reads its second frame only now, which may be damaged
        return False


def fit_image(image: Image.Image, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """An image of any mode -> uint8 (height, width, channels): upright, gray or RGB, scaled to cover, center-cropped.

    Raises ValueError if its pixels have no defined range.
    """
    return _fit(image if _is_upright(image) else ImageOps.exif_transpose(image), channels, height, width)


def _fit(image: Image.Image, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    image = _flatten(_to_8_bit(image), channels)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def fit_pixels(pixels: NDArray[np.uint8], channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """(N, H, W, 1 to 4) uint8 -> (N, height, width, channels), as load_image does; with 2 or 4 the last one is alpha.

    Raises ValueError for other numbers of channels, unless nothing has to be changed.
    """
    if pixels.shape[1:] == (height, width, channels):
        return pixels
    if not 1 <= pixels.shape[-1] <= 4 or 0 in pixels.shape[1:]:
        raise ValueError(f"an array of shape {pixels.shape[1:]} is not an image: expected (height, width, 1 to 4)")
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
    return UnreadableImage(f"not a readable image: {path} ({reason})")
