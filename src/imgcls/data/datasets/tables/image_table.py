"""Your own images, listed in a table: CSV, TSV, text or JSON lines with path, label and, if you like, split."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from imgcls.config.types import Range
from imgcls.data.datasets.folders.image_folder import SPLIT_NAMES, named_in, source_of
from imgcls.data.datasets.folders.places import no_such_file
from imgcls.data.datasets.tables.columns import (
    Columns,
    Given,
    find_columns,
    known_names,
    shown,
    unused_columns,
)
from imgcls.data.datasets.tables.files import Files
from imgcls.data.datasets.tables.grid import Line
from imgcls.data.datasets.tables.labels import (
    check_classes,
    check_numbers,
    empty_findings,
    id_findings,
    label_findings,
    labels_of,
    plain_header,
)
from imgcls.data.datasets.tables.parts import cell, part_cells, plain_name, word_note
from imgcls.data.datasets.tables.rows import JSON_LINES, read_grid
from imgcls.data.findings import Finding
from imgcls.data.grouping import grouped, grouped_by_path
from imgcls.data.renames import check_renames, renames_of
from imgcls.data.source import Images, Source, in_order
from imgcls.errors import DataError
from imgcls.files import file_size, is_present
from imgcls.text import one_line, printable

Place = Annotated[int, Range(low=0)]  # a column by its number
BOXES = tuple(
    {*names.split()}
    for names in (
        "xmin ymin xmax ymax", "x_min y_min x_max y_max", "x1 y1 x2 y2", "x0 y0 x1 y1", "bbox", "x y w h",
        "x y width height", "left top right bottom", "left top width height", "bbox_x bbox_y bbox_width bbox_height",
        "bbox_x1 bbox_y1 bbox_x2 bbox_y2", "cx cy w h", "x_center y_center width height",
        "xcenter ycenter width height", "region_shape_attributes", "encodedpixels", "rle",
    )
)  # fmt: skip
POOLED = "all rows are pooled and split again"


@dataclass(frozen=True)
class Row:
    """A row of a table: its line in the file, and its cells."""

    line: int
    path: str
    label: str
    split: str
    group: str = ""


@dataclass(frozen=True)
class Listing:
    """A table as it was read: its rows, each path once, its columns, and what the header of a run says about it."""

    table: Path
    files: Files
    rows: list[Row]
    columns: Columns
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]


def imagelist(
    *,
    root: str | None,
    images: str | None,
    test: str | None,
    path: str | Place | None,
    label: str | Place | None,
    split: str | Place | None,
    group: str | Place | None,
    rename: dict[str, Any] | str | None,
    encoding: str | None,
    verify: bool,
    on_error: Literal["error", "skip"],
) -> Source:
    """The images listed in the table at root; its first line is a header, or already an image.

    Without a split column the table is split like a flat folder. Duplicate rows are ignored.

    **Arguments:**

    - root: the table.
    - images: the folder that relative paths start from, and in which paths of other machines are looked for by their
      names; null is the table's folder.
    - test: another table, all of whose rows are the test part.
    - path, label, split: the columns, by name or by number from 0; null finds the usual names. split=none ignores any
      split column. A label such as ``prob > 0.5`` makes two classes of a column of numbers, ``prob > 0.3, 0.6`` three.
    - group: the column of what several images show, a patient, say, whose images stay in one part; or a regular
      expression on the path.
    - rename: {old: new}, labels that are renamed or merged.
    - encoding: of the file; null is UTF-8, what its byte order mark says, or Windows-1252 with a warning.
    - verify: decode every file once, and report all that are corrupt.
    - on_error: "skip" leaves missing and corrupt files out, "error" refuses them.

    Raises DataError if the table or its files cannot be used, or a path has two labels or splits; ConfigError and
    ValueError for an argument that it cannot use.
    """
    tables = {"": _existing(root)} | ({} if test is None else {"test": _existing(test)})
    given, names = Given(path, label, split, group), renames_of(rename)
    listings = {part: read_listing(table, given, images, encoding) for part, table in tables.items()}
    source = source_from(listings, names, verify=verify, on_error=on_error)
    return source if group is None else _grouped(source, listings[""].columns, str(group))


def _grouped(source: Source, columns: Columns, group: str) -> Source:
    """The data set with the groups of a column and notes about them, or with the groups that a pattern finds."""
    if columns.group is None:
        more = f"; the columns are {shown(columns.header)}" if columns.header else ""
        return grouped_by_path(source, group, more)
    names = {part: images.groups or () for part, images in source.parts.items()}
    return grouped(source, names, f"by '{columns.name(columns.group)}'")


def source_from(
    listings: Mapping[str, Listing],
    names: Mapping[str, str],
    *,
    verify: bool,
    on_error: Literal["error", "skip"],
) -> Source:
    """The tables together as a data set.

    listings: by part, all of whose rows they are; "" for a table that says it itself. names: {old: new} of labels.
    """
    check_renames(names, {row.label for one in listings.values() for row in one.rows})
    listings = {part: _renamed(one, names) for part, one in listings.items()}
    by_split, warnings = _by_split(listings)
    classes = _classes(listings, names)
    numbers = {name: i for i, name in enumerate(classes)}
    base = next(iter(listings.values())).files.folder
    has_groups = any(one.columns.group is not None for one in listings.values())
    parts, missing, every = {}, list[str](), dict[str, tuple[Row, Path]]()
    for part, pairs in by_split.items():
        found: list[tuple[Row, str, Files]] = []
        for one, own in pairs:
            there, lost = _find_files(own, one, skip=on_error == "skip")
            found += [(row, place, one.files) for row, place in there]
            missing += [f"no such file: {one_line(row.path)}" for row in lost]
            every |= {_id(place, one.files.folder, base): (row, one.table) for row, place in there}
        parts[part] = Images(
            [numbers[row.label] for row, _, _ in found],
            paths=[os.path.join(files.folder, place) for _, place, files in found],
            ids=[_id(place, files.folder, base) for _, place, files in found],
            groups=[row.group for row, _, _ in found] if has_groups else None,
        )
    labels = [row.label for one in listings.values() for row in one.rows]
    source = source_of(
        parts,
        classes,
        verify=verify,
        on_error=on_error,
        notes=tuple(note for one in listings.values() for note in one.notes),
        warnings=warnings,
        missing=missing,
    )
    seen = [finding for one in listings.values() for finding in (*one.findings, *one.files.findings(one.table.name))]
    source = replace(source, findings=(*source.findings, *seen, *label_findings(labels)))
    return source if len(listings) > 1 else named_in(source, _untrained(every))


def _untrained(rows: Mapping[str, tuple[Row, Path]]) -> dict[str, str] | None:
    """The part that the table names for each image, by the image's id; {} if it has no parts, None if it has train."""
    if not any(row.split for row, _ in rows.values()):
        return {}
    part_of = {name: _split_of(row, table) for name, (row, table) in rows.items()}
    return None if "train" in part_of.values() else part_of


