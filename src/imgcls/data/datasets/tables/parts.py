"""Which columns of a table name the parts: by their words (train, PublicTest), or as yes and no (is_test)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgcls.data.datasets.folders.image_folder import SPLIT_NAMES
from imgcls.data.datasets.tables.grid import Line
from imgcls.errors import DataError
from imgcls.text import one_line

# fmt: off
USUAL = {word: part for part, words in SPLIT_NAMES.items() for word in words}
WORDS = USUAL | {  # the others are words of parts only in a column that names train too
    "trn": "train", "learning": "train", "development": "val", "devel": "val", "validate": "val", "eval": "val",
    "evaluation": "val", "tuning": "val", "publictest": "val", "public": "val", "tst": "test", "holdout": "test",
    "heldout": "test", "privatetest": "test", "private": "test",
}
# fmt: on
FLAG = re.compile(
    r"((?:is|in|use|used|for)_?)?(training|train|validation|valid|val|testing|test|holdout)"
    r"(?:_?(?:set|split|img|image|data|flag|part))?"
)
YES = ("1", "1.0", "true", "yes", "t", "y")
NO = ("0", "0.0", "false", "no", "f", "n")
MOST_WORDS = 6  # different cells of a column that names parts and something else
SAMPLE = 50  # rows that rule most columns out

Flags = tuple[tuple[int, str], ...]  # columns of yes and no, each with its part


@dataclass(frozen=True)
class Parts:
    """The columns that say the parts: one of words, or some of yes and no; like: all that do, the unused included."""

    split: int | None = None
    flags: Flags = ()
    like: frozenset[int] = frozenset()


def cell(line: Line, column: int | None) -> str:
    """The cell of a row; empty where the row is shorter."""
    return line.cells[column] if column is not None and column < len(line.cells) else ""


def plain_name(name: str) -> str:
    """A column's name as it is compared: 'Image Path' is image_path."""
    return re.sub(r"[\s.\-]+", "_", name.strip().casefold())


def words_of(cells: Collection[str]) -> dict[str, str]:
    """{cell: train, val or test} for those cells of a column that are words of parts."""
    found = {one: part for one in {*cells} if (part := _part_of(one))}
    if "train" in found.values():
        late = [one for one in found if one.casefold().startswith("eval")]
        if late and "test" not in found.values() and len([one for one in found if found[one] == "val"]) > len(late):
            found |= dict.fromkeys(late, "test")  # of dev and eval, eval is the test
        return found
    return {one: part for one, part in found.items() if one.lower() in USUAL}


def _part_of(word: str) -> str | None:
    """The part of a word, also with an ending: Train, test_set, PublicTest, val2017."""
    letters = re.sub(r"[\s._\-]+", "", word.casefold())
    return WORDS.get(letters) or WORDS.get(re.sub(r"(set|split|data|part)?\d*$", "", letters))


def flag_of(name: str) -> str | None:
    """The part of a column of yes and no by its name: is_test, in_train, test, testset; a bare 'valid' says none."""
    found = FLAG.fullmatch(plain_name(name))
    if found is None or (found[2] == "valid" and not found[1]):
        return None
    return WORDS[found[2]]


def given_flag_of(name: str) -> str | None:
    """The same for a column that the user named as the split: it may start with the part."""
    known = flag_of(name) or flag_of(f"is_{name}")
    return known or next((part for part in ("train", "val", "test") if plain_name(name).startswith(part)), None)


def has_words_only(cells: Collection[str]) -> bool:
    """Whether all cells that are filled are words of parts."""
    filled = {one for one in cells if one}
    return bool(filled) and filled == words_of(filled).keys()


def is_flag(cells: Collection[str]) -> bool:
    """Whether the cells are yes and no."""
    return {one.lower() for one in cells} <= {*YES, *NO, ""} and any(cells)


def part_cells(lines: Sequence[Line], split: int | None, flags: Flags) -> list[str]:
    """The part of each row: train, val, test, empty, or the cell as it is if it is none of these."""
    if flags:
        return [found if (found := _flagged(line, flags)) is not None else "?" for line in lines]
    cells = [cell(line, split) for line in lines]
    words = words_of(cells)
    return [words.get(one, one) for one in cells]


