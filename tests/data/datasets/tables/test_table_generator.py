"""Tables of every make: none is read wrongly without a word, and nearly all that can mean one thing only are read."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from imgcls.data.source import Source
from imgcls.errors import DataError
from tests.data.datasets.tables.test_image_table import read

CLASSES = ("red", "dark blue", "grün", "a, b; c")
COUNT = 16
SEPARATORS = (",", ";", "\t", "|", " ")
QUOTES = ("minimal", "all", "none")
HEADERS = {
    "usual": ("path", "label"),
    "other words": ("File Name", "Class"),
    "odd": ("picture", "Category"),
    "none": (),
}
PATHS = ("bare", "folder", "backslash", "no suffix", "with blanks", "other machine", "address", "upper case", "below")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "cp1252")
COLUMNS = ("path label", "label path", "path label split", "number path label", "path label note")
SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl")
VALUES = (SEPARATORS, QUOTES, tuple(HEADERS), PATHS, ENCODINGS, COLUMNS, SUFFIXES)


@dataclass(frozen=True)
class Make:
    """How a table is made."""

    separator: str
    quotes: str
    header: str
    paths: str
    encoding: str
    columns: str
    suffix: str

    @property
    def is_clear(self) -> bool:
        """Whether it can mean one thing only, and its format can hold it."""
        if self.suffix == ".jsonl":
            return self.encoding != "cp1252"
        holds_all = self.quotes != "none" and self.suffix == ".csv"
        has_label_column = self.header != "none" or self.columns in ("path label", "label path", "path label split")
        is_told = self.header != "odd" or self.columns in ("path label", "label path", "path label split")
        return holds_all and has_label_column and is_told and self.encoding != "cp1252"


def makes() -> Iterator[Make]:
    """1,200 makes: a walk through all combinations by steps that are prime to their number."""
    every = list(itertools.product(*VALUES))
    for i in range(1200):
        yield Make(*every[i * 7919 % len(every)])


def pictures(folder: Path) -> list[Path]:
    """Files, which need not be images as nothing is decoded, from the folder."""
    found = []
    for i in range(COUNT):
        place = Path("my pictures" if i % 2 else "more/deep", f"img {i}.png" if i % 3 else f"img_{i}.png")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(bytes([i] * (i + 1)))
        found.append(place)
    return found


def written(place: Path, make: Make) -> str:
    """The path of a file as the table has it."""
    return {
        "bare": place.name,
        "folder": str(place),
        "backslash": str(place).replace("/", "\\"),
        "no suffix": str(place.with_suffix("")),
        "with blanks": f"./{place}",
        "other machine": f"C:\\data\\x\\{place.name}",
        "address": f"https://a.example/x/{place.name.replace(' ', '%20')}",
        "upper case": str(place).upper(),
        "below": f"photos/{place}",
    }[make.paths]


def contents(make: Make, places: list[Path], labels: list[str]) -> bytes:
    """The table's bytes."""
    names = {"path": "path", "label": "label", "split": "split", "number": "no", "note": "remark"}
    if HEADERS[make.header]:
        names["path"], names["label"] = HEADERS[make.header]
    rows = []
    for i, (place, label) in enumerate(zip(places, labels, strict=True)):
        split, note = ("train", "train", "val", "test")[i // 4], f"seen on day {i % 5}, {'x' * (i % 3)}"
        cells = {"path": written(place, make), "label": label, "split": split, "number": f"{i}", "note": note}
        rows.append({names[one]: cells[one] for one in make.columns.split()})
    if make.suffix == ".jsonl":
        usual = {"picture": "path", "no": "no"}
        text = "".join(json.dumps({usual.get(k, k): v for k, v in row.items()}) + "\n" for row in rows)
        return text.encode(make.encoding)
    file = io.StringIO()
    kind = {"minimal": csv.QUOTE_MINIMAL, "all": csv.QUOTE_ALL, "none": csv.QUOTE_NONE}[make.quotes]
    escape = None if make.quotes != "none" else "\0"
    writer = csv.writer(file, delimiter=make.separator, quoting=kind, escapechar=escape, quotechar='"')  # type: ignore[arg-type]
    if HEADERS[make.header]:
        writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return file.getvalue().replace("\0", "").encode(make.encoding)


def outcome(make: Make, folder: Path) -> str:
    """right, said, asked or WRONG."""
    places = pictures(folder / "photos")
    labels = [CLASSES[i % len(CLASSES)] for i in range(COUNT)]
    table = folder / f"labels{make.suffix}"
    table.write_bytes(contents(make, places, labels))
    try:
        source = read(str(table), images=str(folder if make.paths == "below" else folder / "photos"))
    except DataError:
        return "asked"
    truth = {place.name: label for place, label in zip(places, labels, strict=True)}
    if found(source) != truth:
        return "said" if source.all_warnings() else "WRONG"
    return "said" if source.all_warnings() else "right"


def found(source: Source) -> dict[str, str]:
    """{name of the file: its class}"""
    result = {}
    for part in source.parts.values():
        for path, label in zip(part.paths or (), part.labels, strict=True):
            result[Path(path).name] = source.classes[label]
    return result


def check(chosen: list[Make]) -> None:
    outcomes = {make: outcome(make, Path(f"{i}")) for i, make in enumerate(chosen)}
    assert not [make for make, one in outcomes.items() if one == "WRONG"]
    clear = [make for make in chosen if make.is_clear]
    odd = [(make, outcomes[make]) for make in clear if outcomes[make] != "right"]
    assert len(odd) <= 0.05 * len(clear), odd[:5]


def test_some_makes_of_tables() -> None:
    check(list(makes())[:80])


@pytest.mark.slow
def test_every_make_of_tables() -> None:
    chosen = list(makes())
    assert len({*chosen}) >= 300
    for field, values in zip(fields(Make), VALUES, strict=True):
        assert {getattr(make, field.name) for make in chosen} == {*values}
    assert sum(make.is_clear for make in chosen) >= 150
    check(chosen)
