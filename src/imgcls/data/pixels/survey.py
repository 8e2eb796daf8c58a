"""What the training pictures that are decoded anyway say about all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imgcls.data.findings import Finding
from imgcls.data.pixels.decoding import Seen, look
from imgcls.data.pixels.facts import picture_facts
from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.data.pixels.rendering import COLORS, Rendering
from imgcls.data.pixels.view import View
from imgcls.parallel import process_pool

NARROW = 64  # of 256 levels: a run warns if all pictures use fewer
MUCH, MOST = 0.7, 0.5  # of a picture that the crop shows: less is worth a note, a warning
SHOW_ALL = "what tells the classes apart may be at the ends: dataset.fit=pad or dataset.fit=squash shows it all"
FEW = 0.05  # of the pictures: where no more than these lose most of theirs, a note is enough
TRIED = 8  # pictures of one color that are composited onto another background


def decode_sample(
    paths: Sequence[str], preprocessing: Preprocessing, threads: int
) -> tuple[NDArray[np.uint8], list[Seen]]:
    """The pictures as uint8 (N, H, W, C), and what is known of each file. Raises DataError."""
    shape = preprocessing.shape
    out = process_pool.shared_zeros((len(paths), *shape))

    def work(share: range) -> list[Seen]:
        seen = []
        for row in share:
            out[row], one = look(paths[row], preprocessing.view)
            seen.append(one)
        return seen

    processes = process_pool.helpers(len(paths), threads)
    with quiet_decoders(), contextlib.closing(process_pool.spread(work, len(paths), processes)) as answers:
        return out, [Seen(*one) for part in answers for one in part]  # a pipe delivers them as tuples


def findings_of(
    paths: Sequence[str], pixels: NDArray[np.uint8], seen: Sequence[Seen], view: View, *, total: int
) -> tuple[Finding, ...]:
    """What is to be said about these training pictures, as decoded; total: of how many they are a sample."""
    looked = f"{len(paths):,} training pictures" + (" looked at" if len(paths) < total else "")
    one_color = _one_color(paths, pixels, seen, view.rendering, looked) if pixels[0, ..., 0].size > 1 else None
    several = [path for path, one in zip(paths, seen, strict=True) if one.has_more]
    frames = Finding("frames", "note", f"{_of(len(several), looked)} hold further frames or pages, which are not used")
    return tuple(
        one
        for one in (
            one_color,
            _narrow(paths, pixels, seen),
            _cropped(paths, seen, view, looked),
            Finding(frames.kind, "note", frames.text, len(several), tuple(several[:3])) if several else None,
        )
        if one is not None
    )


def shown_of(size: tuple[int, int], view: View) -> tuple[Finding, ...]:
    """What is to be said about images in memory, all of that (height, width)."""
    share = view.visible(*size)
    if share >= MUCH:
        return ()
    text = f"the center crop to {view.width}x{view.height} shows {share:.0%} of each image"
    return (Finding("cropped", "warning" if share < MOST else "note", text, 0, (), SHOW_ALL),)


def _of(count: int, looked: str) -> str:
    return f"{count:,} of {looked}"


def _one_color(
    paths: Sequence[str], pixels: NDArray[np.uint8], seen: Sequence[Seen], rendering: Rendering, looked: str
) -> Finding | None:
    """The pictures that have nothing left to see."""
    is_flat = np.array([bool((one == one[:1, :1]).all()) for one in pixels])
    rows = np.flatnonzero(is_flat).tolist()
    if not rows:
        return None
    clear = [paths[row] for row in rows if seen[row].has_alpha]
    text = f"{_of(len(rows), looked)} are of one color, such as {paths[rows[0]]}"
    advice = _other_background(clear, rendering) if clear else "look at them"
    return Finding("one_color", "warning", text, len(rows), tuple(paths[row] for row in rows[:3]), advice)


def _other_background(paths: Sequence[str], rendering: Rendering) -> str:
    """What shows transparent pictures of one color, found by trying some of them."""
    tried = [picture_facts(path) for path in paths[:TRIED]]
    for name, is_flat in (
        ("black", [one.one_color_on_black for one in tried]),
        ("white", [one.one_color_on_white for one in tried]),
    ):
        if rendering.background != COLORS[name] and not all(is_flat):
            return f"they are transparent: dataset.background={name} shows what is in them"
    return "they are transparent everywhere, or hold one color; another dataset.background may show what is in them"


def _narrow(paths: Sequence[str], pixels: NDArray[np.uint8], seen: Sequence[Seen]) -> Finding | None:
    """Pictures of 8 bits that all use a small part of them; those of more bits have a range of their own."""
    low, high = int(pixels.min()), int(pixels.max())
    if not 0 < high - low < NARROW or any(one.bits > 8 and one.mode not in ("RGB", "RGBA") for one in seen):
        return None
    text = f"the training pictures use only the values {low} to {high} of 0 to 255"
    if any(one.bits > 8 for one in seen):
        advice = "of 16 bits a color only the upper 8 are read: scale the pictures to 8 bits yourself"
    else:
        advice = f"dataset.depth=[{low},{high}] stretches them"
    return Finding("narrow_range", "warning", text, len(paths), tuple(paths[:1]), advice)


def _cropped(paths: Sequence[str], seen: Sequence[Seen], view: View, looked: str) -> Finding | None:
    """Pictures whose shape is far from the view's: scaled to cover it, their ends are cut off."""
    shares = np.array([view.visible(one.height, one.width) for one in seen])
    much = np.flatnonzero(shares < MUCH)
    if not len(much):
        return None
    is_warning = np.count_nonzero(shares < MOST) > FEW * len(shares)
    below = MOST if is_warning else MUCH
    rows = np.flatnonzero(shares < below).tolist()
    text = f"the center crop to {view.width}x{view.height} shows less than {below:.0%} of {_of(len(rows), looked)}"
    text += f" (down to {shares.min():.0%})"
    examples = tuple(paths[row] for row in rows[:3])
    return Finding("cropped", "warning" if is_warning else "note", text, len(rows), examples, SHOW_ALL)
