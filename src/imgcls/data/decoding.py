"""From an image file to uint8 pixels: one way for train, evaluate and predict."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import logging
import os
import stat
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from imgcls.data import png
from imgcls.data.exif import SIDEWAYS, TURNS, orientation
from imgcls.data.rendering import PLAIN, Rendering
from imgcls.errors import DataError, ReadingFailed, UnreadableImage, is_out_of_memory

Result = TypeVar("Result")

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
WIDTH, HEIGHT = 0x0100, 0x0101  # TIFF's tags
MAX_PIXELS = 64_000_000  # 8000 x 8000: a larger one is refused before it is decoded
MAX_BYTES = 2**29  # of a file: room for that many pixels of 8 bytes
DEFINE = "save it with 8 or 16 bits, or train with dataset.depth=[low,high]"
SLOW_DECODERS = ("bmp_rle", "ppm", "ppm_plain")  # Pillow's in Python: up to 2 s a million pixels
MAX_SLOW_PIXELS = 3_000_000
STRIP = 2**17  # pixels that are converted to 8 bits or composited onto the background at once
READ = 2**16  # bytes of a chunk at once
LARGE_PNG = 2**20  # bytes: of a larger one only what is needed is read
PAUSES = (0.05, 0.2, 0.5)  # seconds before a file that could not be read is tried again
DENIED = (errno.EACCES, errno.EPERM)  # hardly ever passes, so it is tried again once
OF_READING = (
    *DENIED,
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY),
    *(errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.ENETDOWN, errno.ENOLCK),
    *(errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ESHUTDOWN),
    *(getattr(errno, name) for name in ("EREMOTEIO", "ENOLINK", "ECOMM", "ENOKEY") if hasattr(errno, name)),
)  # the disk's or the network's errors: they say nothing about the picture


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


@contextlib.contextmanager
def _open(path: str, *, is_bare: bool = False) -> Iterator[ImageFile.ImageFile]:
    """The image at path, header read but not yet decoded. is_bare: it is a PNG, without its texts and profiles."""
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a regular file")
    if about.st_size > MAX_BYTES:
        raise ValueError(f"{about.st_size:,} bytes are more than {MAX_BYTES:,}")
    with contextlib.ExitStack() as stack:
        if is_bare or (about.st_size > LARGE_PNG and _is_png(path)):
            file = stack.enter_context(png.essential(open(path, "rb")))  # noqa: SIM115 - closed with it
            image = Image.open(file, formats=("PNG",))
        else:
            image = Image.open(path, formats=_formats())
        stack.enter_context(image)
        if reason := _too_large(image):
            raise ValueError(reason)
        yield image


def _is_png(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(png.SIGNATURE)) == png.SIGNATURE


def read(path: str, work: Callable[[ImageFile.ImageFile], Result]) -> Result:
    """work(the image at path); tried again if the disk or the network fails.

    Raises DataError with the file's name if it is not a readable image, ReadingFailed if it cannot be read at all.
    """
    for pause in (*PAUSES, None):
        try:
            return _read_once(path, work)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise anything
            if is_out_of_memory(error):
                raise MemoryError from error
            reason = _of_reading(error)
            if reason is None:
                raise _unreadable(path, error) from error
            if pause is None or (reason.errno in DENIED and pause != PAUSES[0]):
                raise _reading_failed(path, reason) from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def _read_once(path: str, work: Callable[[ImageFile.ImageFile], Result]) -> Result:
    """work(the image at path); a PNG that fails is tried without its texts and profiles, which may be the reason."""
    try:
        with _open(path) as image:
            return work(image)
    except MemoryError:
        raise
    except Exception as error:
        if _of_reading(error) or not os.path.isfile(path) or not _is_png(path):
            raise
        with contextlib.suppress(Exception), _open(path, is_bare=True) as image:
            return work(image)
        raise


def _of_reading(error: BaseException | None) -> OSError | None:
    """The disk's or the network's error behind this one, if there is one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in OF_READING:
            return error
        error = error.__cause__ or error.__context__
    return None


def _reading_failed(path: str, reason: OSError) -> ReadingFailed:
    if reason.errno in DENIED:
        return ReadingFailed(f"cannot read {path}: {reason.strerror}; make it readable for you, or remove it")
    if reason.errno in (errno.EMFILE, errno.ENFILE):
        return ReadingFailed(f"cannot read {path}: {reason.strerror}; raise the limit (ulimit -n) or lower workers")
    tried = f"tried {len(PAUSES) + 1} times; the disk or the network fails, not the picture"
    return ReadingFailed(f"cannot read {path}: {reason.strerror} ({tried})")


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


def check_sums(image: ImageFile.ImageFile) -> None:
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


def rendered(image: Image.Image, channels: int, rendering: Rendering) -> Image.Image:
    """A decoded image of any mode as L (channels=1) or RGB (3)."""
    return _flatten(_to_8_bit(image, rendering), channels, rendering)


def _without_alpha(image: Image.Image, mode: str) -> Image.Image:
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image if image.mode == mode else image.convert(mode)


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


def _unreadable(path: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"no such file: {path}")
    reason = (
        f"cannot identify it as one of {', '.join(FORMATS)}"
        if type(error).__name__ == "UnidentifiedImageError"
        else error
    )
    return UnreadableImage(f"not a readable image: {path} ({reason})")
