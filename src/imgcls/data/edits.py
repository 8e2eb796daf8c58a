"""dataset.exclude and dataset.relabel: a person's changes to a data set, in tables, without touching its files."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from imgcls.data.datasets.tables.edit_table import read_edits
from imgcls.data.findings import Finding
from imgcls.data.source import Images, Indices, Source, names_of
from imgcls.data.splits import origin_of
from imgcls.errors import DataError
from imgcls.text import brief, did_you_mean, listing, one_line

STORED = {"exclude": "exclude.csv", "relabel": "relabel.csv"}  # key: name of the copy in a run's folder


class Line(NamedTuple):
    """A row of a table, with its number in the file."""

    number: int
    path: str
    label: str


def edited(
    source: Source, exclude: str | None, relabel: str | None, renames: Mapping[str, str] = MappingProxyType({})
) -> Source:
    """The data set without the images that the table ``exclude`` lists, those in ``relabel`` in the class it says.

    What was done becomes a finding; the tables are kept in ``Source.tables``, as CSV. renames: {old: new} of classes,
    already done. Raises DataError for a table that cannot be used, an image or a class that the data set does not have,
    and if a split would become empty.
    """
    for key, file in (("relabel", relabel), ("exclude", exclude)):
        if file is None:
            continue
        where = f"dataset.{key}={file}"
        lines, findings = _lines(file, key, source)
        table = Path(os.path.expanduser(file))
        content = table.read_bytes() if table.suffix.lower() == ".csv" else _csv(lines)
        source = _relabeled(source, lines, where, renames) if key == "relabel" else _without(source, lines, where)
        source = dataclasses.replace(
            source, tables={**source.tables, STORED[key]: content}, findings=(*source.findings, *findings)
        )
    return source


def edited_part(
    source: Source, name: str, images: Images, classes: Sequence[str], exclude: str | None, relabel: str | None
) -> tuple[Images, list[Finding]]:
    """The images of one split, already cut, without those that the table ``exclude`` lists and with the labels of
    ``relabel``; and what was done.

    source: the whole data set, which the tables are about. classes: what the images' labels mean. Raises DataError for
    a table that cannot be used, and if no image is left.
    """
    origin, findings = origin_of(source, name), list[Finding]()
    ids = source.parts[origin].ids
    if relabel is not None:
        where = f"dataset.relabel={relabel}"
        lines, seen = _lines(relabel, "relabel", source)
        new = _new_labels(source, lines, where, {})[origin]
        rows = np.flatnonzero(new != source.parts[origin].labels)
        named = dict(zip(ids[rows].tolist(), (source.classes[i] for i in new[rows]), strict=True))
        labels = [named.get(one, classes[label]) for one, label in zip(images.ids.tolist(), images.labels, strict=True)]
        if unknown := sorted({*labels} - {*classes}):
            raise DataError(f"{where}: class {listing(unknown)} is not among those of dataset.classes")
        before, images = images.labels, _labeled(images, np.array([classes.index(one) for one in labels]))
        count = int((before != images.labels).sum())
        text = f"{count:,} of {len(images):,} {name} image{'s have' if count != 1 else ' has'} another label ({where})"
        findings += [*seen, Finding("relabeled", "note", text, count)]
    if exclude is not None:
        where = f"dataset.exclude={exclude}"
        lines, seen = _lines(exclude, "exclude", source)
        gone = _gone(source, lines, where)[origin]
        is_kept = ~np.isin(images.ids, ids[sorted(gone)])
        if not is_kept.any():
            raise DataError(f"{where}: it lists all {len(images):,} images of {name}; leave some in")
        count = int((~is_kept).sum())
        text = f"{count:,} of {len(images):,} {name} images {'is' if count == 1 else 'are'} left out ({where})"
        findings += [*seen, Finding("excluded", "note", text, count)]
        images = images.take(np.flatnonzero(is_kept))
    return images, findings


def _lines(file: str, key: str, source: Source) -> tuple[list[Line], tuple[Finding, ...]]:
    """The rows of the table that name an image, read like any other table, and what was decided on it."""
    table = Path(os.path.expanduser(file))
    if not os.path.exists(table):
        raise DataError(f"dataset.{key}: no such file: {one_line(file)}")
    known = {name: 0 for part, images in source.parts.items() for name in names_of(part, images)}
    try:
        rows, findings = read_edits(
            table, lambda path: _plain(path, known) is not None, source.classes, needs_label=key == "relabel"
        )
    except DataError as error:  # there is no key for the encoding of these tables
        raise DataError(f"dataset.{key}: {str(error).replace('; dataset.encoding=', '; ')}") from error
    return [Line(number, path, label) for number, path, label in rows if path], findings


def _csv(lines: Sequence[Line]) -> bytes:
    """The rows as CSV, for the copy in a run's folder."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("path", "label"), *((line.path, line.label) for line in lines)])
    return text.getvalue().encode("utf-8", "surrogateescape")


