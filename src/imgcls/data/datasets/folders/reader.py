"""Your own images in a folder: class folders, flat or in parts; else a table in it, or a layout that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from imgcls.data.datasets.folders.description import left_over, levels, see, stray_findings, unwrapped
from imgcls.data.datasets.folders.folder_tables import Options, source_of_tables, unused_tables
from imgcls.data.datasets.folders.image_folder import (
    EmptyClasses,
    alike,
    class_images,
    named_in,
    old_reading,
    outside_classes,
    source_of,
)
from imgcls.data.datasets.folders.known_layouts import known_source
from imgcls.data.datasets.folders.layout import reading_of
from imgcls.data.datasets.folders.layout_names import part_of
from imgcls.data.datasets.folders.places import folder_at, typed
from imgcls.data.datasets.folders.reading import FLAT, RENAME, Reading, check_task
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.datasets.folders.strays import below_classes, companions
from imgcls.data.grouping import grouped_by_path, pattern_of
from imgcls.data.renames import Matching, renamed, renames_of
from imgcls.data.source import Source
from imgcls.errors import DataError
from imgcls.text import one_line


def imagefolder(
    *,
    root: str | None,
    follow_links: bool,
    rename: dict[str, Any] | str | None,
    verify: bool,
    on_error: Literal["error", "skip"],
    layout: Literal["auto", "flat", "old"],
    group: str | int | None,
) -> Source:
    """Class folders under root; images of any size and mode, resized when they are decoded.

    Hidden folders and files (a leading dot), what operating systems and storage devices leave, and runs of imgcls are
    skipped; files with other suffixes than an image's are counted. The class names are those of train; the other splits
    are matched to them by name.

    **Arguments:**

    - root: the folder; flat, or with train/, val/ and test/ in it (other common names are known, too).
    - follow_links: false refuses symlinks that point outside root.
    - rename: {old: new}, classes that are renamed or merged.
    - verify: decode every file once, and report all that are corrupt.
    - on_error: "skip" leaves corrupt files out, "error" refuses them.
    - layout: "auto" decides by names and contents, and asks where two readings are likely; "flat" makes every folder in
      root a class; "old" reads it as version 0.1.0 did.
    - group: a regular expression on each path in the folder; images of which it finds the same stay in one part.

    Raises DataError if a folder is missing, a class has no images, two readings are likely, or files are corrupt.
    """
    if root is None:
        raise ValueError("missing required value 'dataset.root': the folder with the images (short: dataset=./photos)")
    base = folder_at(root)
    scan = Scan(None if follow_links else base, old=layout == "old")
    options = Options(verify, on_error)
    names = renames_of(rename)
    if group is not None:
        pattern_of(str(group))  # refused before anything is read
    try:
        source = _read(base, scan, options, names, layout)
    except EmptyClasses as error:  # some only evaluate on it
        error.source = _grouped(error.source, group)
        raise
    return _grouped(source, group)


def _read(base: Path, scan: Scan, options: Options, names: Mapping[str, str], layout: str) -> Source:
    """The folder in that layout."""
    if layout == "old":
        reading, warnings = old_reading(base, scan)
        return _source(base, reading, scan, options, warnings, names)
    if scan.is_run(base):
        raise DataError(f"{one_line(str(base))} is a run of imgcls, not a data set; give the folder of the images")
    return _decided(base, scan, options, names, is_flat=layout == "flat")


def _grouped(source: Source, group: str | int | None) -> Source:
    """With the groups that the pattern finds, if there is one."""
    if group is None:
        return source
    tables = [Path(finding.examples[0]) for finding in source.findings if finding.kind == "table"]
    more = "".join(f"; for a column of the table, type dataset={typed(table)}" for table in tables[:1])
    return grouped_by_path(source, str(group), more)


def _decided(root: Path, scan: Scan, options: Options, names: Mapping[str, str], *, is_flat: bool) -> Source:
    """The folder by what it looks like; is_flat: each folder in it is a class, whatever it looks like."""
    base = unwrapped(root, scan)
    around = levels(root, base)
    for folder in () if is_flat else around:
        if (known := known_source(folder, scan, options)) is not None:
            return renamed(known, names)
        check_task(folder, scan)
    if not is_flat and (listed := source_of_tables(base, scan, options)) is not None:
        return renamed(listed, names)
    reading = reading_of(base, scan, is_flat=is_flat)
    more = [note for folder in around for note in left_over(see(folder, scan))]
    if not is_flat:
        is_one = set(reading.homes.values()) == {base} and len(reading.parts) == 1
        advice = f"{FLAT} uses all folders" if is_one else RENAME
        for folder in dict.fromkeys([*around, *reading.homes.values()]):
            more += stray_findings(see(folder, scan), scan, advice)
        places = [place for own in reading.parts.values() for place in own.values()]
        more += below_classes(reading.base, places, scan, advice)
        more += companions(reading.base, places, scan, advice)
        more += unused_tables([*around, *reading.homes.values()], reading, scan)
    return _source(root, replace(reading, findings=(*reading.findings, *more)), scan, options, [], names)


def _source(
    root: Path, reading: Reading, scan: Scan, options: Options, warnings: list[str], renames: Mapping[str, str]
) -> Source:
    """The images of the reading, with classes under their new names."""
    names = reading.classes
    missing: list[str] = []
    matching = Matching(names, renames)
    parts = {part: class_images(part, reading, scan, missing, matching) for part in reading.parts}
    findings = [
        *alike(names),
        *reading.findings,
        *outside_classes(reading.homes, scan),
    ]
    places = reading.parts["train"]
    used = {int(label) for label in set(parts["train"].labels.tolist())}
    try:
        source = source_of(
            parts,
            tuple(map(one_line, names)),
            [f"{places[name]}{'' if i in used else scan.ignored_there(places[name])}" for i, name in enumerate(names)],
            verify=options.verify,
            on_error=options.on_error,
            notes=scan.notes(),
            warnings=[*(one.line for one in findings if one.severity == "warning"), *missing, *warnings],
            findings=findings,
        )
    except EmptyClasses as error:  # some only evaluate on it
        error.source = _finished(error.source, reading, root, matching.own)
        raise
    return _finished(source, reading, root, matching.own)


def _finished(source: Source, reading: Reading, root: Path, names: Mapping[str, str]) -> Source:
    """With the parts that are no train part, and classes under their new names."""
    return renamed(named_in(source, None if _names_train(reading, root) else {}), names)


def _names_train(reading: Reading, root: Path) -> bool:
    """Whether the folders below root name a train part; a flat folder, or one of another part alone, does not."""
    inner = reading.homes["train"].relative_to(root).parts if "train" in reading.homes else ()
    return len(reading.parts) > 1 or any(part_of(name) == "train" for name in inner)
