"""Opening an image file: formats, limits, and errors of reading kept apart from errors of the picture."""

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
from typing import TypeVar

from PIL import Image, ImageFile

from imgcls.data.pixels import png
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
MAX_PIXELS = 64_000_000  # 8000 x 8000: a larger one is refused before it is decoded
MAX_BYTES = 2**29  # of a file: room for that many pixels of 8 bytes
SLOW_DECODERS = ("bmp_rle", "ppm", "ppm_plain")  # Pillow's in Python: up to 2 s a million pixels
MAX_SLOW_PIXELS = 3_000_000
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


def _unreadable(path: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"no such file: {path}")
    reason = (
        f"cannot identify it as one of {', '.join(FORMATS)}"
        if type(error).__name__ == "UnidentifiedImageError"
        else error
    )
    return UnreadableImage(f"not a readable image: {path} ({reason})")


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