def _rows(source: Source, lines: Sequence[Line], where: str) -> list[tuple[Line, str, int]]:
    """Each line with the split and the row of its image. Raises DataError if there is none."""
    known = {
        name: (part, row) for part, images in source.parts.items() for row, name in enumerate(names_of(part, images))
    }
    unknown = [line for line in lines if _plain(line.path, known) is None]
    if unknown:
        one = unknown[0]
        many = f" ({len(unknown):,} of {len(lines):,} rows name none)" if len(unknown) > 1 else ""
        last = os.path.basename(one.path.replace("\\", "/"))
        near = next((name for name in known if os.path.basename(name) == last), "")
        hint = f"; did you mean '{one_line(near)}'?" if near else ""
        raise DataError(
            f"{where}, line {one.number}: the data set has no image '{one_line(brief(one.path))}'{many}{hint}; paths "
            "are relative to it, as imgcls data prints them"
        )
    return [(line, *known[_plain(line.path, known) or ""]) for line in lines]


def _plain(path: str, known: Mapping[str, object]) -> str | None:
    """The spelling of the path that is known: as it is, without blanks around it, or with slashes."""
    spellings = (path, path.strip(), path.strip().replace("\\", "/").removeprefix("./"))
    return next((one for one in spellings if one in known), None)


def _gone(source: Source, lines: Sequence[Line], where: str) -> dict[str, set[int]]:
    """The rows of each split that the lines name."""
    gone: dict[str, set[int]] = {part: set() for part in source.parts}
    for _, part, row in _rows(source, lines, where):
        gone[part].add(row)
    return gone


def _without(source: Source, lines: Sequence[Line], where: str) -> Source:
    gone = _gone(source, lines, where)
    parts: dict[str, Images] = {}
    for part, images in source.parts.items():
        kept = np.setdiff1d(np.arange(len(images)), np.array(sorted(gone[part]), dtype=np.int64))
        if not len(kept):
            raise DataError(f"{where}: it lists all {len(images):,} images of {part}; leave some in")
        parts[part] = images.take(kept) if gone[part] else images
    _check_classes(source, parts, where)
    count, total = sum(map(len, gone.values())), sum(map(len, source.parts.values()))
    text = f"{count:,} of {total:,} images are left out ({where})"
    return _changed(source, parts, Finding("excluded", "note", text, count))


def _check_classes(source: Source, parts: Mapping[str, Images], where: str) -> None:
    """Raises DataError if a class that had training images has none left."""
    before, after = (np.bincount(one["train"].labels, minlength=len(source.classes)) for one in (source.parts, parts))
    emptied = [one_line(source.classes[i]) for i in np.flatnonzero((before > 0) & (after == 0))]
    if emptied:
        raise DataError(
            f"{where}: no training image of {listing(emptied)} is left; leave the class out with dataset.classes"
        )


def _unknown_class(line: Line, source: Source, where: str, renames: Mapping[str, str]) -> DataError:
    """The error for a label that is none of the classes; of an old name, with the new one."""
    start = f"{where}, line {line.number}: "
    label, classes = one_line(brief(line.label)), listing(source.classes, 12)
    if (new := renames.get(line.label)) is not None:
        return DataError(
            f"{start}class '{label}' is called '{one_line(new)}' since dataset.rename; write that into the "
            f"table, or leave out dataset.rename (classes: {classes})"
        )
    renamed = "after dataset.rename, " if renames else ""
    hint = did_you_mean(line.label, source.classes)
    return DataError(f"{start}unknown class '{label}'{hint} ({renamed}classes: {classes})")


def _new_labels(source: Source, lines: Sequence[Line], where: str, renames: Mapping[str, str]) -> dict[str, Indices]:
    """The labels of each split as the lines say."""
    numbers = {name: i for i, name in enumerate(source.classes)}
    new = {part: images.labels.copy() for part, images in source.parts.items()}
    seen: dict[tuple[str, int], Line] = {}
    for line, part, row in _rows(source, lines, where):
        if line.label not in numbers:
            raise _unknown_class(line, source, where, renames)
        before = seen.setdefault((part, row), line)
        if before.label != line.label:
            raise DataError(
                f"{where}: {one_line(line.path)} is {before.label} in line {before.number} and {line.label} in line "
                f"{line.number}; keep one"
            )
        new[part][row] = numbers[line.label]
    return new


def _relabeled(source: Source, lines: Sequence[Line], where: str, renames: Mapping[str, str]) -> Source:
    new = _new_labels(source, lines, where, renames)
    count = sum(int((new[part] != images.labels).sum()) for part, images in source.parts.items())
    parts = {part: _labeled(images, new[part]) for part, images in source.parts.items()}
    _check_classes(source, parts, where)
    text = f"{count:,} image{'s have' if count != 1 else ' has'} another label ({where})"
    return _changed(source, parts, Finding("relabeled", "note", text, count))


def _labeled(images: Images, labels: Indices) -> Images:
    other = images.take(np.arange(len(images)))
    other.labels = labels
    return other


def _changed(source: Source, parts: Mapping[str, Images], finding: Finding) -> Source:
    train, untrained = parts["train"], source.untrained
    if untrained is not None:  # its images are all in train
        names = {part: set(images.ids.tolist()) for part, images in untrained.items()}
        rows = {part: [row for row, one in enumerate(train.ids.tolist()) if one in own] for part, own in names.items()}
        untrained = {part: train.take(np.array(own, dtype=np.int64)) for part, own in rows.items() if own}
    return dataclasses.replace(
        source,
        train=train,
        val=parts.get("val"),
        test=parts.get("test"),
        findings=(*source.findings, finding),
        untrained=untrained,
    )
