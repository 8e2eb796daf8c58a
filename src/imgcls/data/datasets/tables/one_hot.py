"""One-hot columns: a mark in the column of the row's class, or a probability in each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from imgcls.data.datasets.tables.grid import Line
from imgcls.data.datasets.tables.parts import cell, flag_of, plain_name
from imgcls.data.datasets.tables.values import number
from imgcls.errors import DataError
from imgcls.text import listing

ONE = ("true", "yes", "y", "t", "x", "✓", "✔", "☑")
ZERO = ("false", "no", "n", "f", "-", "")
MOST_OTHERS = 3  # columns of marks beside those of the classes
SAMPLE = 50  # rows that rule most columns out
FEW = 5  # rows that may fit by chance
ROUNDING = 0.02  # of the sum of a row's probabilities


@lru_cache(maxsize=1 << 12)
def mark(text: str) -> bool | None:
    """Whether a cell marks its column as the class of the row; None if it is no mark."""
    text = text.lower()
    if text in ONE or text in ZERO:
        return text in ONE
    value = number(text)
    return value == 1 if value in (1, 0, -1) else None


def candidates(rows: Sequence[Line], columns: Sequence[int]) -> dict[int, list[bool]]:
    """{column: whether each row is marked in it} for those columns that hold nothing but marks."""
    found = {}
    for i in columns:
        if any(mark(cell(line, i)) is None for line in rows[:SAMPLE]):
            continue
        cells = [cell(line, i) for line in rows]
        marks = {one: mark(one) for one in {*cells}}
        words = {one.lower() for one in marks if marks[one] and share(one) is None}
        if None not in marks.values() and marks.keys() != {""} and len(words) < 2:  # x and y are no two marks
            found[i] = [marks[one] is True for one in cells]
    return found


def has_one_each(columns: Iterable[Sequence[bool]]) -> bool:
    """Whether each row is marked in exactly one of the columns."""
    return all(sum(row) == 1 for row in zip(*columns, strict=True))


def find(rows: Sequence[Line], others: Sequence[int], header: Sequence[str], table: Path) -> tuple[int, ...]:
    """The one-hot columns among those that are neither path nor part; none if there are none.

    All columns of marks if each row has a single one in them, or else those of them of which that is true. Raises
    DataError if it is true of several groups.
    """
    flags = candidates(rows, others)
    if len(flags) < 2:
        return _probabilities(rows, others)
    if _has_three_marks(rows, flags):
        return ()
    if has_one_each(flags.values()):
        return tuple(flags)
    groups = _groups(flags, len(rows))
    if len(groups) > 1:
        ways = " or ".join(listing([header[i] for i in group]) for group in groups[:3])
        raise DataError(
            f"{table}: which of the columns of 0 and 1 are the classes? Each row has one 1 in {ways}; remove the "
            f"others, or name one column, whose 0 and 1 are then the classes: dataset.label={header[groups[0][0]]}"
        )
    if groups:
        return groups[0]
    return tuple(flags) if len(flags) == len(others) else ()


def _has_three_marks(rows: Sequence[Line], columns: Iterable[int]) -> bool:
    """Whether there is -1 beside 0 or nothing, as for what is uncertain: then neither of them is plainly a no."""
    values = {number(text) if (text := cell(line, i)) else 0.0 for i in columns for line in rows}
    return {-1.0, 0.0} <= values


def _groups(flags: Mapping[int, Sequence[bool]], count: int) -> list[tuple[int, ...]]:
    """The groups of columns with one mark in each of the rows, with as few columns left out as can be."""
    if count <= FEW:
        return []
    sums = {i: sum(marks) for i, marks in flags.items()}
    extra = sum(sums.values()) - count
    for size in range(1, min(MOST_OTHERS, len(flags) // 2) + 1):
        left = [out for out in itertools.combinations(flags, size) if sum(sums[i] for i in out) == extra]
        kept = [tuple(i for i in flags if i not in out) for out in left]
        if found := [group for group in kept if len(group) > 1 and has_one_each(flags[i] for i in group)]:
            return found
    return []


def _probabilities(rows: Sequence[Line], others: Sequence[int]) -> tuple[int, ...]:
    """The columns of numbers from 0 to 1, if there are several and they add up to 1 in each row."""
    shares = {i: [share(cell(line, i)) for line in rows] for i in others if share(cell(rows[0], i)) is not None}
    found = {i: [one for one in values if one is not None] for i, values in shares.items() if None not in values}
    is_whole = all(abs(sum(row) - 1) <= ROUNDING for row in zip(*found.values(), strict=True))
    return tuple(found) if len(found) > 1 and is_whole else ()


@lru_cache(maxsize=1 << 16)
def share(text: str) -> float | None:
    """The number from 0 to 1 that a cell holds; None if it holds none."""
    value = number(text)
    return value if value is not None and 0 <= value <= 1 else None


def is_soft(rows: Sequence[Line], ones: Sequence[int]) -> bool:
    """Whether one-hot columns hold probabilities rather than marks."""
    return any(mark(cell(line, i)) is None for line in rows for i in ones)


def classes_like_parts(rows: Sequence[Line], columns: Sequence[int], header: Sequence[str]) -> list[int]:
    """Columns such as 'train' that are classes beside others such as 'car' and 'bus', rather than say the part."""
    named = [
        i for i in columns if flag_of(header[i]) and not plain_name(header[i]).startswith(("is", "in", "for", "use"))
    ]
    flags = candidates(rows, columns) if named else {}
    named = [i for i in named if i in flags]
    return named if named and len(named) < len(flags) and has_one_each(flags.values()) else []
