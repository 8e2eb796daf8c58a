"""Problems with single pictures: broken, of one color, of odd size or light, badly cropped, of a narrow range."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from imgcls.data.findings import Finding, Severity
from imgcls.data.inspection.pictures import Facts, Pictures
from imgcls.data.inspection.problem import Problem
from imgcls.data.splits import SplitOptions
from imgcls.text import one_line

NAMED = 20
NATIVE = 512  # pixels: pictures that all have one size up to this one are not cropped
MUCH, HALF = 0.3, 0.5  # of a picture cut off: noted, warned of
OFTEN = 0.1  # of the pictures that lose half: fewer are only noted
NARROW = 1 / 8  # of the range that the bits have
RARE = 0.05  # of the pictures: more of them are not outliers
TIMES = 3.0  # the side or the aspect ratio of an odd one, in medians
TINY = 8  # pixels
DARK, BRIGHT, SPREADS = 60.0, 60.0, 6.0  # levels and robust standard deviations from the median


def find(pictures: Pictures, options: SplitOptions, *, own_files: bool) -> list[Problem]:
    """own_files: they are the user's, so that broken ones can be skipped with a key."""
    fine = [row for row, facts in enumerate(pictures.facts) if facts.digest]
    found = [_broken(pictures, own_files), _one_color(pictures)]
    if fine:
        found += [_narrow(pictures, fine, options), _cropped(pictures, fine, options)]
        found += [_odd_sizes(pictures, fine), _odd_light(pictures, fine), _frames(pictures)]
    return [one for one in found if one is not None]


def _broken(pictures: Pictures, own_files: bool) -> Problem | None:
    advice = "fix or remove them, or leave them out with dataset.on_error=skip" if own_files else ""
    rows = _rows(pictures, lambda facts: bool(facts.broken))
    names = [f"{_name(pictures, row)}: {pictures.facts[row].broken}" for row in rows]
    return _problem(pictures, "broken", "error", "cannot be read", rows, advice, names)


def _one_color(pictures: Pictures) -> Problem | None:
    rows = _rows(pictures, lambda facts: facts.one_color)
    hidden = sum(pictures.facts[row].has_alpha for row in rows)
    advice = "dataset.exclude leaves them out"
    if hidden:
        advice = f"{hidden:,} of them transparent, shown on white: try dataset.background=black"
    return _problem(pictures, "one_color", "warning", "of one color all over", rows, advice)


def _narrow(pictures: Pictures, fine: Sequence[int], options: SplitOptions) -> Problem | None:
    """Pictures of the data set that together use a small part of the range of their bits."""
    for bits in (16, 8):
        rows = [row for row in fine if pictures.facts[row].bits == bits]
        if not rows:
            continue
        low = min(pictures.facts[row].low for row in rows)
        high = max(pictures.facts[row].high for row in rows)
        top = 2**bits - 1
        if low < high < top and high - low < NARROW * top:
            is_full = bits == 16 and getattr(options, "depth", "full") == "full"
            severity: Severity = "warning" if is_full else "note"
            text = f"with values from {low:g} to {high:g} only, of {top:,} that {bits} bits have"
            advice = f"dataset.depth=[{low:g},{high:g}] makes black and white of them" if bits == 16 else ""
            return _problem(pictures, "narrow_range", severity, text, rows, advice, listed=False)
    return None


