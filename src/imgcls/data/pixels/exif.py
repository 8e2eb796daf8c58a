"""How a stored picture is turned, read by hand: another tag that is malformed does not matter."""

from __future__ import annotations

import contextlib
import re

from PIL import Image

ORIENTATION = 0x0112  # EXIF's tag
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what turns the stored picture upright
SIZES = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4}  # bytes of EXIF's integer types
ENTRY = 12  # bytes of a tag
MOST_TAGS = 4096
XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF counts, 1 for upright, also where the file says nothing or nonsense; decodes nothing."""
    if getattr(image, "tag_v2", None):  # a TIFF: Pillow turns it when it is decoded, and then removes the tag
        with contextlib.suppress(Exception):  # whatever its other tags make of it
            return _valid(Image.Image.getexif(image).get(ORIENTATION))
        return 1
    found = from_exif(_exif(image))
    if found is None:
        xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
        match = XMP.search(xmp.encode() if isinstance(xmp, str) else xmp)
        found = int(match[1]) if match else None
    return _valid(found)


def from_exif(data: bytes) -> int | None:
    """The orientation in a block of EXIF, in either byte order; None if it has none. Reads its first directory only."""
    data = re.sub(rb"^(Exif\x00\x00){1,2}", b"", data)
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(data[:4])
    if order is None:
        return None

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    start = number(4, 4)
    found = None
    for at in range(start + 2, start + 2 + ENTRY * min(number(start, 2), MOST_TAGS), ENTRY):
        if at + ENTRY > len(data):
            break
        if number(at, 2) == ORIENTATION and (size := SIZES.get(number(at + 2, 2))) and number(at + 4, 4) == 1:
            found = number(at + 8, size)
    return found


def _exif(image: Image.Image) -> bytes:
    """The block of EXIF; a PNG may have it as text, in hexadecimal."""
    if isinstance(data := image.info.get("exif"), bytes):
        return data
    text = image.info.get("Raw profile type exif")
    with contextlib.suppress(ValueError):
        return bytes.fromhex("".join(text.split("\n")[3:])) if isinstance(text, str) else b""
    return b""


def _valid(found: object) -> int:
    return found if isinstance(found, int) and found in TURNS else 1
