"""Tables of dataset.exclude and dataset.relabel, read like those that list a data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from imgcls.data.datasets.folders.scan import is_image_name
from imgcls.data.datasets.tables.columns import COLUMNS, LABELS, Given, known_names
from imgcls.data.datasets.tables.grid import Grid, Line
from imgcls.data.datasets.tables.parts import cell, plain_name
from imgcls.data.datasets.tables.rows import read_grid, without_repeated_headers
from imgcls.data.datasets.tables.text import read_text
from imgcls.data.findings import Finding
from imgcls.errors import DataError
from imgcls.text import brief, listing, one_line

NEW = re.compile(  # the names of a column of labels that replace those beside them
    r"(new|correct|corrected|right|fixed|suggested|revised|reviewed|updated|verified)(_?(label|class|category|target|name))?"
    r"|(label|class|category)_?(new|correct|corrected|fixed|suggested|revised|reviewed|updated|verified)"
)
Edit = tuple[int, str, str]  # line of the file, path, label ("" without a column of labels)


def read_edits(
    table: Path, is_image: Callable[[str], bool], classes: Collection[str], *, needs_label: bool
) -> tuple[list[Edit], tuple[Finding, ...]]:
    """Line, path and label of each row, and what was decided on the file.

    is_image: whether a cell is an image of the data set. Raises DataError for what is not such a table.
    """
    grid = _one_column(table, is_image) or read_grid(table, None, lambda cells: known_names(cells, Given()), is_image)
    if not grid.lines:
        return [], _plain(grid.findings)
    first = grid.lines[0].cells
    is_header = grid.header is None and not any(is_image(one) or is_image_name(one) for one in first)
    header = grid.header or (first if is_header else ())
    rows, repeated = without_repeated_headers(grid.lines[is_header:], header, table)
    path = _column("path", header, rows, is_image, table)
    label = _column("label", header, rows, classes.__contains__, table, but=path) if needs_label else None
    edits = [(line.number, cell(line, path), cell(line, label)) for line in rows]
    return edits, _plain((*grid.findings, *repeated))


def _one_column(table: Path, is_image: Callable[[str], bool]) -> Grid | None:
    """A list of paths, which may have blanks in them; None if the file is something else."""
    text, findings = read_text(table, None)
    found = ((i, re.sub(r'^"([^"]*)"$', r"\1", line.strip())) for i, line in enumerate(text.splitlines(), start=1))
    lines = [Line(i, (path,)) for i, path in found if path]
    body = lines[1:] if lines and plain_name(lines[0].cells[0]) in COLUMNS["path"] else lines
    return Grid(lines, None, findings) if body and all(is_image(line.cells[0]) for line in body) else None


def _column(
    key: str,
    header: Sequence[str],
    rows: Sequence[Line],
    fits: Callable[[str], bool],
    table: Path,
    but: int | None = None,
) -> int:
    """The column of a usual name, or without a header any, that fits best. Raises DataError if there is none."""
    width = len(header) or max((len(line.cells) for line in rows), default=0)
    names = [plain_name(name) for name in header]
    columns = [i for i in range(width) if i != but and (not header or names[i] in COLUMNS[key])]
    columns.sort(key=lambda i: COLUMNS[key].index(names[i]) if header else i)
    if key == "label":
        new = [i for i, name in enumerate(names) if i != but and NEW.fullmatch(name)]
        new = [i for i in new if any(fits(cell(line, i)) for line in rows)]  # 'correct' may be yes and no
        columns = new or columns or [i for i, name in enumerate(names) if i != but and name in LABELS]
    if not columns:
        has = listing([brief(one) for one in header]) if header else f"{width} column{'s' * (width != 1)}"
        raise DataError(
            f"{one_line(str(table))}: no column '{key}'; its first line names the columns, as in findings.csv of "
            f"imgcls data (it has {has})"
        )
    return max(columns, key=lambda i: sum(fits(cell(line, i)) for line in rows))


def _plain(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Without advice to name the encoding, as there is no key for that of these tables."""
    advice = "if that is wrong, save it as UTF-8"
    return tuple(replace(one, advice=advice) if one.kind == "encoding" else one for one in findings)