def _cropped(pictures: Pictures, fine: Sequence[int], options: SplitOptions) -> Problem | None:
    """Pictures of which the center crop to the model's square input leaves much out."""
    sizes = {(pictures.facts[row].height, pictures.facts[row].width) for row in fine}
    is_native = len(sizes) == 1 and max(map(max, sizes)) <= NATIVE and options.image_size is None
    if is_native or getattr(options, "fit", "crop") != "crop":
        return None
    height, width = _target(options)
    lost = {row: _lost(pictures.facts[row], height / width) for row in fine}
    half = sum(share > HALF for share in lost.values()) > OFTEN * len(fine)
    rows = [row for row in fine if lost[row] > MUCH]
    if not rows:
        return None
    cost = np.mean([lost[row] for row in rows])
    text = f"cropped to the model's {'square' if height == width else f'{width}x{height}'}, losing {cost:.0%} of each"
    advice = "what lies at the ends is not seen; dataset.fit=pad or dataset.fit=squash keeps it"
    names = [
        f"{_name(pictures, row)}: {pictures.facts[row].width}x{pictures.facts[row].height}, loses {lost[row]:.0%}"
        for row in sorted(rows, key=lambda row: -lost[row])
    ]
    return _problem(pictures, "cropped", "warning" if half else "note", text, rows, advice, names)


def _target(options: SplitOptions) -> tuple[int, int]:
    size = options.image_size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) else (1, 1)


def _lost(facts: Facts, ratio: float) -> float:
    """The share that is cut off to reach that ratio of height to width."""
    own = facts.height / facts.width
    return 1 - min(own / ratio, ratio / own)


def _odd_sizes(pictures: Pictures, fine: Sequence[int]) -> Problem | None:
    heights, widths = (np.array([getattr(pictures.facts[row], side) for row in fine], float) for side in _SIDES)
    sides, ratios = np.sqrt(heights * widths), heights / widths
    odd = _far(sides) | _far(ratios) | (np.minimum(heights, widths) < min(TINY, np.median(sides) / 2))
    if not odd.any() or odd.mean() > RARE:
        return None
    rows = [row for row, is_odd in zip(fine, odd, strict=True) if is_odd]
    names = [f"{_name(pictures, row)}: {pictures.facts[row].width}x{pictures.facts[row].height}" for row in rows]
    text = "of a size or an aspect ratio unlike the others'"
    return _problem(pictures, "odd_size", "note", text, rows, "look at them", names)


_SIDES = ("height", "width")


def _far(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    middle = np.median(values)
    far: NDArray[np.bool_] = (values > TIMES * middle) | (values * TIMES < middle)
    return far


def _odd_light(pictures: Pictures, fine: Sequence[int]) -> Problem | None:
    light = np.array([pictures.gray[row].mean() for row in fine])
    away = light - np.median(light)
    spread = 1.4826 * np.median(np.abs(away)) + 1
    odd = (np.abs(away) > SPREADS * spread) & ((away < -DARK) | (away > BRIGHT))
    if not odd.any() or odd.mean() > RARE:
        return None
    rows = [row for row, is_odd in zip(fine, odd, strict=True) if is_odd]
    return _problem(pictures, "brightness", "note", "much darker or brighter than the others", rows, "look at them")


def _frames(pictures: Pictures) -> Problem | None:
    rows = _rows(pictures, lambda facts: facts.has_more)
    return _problem(pictures, "frames", "note", "with further frames or pages, which are not used", rows, "")


def _rows(pictures: Pictures, wanted: Callable[[Facts], bool]) -> list[int]:
    return [row for row, facts in enumerate(pictures.facts) if wanted(facts)]


def _name(pictures: Pictures, row: int) -> str:
    return one_line(pictures.names[row])


def _problem(
    pictures: Pictures,
    kind: str,
    severity: Severity,
    text: str,
    rows: Sequence[int],
    advice: str,
    names: Sequence[str] = (),
    *,
    listed: bool = True,
) -> Problem | None:
    """The problem of these pictures, if there are any. listed: name them in findings.csv."""
    if not rows:
        return None
    shown = names or [_name(pictures, row) for row in rows[:NAMED]]
    what = f"{len(rows):,} image{'s' * (len(rows) != 1)} {text}"
    finding = Finding(kind, severity, what, len(rows), tuple(shown[:NAMED]), advice)
    return Problem(finding, tuple((row, -1) for row in rows) if listed else (), tuple(rows[:NAMED]))
