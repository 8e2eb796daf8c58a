"""The rows of ``imgcls predict`` as CSV, JSON, JSON lines or a table."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from imgcls.text import one_line

Row = dict[str, Any]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that starts so
LONGEST_PATH = 48  # characters, in the table on the terminal


def render(rows: Sequence[Row], suffix: str, num_classes: int, topk: int) -> str:
    """The rows as CSV, JSON, JSON lines or (no suffix) a table."""
    if suffix == ".json":
        return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if suffix == ".csv":
        return _csv(rows, min(topk, num_classes))
    return _table(rows)


def _table(rows: Sequence[Row]) -> str:
    """For the terminal; paths of more than 48 characters are cut at the start."""
    paths = [one_line(row["path"]) for row in rows]
    paths = [path if len(path) <= LONGEST_PATH else "..." + path[3 - LONGEST_PATH :] for path in paths]
    width = max(map(len, paths), default=0)
    lines = []
    for path, row in zip(paths, rows, strict=True):
        best = (f"{one_line(top['label'])} {top['probability']:.1%}" for top in row["topk"])
        lines.append(f"{path:<{width}}  {'  '.join(best)}\n")
    return "".join(lines)


def _csv(rows: Sequence[Row], columns: int) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    more = [name for k in range(2, columns + 1) for name in (f"label_{k}", f"probability_{k}")]
    writer.writerow(["path", "label", "probability", *more])
    for row in rows:
        writer.writerow(
            [_cell(row["path"]), *(cell for top in row["topk"] for cell in (_cell(top["label"]), top["probability"]))]
        )
    return file.getvalue()


def _cell(text: str) -> str:
    """Text that a spreadsheet does not treat as a formula; numbers stay as they are."""
    return f"'{text}" if text.startswith(FORMULA) and not re.fullmatch(r"[+-]\d+(\.\d+)?", text) else text
