"""Tables that lie in a folder of images: read where there are no class folders, compared with these where there are."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from imgcls.config.options import option_node
from imgcls.data.datasets.folders import layout_names as names_of
from imgcls.data.datasets.folders.description import Seen, see
from imgcls.data.datasets.folders.image_folder import source_of
from imgcls.data.datasets.folders.places import typed
from imgcls.data.datasets.folders.reading import FLAT, Reading
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.datasets.tables.image_table import imagelist
from imgcls.data.findings import Finding
from imgcls.data.source import Images, Source, all_images, in_order
from imgcls.errors import DataError
from imgcls.text import listing, one_line, printable

Labeled = Sequence[tuple[str, str]]  # (path, label) of each image
LARGEST_COMPARED = 1 << 27  # bytes of a table that is compared with the class folders


@dataclass(frozen=True)
class Options:
    """The keys of every data set of the user's own files: see imagefolder."""

    verify: bool
    on_error: Literal["error", "skip"]


def read_table(table: Path, images: Path, options: Options, **given: Any) -> Source:
    """The table as dataset=TABLE reads it, with paths that start from ``images``; given: more keys of imagelist."""
    known = inspect.signature(imagelist).parameters
    defaults = {key: value for key, value in option_node("dataset", "imagelist").items() if key in known}
    own = {"root": str(table), "images": str(images), "verify": options.verify, "on_error": options.on_error}
    return imagelist(**{**defaults, **own, **given})


def labeled(source: Source) -> Labeled:
    """All images of a table."""
    images = all_images(source)
    return [(path, source.classes[label]) for path, label in zip(images.paths or (), images.labels, strict=True)]


def combined(base: Path, parts: Mapping[str, Labeled], options: Options, **more: Any) -> Source:
    """A data set of labeled files; names are relative to base. more: see source_of. Raises DataError for a class that
    train does not have."""
    classes = in_order({label for _, label in parts["train"]})
    numbers = {name: i for i, name in enumerate(classes)}
    made = {}
    for part, rows in parts.items():
        if unknown := sorted({label for _, label in rows} - numbers.keys()):
            raise DataError(f"{part} has classes that train does not have: {listing(unknown)}")
        ids = [printable(os.path.relpath(path, base)) for path, _ in rows]
        made[part] = Images([numbers[label] for _, label in rows], paths=[path for path, _ in rows], ids=ids)
    return source_of(made, tuple(map(one_line, classes)), verify=options.verify, on_error=options.on_error, **more)


def source_of_tables(base: Path, scan: Scan, options: Options) -> Source | None:
    """The data set that tables in the folder describe; None without a table, and if there are class folders."""
    seen = see(base, scan)
    if not _is_flat(seen, scan):
        return None
    by_part = _tables_of_parts(seen, scan)
    if "train" in by_part:
        return _of_parts(base, by_part, scan, options)
    tables = _tables(seen)
    if not tables:
        return None
    if len(tables) > 1:
        ways = ", or ".join(f"dataset={typed(base / name)}" for name in tables[:4])
        raise DataError(f"{one_line(str(base))}: which of the tables {listing(tables, 4)} has the labels? Type {ways}")
    source = _first_that_fits(base / tables[0], _image_places(seen), options)
    return _with_notes(source, scan, [base / tables[0]])


def _is_flat(seen: Seen, scan: Scan) -> bool:
    """Whether there are no class folders: images lie in the folder itself, in its parts, or in a folder of images."""
    return all(
        (names_of.part_of(name) or names_of.is_image_folder(_plain(name)))
        and _is_flat(see(seen.path / name, scan), scan)
        for name in seen.folders
    )


def _plain(name: str) -> str:
    """The name without the words for a piece of something: images for HAM10000_images_part_1."""
    words = [word for word in names_of.words_of(name) if word in names_of.IMAGE_FOLDERS]
    return words[0] if words and not names_of.part_of(name) else name


def _tables(seen: Seen) -> list[str]:
    """The tables that may say the labels."""
    return [name for name in seen.tables if not names_of.NOT_TABLES.fullmatch(name.lower())]


