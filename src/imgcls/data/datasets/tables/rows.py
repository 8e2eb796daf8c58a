"""The rows of a table as text: its encoding, its separator and its quotes, each row with its line in the file."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from imgcls.data.datasets.folders.scan import is_image_name
from imgcls.data.datasets.tables.grid import Grid, Line, shown_cells
from imgcls.data.datasets.tables.json_rows import json_lines, json_list, json_map
from imgcls.data.datasets.tables.notation import plain_notation
from imgcls.data.datasets.tables.text import read_text
from imgcls.data.findings import Finding
from imgcls.data.pixels.opening import SUFFIXES
from imgcls.errors import DataError
from imgcls.text import listing, one_line

JSON_LINES = (".jsonl", ".ndjson")
SEPARATORS = (",", ";", "\t", "|", " ")
WIDEST = 20  # cells of a row among which a file is looked for, to guess the separator
SAMPLE = 20  # lines that the separator is guessed from
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
PLAIN_QUOTES = (".tsv", ".txt")
SUFFIX = "|".join(re.escape(one) for one in SUFFIXES)
PATH_FIRST = re.compile(rf"(?:\"([^\"]+)\"|(.+?(?:{SUFFIX})))\s+(\S.*)", re.IGNORECASE)


def read_grid(
    table: Path, encoding: str | None, known: Callable[[Sequence[str]], int], exists: Callable[[str], bool]
) -> Grid:
    """The rows of the file.

    known: how many cells of a first line are names of columns. exists: whether a cell is the path of a file. Both
    decide between the separators. Raises DataError, with the line, for what is not a table.
    """
    text, findings = read_text(table, encoding)
    lines = re.split("\r\n|\n|\r", text.rstrip("\x1a"))  # the end of a file in DOS
    if table.suffix.lower() in JSON_LINES or (table.suffix.lower() == ".json" and text.lstrip()[:1] == "{"):
        return json_map(text, table, findings) or json_lines(lines, table, findings)
    if text.lstrip()[:1] == "[" and table.suffix.lower() == ".json":
        return json_list(text, table, findings)
    lines, separator, notation = plain_notation(lines, table)
    findings += notation
    if separator is not None:
        return Grid(_without_comments(_quoted(lines, separator, table)), None, findings)
    separator = _declared(lines)
    if separator is None:
        separator = _separator(lines, table, known, exists)
    if separator == " ":
        return Grid(_without_comments(_by_blanks(lines, table, known, exists)), None, findings)
    if table.suffix.lower() in PLAIN_QUOTES:
        rows, unquoted = _plain(lines, separator, table)
        return Grid(_without_comments(rows), None, (*findings, *unquoted))
    return Grid(_without_comments(_quoted(lines, separator, table)), None, findings)


def without_repeated_headers(
    rows: Sequence[Line], header: Sequence[str], table: Path
) -> tuple[list[Line], tuple[Finding, ...]]:
    """The rows that are not the header again, as in tables that were joined, and a note on those.

    Raises DataError for a header of the same columns in another order.
    """
    names = [one.casefold() for one in header]
    kept, gone = list[Line](), list[int]()
    for line in rows:
        cells = [one.casefold() for one in line.cells]
        if not names or len(cells) != len(names) or sorted(cells) != sorted(names):
            kept.append(line)
        elif cells == names:
            gone.append(line.number)
        else:
            raise DataError(
                f"{table}, line {line.number}: another header, with the columns in another order "
                f"({shown_cells(line.cells, 4)}); split the table there, or reorder the columns below it"
            )
    if not gone:
        return list(rows), ()
    text = (
        f"{table.name} repeats its header {f'{len(gone):,} times' if len(gone) > 1 else 'once'}, which is passed over"
    )
    text += f" (line{'s' * (len(gone) > 1)} {listing([f'{number:,}' for number in gone], 3)})"
    return kept, (Finding("repeated_header", "note", text, len(gone)),)


def _without_comments(lines: Iterator[Line] | list[Line]) -> list[Line]:
    """The rows with anything in them; lines that start with # are passed over until the first other one."""
    kept: list[Line] = []
    for line in lines:
        is_comment = not kept and line.cells and line.cells[0].startswith("#") and not is_image_name(line.cells[0])
        if any(line.cells) and not is_comment:
            kept.append(line)
    return kept


# --- separators ------------------------------------------------------------------------------------------------------


