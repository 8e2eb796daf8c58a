"""Your own images, listed in a table: a CSV, TSV or text file with path, label and, if you like, split."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imgcls.data.datasets.image_folder import SPLIT_NAMES, named_in, source_of
from imgcls.data.datasets.scan import is_image_name
from imgcls.data.decoding import SUFFIXES
from imgcls.data.source import Images, Source
from imgcls.errors import DataError
from imgcls.files import file_size, is_present
from imgcls.text import listing, one_line, printable

# fmt: off
COLUMNS = {  # the usual names of each column, the likeliest first
    "path": (
        "path", "image", "file", "filename", "filepath", "file_path", "file_name", "image_path", "img", "img_path",
        "image_name", "image_file", "fname", "uri", "image_id", "img_id", "id_code", "name", "id",
    ),
    "label": ("label", "class", "target", "category", "class_name", "label_name", "class_id", "y"),
    "split": (
        "split", "part", "set", "subset", "partition", "data_set", "data set", "is_train", "is_training",
        "is_training_img", "is_valid", "is_validation", "is_val", "is_test",
    ),
}
# fmt: on
FLAGS = tuple(name for name in COLUMNS["split"] if name.startswith("is_"))
YES, NO = (
    ("1", "1.0", "true", "yes", "t", "y"),
    ("0", "0.0", "false", "no", "f", "n"),
)  # in a column is_train, is_valid or is_test
POOLED = "all rows are pooled and split again"
NONE = "none"  # dataset.split=none: ignore any split column
LARGEST = 1 << 30  # bytes of a table
SHOWN = 8  # columns named in a message


@dataclass(frozen=True)
class Row:
    """A row of the table: its line in the file, and its three cells."""

    line: int
    path: str
    label: str
    split: str


def imagelist(
    *,
    root: str | None,
    images: str | None,
    path: str | None,
    label: str | None,
    split: str | None,
    verify: bool,
    on_error: Literal["error", "skip"],
) -> Source:
    """The images listed in the table at root; its first line is a header, or already an image.

    Without a split column the table is split like a flat folder. Duplicate rows are ignored.

    **Arguments:**

    - root: the table.
    - images: the folder that relative paths start from; null is the table's folder.
    - path, label, split: the names of the columns; null finds the usual names. split=none ignores any split column.
    - verify: decode every file once, and report all that are corrupt.
    - on_error: "skip" leaves missing and corrupt files out, "error" refuses them.

    Raises DataError if the table or its files cannot be used, or a path has two labels or splits.
    """
    table = _existing(root)
    rows, notes = _rows(table, {"path": path, "label": label, "split": split})
    by_split, warnings = _by_split(rows, table)
    folder = table.parent if images is None else Path(os.path.expanduser(images))
    classes = _in_order({row.label for row in rows})
    numbers = {name: i for i, name in enumerate(classes)}
    parts, missing, every = {}, list[str](), list[tuple[Row, str]]()
    for name, own in by_split.items():
        found, lost = _find_files(own, folder, table, skip=on_error == "skip")
        missing += [f"no such file: {one_line(row.path)}" for row in lost]
        every += found
        parts[name] = Images(
            [numbers[row.label] for row, _ in found],
            paths=[os.path.join(folder, one) for _, one in found],
            ids=[printable(one) for _, one in found],
        )
    source = source_of(
        parts, classes, verify=verify, on_error=on_error, notes=notes, warnings=warnings, missing=missing
    )
    return named_in(source, _untrained(every, table))


def _untrained(rows: list[tuple[Row, str]], table: Path) -> dict[str, str] | None:
    """The part that the table names for each image, by the image's id; {} if it has no parts, None if it has train."""
    if not any(row.split for row, _ in rows):
        return {}
    part_of = {printable(one): _split_of(row, table) for row, one in rows}
    return None if "train" in part_of.values() else part_of


def _existing(root: str | None) -> Path:
    """The path of the table, if it can be read."""
    if root is None:
        raise ValueError("missing required value 'dataset.root': the table (short: dataset=./labels.csv)")
    table = Path(os.path.expanduser(root))
    if not os.path.exists(table):
        raise DataError(f"no such file: {table}")
    if file_size(table) > LARGEST:
        raise DataError(f"{table}: {file_size(table):,} bytes are more than {LARGEST:,}")
    return table


