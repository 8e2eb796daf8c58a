"""One-hot columns: a mark in the column of the row's class, or a probability in each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from imgcls.data.datasets.tables.parts import cell, flag_of, plain_name
from imgcls.data.datasets.tables.rows import Line
from imgcls.data.datasets.tables.values import number
from imgcls.errors import DataError
from imgcls.text import listing

ONE = ("true", "yes", "y", "t", "x", "✓", "✔", "☑")
ZERO = ("false", "no", "n", "f", "-", "")
MOST_OTHERS = 3  # columns of marks beside those of the classes
FEW = 5  # rows that may fit by chance
ROUNDING = 0.02  # of the sum of a row's probabilities


def mark(text: str) -> bool | None:
    """Whether a cell marks its column as the class of the row; None if it is no mark."""
    text = text.lower()
    if text in ONE or text in ZERO:
        return text in ONE
    value = number(text)
    return value == 1 if value in (1, 0, -1) else None


def candidates(rows: Sequence[Line], columns: Sequence[int]) -> list[int]:
    """The columns that hold nothing but marks."""
    values = {i: {cell(line, i) for line in rows} for i in columns}
    return [i for i in columns if values[i] != {""} and all(mark(one) is not None for one in values[i])]


def has_one_each(rows: Sequence[Line], columns: Sequence[int]) -> bool:
    """Whether each row is marked in exactly one of the columns, and in none of the others."""
    marks = ([mark(cell(line, i)) for i in columns] for line in rows)
    return all(row.count(True) == 1 and None not in row for row in marks)


def find(rows: Sequence[Line], others: Sequence[int], header: Sequence[str], table: Path) -> tuple[int, ...]:
    """The one-hot columns among those that are neither path nor part; none if there are none.

    All columns of marks if each row has a single one in them, or else those of them of which that is true. Raises
    DataError if it is true of several groups.
    """
    flags = candidates(rows, others)
    if len(flags) < 2:
        return _probabilities(rows, others)
    if has_one_each(rows, flags):
        return tuple(flags)
    groups = _groups(rows, flags)
    if len(groups) > 1:
        ways = " or ".join(listing([header[i] for i in group]) for group in groups[:3])
        raise DataError(
            f"{table}: which of the columns of 0 and 1 are the classes? Each row has one 1 in {ways}; remove the "
            f"others, or name one column, whose 0 and 1 are then the classes: dataset.label={header[groups[0][0]]}"
        )
    if groups:
        return groups[0]
    return tuple(flags) if len(flags) == len(others) else ()


def _groups(rows: Sequence[Line], flags: Sequence[int]) -> list[tuple[int, ...]]:
    """The groups of columns with one mark in each row, with as few columns left out as can be."""
    if len(rows) <= FEW:
        return []
    counts = {i: sum(mark(cell(line, i)) is True for line in rows) for i in flags}
    extra = sum(counts.values()) - len(rows)
    for size in range(1, min(MOST_OTHERS, len(flags) // 2) + 1):
        left = [out for out in itertools.combinations(flags, size) if sum(counts[i] for i in out) == extra]
        kept = [tuple(i for i in flags if i not in out) for out in left]
        if found := [group for group in kept if len(group) > 1 and has_one_each(rows, group)]:
            return found
    return []


def _probabilities(rows: Sequence[Line], others: Sequence[int]) -> tuple[int, ...]:
    """The columns of numbers from 0 to 1, if there are several and they add up to 1 in each row."""
    columns = [i for i in others if all(_is_share(cell(line, i)) for line in rows)]
    sums = (sum(number(cell(line, i)) or 0 for i in columns) for line in rows)
    return tuple(columns) if len(columns) > 1 and all(abs(one - 1) <= ROUNDING for one in sums) else ()


def _is_share(text: str) -> bool:
    value = number(text)
    return value is not None and 0 <= value <= 1


def is_soft(rows: Sequence[Line], ones: Sequence[int]) -> bool:
    """Whether one-hot columns hold probabilities rather than marks."""
    return any(mark(cell(line, i)) is None for line in rows for i in ones)


def classes_like_parts(rows: Sequence[Line], columns: Sequence[int], header: Sequence[str]) -> list[int]:
    """Columns such as 'train' that are classes beside others such as 'car' and 'bus', rather than say the part."""
    flags = candidates(rows, columns)
    named = [
        i for i in flags if flag_of(header[i]) and not plain_name(header[i]).startswith(("is", "in", "for", "use"))
    ]
    return named if named and len(named) < len(flags) and has_one_each(rows, flags) else []