def _declared(lines: list[str]) -> str | None:
    """The separator of a first line sep=; as spreadsheets write it, which is emptied; None if there is none."""
    found = re.fullmatch(r"\s*\"?sep=(.|\\t)\"?\s*", lines[0], re.IGNORECASE) if lines else None
    if found is None:
        return None
    lines[0] = ""
    return "\t" if found[1] == "\\t" else found[1]


def _separator(
    lines: Sequence[str], table: Path, known: Callable[[Sequence[str]], int], exists: Callable[[str], bool]
) -> str:
    """The separator under which the table makes sense: that gives a known header, files that exist, names of images."""
    sample = [line for line in lines if line.strip() and not line.startswith("#")][:SAMPLE]
    if not sample or (table.suffix.lower() == ".tsv" and "\t" in sample[0]):
        return "\t" if sample else ","
    quotes = table.suffix.lower() not in PLAIN_QUOTES
    # then a word of a name such as 'Image Index' is no column
    cuts_all = any(_cuts_all(sample, separator, quotes=quotes) for separator in SEPARATORS if separator != " ")

    def score(separator: str) -> tuple[float, ...]:
        rows = [_cells(line, separator, quotes=quotes) for line in sample]
        lengths = Counter(map(len, rows))
        names = 0 if any(map(is_image_name, rows[0])) or (separator == " " and cuts_all) else known(rows[0])
        if len(rows[0]) < 2 and (names or lengths.most_common(1)[0][0] < 2):
            return (0,)
        body = rows[1:] if names and len(rows) > 1 else rows
        files = sum(any(cell and exists(cell) for cell in row[:WIDEST]) for row in body) / len(body)
        images = sum(any(map(is_image_name, row)) for row in body) / len(body)
        is_even = lengths.most_common(1)[0][1] / len(rows)
        first = -1 if separator == " " else sample[0].count(separator)
        return (1, min(names, 2), files, images, separator != " ", is_even > 0.9, first)

    best = max(SEPARATORS, key=score)
    return best if score(best)[0] else ","


def _cuts_all(lines: Sequence[str], separator: str, *, quotes: bool) -> bool:
    """Whether it cuts all lines into as many cells, two at least."""
    lengths = {len(_cells(line, separator, quotes=quotes)) for line in lines}
    return len(lengths) == 1 and lengths != {1}


def _cells(line: str, separator: str, *, quotes: bool) -> list[str]:
    """One line cut by a separator, for a guess: nothing is refused."""
    if separator == " " and '"' not in line:
        return _blank_cells(line.strip())
    if not quotes and separator != " ":
        return [cell.strip(' "') for cell in line.split(separator)]
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]


# --- one format each -------------------------------------------------------------------------------------------------


def _quoted(lines: Sequence[str], separator: str, table: Path) -> Iterator[Line]:
    """CSV, strictly: a quote that is opened must be closed, and must not swallow rows."""
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, skipinitialspace=True, strict=True)
    start, width = 1, 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _bad_quotes(table, start, reader.line_num, lines, str(error)) from error
        width = width or len(cells)
        if reader.line_num > start and any(_holds_rows(cell, separator, width) for cell in cells):
            raise DataError(
                f"{table}, line {start}: a quote is opened here and closed only in line {reader.line_num}, with rows "
                'in between; remove it, or write it twice ("") inside quotes'
            )
        yield Line(start, tuple(cell.strip() for cell in cells))
        start = reader.line_num + 1


def _holds_rows(cell: str, separator: str, width: int) -> bool:
    """Whether a cell of several lines has swallowed rows of the table, rather than being a text of several lines."""
    for line in cell.split("\n")[1:]:
        parts = line.split(separator)
        if len(parts) > 1 and (
            any(is_image_name(part.strip(' "')) for part in parts)
            or (len(parts) >= width > 1 and separator + " " not in line)
        ):
            return True
    return False


def _bad_quotes(table: Path, start: int, end: int, lines: Sequence[str], reason: str) -> DataError:
    """The error for a row that strict CSV refuses."""
    shown = one_line(lines[start - 1].strip()[:60])
    if end == start and "end of data" not in reason and "limit" not in reason:
        return DataError(
            f'{table}, line {start}: text after a closing quote: {shown}; write quotes inside a cell twice ("")'
        )
    if end == start and "limit" in reason:
        return DataError(f"{table}, line {start}: a cell of more than {csv.field_size_limit():,} characters")
    return DataError(f"{table}, line {start}: a quote is opened and not closed: {shown}; close or remove it")