def _tables_of_parts(seen: Seen, scan: Scan) -> dict[str, tuple[Path, list[Path]]]:
    """{part: (its table, the folders that its paths may start from)}: train.csv, or a table in train/."""
    found: dict[str, tuple[Path, list[Path]]] = {}
    folders = {part: several[0] for part, several in seen.parts.items()}
    for part, name in folders.items():
        if len(own := _tables(see(seen.path / name, scan))) == 1:
            found[part] = seen.path / name / own[0], [seen.path / name, seen.path]
    for table in _tables(seen):
        part_of_table = names_of.part_of(os.path.splitext(table)[0])
        if part_of_table and part_of_table not in found:
            own_folder = [seen.path / folders[part_of_table]] if part_of_table in folders else []
            found[part_of_table] = seen.path / table, [*own_folder, *_image_places(seen)]
    return found


def _image_places(seen: Seen) -> list[Path]:
    return [*([] if seen.images else [seen.path / name for name in seen.folders]), seen.path]


def _of_parts(base: Path, tables: dict[str, tuple[Path, list[Path]]], scan: Scan, options: Options) -> Source:
    """A table for each part. A table of test without labels is not used, which is noted."""
    found: dict[str, Labeled] = {}
    findings: list[Finding] = []
    used: list[Path] = []
    alone = len(tables) > 1
    for part, (table, places) in sorted(tables.items(), key=lambda pair: pair[0] != "train"):
        try:
            source = _first_that_fits(table, places, options, **({"split": "none"} if alone else {}))
        except DataError as error:
            if part == "train" or "which column is the label" not in str(error):
                raise
            text = f"not used: the table {table.relative_to(base)}, which has no labels"
            findings.append(Finding("not_used", "warning", text, 1, (str(table),)))
            continue
        if not alone:
            return _with_notes(source, scan, [table])
        found[part] = labeled(source)
        used.append(table)
    return _with_notes(combined(base, found, options, findings=findings), scan, used)


def _first_that_fits(table: Path, places: Sequence[Path], options: Options, **given: Any) -> Source:
    """The table, its paths starting from the first of the places where its files are."""
    first: DataError | None = None
    for place in dict.fromkeys(places):
        try:
            return read_table(table, place, options, **given)
        except DataError as error:
            first = first or error
            if "no such file" not in str(error):
                break
    assert first is not None
    raise DataError(f"{first}; to name its columns type dataset={typed(table)}") from first


def _with_notes(source: Source, scan: Scan, tables: Sequence[Path]) -> Source:
    """With the notes of the scan, and one that a table was read."""
    which = listing([typed(table) for table in tables], 3)
    text = f"no class folders: the labels are from {'the tables ' if len(tables) > 1 else ''}{which}"
    finding = Finding("table", "note", text, len(tables), tuple(map(str, tables[:5])))
    return replace(source, notes=(*source.notes, *scan.notes()), findings=(finding, *source.findings))


def unused_tables(folders: Sequence[Path], reading: Reading, scan: Scan) -> list[Finding]:
    """A note for each table in these folders, which is not used, as there are class folders.

    Raises DataError if such a table has other labels than the folders.
    """
    found = []
    for home in dict.fromkeys(folders):
        for name in _tables(see(home, scan)):
            _compare(home / name, home, reading, scan)
            text = f"not used: the table {name}; the class folders have the labels"
            found.append(Finding("not_used", "note", text, 1, (str(home / name),)))
    return found


def _compare(table: Path, home: Path, reading: Reading, scan: Scan) -> None:
    """Raises DataError if the table lists the images of the class folders under other labels."""
    try:
        if os.path.getsize(table) > LARGEST_COMPARED:
            return
        rows = labeled(read_table(table, home, Options(verify=False, on_error="error")))
    except (DataError, OSError):  # it is about something else
        return
    labels = {
        os.path.normpath(path): name
        for places in reading.parts.values()
        for name, folder in places.items()
        for path in scan.images(folder)
    }
    both = [(path, label, labels[own]) for path, label in rows if (own := os.path.normpath(path)) in labels]
    pairs = {(label, own) for _, label, own in both}
    if len(pairs) == len({one for one, _ in pairs}) == len({one for _, one in pairs}):
        return  # the same classes, perhaps under other names
    path, label, _ = next(row for row in both if row[1] != row[2])
    count = sum(label != own for _, label, own in both)
    raise DataError(
        f"{one_line(str(table))} and the class folders disagree on {count:,} of {len(both):,} images "
        f"({one_line(os.path.relpath(path, home))} is '{label}' in the table): for the table type "
        f"dataset={typed(table)} dataset.images={typed(home)}, or for the folders add {FLAT} or move the table away"
    )
