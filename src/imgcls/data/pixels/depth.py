"""Which stored values become black and white: one straight line for all pictures, chosen on the training pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from imgcls.data.findings import Finding
from imgcls.data.pixels import conversion, decoding, opening
from imgcls.data.pixels.rendering import Range, Rendering
from imgcls.parallel.process_pool import helpers, spread

SAMPLE = 128  # training pictures that are looked at
VALUES = 16_384  # of each of them
TAIL, LARGEST_TAIL = 0.01, 0.5  # percent of the values at either end that do not count: a few dead or hot pixels
FAR = 2  # times the range of the other values: then one value of each picture does not count either
MARGIN = 0.05  # of the range found, below and above it
ENOUGH = 1 / 3  # of a customary range: pictures that use as much of it are given all of it
WHOLE = (255, 1023, 4095, 16_383, 65_535)  # 8, 10, 12, 14 and 16 bits
REAL: tuple[Range, ...] = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.0, 65_535.0))


class Used(NamedTuple):
    """The values that pictures of more than 8 bits hold: from low to high, of 16 or 32 bits, fractions among them."""

    low: float
    high: float
    bits: int
    is_real: bool


def rendering_for(
    paths: Sequence[str], background: tuple[int, int, int], depth: Literal["auto", "full"] | Range, threads: int
) -> tuple[Rendering, tuple[Finding, ...]]:
    """How these training pictures, and later all others, become 8 bits; and what is to be said about it.

    Opens up to 128 files, and decodes those that have more than 8 bits.
    """
    if not isinstance(depth, str):
        text = f"values from {depth[0]:g} to {depth[1]:g} become 0 to 255 in every picture (dataset.depth)"
        rendering = Rendering(background, depth, has_8_bits=depth[1] <= 255)
        return rendering, (Finding("depth", "note", text, len(paths)),)
    used = used_values(paths, threads) if paths else None
    if used is None:
        return Rendering(background), ()
    chosen = line_for(used)
    if depth == "full":
        return Rendering(background), () if chosen is None or used.bits == 32 else (_narrow(used, paths),)
    if chosen is None:
        return Rendering(background), ()
    kind = "floating-point" if used.is_real else f"{used.bits}-bit"
    text = f"{kind} pictures: values from {chosen[0]:g} to {chosen[1]:g} become 0 to 255 in every picture"
    text += f" (the training pictures hold {used.low:g} to {used.high:g})"
    advice = "dataset.depth=[low,high] sets another range" + ("" if used.bits == 32 else ", full takes all 16 bits")
    is_narrow = used.bits == 16
    return Rendering(background, chosen), (
        Finding("narrow_range" if is_narrow else "depth", "note", text, len(paths), tuple(paths[:1]), advice),
    )


def _narrow(used: Used, paths: Sequence[str]) -> Finding:
    levels = max(1, round((used.high - used.low) / 257))
    text = f"the 16-bit pictures use {used.low:g} to {used.high:g} of 0 to 65535: about {levels} of 256 levels are left"
    advice = "dataset.depth=auto uses all of them, dataset.depth=[low,high] those that you name"
    return Finding("narrow_range", "warning", text, len(paths), tuple(paths[:1]), advice)


def line_for(used: Used) -> Range | None:
    """The values that become 0 and 255: a customary range if enough of it is used, else the pictures' own.

    None: all of 16 bits.
    """
    low, high = used.low, used.high
    customary = REAL if used.is_real else tuple((0.0, float(most)) for most in WHOLE)
    for least, most in customary:
        if least <= low and high <= most:
            if high - low >= ENOUGH * (most - least) or low == high:
                return None if (least, most) == (0, 65_535) and used.bits == 16 else (least, most)
            break
    if low == high:
        return low, low + 1
    margin = MARGIN * (high - low)
    if used.is_real:
        return float(f"{low - margin:.6g}"), float(f"{high + margin:.6g}")
    outer = np.floor(low - margin), np.ceil(high + margin)
    return float(max(outer[0], 0) if low >= 0 else outer[0]), float(outer[1])


def used_values(paths: Sequence[str], threads: int) -> Used | None:
    """The values in those of up to 128 evenly spaced pictures that have more than 8 bits; None if none has."""
    some = [paths[row] for row in np.unique(np.linspace(0, len(paths) - 1, SAMPLE).astype(np.int64)).tolist()]
    some = [path for path in some if opening.read(path, _is_deep)]
    if not some:
        return None

    def values(share: range) -> list[tuple[int, bool, NDArray[Any]]]:
        return [opening.read(some[row], _values) for row in share]

    with opening.quiet_decoders():
        found = [one for part in spread(values, len(some), helpers(len(some), threads), size=4) for one in part]
    pool = np.concatenate([of_one for _, _, of_one in found])
    is_real = any(is_real for _, is_real, _ in found)
    if not pool.size:
        return None
    low, high = np.percentile(pool, (TAIL, 100 - TAIL), method="nearest")
    tail = min(LARGEST_TAIL, max(TAIL, 100 * len(some) / pool.size))
    inner = np.percentile(pool, (tail, 100 - tail), method="nearest")
    if high - low > FAR * (inner[1] - inner[0]) > 0:
        low, high = inner
    return Used(float(low), float(high), max(bits for bits, _, _ in found), is_real)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    return image.mode in (*conversion.DEEP_MODES, "F")


def _values(image: ImageFile.ImageFile) -> tuple[int, bool, NDArray[Any]]:
    """Its bits, whether it has fractions, and some of its values."""
    bits, is_real = decoding.stored_bits(image), image.mode == "F"
    image.load()
    step = max(1, image.width * image.height // VALUES) | 1  # odd: not always the same column
    values = np.concatenate([np.asarray(strip).ravel() for _, strip in conversion.strips(image)])[::step]
    return bits, is_real, values[np.isfinite(values)].astype(np.float64)
