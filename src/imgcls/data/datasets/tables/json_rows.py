"""The rows of a table in JSON: an object a line, a list, or {path: label}."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgcls.data.datasets.folders.scan import is_image_name
from imgcls.data.datasets.tables.grid import Grid, Line
from imgcls.data.findings import Finding
from imgcls.errors import DataError
from imgcls.text import listing, one_line


def json_lines(lines: Sequence[str], table: Path, findings: tuple[Finding, ...]) -> Grid:
    """One JSON object a line; its keys are the columns."""
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line, parse_int=str, parse_float=str)))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{table}, line {number}: not JSON ({one_line(str(error))}); one object a line") from error
    return _of_objects(rows, table, findings)


def json_list(text: str, table: Path, findings: tuple[Finding, ...]) -> Grid:
    """A list of objects, whose keys are the columns, of lists of cells, or of paths; an element counts as a line."""
    try:
        rows = list(enumerate(json.loads(text, parse_int=str, parse_float=str), start=1))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{table}: not JSON ({one_line(str(error))})") from error
    if all(isinstance(row, str) for _, row in rows):
        return Grid([Line(number, (row.strip(),)) for number, row in rows], None, findings)
    if all(isinstance(row, list) for _, row in rows):
        return Grid([Line(number, tuple(map(_cell, row))) for number, row in rows], None, findings)
    return _of_objects(rows, table, findings)


def _of_objects(rows: Sequence[tuple[int, Any]], table: Path, findings: tuple[Finding, ...]) -> Grid:
    """Objects, each with its line, as rows; their keys are the columns."""
    header: dict[str, int] = {}
    found: list[tuple[int, dict[str, str]]] = []
    for number, row in rows:
        if not isinstance(row, dict):
            raise DataError(f'{table}, line {number}: expected an object such as {{"file_name": ..., "label": ...}}')
        for key in row:
            header.setdefault(key.strip(), len(header))
        found.append((number, {key.strip(): _cell(value) for key, value in row.items()}))
    names = tuple(header)
    cells = [Line(number, tuple(row.get(name, "") for name in names)) for number, row in found]
    return Grid([line for line in cells if any(line.cells)], names, findings)


def json_map(text: str, table: Path, findings: tuple[Finding, ...]) -> Grid | None:
    """One object {path: label} or {label: [paths]}, whose rows count as lines; None if the text is something else."""
    try:
        found = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict) and isinstance(found.get("images"), list) and "annotations" in found:
        raise DataError(f"{table}: annotations as COCO's, not a table; write a path and a label in each row of a table")
    if isinstance(found, dict) and found and all(map(_is_list_of_images, found.values())):
        found = _by_image(found, table)
    if not isinstance(found, dict) or not found or not all(map(is_image_name, found)):
        return None
    cells = [Line(i, (path.strip(), _cell(label))) for i, (path, label) in enumerate(found.items(), start=1)]
    return Grid(cells, ("path", "label"), findings)


def _is_list_of_images(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and is_image_name(one) for one in value)


def _by_image(found: Mapping[str, Sequence[str]], table: Path) -> dict[str, str]:
    """{path: label} for {label: [paths]}. Raises DataError for a path with two labels, and for parts."""
    labels: dict[str, str] = {}
    for label, paths in found.items():
        for path in paths:
            if labels.setdefault(path, label) != label:
                raise DataError(f"{table}: {one_line(path)} is listed under '{labels[path]}' and '{one_line(label)}'")
    if {"train", "training"} & {label.lower() for label in found}:
        raise DataError(
            f"{table}: lists of the parts ({listing([*found], 3)}), without labels; a table needs a label a row"
        )
    return labels


def _cell(value: object) -> str:
    """A value as the text of a cell: a list of one is its element, null is empty."""
    if isinstance(value, list) and len(value) == 1:
        return _cell(value[0])
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "|".join(value)
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
