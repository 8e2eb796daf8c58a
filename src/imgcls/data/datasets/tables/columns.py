"""Which columns of a table hold paths, labels and splits: by their usual names, by name or number, or by content."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imgcls.data.datasets.folders.scan import is_image_name
from imgcls.data.datasets.tables import one_hot
from imgcls.data.datasets.tables.grid import Grid, Line, shown_cells
from imgcls.data.datasets.tables.label_columns import choose_label
from imgcls.data.datasets.tables.parts import (
    Flags,
    Parts,
    cell,
    find_parts,
    given_flag_of,
    has_words_only,
    is_flag,
    plain_name,
)
from imgcls.data.datasets.tables.rows import without_repeated_headers
from imgcls.data.datasets.tables.values import MOST_NUMBERS, Expression, expression
from imgcls.data.findings import Finding
from imgcls.data.grouping import is_pattern
from imgcls.errors import DataError
from imgcls.text import did_you_mean, listing, one_line

# fmt: off
COLUMNS = {  # the usual names of each column, the likeliest first
    "path": (
        "path", "image", "file", "filename", "filepath", "file_path", "file_name", "image_path", "img", "img_path",
        "image_name", "image_file", "fname", "uri", "url", "image_url", "image_id", "img_id", "id_code", "name", "id",
    ),
    "label": (
        "label", "class", "target", "category", "class_name", "label_name", "class_id", "y", "choice", "labels",
        "classname", "class_label", "classid", "label_id",
    ),
    "split": (
        "split", "part", "set", "subset", "partition", "data_set", "is_train", "is_training",
        "is_training_img", "is_valid", "is_validation", "is_val", "is_test",
    ),
}
# fmt: on
LABELS = (  # names of labels too, where no other column may be one
    "dx",
    "diagnosis",
    "diagnostic",
    "disease",
    "pathology",
    "species",
    "genus",
    "family",
    "taxon",
    "common_name",
    "scientific_name",
    "breed",
    "variety",
    "cultivar",
    "emotion",
    "expression",
    "style",
    "genre",
    "artist",
    "ground_truth",
    "gt",
    "y_true",
    "true_label",
)
LIKE_LABELS = re.compile(r"categor|class|label|target|kind|annotat|rater|grade")
NONE = "none"  # dataset.split=none: ignore any split column
SHOWN = 8  # columns named in a message
SAMPLE = 50  # rows in which paths are looked for

Name = str | int | None


@dataclass(frozen=True)
class Given:
    """The columns that the user named, by name or by number from 0; label may be an expression ('prob > 0.5'), group a
    regular expression on the path."""

    path: Name = None
    label: Name = None
    split: Name = None
    group: Name = None

    def of(self, key: str) -> str | None:
        """The name or number as text."""
        value = getattr(self, key)
        return None if value is None else str(value)

    def names(self, key: str) -> set[str]:
        """The names that a column may have for it: as given, and without a comparison."""
        value = self.of(key)
        cut = expression(value) if value and key == "label" else None
        return {one for one in (value, cut and cut.column) if one and (key, one) != ("split", NONE)}


@dataclass(frozen=True)
class Columns:
    """Where things are in a row.

    path, label, split: numbers of columns. ones: those of one-hot columns, which then are the label. header: the
    columns' names, () without a header. cut: an expression that makes classes of the label's numbers. flags: the
    columns of yes and no that say the parts, of which split is the first. is_soft: ones hold probabilities. group: the
    column of what stays together. notes, findings: for the header of a run.
    """

    path: int
    label: int | None
    split: int | None
    ones: tuple[int, ...] = ()
    header: tuple[str, ...] = ()
    cut: Expression | None = None
    flags: Flags = ()
    is_soft: bool = False
    group: int | None = None
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def used(self) -> set[int]:
        """The numbers of all columns that are used."""
        return {
            one
            for one in (self.path, self.label, self.split, self.group, *self.ones, *dict(self.flags))
            if one is not None
        }

    def name(self, column: int) -> str:
        """A column for a message: its name, or its number if there is no header."""
        return one_line(self.header[column]) if column < len(self.header) else f"{column}"


def known_names(cells: Sequence[str], given: Given) -> int:
    """How many of path, label and split are among these cells, under their usual names or the given ones."""
    names = {plain_name(cell) for cell in cells}
    count = sum(bool(names.intersection(words)) for words in COLUMNS.values())
    return count + sum(bool(given.names(key).intersection(cells)) for key in COLUMNS)


def find_columns(
    grid: Grid, given: Given, table: Path, exists: Callable[[str], bool]
) -> tuple[Columns, Sequence[Line]]:
    """The columns, and the rows below the header. Raises DataError if it cannot be told, with what to type."""
    if not grid.lines:
        raise DataError(f"{table}: it lists no images")
    first = grid.lines[0].cells
    header = grid.header if grid.header is not None else first if _is_header(first, given, exists) else ()
    rows = grid.lines if grid.header is not None or not header else grid.lines[1:]
    rows, repeated = without_repeated_headers(rows, header, table)
    if header and not rows:
        raise DataError(f"{table}: it lists no images")
    width = len(header) or max(len(line.cells) for line in rows)
    if width < 2:
        raise DataError(
            f"{table}: which column is the {'label' if header and known_names(header, given) else 'path'}? "
            f"It has {shown_cells(first, SHOWN)}; path and label are needed, separated by , ; tab | or blanks"
        )
    _check_widths(rows, width, bool(header), table)
    finder = _Finder(header, rows, given, table, exists)
    found = finder.by_names() if header else finder.by_content(width)
    _check_group(found, finder.group, header, table)
    return replace(found, header=header, findings=repeated, group=finder.group), rows


def _check_group(found: Columns, group: int | None, header: Sequence[str], table: Path) -> None:
    """Raises DataError for a column of groups that is something else already."""
    for what, place in (("path", found.path), ("label", found.label), ("split", found.split)):
        if group is not None and place == group:
            name = one_line(header[group]) if header else f"{group}"
            raise DataError(f"{table}: dataset.group={name} is the column of the {what}; name another one")


def _is_header(cells: Sequence[str], given: Given, exists: Callable[[str], bool]) -> bool:
    """Whether the first line names the columns, rather than being an image already."""
    named = {word for key in COLUMNS for word in given.names(key) if not word.isdecimal()}
    if any(map(is_image_name, cells)):
        return bool(named.intersection(cells))
    usual = {word for words in COLUMNS.values() for word in words}
    if any(cell and exists(cell) for cell in cells if plain_name(cell) not in usual) and known_names(cells, given) < 2:
        return bool(named.intersection(cells))
    return True


def _check_widths(rows: Sequence[Line], width: int, has_header: bool, table: Path) -> None:
    """Raises DataError for a row with more cells than there are columns: a separator inside a cell, mostly."""
    for line in rows:
        if has_header and any(line.cells[width:]):
            raise DataError(
                f"{table}, line {line.number}: {len(line.cells)} cells ({shown_cells(line.cells, 4)}), but the header "
                f"has {width}; put a cell with a separator in it in quotes"
            )


class _Finder:
    """Finds the columns of one table."""

    def __init__(
        self, header: Sequence[str], rows: Sequence[Line], given: Given, table: Path, exists: Callable[[str], bool]
    ) -> None:
        self.header, self.rows, self.given, self.table, self.exists = header, rows, given, table, exists
        self.names = [plain_name(name) for name in header]
        self.sample = rows[:SAMPLE]
        self.group = self.group_column()

    # --- with a header ---

    def by_names(self) -> Columns:
        """The columns that are given, else those of the usual names, else those that can be nothing else."""
        label, cut, notes = self.label()
        path = self.likely_path(self.column("path"), label)
        parts = self.parts(path, label)
        others = [i for i in self.others(path, label) if i not in parts.like]
        if path is None and label is not None and len(others) == 1:
            path = others[0]
        if path is None:
            raise self.question("path")
        others = [i for i in others if i != path]
        found = Columns(path, label, parts.split, cut=cut, flags=parts.flags, notes=tuple(notes))
        if self.given.label is None and (ones := self.one_hot(label, others)):
            return replace(found, label=None, ones=ones, is_soft=one_hot.is_soft(self.rows, ones))
        if label is None and len(others) != 1:
            others = [i for i in others if self.names[i] in LABELS or LIKE_LABELS.search(self.names[i])]
            others = others if {self.names[i] for i in others} <= {*LABELS} else []
        if label is None and len(others) != 1:
            raise self.question("label")
        return replace(found, label=others[0] if label is None else label)

    def parts(self, path: int | None, label: int | None) -> Parts:
        """The columns of parts: the given one, or those that are by their names or by what is in them."""
        wanted = self.given.of("split")
        if wanted == NONE:
            return Parts()
        if wanted is not None:
            place = self.named(wanted, "split")
            part = given_flag_of(self.header[place])
            flags = ((place, part),) if part and is_flag([cell(line, place) for line in self.rows]) else ()
            return Parts(place, flags, frozenset([place]))
        free = self.others(path, label)
        if label is None:  # 0 and 1 in car, bus and train are classes
            free = [i for i in free if i not in one_hot.classes_like_parts(self.rows, free, self.header)]
        names = {i: self.header[i] for i in free}
        usual = [i for name in COLUMNS["split"] for i in free if self.names[i] == name]
        return find_parts(names, self.rows, usual, self.table, has_header=True)

    def others(self, *used: int | None) -> list[int]:
        """The columns with a name that are not among these."""
        out = (*used, self.group)
        return [i for i, name in enumerate(self.header) if name and not name.startswith("Unnamed: ") and i not in out]

    def group_column(self) -> int | None:
        """The given column of groups; None for none and for a pattern on the path."""
        wanted = self.given.of("group")
        if wanted is None:
            return None
        has_column = wanted in self.header or plain_name(wanted) in self.names
        return None if is_pattern(wanted) and not has_column else self.named(wanted, "group")

    def column(self, key: str) -> int | None:
        """The column of the given name or number, or else of the likeliest of the usual names; None if absent."""
        wanted = self.given.of(key)
        if wanted is not None:
            return None if (key, wanted) == ("split", NONE) else self.named(wanted, key)
        name = next((name for name in COLUMNS[key] if name in self.names), None)
        if name is None:
            return None
        places = [i for i, one in enumerate(self.names) if one == name]
        if len(places) > 1 and len({tuple(cell(line, i) for line in self.rows) for i in places[:2]}) > 1:
            numbers = " or ".join(f"dataset.{key}={i}" for i in places[:4])
            raise DataError(f"{self.table}: {len(places)} columns are called '{name}'; choose by number: {numbers}")
        return places[0]

    def named(self, wanted: str, key: str) -> int:
        """The column of that name or number. Raises DataError if there is none."""
        if wanted in self.header:
            return self.header.index(wanted)
        if plain_name(wanted) in self.names:
            return self.names.index(plain_name(wanted))
        width = len(self.header) or max(len(line.cells) for line in self.rows)
        if wanted.isdecimal() and int(wanted) < width:
            return int(wanted)
        has = shown(self.header) if self.header else f"columns 0 to {width - 1}, without a header"
        hint = did_you_mean(wanted, self.header)
        raise DataError(f"{self.table}: no column '{one_line(wanted)}' (dataset.{key}); it has {has}{hint}")

    def label(self) -> tuple[int | None, Expression | None, list[str]]:
        """The column of the label, what to make of its numbers, and notes for the header of a run."""
        wanted = self.given.of("label")
        if wanted is None:
            label, notes = self.usual_label()
            return label, None, notes
        if wanted in self.header:
            return self.column("label"), None, []
        cut = expression(wanted)
        return self.named(wanted if cut is None else cut.column, "label"), cut, []

    def usual_label(self) -> tuple[int | None, list[str]]:
        """The column with a usual name of a label, and a note if there are several."""
        if not self.header or self.column("label") is None:
            return None, []
        columns = [i for name in COLUMNS["label"] for i, one in enumerate(self.names) if one == name]
        if len(columns) > 1 and "x" in self.names:  # then y is where it is
            columns = [i for i in columns if self.names[i] != "y"]
        return choose_label(columns, self.header, self.rows, self.table)

    def likely_path(self, path: int | None, label: int | None) -> int | None:
        """The column of paths: another one if none of its cells is a file or looks like one, and those of one do."""
        if self.given.path is not None or (path is not None and self.looks_like_paths(path)):
            return path
        found = [i for i in range(len(self.header)) if i not in (path, label) and self.looks_like_paths(i)]
        if len(found) > 1:  # numbers may be names of files by chance
            found = [i for i in found if all(is_image_name(cell(line, i)) for line in self.sample)]
        return found[0] if len(found) == 1 else path

    def looks_like_paths(self, column: int) -> bool:
        """Whether most cells of the first rows have the suffix of an image, or are files."""
        cells = [cell(line, column) for line in self.sample]
        return sum(is_image_name(one) or bool(one and self.exists(one)) for one in cells) * 2 > len(cells)

    def one_hot(self, label: int | None, others: Sequence[int]) -> tuple[int, ...]:
        """The one-hot columns; with a label only a question, if it may be one of them."""
        if label is None:
            return one_hot.find(self.rows, others, self.header, self.table)
        marks = one_hot.candidates(self.rows, [label])
        has_both = 0 < sum(marks.get(label, ())) < len(self.rows)
        marks |= one_hot.candidates(self.rows, others) if has_both else {}
        if len(marks) > 1 and len(self.rows) > 5 and one_hot.has_one_each(marks.values()):
            both = sorted(marks)
            names = ", ".join(self.header[i] for i in both[:SHOWN])
            raise DataError(
                f"{self.table}: is '{self.header[label]}' the label, or one of the one-hot columns {names}? Type "
                f"dataset.label={self.header[label]}, or rename that column"
            )
        return ()

    def holds_pixels(self, column: int) -> bool:
        """Whether the cells are lists of numbers, or single ones under names such as pixel0 or without a header."""
        first = cell(self.rows[0], column).strip("[]").replace(",", " ").split()
        name = self.names[column]
        is_one_of_many = name.isdecimal() and len(self.names) > SAMPLE
        return all(map(str.isdecimal, first)) and (len(first) > SAMPLE or name.startswith("pixel") or is_one_of_many)

    def question(self, key: str) -> DataError:
        """The error for a column that cannot be told."""
        name = COLUMNS[key][0]
        pixels = [one_line(name) for i, name in enumerate(self.header) if key == "path" and self.holds_pixels(i)]
        if pixels:
            return DataError(
                f"{self.table}: column '{pixels[0]}' holds pixels, but a table lists image files; write each row's "
                "pixels to a file, and its path into a column 'path'"
            )
        return DataError(
            f"{self.table}: which column is the {key}? It has {shown(self.header)}; name one with "
            f"dataset.{key}=COLUMN, or rename it to {name}"
        )

    # --- without a header ---

    def by_content(self, width: int) -> Columns:
        """Path, label and, if all its cells are such words, split; another order if the paths are elsewhere."""
        columns = list(range(width))
        if self.given.path is not None:
            path = self.named(str(self.given.path), "path")
        else:
            path = next((i for i in columns if self.looks_like_paths(i)), 0)
        label, cut, _ = self.label()
        others = [i for i in columns if i not in (path, label, self.group)]
        parts = self.parts_by_content(others, label)
        others = [i for i in others if i not in parts.like]
        if len(self.rows) > MOST_NUMBERS:  # a column that numbers the rows is no label, if another one may be
            others = [i for i in others if len({cell(line, i) for line in self.rows}) < len(self.rows)] or others
        if label is not None:
            return Columns(path, label, parts.split, cut=cut)
        if len(others) > 1 and self.given.of("split") != NONE:
            shown_ones = "; ".join(f"dataset.label={i} ({self.examples(i)})" for i in others[:4])
            raise DataError(
                f"{self.table}: no header and {width} columns: which one is the label? {shown_ones}; "
                "dataset.split=none takes the first of them"
            )
        return Columns(path, others[0], parts.split)

    def parts_by_content(self, others: Sequence[int], label: int | None) -> Parts:
        """The given column of parts, or else one whose cells are all such words, unless it is the only one left."""
        wanted = self.given.of("split")
        if wanted is not None:
            place = None if wanted == NONE else self.named(wanted, "split")
            return Parts(place, (), frozenset([] if place is None else [place]))
        words = [i for i in others if has_words_only({cell(line, i) for line in self.rows})]
        words = words[1:] if label is None and len(words) == len(others) else words
        names = {i: f"{i}" for i in words}
        return find_parts(names, self.rows, (), self.table, has_header=False)

    def examples(self, column: int) -> str:
        """Some of a column's cells."""
        return listing(list(dict.fromkeys(cell(line, column) for line in self.rows)), 3)