def _id(place: str, folder: Path, base: Path) -> str:
    """An image's name: its path from the first table's folder."""
    return printable(place if folder == base else os.path.relpath(os.path.join(folder, place), base))


def _existing(root: str | None) -> Path:
    """The path of the table, if it can be read."""
    if root is None:
        raise ValueError("missing required value 'dataset.root': the table (short: dataset=./labels.csv)")
    table = Path(os.path.expanduser(root))
    if not os.path.exists(table):
        raise no_such_file(root)
    file_size(table)
    return table


def _renamed(listing: Listing, names: Mapping[str, str]) -> Listing:
    rows = [replace(row, label=names.get(row.label, row.label)) for row in listing.rows] if names else listing.rows
    return replace(listing, rows=rows)


def _classes(listings: Mapping[str, Listing], names: Mapping[str, str]) -> tuple[str, ...]:
    """The classes: those of an expression from low to high, else sorted, whole numbers by value."""
    there = {row.label for one in listings.values() for row in one.rows}
    cut = next(iter(listings.values())).columns.cut
    if cut is None:
        return in_order(there)
    return tuple(dict.fromkeys(new for name in cut.classes if (new := names.get(name, name)) in there))


def _by_split(listings: Mapping[str, Listing]) -> tuple[dict[str, list[tuple[Listing, list[Row]]]], list[str]]:
    """The rows of each split, by table, and warnings. Without any row of train, all are pooled and split again."""
    found: dict[str, list[tuple[Listing, list[Row]]]] = {}
    for part, one in listings.items():
        own: dict[str, list[Row]] = {}
        for row in one.rows:
            own.setdefault(part or _split_of(row, one.table), []).append(row)
        for name, rows in own.items():
            if name in found and part:
                raise DataError(
                    f"{found[name][0][0].table} has {name} rows itself, and dataset.{name} names {one.table.name}; "
                    f"leave one of them out: dataset.split=none, or no dataset.{name}"
                )
            found.setdefault(name, []).append((one, rows))
    first = next(iter(listings.values()))
    if "train" not in found:  # to be evaluated as a whole, say
        warning = f"{first.table.name} has no training rows: {POOLED}"
        return {"train": [(one, one.rows) for one in listings.values()]}, [warning]
    learned = {row.label for _, rows in found["train"] for row in rows}
    for one, rows in (pair for pairs in found.values() for pair in pairs):
        if unknown := next((row for row in rows if row.label not in learned), None):
            raise DataError(f"{one.table}, line {unknown.line}: no training row has class '{one_line(unknown.label)}'")
    return found, []


def _find_files(rows: list[Row], listing: Listing, *, skip: bool) -> tuple[list[tuple[Row, str]], list[Row]]:
    """The rows whose file exists, each with its path as it is on disk, and the others, if they may be skipped."""
    places = [listing.files.find(row.path) for row in rows]
    lost = [row for row, place in zip(rows, places, strict=True) if place is None]
    if lost and (not skip or len(lost) == len(rows)):
        raise _missing_files(lost, len(rows), listing)
    found = [(row, place) for row, place in zip(rows, places, strict=True) if place is not None]
    first: dict[str, Row] = {}
    for row, place in found:
        before = first.setdefault(os.path.normpath(place), row)
        if before is not row and before.label != row.label:
            raise DataError(
                f"{listing.table}: line {before.line} ({one_line(before.path)}) and line {row.line} "
                f"({one_line(row.path)}) are the same file, {one_line(place)}, with another label"
            )
    return found, lost


