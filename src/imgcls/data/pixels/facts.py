"""What a picture tells about itself: for ``imgcls data``, which looks at every file once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from imgcls.data.pixels import conversion, decoding, opening
from imgcls.data.pixels.exif import orientation
from imgcls.data.pixels.rendering import COLORS, Rendering


class PictureFacts(NamedTuple):
    """One file, decoded whole.

    **Attributes:**

    - height, width: upright, in pixels.
    - mode: Pillow's word for how it is stored; bits: of each value (8, 16 or 32; 32 are floating-point in mode F).
    - low, high: the smallest and the largest stored value, without the alpha channel; of color in 16 bits the upper 8.
    - has_more: further frames or pages follow, which are not used.
    - orientation: 1 to 8 as EXIF counts; 1 is upright.
    - has_alpha: some of it may be transparent.
    - one_color_on_white, one_color_on_black: all of it has one color once it is composited onto white or black.
    """

    height: int
    width: int
    mode: str
    bits: int
    low: float
    high: float
    has_more: bool
    orientation: int
    has_alpha: bool
    one_color_on_white: bool
    one_color_on_black: bool

    @property
    def is_gray(self) -> bool:
        """Whether it is stored without color."""
        return self.mode in conversion.GRAY_MODES


def picture_facts(path: str) -> PictureFacts:
    """The facts on a file, which is decoded whole, as it would be in training.

    Raises DataError if it is not a readable image, ReadingFailed if the disk or the network fails.
    """
    return opening.read(path, _facts)


def _facts(image: ImageFile.ImageFile) -> PictureFacts:
    bits, mode, turned = decoding.stored_bits(image), image.mode, orientation(image)
    opening.check_sums(image)
    upright = decoding.upright(image)
    if image.format == "PNG":  # may say so after its pixels
        turned = orientation(image)
    low, high = value_range(upright)
    has_alpha = conversion.has_alpha(upright)
    is_deep = mode in (*conversion.DEEP_MODES, "F")
    shades = Rendering(depth=(low, high)) if is_deep and low < high else Rendering(depth=(low, low + 1))

    def is_one_color(background: str) -> bool:
        rendering = Rendering(COLORS[background], shades.depth)
        flat = conversion.rendered(upright, 3, rendering)
        return all(least == most for least, most in flat.getextrema())  # type: ignore[misc]

    on_white = is_one_color("white") if has_alpha or not is_deep else low == high
    on_black = is_one_color("black") if has_alpha else on_white
    return PictureFacts(
        *(upright.height, upright.width, mode, bits, low, high, decoding.has_more(image), turned),
        *(has_alpha, on_white, on_black),
    )


def value_range(image: Image.Image) -> tuple[float, float]:
    """The smallest and the largest value of a decoded image; of a palette its colors', and not of the alpha channel."""
    if image.mode in (*conversion.DEEP_MODES, "F"):
        extremes = [(np.nanmin(part), np.nanmax(part)) for part in _finite(image)]
        found = [(float(low), float(high)) for low, high in extremes]
        return (min(low for low, _ in found), max(high for _, high in found)) if found else (0.0, 0.0)
    colors = image.convert("L" if image.mode in conversion.GRAY_MODES else "RGB")
    pairs = np.reshape(colors.getextrema(), (-1, 2))
    return float(pairs.min()), float(pairs.max())


def _finite(image: Image.Image) -> list[NDArray[Any]]:
    """Its values strip by strip, without those that are infinite or not numbers."""
    values = (np.asarray(strip) for _, strip in conversion.strips(image))
    return [part for part in (one[np.isfinite(one)] for one in values) if part.size]
