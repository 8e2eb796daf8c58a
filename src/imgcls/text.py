"""Text for messages: values as they would be typed, suggestions, shortened lists, durations."""

from __future__ import annotations

import difflib
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of the writing direction: can disguise a text
LONGEST_WORD = 100  # letters; a message shows no more of a longer one


def brief(text: str) -> str:
    """The text, shortened for a message."""
    return text if len(text) <= LONGEST_WORD else f"{text[:LONGEST_WORD]}..."


def show(value: Any) -> str:
    """A value as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"'{brief(value)}'"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {show(one)}' for key, one in value.items())}}}"
    if isinstance(value, int) and value.bit_length() > 14_000:  # Python refuses to write more than 4,300 digits
        return "a number of thousands of digits"
    return str(value)


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that was probably meant: of similar spelling, as a whole or in its last part (lr: optimizer.lr)."""
    outer, _, last = word[:LONGEST_WORD].rpartition(".")
    whole = difflib.SequenceMatcher(b=word[:LONGEST_WORD].lower())
    tail = difflib.SequenceMatcher(b=last.lower())
    best, score = None, 0.63  # the least likeness
    for name in sorted(candidates):
        prefix, _, suffix = name.rpartition(".")
        is_sibling = prefix == outer
        for matcher, text, penalty in ((whole, name, 0.0), (tail, suffix, 0.0 if is_sibling else 0.1)):
            if matcher is whole and is_sibling:
                continue
            matcher.set_seq1(text.lower())
            bounds = (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)  # each at most the one before
            if all(ratio() - penalty > score for ratio in bounds):
                best, score = name, matcher.ratio() - penalty
    return best


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or '' if nothing is close."""
    near = closest(word, candidates)
    return f"; did you mean '{near}'?" if near else ""


def line(label: str, text: str) -> str:
    """A labeled line of the header, wrapped at 80 columns."""
    start, width = f"{label:<9}", 80
    return textwrap.fill(
        text, width, initial_indent=start, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False
    )


def clock(seconds: float) -> str:
    """27 s, 4:05 min, 2:03 h"""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def printable(path: str) -> str:
    """A path as text; bytes that are not UTF-8 become escapes."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_text(letter: str) -> bool:
    """Whether a character is text: no control character, line break, half of a pair or turn of the writing direction.

    Joiners (in emoji and Persian), no-break spaces and characters that are newer than this Python are text.
    """
    return letter.isprintable() or (
        unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp") and letter not in TURNS
    )


def one_line(text: str) -> str:
    """Text safe for a terminal: line breaks, control characters and bytes that are not UTF-8 become escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if is_text(letter) else ascii(letter)[1:-1] for letter in printable(text))


def listing(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """The first names and how many there are: 'a, b, ... (12 in all)'."""
    shown = [*map(one_line, names[:most]), *([f"... ({len(names):,} in all)"] if len(names) > most else [])]
    return separator.join(shown)
