"""Tables that are not written as CSV: other quotes, Markdown, 'path: label', CelebA's. Turned into CSV, and said."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from imgcls.data.findings import Finding
from imgcls.data.pixels.opening import SUFFIXES

QUOTES = ("''", "‘’", "“”", "„“", "‚‘", "«»", "‹›", "``", "””", "’’")  # opening and closing
ENDS = r"[,;\t|]"
SUFFIX = "|".join(re.escape(one) for one in SUFFIXES)
PAIR = re.compile(
    rf"\s*[\"']?(\S(?:.*?\S)?(?:{SUFFIX}))[\"']?\s*(?::|=>|->|=)\s*[\"']?(\S.*?)[\"']?\s*,?\s*", re.IGNORECASE
)
HEADER = re.compile(r"\s*([A-Za-z_ ]+?)\s*(?::|=>|->|=)\s*([A-Za-z_ ]+?)\s*")
RULER = re.compile(r"(?=.*-{2})[\s|:+\-]+")
MARKS = {"-1", "0", "1"}
HEAD = 4  # lines that rule out most notations


def plain_notation(lines: Sequence[str], table: Path) -> tuple[list[str], str | None, tuple[Finding, ...]]:
    """The lines as CSV if they are of one of these notations, each at its place, its separator, and a note.

    Else the lines as they are and no separator.
    """
    for how, read in (
        ("a Markdown table", _markdown),
        ("pairs of path and label", _pairs),
        ("a list of attributes as CelebA's", _attributes),
    ):
        if (found := read(lines)) is not None:
            return found[0], found[1], (Finding("notation", "note", f"{table.name} is read as {how}"),)
    lines = _without_ruler(lines) or lines
    for pair in QUOTES:
        if (quoted := _other_quotes(lines, *pair)) is not None:
            text = f"{table.name}: the quotes {pair[0]}{pair[1]} around cells are taken off"
            return quoted, None, (Finding("quotes", "note", text),)
    return list(lines), None, ()


def _filled(lines: Sequence[str], most: int | None = None) -> list[str]:
    return list(itertools.islice((line for line in lines if line.strip()), most))


def _csv(cells: Sequence[str], separator: str) -> str:
    """One line, each cell in quotes."""
    return separator.join('"' + cell.strip().replace('"', '""') + '"' for cell in cells)


def _markdown(lines: Sequence[str]) -> tuple[list[str], str] | None:
    """Rows between bars: | path | label |, or with a ruler below the first; also as databases print them."""
    head = _filled(lines, HEAD)
    has_ruler = any(RULER.fullmatch(line) for line in head)
    if not head or (not has_ruler and not all(re.fullmatch(r"\s*\|.*\|\s*", line) for line in head)):
        return None
    rows = [line for line in _filled(lines) if not RULER.fullmatch(line)]
    if not rows or not all("|" in line for line in rows):
        return None
    found = []
    for line in lines:
        cells = re.split(r"(?<!\\)\|", re.sub(r"^\||\|$", "", line.strip()))
        is_row = line.strip() and not RULER.fullmatch(line)
        found.append(_csv([one.replace("\\|", "|").strip().strip("`") for one in cells], ",") if is_row else "")
    return found, ","


def _without_ruler(lines: Sequence[str]) -> list[str] | None:
    """The lines without one of dashes below the first."""
    places = [i for i, line in enumerate(itertools.islice(lines, HEAD)) if line.strip()][1:2]
    if not places or not RULER.fullmatch(lines[places[0]]):
        return None
    return ["" if i == places[0] else line for i, line in enumerate(lines)]


def _pairs(lines: Sequence[str]) -> tuple[list[str], str] | None:
    """'a.png: cat' in each line, also between braces and below 'path: label'."""
    filled = [line for line in _filled(lines) if line.strip() not in ("{", "}", "---")]
    header = HEADER.fullmatch(filled[0]) if len(filled) > 1 and not PAIR.fullmatch(filled[0]) else None
    body = filled[1:] if header else filled
    if not body or not all(PAIR.fullmatch(line) for line in body):
        return None
    found = [PAIR.fullmatch(line) or (header if line == filled[0] else None) for line in lines]
    return [_csv([one[1], one[2]], ",") if one else "" for one in found], ","


def _attributes(lines: Sequence[str]) -> tuple[list[str], str] | None:
    """CelebA's: perhaps the number of rows, then the names, then a path and as many marks in each row."""
    head = _filled(lines, HEAD)
    if len(head) < 2 or not {*head[-1].split()[1:]} <= MARKS:
        return None
    filled = [(i, line.split()) for i, line in enumerate(lines) if line.strip()]
    start = 1 if filled and len(filled[0][1]) == 1 and filled[0][1][0].isdecimal() else 0
    if len(filled) < start + 2 or len(names := filled[start][1]) < 2:
        return None
    rows = filled[start + 1 :]
    if not all(len(cells) == len(names) + 1 and {*cells[1:]} <= MARKS for _, cells in rows):
        return None
    found = [""] * len(lines)
    found[filled[start][0]] = _csv(["image_id", *names], ",")
    for i, cells in rows:
        found[i] = _csv(cells, ",")
    return found, ","


def _other_quotes(lines: Sequence[str], opening: str, closing: str) -> list[str] | None:
    """The lines with " for these quotes, if they go around cells in each line, the first perhaps aside."""
    cell = re.compile(rf"(?:(?<=^)|(?<={ENDS}))\s*{opening}([^{opening}{closing}]*){closing}\s*(?={ENDS}|$)")
    head = _filled(lines, HEAD)
    if not head or not cell.search(head[-1]):
        return None
    filled = _filled(lines)
    body = filled[1:] or filled
    counts = {len(cell.findall(line)) for line in body}
    if not body or any('"' in line for line in filled) or 0 in counts or len(counts) > 1:
        return None
    return [cell.sub(r'"\1"', line) for line in lines]
