"""The contact sheet of ``imgcls data``: one HTML file that needs nothing else, with small pictures in it."""

from __future__ import annotations

import base64
import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from imgcls.data.inspection import Inspection, Problem
from imgcls.data.inspection.pictures import Pictures
from imgcls.data.pixels.decoding import load_image
from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.pixels.view import View
from imgcls.data.source import Images, Source
from imgcls.errors import DataError, ReadingFailed
from imgcls.parallel.process_pool import each
from imgcls.text import one_line

SIDE = 96  # pixels of a thumbnail
OF_A_CLASS, OF_A_FINDING = 8, 60  # thumbnails
MOST_CLASSES = 200
STYLE = (
    "body{font:14px sans-serif;margin:2em;color:#222;background:#fff}h2{margin:1.6em 0 .3em}"
    ".error{color:#b00020}.warning{color:#a05a00}.note{color:#456}p{margin:.3em 0;max-width:60em}"
    "div{display:flex;flex-wrap:wrap;gap:8px}figure{margin:0;width:110px;overflow-wrap:anywhere;font-size:11px}"
    "img,i{width:96px;height:96px;display:block;background:#eee}table{border-collapse:collapse}"
    "td,th{padding:.1em .8em;text-align:right}td:first-child,th:first-child{text-align:left}"
)


DIGEST = re.compile(r'<meta name="imgcls-findings" content="([0-9a-f]{64})">')


def digest_in(file: Path) -> str | None:
    """The digest of findings.csv in such a page, None if the file is not one."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        match = DIGEST.search(opened.read(1 << 16).decode(errors="replace"))
        return match[1] if match else None
    return None


def page(report: Mapping[str, Any], found: Inspection, source: Source | None, digest: str) -> str:
    """The whole file: counts, the pictures of each finding, some of each class, which are read again.

    digest: of findings.csv.
    """
    thumbs = _Thumbs(found.pictures, source) if found.pictures is not None and source is not None else None
    parts = [_head(str(report["dataset"]), digest), _counts(report)]
    if thumbs is not None:
        thumbs.make([row for one in found.problems for row in _rows_of(one)] + _of_classes(thumbs.pictures))
    parts += [_problem(one, thumbs) for one in found.problems] or ["<p>Nothing was found.</p>"]
    if thumbs is not None:
        parts += _classes(thumbs)
    return "\n".join([*parts, "</body></html>\n"])


class _Thumbs:
    """Small pictures as HTML, made once for all rows that are shown."""

    def __init__(self, pictures: Pictures, source: Source) -> None:
        self.pictures = pictures
        self.places = [(images, row) for images in source.parts.values() for row in range(len(images))]
        self.made: dict[int, str] = {}

    def make(self, rows: Sequence[int]) -> None:
        wanted = list(dict.fromkeys(rows))
        with quiet_decoders():
            made = each(lambda i: _image(*self.places[wanted[i]]), len(wanted))
        self.made = dict(zip(wanted, made, strict=True))

    def figure(self, row: int, label: str) -> str:
        name = escape(one_line(self.pictures.names[row]))
        image = f'<img alt="" src="{self.made[row]}">' if self.made.get(row) else "<i></i>"
        return f'<figure title="{name}">{image}{name}<br>{escape(one_line(label))}</figure>'


def _image(images: Images, row: int) -> str:
    """A data address of the picture, empty if it cannot be read."""
    try:
        if images.paths is not None:
            image = Image.fromarray(load_image(images.paths[row], View(3, SIDE, SIDE, scaled_decoding=True)))
        else:
            assert images.whole is not None
            pixels = images.whole[row if images.rows is None else images.rows[row]]
            image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).convert("RGB")
            image = image.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    except (DataError, ReadingFailed):
        return ""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _head(name: str, digest: str) -> str:
    title = escape(one_line(name))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="imgcls-findings" content="{digest}">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{STYLE}</style></head>'
        f"<body><h1>{title}</h1>"
    )


def _counts(report: Mapping[str, Any]) -> str:
    parts = list(report["parts"])
    head = "".join(f"<th>{escape(part)}</th>" for part in parts)
    rows = [
        f"<tr><td>{escape(one_line(name))}</td>{''.join(f'<td>{counts[part]:,}</td>' for part in parts)}</tr>"
        for name, counts in report["class_parts"].items()
    ]
    return f"<table><tr><th>class</th>{head}</tr>{''.join(rows)}</table>" if rows else ""


def _rows_of(problem: Problem) -> list[int]:
    """The pictures to show, those that are alike side by side."""
    if not problem.rows:
        return list(problem.shown[:OF_A_FINDING])
    both = [row for pair in problem.rows[:OF_A_FINDING] for row in reversed(pair) if row >= 0]
    return list(dict.fromkeys(both))[:OF_A_FINDING]


def _problem(problem: Problem, thumbs: _Thumbs | None) -> str:
    found = problem.finding
    lines = [f'<h2 class="{found.severity}">{found.severity}: {escape(found.kind)}</h2>']
    lines.append(f"<p>{escape(one_line(found.text))}</p>")
    lines += [f"<p>{escape(one_line(found.advice))}</p>"] if found.advice else []
    rows = _rows_of(problem)
    if thumbs is not None and rows:
        lines.append(f"<div>{''.join(thumbs.figure(row, thumbs.pictures.label(row)) for row in rows)}</div>")
    elif found.examples:
        lines.append(f"<p>{escape(one_line(', '.join(found.examples)))}</p>")
    return "\n".join(lines)


def _of_classes(pictures: Pictures) -> list[int]:
    """The first rows of each class that can be read."""
    seen: dict[int, int] = {}
    rows = []
    for row, label in enumerate(pictures.labels.tolist()):
        if label < MOST_CLASSES and seen.get(label, 0) < OF_A_CLASS and pictures.facts[row].digest:
            seen[label] = seen.get(label, 0) + 1
            rows.append(row)
    return rows


def _classes(thumbs: _Thumbs) -> list[str]:
    """Some pictures of each class."""
    pictures = thumbs.pictures
    by_label: dict[int, list[int]] = {}
    for row in _of_classes(pictures):
        by_label.setdefault(int(pictures.labels[row]), []).append(row)
    return [
        f"<h2>{escape(one_line(pictures.classes[label]))}</h2>"
        f"<div>{''.join(thumbs.figure(row, pictures.parts[row]) for row in rows)}</div>"
        for label, rows in sorted(by_label.items())
    ]
