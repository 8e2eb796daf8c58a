"""Class names in plots: in a font that has their letters, or as numbers if this machine has none."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

OWN = "DejaVu Sans"  # comes with matplotlib
LEGEND = "classes.txt"
HINT = f"numbers: see {LEGEND}"


def drawn_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names as they can be drawn: those without a font become their numbers, in the order of the classes."""
    return tuple(name if family(name) is not None else str(i) for i, name in enumerate(classes))


def write_legend(classes: Sequence[str], drawn: Sequence[str], folder: Path) -> str:
    """classes.txt in the folder of the plots, if some names are numbers there; returns the hint for the plot, or ''."""
    if tuple(classes) == tuple(drawn):
        return ""
    lines = [f"{i}\t{name}\n" for i, name in enumerate(classes)]
    (folder / LEGEND).write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    return f" ({HINT})"


def family(text: str) -> tuple[str, ...] | None:
    """The fonts that together have the text's letters, in the order to try them; None if there are none."""
    letters = frozenset(ord(one) for one in text if not one.isascii() and unicodedata.category(one)[0] not in "CZM")
    return _family(letters) if letters else (OWN,)


@lru_cache(maxsize=10_000)
def _family(letters: frozenset[int]) -> tuple[str, ...] | None:
    missing = letters - _letters(OWN)
    if not missing:
        return (OWN,)
    return next(((OWN, name) for name in _installed() if missing <= _letters(name)), None)


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """The other fonts on this machine."""
    from matplotlib import font_manager

    return tuple(sorted({font.name for font in font_manager.fontManager.ttflist} - {OWN}))


@lru_cache(maxsize=500)
def _letters(name: str) -> frozenset[int]:
    """The letters that a font has; none if it cannot be read."""
    from matplotlib import font_manager

    try:
        font: Any = font_manager.get_font(font_manager.findfont(name, fallback_to_default=False))
        return frozenset(font.get_charmap())
    except Exception:  # noqa: BLE001 - a damaged font among many
        return frozenset()