def read_listing(table: Path, given: Given, images: str | None, encoding: str | None) -> Listing:
    """A table as rows, each path once. images: the folder that its paths start from, or None. Raises DataError."""
    files = Files(table.parent if images is None else Path(os.path.expanduser(images)), images is not None)

    def exists(name: str) -> bool:
        return files.exact(name) is not None or name in files.several

    grid = read_grid(table, encoding, lambda cells: known_names(cells, given), exists)
    columns, lines = find_columns(grid, given, table, exists)
    check_boxes(columns, given, table)
    labels = labels_of(lines, columns, table)
    check_objects(lines, labels, columns, table)
    notes = [*unused_columns(columns), *columns.notes, *plain_header(labels, lines, columns)]
    if columns.split is not None and not columns.flags:
        notes += word_note(lines, columns.split, columns.name(columns.split))
    findings = [*grid.findings, *columns.findings, *check_numbers({*labels}, columns, table)]
    findings += empty_findings({*labels}, columns)
    if given.label is None:
        check_classes(labels, columns, table)
    parts = part_cells(lines, columns.split, columns.flags)
    rows = [_row(line, label, part, columns, table) for line, label, part in zip(lines, labels, parts, strict=True)]
    kept, repeated = _without_duplicates(rows, table)
    if repeated:
        notes.append(f"rows     ignored {repeated:,} duplicate row{'s' * (repeated > 1)}")
    without = sum(not row.split for row in kept)
    if 0 < without < len(kept):
        notes.append(f"rows     {without:,} without a split go into train")
    findings += id_findings(lines, labels, [row.split for row in rows], columns)
    return Listing(table, files, kept, columns, tuple(notes), tuple(findings))


def check_boxes(columns: Columns, given: Given, table: Path) -> None:
    """Raises DataError for a table of boxes, unless its label column was named."""
    names = {plain_name(name) for i, name in enumerate(columns.header) if i not in columns.ones}
    if given.label is None and any(box <= names for box in BOXES):
        error = DataError(
            f"{table}: its columns are those of object detection (boxes); to give each image the class of its box "
            "name the column: dataset.label=COLUMN"
        )
        error.kind = "other_task"
        raise error


def check_objects(lines: Sequence[Line], labels: Sequence[str], columns: Columns, table: Path) -> None:
    """Raises DataError for JSON lines whose paths or labels are objects."""
    if table.suffix.lower() not in JSON_LINES:
        return
    for line, label in zip(lines, labels, strict=True):
        for what, text in (("path", cell(line, columns.path)), ("label", label)):
            if text.startswith("{") and text.endswith("}"):
                raise DataError(
                    f"{table}, line {line.number}: the {what} is an object, {one_line(text[:60])}; write a text there, "
                    "with jq for example"
                )


def _row(line: Line, label: str, part: str, columns: Columns, table: Path) -> Row:
    """A line's cells."""
    path = cell(line, columns.path)
    if not path:
        raise DataError(f"{table}, line {line.number}: no path")
    if "\0" in path:
        raise DataError(f"{table}, line {line.number}: a path cannot contain a NUL")
    return Row(line.number, path, label, part, "" if columns.group is None else cell(line, columns.group))


def _without_duplicates(rows: Sequence[Row], table: Path) -> tuple[list[Row], int]:
    """Each path once, and how many rows were more. Raises DataError if they contradict each other."""
    seen: dict[str, Row] = {}
    for row in rows:
        before = seen.setdefault(row.path, row)
        if (before.label, before.split, before.group) != (row.label, row.split, row.group):
            what = "label or split" if before.group == row.group else "label, split or group"
            raise DataError(
                f"{table}: {one_line(row.path)} is in line {before.line} and in line {row.line} with another {what}"
            )
    return list(seen.values()), len(rows) - len(seen)


def _split_of(row: Row, table: Path) -> str:
    """train, val or test, under any of their usual names; train if the cell is empty."""
    word = row.split.lower()
    for part, words in SPLIT_NAMES.items():
        if word in words:
            return part
    if word:
        raise DataError(
            f"{table}, line {row.line}: unknown split '{one_line(row.split)}' (choices: train, val, test); "
            "remove such rows, or ignore the column with dataset.split=none"
        )
    return "train"


def _missing_files(lost: Sequence[Row], count: int, listing: Listing) -> DataError:
    """The error for rows whose files are missing."""
    one, folder = lost[0], listing.files.folder
    how_many = f" ({len(lost):,} of {count:,} are missing)" if len(lost) > 1 else ""
    where = one_line(os.path.join(folder, one.path))
    if is_present(folder) or not os.path.isdir(folder):
        where = f"{where}, and no such folder: {one_line(str(folder))}"
    return DataError(
        f"{listing.table}, line {one.line}: no such file: {where}{how_many}; {listing.files.advice(one.path)}"
    )