def shown(header: Sequence[str]) -> str:
    """The columns' names for a message."""
    return ", ".join(map(one_line, header[:SHOWN])) + (", ..." if len(header) > SHOWN else "")


def unused_columns(columns: Columns) -> list[str]:
    """A note on which columns are used, unless all are."""
    header = columns.header
    others = [name for i, name in enumerate(header) if name and i not in columns.used]
    places = {"path": columns.path, "label": columns.label, "split": columns.split, "group": columns.group}
    used = ", ".join(f"{key} '{columns.name(i)}'" for key, i in places.items() if i is not None)
    if len(columns.flags) > 1:
        names = " and ".join(f"'{columns.name(i)}'" for i, _ in columns.flags)
        used = used.replace(f"split '{columns.name(columns.flags[0][0])}'", f"split {names}")
    ones = ""
    if columns.ones:
        names = listing([header[i] for i in columns.ones], SHOWN)
        ones = (
            f", label the largest of the probabilities in {names}" if columns.is_soft else f", label one-hot in {names}"
        )
    is_usual = columns.split is None or (
        plain_name(columns.name(columns.split)) in COLUMNS["split"] and not columns.flags
    )
    if header and not others and not ones and is_usual:
        return []
    if header:
        return [f"columns  {used}{ones}" + (f"; not used: {listing(others, SHOWN)}" if others else "")]
    if columns.path == 0 and columns.label == 1 and columns.split in (None, 2):
        return []
    return [f"columns  no header; {used}"]
