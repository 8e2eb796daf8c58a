"""The rows of a table as cells of text, each with its line in the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.data.findings import Finding
from imgcls.text import listing


@dataclass(frozen=True)
class Line:
    """A row of the table: the line of the file on which it starts, from 1, and its cells without outer blanks."""

    number: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A table as text.

    lines: its rows, a header included, without empty ones and comments. header: its columns, where the format itself
    names them (JSON lines). findings: what was decided.
    """

    lines: list[Line]
    header: tuple[str, ...] | None = None
    findings: tuple[Finding, ...] = ()


def shown_cells(cells: Sequence[str], most: int) -> str:
    """Cells for a message: the first ones, on one line."""
    return listing([one for one in cells if one], most)
