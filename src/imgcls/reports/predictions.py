"""The rows of ``imgcls predict`` as CSV, JSON, JSON lines or a table."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgcls.text import one_line

Row = dict[str, Any]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that starts so
LONGEST_PATH = 48  # characters, in the table on the terminal
KEYS = ("path", "label", "probability", "topk")  # of a row


def render(rows: Sequence[Row], suffix: str, num_classes: int, topk: int) -> str:
    """The rows as CSV, JSON, JSON lines or (no suffix) a table."""
    if suffix == ".json":
        return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if suffix == ".csv":
        return _csv(rows, min(topk, num_classes))
    return _table(rows)


def is_own_file(path: Path) -> bool:
    """Whether ``render`` may have made the file, by its header or the keys of its rows; an empty one holds nothing.

    Raises OSError if it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return True
            if path.suffix.lower() == ".csv":
                return _is_own_header(next(csv.reader([file.readline(1 << 16)])))
            rows = json.load(file) if path.suffix.lower() == ".json" else list(map(json.loads, file))
            return isinstance(rows, list) and all(isinstance(row, dict) and set(KEYS) <= row.keys() for row in rows)
    except (ValueError, RecursionError, csv.Error):
        return False


def record_of(path: Path) -> Path:
    """The hidden file beside predictions with their digest, by which a later change of them is seen."""
    return path.with_name(f".{path.name}.sha256")


def digest_line(content: bytes) -> bytes:
    """What is written into the record of a file with this content."""
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def is_unchanged(path: Path) -> bool:
    """Whether the file is as predict wrote it, by its record; an empty one is. Raises OSError if it cannot be read."""
    content, record = path.read_bytes(), record_of(path)
    return not content or (record.is_file() and record.read_bytes() == digest_line(content))


def _is_own_header(names: list[str]) -> bool:
    """path, label, probability; then label_2, probability_2, ...; with two classes perhaps one of them at the end."""
    first, more = names[:3], names[3:]
    if len(more) % 2 and more[-1].startswith("probability_"):
        more = more[:-1]
    ranks = [name for k in range(2, len(more) // 2 + 2) for name in (f"label_{k}", f"probability_{k}")]
    return first == list(KEYS[:3]) and more == ranks


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
    own = [key for key in rows[0] if key not in KEYS] if rows else []  # probability_NAME, of two classes
    writer.writerow(["path", "label", "probability", *more, *own])
    for row in rows:
        ranks = (cell for top in row["topk"] for cell in (_cell(top["label"]), top["probability"]))
        writer.writerow([_cell(row["path"]), *ranks, *(row[key] for key in own)])
    return file.getvalue()


def _cell(text: str) -> str:
    """Text that a spreadsheet does not treat as a formula; numbers stay as they are."""
    return f"'{text}" if text.startswith(FORMULA) and not re.fullmatch(r"[+-]\d+(\.\d+)?", text) else text