def _by_split(rows: list[Row], table: Path) -> tuple[dict[str, list[Row]], list[str]]:
    """The rows of each split, and warnings. Without any row of train, all rows are pooled and split again."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(_split_of(row, table), []).append(row)
    if "train" not in found:  # to be evaluated as a whole, say
        warning = f"{table.name} has no training rows: {POOLED}"
        return {"train": rows}, [warning]
    learned = {row.label for row in found["train"]}
    for own in found.values():
        if unknown := next((row for row in own if row.label not in learned), None):
            raise DataError(f"{table}, line {unknown.line}: no training row has class '{unknown.label}'")
    return found, []


def _find_files(rows: list[Row], folder: Path, table: Path, *, skip: bool) -> tuple[list[tuple[Row, str]], list[Row]]:
    """The rows whose file exists, each with its path as it is on disk, and the others, if they may be skipped."""
    paths = [_as_found(folder, row.path) for row in rows]
    lost = [row for row, one in zip(rows, paths, strict=True) if one is None]
    if lost and (not skip or len(lost) == len(rows)):
        raise _missing_files(lost, len(rows), folder, table)
    return [(row, one) for row, one in zip(rows, paths, strict=True) if one is not None], lost


def _rows(table: Path, given: dict[str, str | None]) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of the table, each path once, and notes on them."""
    seen: dict[str, Row] = {}
    notes: list[str] = []
    repeated = 0
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip() and not line.startswith("#")), "")
            file.seek(0)
            lines = csv.reader(file, _dialect(first, table))
            for row in _cells(lines, table, given, notes):
                before = seen.setdefault(row.path, row)
                repeated += before is not row
                if (before.label, before.split) != (row.label, row.split):
                    raise DataError(
                        f"{table}: {row.path} is in line {before.line} and in line {row.line} "
                        "with another label or split"
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not a table in UTF-8 ({one_line(str(error))}); save it as CSV in UTF-8") from error
    except OSError as error:
        raise DataError(f"{table}: cannot be read ({error.strerror or error})") from error
    if not seen:
        raise DataError(f"{table}: it lists no images")
    if repeated:
        notes.append(f"rows     ignored {repeated:,} duplicate row{'s' * (repeated > 1)}")
    without = sum(not row.split for row in seen.values())
    if 0 < without < len(seen):
        notes.append(f"rows     {without:,} without a split go into train")
    return list(seen.values()), tuple(notes)


def _dialect(first: str, table: Path) -> type[csv.Dialect]:
    """The delimiter: the most frequent one in the first line; tab in a .tsv if there is any, else space in a .txt."""
    mark = "\t" if table.suffix.lower() == ".tsv" and "\t" in first else max(",;\t|", key=first.count)

    class Own(csv.excel):
        delimiter = " " if mark not in first and table.suffix.lower() == ".txt" else mark
        skipinitialspace = delimiter == " "

    return Own


def _cells(lines: Iterator[list[str]], table: Path, given: dict[str, str | None], notes: list[str]) -> Iterator[Row]:
    """The rows; the first line is a header unless it is already an image. Adds a note on the columns."""
    columns: dict[str, int | None] | None = None
    flag = ""
    for number, cells in enumerate(lines, start=1):
        cells = [cell.strip() for cell in cells]
        if not any(cells) or (columns is None and cells[0].startswith("#")):
            continue
        if columns is None:
            columns = _columns(cells, table, given)
            if columns is not None:
                place = columns["split"]
                flag = cells[place].lower().removeprefix("is_") if place is not None else ""
                notes += _unused_columns(cells, columns)
                continue
            columns = {"path": 0, "label": 1, "split": 2 if len(cells) > 2 and given["split"] != NONE else None}
        found = {
            name: cells[place] if place is not None and place < len(cells) else "" for name, place in columns.items()
        }
        for name in ("path", "label"):
            if not found[name]:
                raise DataError(f"{table}, line {number}: no {name}")
        if not found["label"].isprintable():
            raise DataError(f"{table}, line {number}: the label {found['label'][:40]!a} is not plain text")
        if "\0" in found["path"]:
            raise DataError(f"{table}, line {number}: a path cannot contain a NUL")
        found["split"] = _flagged(flag, found["split"])
        yield Row(number, **found)


def _unused_columns(header: Sequence[str], columns: dict[str, int | None]) -> list[str]:
    """A note on which columns are used, unless all are."""
    others = [name for i, name in enumerate(header) if name and i not in columns.values()]
    if not others:
        return []
    used = ", ".join(f"{key} '{one_line(header[i])}'" for key, i in columns.items() if i is not None)
    return [f"columns  {used}; not used: {listing(others, SHOWN)}"]


def _flagged(flag: str, value: str) -> str:
    """The split that a cell names; for a column is_train, is_valid or is_test, the one that its yes or no means."""
    for part, others in (("train", "test"), ("val", "train"), ("test", "train")):
        if flag.startswith(part):
            return part if value.lower() in YES else others if value.lower() in NO else value
    return value


def _columns(header: Sequence[str], table: Path, given: dict[str, str | None]) -> dict[str, int | None] | None:
    """Which column holds what; None if the first line is an image already."""
    named = any(word for key, word in given.items() if (key, word) != ("split", NONE))
    if len(header) >= 2 and is_image_name(header[0]) and not named:
        return None
    found = {key: _column(key, given[key], header, table) for key in COLUMNS}
    flags = [name for name in header if name.lower() in FLAGS]
    if len(flags) > 1 and given["split"] is None:
        raise DataError(
            f"{table}: which column is the split? It has {', '.join(flags)}; name one with dataset.split=COLUMN, "
            "or ignore them with dataset.split=none"
        )
    others = [i for i, name in enumerate(header) if name and i not in found.values()]
    for key, other in (("path", "label"), ("label", "path")):
        if found[key] is None and found[other] is not None and len(others) == 1:
            found[key] = others[0]  # the only column left
    for key in ("path", "label"):
        if found[key] is None:
            raise DataError(
                f"{table}: which column is the {key}? It has {_shown(header)}; name one with dataset.{key}=COLUMN, "
                f"or rename it to {COLUMNS[key][0]}"
            )
    return found


def _column(key: str, wanted: str | None, header: Sequence[str], table: Path) -> int | None:
    """The column of that name, or else of the likeliest of the usual names; None if there is none."""
    if wanted is None:
        names = [name.lower() for name in header]
        return next((names.index(name) for name in COLUMNS[key] if name in names), None)
    if wanted in header:
        return header.index(wanted)
    if (key, wanted) == ("split", NONE):
        return None
    raise DataError(f"{table}: no column '{wanted}' (dataset.{key}); it has {_shown(header)}")


def _shown(header: Sequence[str]) -> str:
    return ", ".join(header[:SHOWN]) + (", ..." if len(header) > SHOWN else "")


def _split_of(row: Row, table: Path) -> str:
    """train, val or test, under any of their usual names; train if the cell is empty."""
    word = row.split.lower()
    for part, words in SPLIT_NAMES.items():
        if word in words:
            return part
    if word:
        raise DataError(
            f"{table}, line {row.line}: unknown split '{row.split}' (choices: train, val, test); "
            "dataset.split=none ignores the column"
        )
    return "train"


def _in_order(labels: set[str]) -> tuple[str, ...]:
    """The classes, sorted; whole numbers by value."""
    if all(label.isdecimal() and label.isascii() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _missing_files(lost: Sequence[Row], count: int, folder: Path, table: Path) -> DataError:
    """The error for rows whose files are missing."""
    one = lost[0]
    how_many = f" ({len(lost):,} of {count:,} are missing)" if len(lost) > 1 else ""
    advice = "paths are relative to the table's folder, or to dataset.images"
    if _as_found(Path.cwd(), one.path) is not None:
        advice = "it is below the current folder: add dataset.images=."
    where = one_line(os.path.join(folder, one.path))
    return DataError(f"{table}, line {one.line}: no such file: {where}{how_many}; {advice}")


def _as_found(folder: str | Path, path: str) -> str | None:
    """The path as given, or with slashes for backslashes, or with a missing suffix added; None if there is no file."""
    plain = path.replace("\\", "/")
    suffixes = (spelling for suffix in SUFFIXES for spelling in (suffix, suffix.upper()) if not is_image_name(plain))
    candidates = itertools.chain((path, plain), (plain + suffix for suffix in suffixes))
    return next((one for one in candidates if is_present(Path(folder, one))), None)
