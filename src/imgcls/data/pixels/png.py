"""A PNG without what is not needed to show it: texts and color profiles can be large, compressed, or damaged."""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
ORIENTED = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts that may say how the picture is turned
MOST = 1 << 20  # bytes of such a text or of EXIF, unpacked too


class Pieces(io.RawIOBase):
    """Some pieces of a file as a file of its own, for reading.

    **Arguments:**

    - file: the whole file; closed with this one.
    - pieces: (start, length) of each, in order.
    """

    def __init__(self, file: BinaryIO, pieces: list[tuple[int, int]]) -> None:
        self.file = file
        self.pieces = pieces
        self.size = sum(length for _, length in pieces)
        self.at = self.piece = self.first = 0  # the piece that holds the place, and the place where it starts

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        self.at = max(0, base + offset)
        if self.at < self.first:
            self.piece = self.first = 0
        return self.at

    def readinto(self, buffer: object) -> int:
        """As of any file."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while self.piece < len(self.pieces):
            start, length = self.pieces[self.piece]
            if self.at < self.first + length:
                inside = self.at - self.first
                self.file.seek(start + inside)
                data = self.file.read(min(len(view), length - inside))
                view[: len(data)] = data
                self.at += len(data)
                return len(data)
            self.piece, self.first = self.piece + 1, self.first + length
        return 0

    def close(self) -> None:
        """Close the whole file too."""
        self.file.close()
        super().close()


def essential(file: BinaryIO) -> BinaryIO:
    """The PNG with its pixels, palette, transparency, frames and orientation alone. Takes no memory for the others."""
    pieces = [(0, len(SIGNATURE))]
    file.seek(len(SIGNATURE))
    at = len(SIGNATURE)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in NEEDED or _says_orientation(file, kind, length):
            pieces.append((at, length + 12))
        if kind == b"IEND":
            break
        at += length + 12
        file.seek(at)
    return io.BufferedReader(Pieces(file, pieces))


def _says_orientation(file: BinaryIO, kind: bytes, length: int) -> bool:
    """Whether this chunk is one that may say how the picture is turned, sound and of a bounded size."""
    if length > MOST or kind not in (b"eXIf", *TEXTS):
        return False
    data = file.read(length)
    if zlib.crc32(kind + data).to_bytes(4, "big") != file.read(4):
        return False
    if kind == b"eXIf":
        return True
    name = next((name for name in ORIENTED if data.startswith(name)), None)
    return name is not None and _unpacks(kind, data[len(name) :])


def _unpacks(kind: bytes, rest: bytes) -> bool:
    """Whether the text after its keyword is plain, or unpacks to a bounded size."""
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] == b"\0"):
        return True
    packed = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    unpacker = zlib.decompressobj()
    try:
        return len(unpacker.decompress(packed, MOST)) < MOST
    except zlib.error:
        return False
