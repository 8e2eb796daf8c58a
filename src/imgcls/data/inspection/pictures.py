"""The facts of every picture of a data set, each file opened and read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from imgcls.data.pixels import conversion, decoding, opening
from imgcls.data.pixels.facts import value_range
from imgcls.data.pixels.rendering import PLAIN, Rendering
from imgcls.data.source import Images, Indices, Source, names_of
from imgcls.errors import DataError, ReadingFailed
from imgcls.parallel.process_pool import each, shared_zeros
from imgcls.text import one_line

SIDE = 32  # pixels of the small gray pictures; those in color have half as many
DRAFT = 64  # pixels per side that a JPEG is at least decoded to: a large one at an eighth of its size
DIGEST = 16  # bytes

Small = NDArray[np.uint8]


class Facts(NamedTuple):
    """A picture. **Attributes:**

    - height, width: upright, in pixels; size: bytes of the file.
    - digest: of its content, empty if it cannot be read; broken: why it cannot, empty if it can.
    - is_gray: stored without color; bits: of each value, 8 or 16; low, high: the smallest and largest value used.
    - one_color: all of it, transparent pictures on white; has_alpha: some of it may be transparent.
    - has_more: further frames or pages follow, which are not used.
    """

    height: int = 0
    width: int = 0
    size: int = 0
    digest: str = ""
    broken: str = ""
    is_gray: bool = False
    bits: int = 8
    low: float = 0
    high: float = 0
    one_color: bool = False
    has_alpha: bool = False
    has_more: bool = False


@dataclass(frozen=True)
class Pictures:
    """All N pictures of a data set, its splits one after the other.

    **Attributes:**

    - names: as ``imgcls data`` prints them and dataset.exclude takes them.
    - parts, labels: the split and the class of each; classes: the class names.
    - facts: one for each. gray: (N, 32, 32) uint8, small; color: (N, 16, 16, 3), smaller.
    """

    names: tuple[str, ...]
    parts: tuple[str, ...]
    labels: Indices
    classes: tuple[str, ...]
    facts: tuple[Facts, ...]
    gray: Small
    color: Small

    def __len__(self) -> int:
        return len(self.names)

    def label(self, row: int) -> str:
        """The name of its class."""
        return str(self.classes[self.labels[row]])


def look_at(source: Source) -> Pictures:
    """Read every picture of the data set, on all cores."""
    count = sum(map(len, source.parts.values()))
    gray, color = shared_zeros((count, SIDE, SIDE)), shared_zeros((count, SIDE // 2, SIDE // 2, 3))
    facts: list[Facts] = []
    for images in source.parts.values():
        look, start = _looker(images), len(facts)

        def work(row: int, look: _Look = look, start: int = start) -> Facts:
            found, small = look(row)
            if small is not None:
                gray[start + row] = np.asarray(small.convert("L"))
                color[start + row] = np.asarray(small.resize((SIDE // 2, SIDE // 2), Image.Resampling.BOX))
            return found

        with opening.quiet_decoders():
            facts += [Facts(*found) for found in each(work, len(images))]
    return Pictures(
        tuple(name for part, images in source.parts.items() for name in names_of(part, images)),
        tuple(part for part, images in source.parts.items() for _ in range(len(images))),
        np.concatenate([images.labels for images in source.parts.values()]),
        source.classes,
        tuple(facts),
        gray,
        color,
    )


_Look = Callable[[int], tuple[Facts, Image.Image | None]]


def _looker(images: Images) -> _Look:
    """The function from a row to its facts and its picture in 32 x 32 pixels."""
    if images.paths is not None:
        paths = images.paths
        return lambda row: _of_file(paths[row])
    assert images.whole is not None
    whole, rows = images.whole, images.rows
    return lambda row: _of_pixels(whole[row if rows is None else rows[row]])


def _of_file(path: str) -> tuple[Facts, Image.Image | None]:
    try:
        return opening.read(path, _of_image)
    except (DataError, ReadingFailed) as error:  # either would stop a training
        why = str(error).removeprefix(f"not a readable image: {path} ")
        return Facts(broken=one_line(why[1:-1] if why.startswith("(") and why.endswith(")") else why)), None


def _of_pixels(pixels: Small) -> tuple[Facts, Image.Image]:
    """pixels: (H, W, C), C from 1 to 4; the small picture is made from the first channel unless C is 3."""
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=DIGEST).hexdigest()
    height, width, channels = pixels.shape
    image = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    low, high = int(pixels.min()), int(pixels.max())
    flat = pixels.reshape(-1, channels)
    one_color = bool((flat == flat[0]).all())
    return Facts(
        height, width, pixels.nbytes, digest, "", channels == 1, 8, low, high, one_color, channels in (2, 4)
    ), _small(image.convert("RGB"))


def _of_image(image: ImageFile.ImageFile) -> tuple[Facts, Image.Image]:
    """Decode it: a large JPEG at a fraction of its size, anything else whole."""
    assert image.fp is not None
    size, digest = _content(image.fp)
    height, width = image.height, image.width
    mode, bits, has_alpha = image.mode, decoding.stored_bits(image), conversion.has_alpha(image)
    opening.check_sums(image)
    if image.format in ("JPEG", "MPO"):
        image.draft(None, (DRAFT, DRAFT))
    shrunk = image.width
    upright = decoding.upright(image)
    if image.format == "TIFF" or mode == "P" or shrunk == width:  # what was decoded whole says it best
        height, width = upright.height, upright.width
    elif (upright.height > upright.width) != (height > width):
        height, width = width, height
    low, high = value_range(upright)
    is_deep = mode in (*conversion.DEEP_MODES, "F")
    flat = conversion.rendered(upright, 3, Rendering(depth=(low, max(high, low + 1))) if is_deep else PLAIN)
    one_color = all(one == other for one, other in flat.getextrema())  # type: ignore[misc]
    gray = mode in conversion.GRAY_MODES
    more = decoding.has_more(image)
    return Facts(height, width, size, digest, "", gray, bits, low, high, one_color, has_alpha, more), _small(flat)


def _content(file: IO[bytes]) -> tuple[int, str]:
    """Bytes and digest of an open file, whose position stays."""
    here = file.tell()
    file.seek(0)
    digest, size = hashlib.blake2b(digest_size=DIGEST), 0
    for chunk in _chunks(file):
        digest.update(chunk)
        size += len(chunk)
    file.seek(here)
    return size, digest.hexdigest()


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(1 << 20):
        yield chunk


def _small(image: Image.Image) -> Image.Image:
    """RGB in 32 x 32 pixels, squashed."""
    shrinks = min(image.size) >= SIDE
    return image.resize((SIDE, SIDE), Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)
