"""Which of several columns with the usual names of a label is the label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imgcls.data.datasets.tables.grid import Line
from imgcls.data.datasets.tables.parts import cell, has_words_only, typed_name, words_of
from imgcls.data.datasets.tables.values import MOST_NUMBERS, broken_numbers, number
from imgcls.errors import DataError
from imgcls.text import listing, one_line


def choose_label(
    columns: Sequence[int], header: Sequence[str], rows: Sequence[Line], table: Path
) -> tuple[int | None, list[str]]:
    """The label among these columns, the likeliest first, and a note for the header of a run.

    Of two that are the same classes it is the one with names. None if the columns name parts instead and there are
    others. Raises DataError for two different labels.
    """
    cells = {i: [cell(line, i) for line in rows] for i in columns}
    has_others = sum(map(bool, header)) > 2
    free = [i for i in columns if not (has_others and has_words_only(cells[i]) and len({*words_of(cells[i])}) > 1)]
    likely = [i for i in free if _is_likely(cells[i])] or free
    if len(likely) < 2:
        return (likely[0] if likely else None), []
    first = likely[0]
    for other in likely[1:]:
        if not _are_the_same(cells[first], cells[other]):
            raise _question(first, other, cells, header, table)
    named = [i for i in likely if any(number(one) is None for one in cells[i] if one)] or likely
    chosen = min(named, key=lambda i: cells[i].count(""))
    others = listing([header[i] for i in likely if i != chosen])
    return chosen, [f"labels   from '{one_line(header[chosen])}'; the same classes are in {others}"]


def _is_likely(cells: Sequence[str]) -> bool:
    """Whether a column may be the label beside others: several classes, that are no measurements and not one a row."""
    count = len({*cells})
    is_measured = count > MOST_NUMBERS and (count == len(cells) or broken_numbers({*cells} - {""}))
    return count > 1 and not is_measured


def _are_the_same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two columns are the same classes under other names."""
    pairs = {(a, b) for a, b in zip(one, other, strict=True) if a and b}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _question(one: int, two: int, cells: dict[int, list[str]], header: Sequence[str], table: Path) -> DataError:
    names = dict(enumerate(header))
    has, ways = [], []
    for i in (one, two):
        classes = list(dict.fromkeys(filter(None, cells[i])))
        has.append(f"'{one_line(header[i])}' ({listing(classes, 3)})")
        ways.append(f"dataset.label={typed_name(i, names)}")
    return DataError(
        f"{table}: which column is the label? {has[0]} and {has[1]} are different classes; type {' or '.join(ways)}"
    )