def _plain(lines: Sequence[str], separator: str, table: Path) -> tuple[list[Line], tuple[Finding, ...]]:
    """TSV and text, in which quotes are characters like any other; unless all of them go around whole cells."""
    cut = [[cell.strip() for cell in line.split(separator)] for line in lines]
    if not any('"' in line for line in lines):
        return [Line(i, tuple(cells)) for i, cells in enumerate(cut, start=1)], ()
    try:
        inner = [
            [cell.strip() for cell in next(csv.reader([line], delimiter=separator, strict=True), [])] for line in lines
        ]
    except csv.Error:
        inner = cut
    if any('"' in cell for cells in inner for cell in cells):
        inner = cut
    rows = [Line(i, tuple(cells)) for i, cells in enumerate(inner, start=1)]
    count = sum(line.count('"') for line in lines) // 2
    text = f"{table.name}: the quotes around {count:,} cell{'s' * (count != 1)} are taken off"
    return rows, (Finding("quotes", "note", text, count),) if inner is not cut else ()


def _blank_cells(line: str) -> list[str]:
    """A line cut at blanks; one that starts with the path of an image, which may have blanks in it, after that."""
    found = PATH_FIRST.fullmatch(line)
    if found is None:
        return line.split()
    return [found[1] or found[2], *found[3].split()]


def _by_blanks(
    lines: Sequence[str], table: Path, known: Callable[[Sequence[str]], int], exists: Callable[[str], bool]
) -> list[Line]:
    """A table cut at blanks; of two columns, the first or the last one may have blanks in it, as the files are."""
    if (quoted := _quoted_blanks(lines, table)) is not None:
        return quoted
    texts = {i: line.strip() for i, line in enumerate(lines, start=1)}
    body = _without_comments([Line(i, tuple(_blank_cells(text))) for i, text in texts.items() if text])
    if body and known(body[0].cells) > 0 and not any(map(is_image_name, body[0].cells)):
        return _below_blank_header(body, texts, table)

    def is_even(rows: Sequence[Line]) -> bool:
        return len({len(line.cells) for line in rows}) == 1 and len(rows[0].cells) > 1

    def files(rows: Sequence[Line]) -> int:
        return sum(any(cell and exists(cell) for cell in line.cells) for line in rows[:SAMPLE])

    numbers = [line.number for line in body]
    readings = [
        *([body] if body and is_even(body) else []),
        [Line(i, _two_cells(texts[i])) for i in numbers],
        *([whole] if (whole := [Line(i, tuple(texts[i].split())) for i in numbers]) and is_even(whole) else []),
    ]
    return max(readings, key=files)  # the first of equals


def _quoted_blanks(lines: Sequence[str], table: Path) -> list[Line] | None:
    """CSV with blanks for commas, if there are quotes in it, it is strict, and all rows are equally long."""
    if not any('"' in line for line in lines):
        return None
    try:
        rows = _without_comments(_quoted([line.strip() for line in lines], " ", table))
    except DataError:
        return None
    if table.suffix.lower() in PLAIN_QUOTES and any('"' in cell for row in rows for cell in row.cells):
        return None
    return rows if len({len(row.cells) for row in rows}) == 1 and len(rows[0].cells) > 1 else None


def _below_blank_header(body: list[Line], texts: Mapping[int, str], table: Path) -> list[Line]:
    """The same below a header, which says how many columns there are."""
    width, rows = len(body[0].cells), body[1:]
    odd = next((line for line in rows if len(line.cells) != width), None)
    if odd is None:
        return body
    if width != 2:
        raise DataError(
            f"{table}, line {odd.number}: {len(odd.cells)} cells between blanks, but the header has {width}; "
            "separate them with commas, or quote cells with blanks"
        )
    return [body[0], *(Line(line.number, _two_cells(texts[line.number])) for line in rows)]


def _two_cells(line: str) -> tuple[str, ...]:
    """Path and label: cut after an image's suffix, else before a path at the end, else at the last blank."""
    if found := PATH_FIRST.fullmatch(line):
        return found[1] or found[2], found[3].strip('"')
    if is_image_name(line) and not is_image_name(line.split()[0]):
        return tuple(line.split(None, 1))
    return tuple(line.rsplit(None, 1))