def _flagged(line: Line, flags: Flags) -> str | None:
    """The part that a row's yes and no mean; None if they contradict each other."""
    cells = [(part, cell(line, i)) for i, part in flags]
    if len(cells) == 1 and cells[0][1].lower() not in (*YES, *NO):
        return cells[0][1]
    if not any(value for _, value in cells):
        return ""
    yes = {part for part, value in cells if value.lower() in YES}
    no = {part for part, value in cells if value.lower() not in YES}
    if yes:
        return next(iter(yes)) if len(yes) == 1 and not yes & no else None
    if "train" not in no:
        return "train"
    return "test" if no == {"train"} else None


def find_parts(
    names: Mapping[int, str], rows: Sequence[Line], usual: Sequence[int], table: Path, *, has_header: bool
) -> Parts:
    """The columns of parts among those named. usual: columns that are so by their name, whatever is in them.

    Raises DataError if several disagree, with what to type for each.
    """
    named = {i: part for i in names if has_header and (part := flag_of(names[i]))}
    cells = {i: [cell(line, i) for line in rows] for i in names if i in usual or _may_be(i, rows, i in named)}
    flags = tuple((i, named[i]) for i in cells if i in named and is_flag(cells[i]))
    flags += tuple((i, named[i]) for i in usual if i in named and i not in dict(flags) and not has_words_only(cells[i]))
    words = [i for i in (*usual, *cells) if i not in dict(flags) and _names_parts(cells[i])]
    words = [i for i in dict.fromkeys(words) if len({*words_of(cells[i]).values()}) > 1] or words[:1]
    like = frozenset([*words, *dict(flags)])
    _check_agreement(words, flags, rows, names, table)
    if words:
        return Parts(words[0], (), like)
    if flags:
        found = [_flagged(line, flags) for line in rows]
        if len(flags) > 1 and (None in found or not {"train", ""} & {*found}):
            shown = ", ".join(one_line(names[i]) for i, _ in flags)
            raise DataError(
                f"{table}: which column is the split? It has {shown}; name one with "
                "dataset.split=COLUMN, or ignore them with dataset.split=none"
            )
        return Parts(flags[0][0], flags, like)
    return Parts(usual[0] if usual else None, (), frozenset(usual[:1]))


def _may_be(column: int, rows: Sequence[Line], is_named: bool) -> bool:
    """Whether the first rows allow that the column names parts."""
    first = {cell(line, column) for line in rows[:SAMPLE]}
    return is_named or any(_part_of(one) for one in first) or first == {""}


def _names_parts(cells: Collection[str]) -> bool:
    """Whether all cells are words of parts, or train and another one are among a few."""
    found = {*words_of(cells).values()}
    return has_words_only(cells) or (len(found) > 1 and "train" in found and len({*cells}) <= MOST_WORDS)


def _check_agreement(
    words: Sequence[int], flags: Flags, rows: Sequence[Line], names: Mapping[int, str], table: Path
) -> None:
    """Raises DataError if two columns name different parts for a row."""
    if not words:
        return
    first = part_cells(rows, words[0], ())
    for other in words[1:]:
        for line, one, two in zip(rows, first, part_cells(rows, other, ()), strict=True):
            if one and two and one != two:
                raise _disagreement(words[0], other, line, names, table)
    for other, part in flags:
        for line, one in zip(rows, first, strict=True):
            value = cell(line, other).lower()
            if one and value and (value in YES) != (one == part):
                raise _disagreement(words[0], other, line, names, table)


def _disagreement(one: int, two: int, line: Line, names: Mapping[int, str], table: Path) -> DataError:
    ways = [f"dataset.split={typed_name(i, names)}" for i in (one, two)]
    return DataError(
        f"{table}: which column is the split? '{one_line(names[one])}' and '{one_line(names[two])}' disagree (in line "
        f"{line.number}: {one_line(cell(line, one))}, {one_line(cell(line, two))}); type {ways[0]} or {ways[1]}, or "
        "ignore both with dataset.split=none"
    )


def typed_name(column: int, names: Mapping[int, str]) -> str:
    """A column as it is typed: its name, in quotes if it needs them, or its number if the name is not its own."""
    name = one_line(names[column])
    if sum(plain_name(one) == plain_name(name) for one in names.values()) > 1:
        return f"{column}"
    return name if re.fullmatch(r"[\w.\-]+", name) else f"'{name}'"


def word_note(lines: Sequence[Line], split: int | None, name: str) -> list[str]:
    """A line for the header of a run on words of parts that are not the usual ones."""
    words = words_of([cell(line, split) for line in lines])
    odd = sorted(((one, part) for one, part in words.items() if one.lower() not in USUAL), key=lambda pair: pair[0])
    return [f"split    '{name}': {', '.join(f'{one_line(one)} is {part}' for one, part in odd)}"] if odd else []
