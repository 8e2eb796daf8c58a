"""Class folders as a data set: what is common to all ways to read them, and how earlier versions did."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from imgcls.data.datasets.folders.checks import leaks, without_broken
from imgcls.data.datasets.folders.reading import Places, Reading
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.findings import Finding
from imgcls.data.renames import Matching, advice
from imgcls.data.source import Images, Source
from imgcls.errors import DataError
from imgcls.text import listing, one_line, printable

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


class EmptyClasses(DataError):
    """Some classes have no images to train on; ``source`` is the data set for those who only evaluate on it."""

    def __init__(self, message: str, source: Source) -> None:
        super().__init__(message)
        self.source = source


def source_of(
    parts: dict[str, Images],
    classes: tuple[str, ...],
    places: Sequence[str] = (),
    *,
    verify: bool,
    on_error: Literal["error", "skip"],
    notes: tuple[str, ...] = (),
    warnings: Sequence[str] = (),
    missing: Sequence[str] = (),
    findings: Sequence[Finding] = (),
) -> Source:
    """Your own files as a data set: corrupt ones reported or left out, with warnings about everything else.

    places: the folders of the classes, if they have any. missing: a message for each missing file, which counts as
    skipped. The other arguments are those of imagefolder and of Source. Raises EmptyClasses for a class without
    images in train.
    """
    skipped = list(missing)
    if verify or on_error == "skip":
        parts, broken = without_broken(parts, skip=on_error == "skip")
        skipped += broken
    empty = _empty_classes(parts["train"], classes, places)
    if empty and len(parts["train"]) == 0:
        raise DataError(empty.line)
    only = [f"only one class ({classes[0]}): there is nothing to learn"] if len(classes) == 1 else []
    left_out = f"left out: {'; '.join(skipped[:3])}" + (f" and {len(skipped) - 3:,} more" if len(skipped) > 3 else "")
    source = Source(
        classes,
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        augment="standard",
        mirror=True,
        notes=notes,
        warnings=(*warnings, *only, *leaks(parts), *([left_out] if skipped else [])),
        skipped=len(skipped),
        findings=(*findings, *([empty] if empty else [])),
    )
    if empty:
        raise EmptyClasses(empty.line, source)
    return source


def named_in(source: Source, part_of: Mapping[str, str] | None) -> Source:
    """The same data set. part_of: the part that it names for an image, by id, if it brings no train part; else None."""
    if part_of is None:
        return source
    images = source.train
    names = np.array([part_of.get(one, "") for one in images.ids.tolist()] if part_of else [], dtype=np.str_)
    named = {name: images.take(np.flatnonzero(names == name)) for name in sorted({*names.tolist()})}
    return replace(source, untrained={name: part for name, part in named.items() if name})


def _empty_classes(train: Images, classes: tuple[str, ...], places: Sequence[str]) -> Finding | None:
    """The classes without training images, if there are any."""
    empty = np.flatnonzero(np.bincount(train.labels, minlength=len(classes)) == 0).tolist()
    if not empty:
        return None
    i = empty[0]
    where = f"in the class folder {places[i]}" if places else f"of class '{classes[i]}' in train"
    names = tuple(classes[i] for i in empty[:5])
    return Finding("empty_class", "warning", f"no images {where}", len(empty), names, "add some or remove it")


def class_images(part: str, reading: Reading, scan: Scan, warnings: list[str], matching: Matching) -> Images:
    """The images of a part of the reading; label i means reading.classes[i]. Adds a warning for missing folders."""
    own, names, home = reading.parts[part], reading.classes, reading.homes[part]
    numbers = {name: matching.label(name) for name in own}
    if unknown := [name for name, label in numbers.items() if label is None]:
        raise DataError(
            f"{home} has classes that train does not have: {listing(unknown)}; train has {listing(names, 10)}"
            f"{advice(unknown, names, matching.names)}"
        )
    found = sorted((label, name) for name, label in numbers.items() if label is not None)
    present = {*numbers.values()}
    if absent := [name for label, name in enumerate(names) if label not in present]:
        warnings.append(f"{home} has no folder for {listing(absent)}")
    paths: list[str] = []
    ids: list[str] = []
    labels: list[int] = []
    for label, name in found:
        files = scan.images(own[name])
        paths += files
        start, short = len(str(own[name])), os.path.relpath(own[name], reading.base)
        ids += [printable(short + path[start:]) for path in files]  # relpath for each would take half of the scan
        labels += [label] * len(files)
    return Images(labels, paths=paths, ids=ids)


def outside_classes(homes: Mapping[str, Path], scan: Scan) -> list[Finding]:
    """A warning for each of these folders with images in it that are in no class folder."""
    found = []
    for folder in dict.fromkeys(homes.values()):
        images = scan.look(folder).images
        if count := len(images):
            verb = "are" if count > 1 else "is"
            what = f"{count:,} image{'s' * (count > 1)} in {one_line(str(folder))} that {verb} in no class folder"
            found.append(Finding("not_used", "warning", f"ignored {what}", count, tuple(images[:5])))
    return found


def alike(names: Sequence[str]) -> list[Finding]:
    """A warning for classes whose names differ only in case, in blanks or in Unicode normalization."""
    first: dict[str, str] = {}
    found = []
    for name in names:
        plain = unicodedata.normalize("NFC", one_line(name)).casefold()
        plain = re.sub(r"(?<=\w)[\s_\-]+(?=\w)|\s+", " ", plain).strip() or name  # A- is not A
        if plain in first:
            text = (
                f"the classes {first[plain]!a} and {name!a} differ only in case or Unicode normalization, or in blanks"
            )
            found.append(Finding("alike_names", "warning", text, 2, (first[plain], name)))
        first.setdefault(plain, name)
    return found


# --- as versions up to 0.1.0 read folders, for the runs that they have left -------------------------------------------


class OldReading(Reading):
    """A reading whose classes are in the order of text, numbers too."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of train's folders."""
        return tuple(sorted(self.parts["train"]))


def old_reading(root: Path, scan: Scan) -> tuple[Reading, list[str]]:
    """The classes and splits in the folder, and warnings. The scan is to be an old one, too."""
    base = _unwrapped(root, scan)
    folders, others = _split_folders(base, scan)
    parts: dict[str, Places] = {
        part: {name: folder / name for name in scan.subfolders(folder)} for part, folder in folders.items()
    }
    for part, places in parts.items():
        if not places:
            advice = f"put {'the' if part == 'train' else 'its'} images into one folder for each class"
            rename = "" if part == "train" else f", or rename {folders[part].name}"
            raise DataError(f"no class folders in {folders[part]}; {advice}{rename}")
    plural = "s" if len(others) > 1 else ""
    ignored = [f"ignored the folder{plural} {listing(others)} next to {folders['train'].name}/"] if others else []
    return OldReading(base, parts, folders), ignored


def _unwrapped(folder: Path, scan: Scan) -> Path:
    """The folder that holds the classes or the splits, inside any wrapper folders that hold nothing else.

    Archives are often unpacked like that: photos/photos/cat. A single folder without subfolders is a class.
    """
    names = scan.subfolders(folder)
    if len(names) != 1 or names[0].lower() in SPLIT_NAMES["train"] or scan.look(folder).images:
        return folder
    inner = folder / names[0]
    found = _unwrapped(inner, scan)
    if found == inner and (len(scan.subfolders(inner)) < 2 or scan.look(inner).images):
        return folder
    if found == inner:  # else it is already noted
        scan.unwrapped[found] = "inside"
    return found


def _split_folders(base: Path, scan: Scan) -> tuple[dict[str, Path], list[str]]:
    """{split: the folder with its class folders} and the names of the other folders in base."""
    folders, others = _named_splits(base, scan)
    folders["train"] = _unwrapped(folders["train"], scan)
    names = {*scan.subfolders(folders["train"])}
    for part, folder in folders.items():
        if not {*scan.subfolders(folder)} <= names:
            folders[part] = _unwrapped(folder, scan)
    return folders, others


def _named_splits(base: Path, scan: Scan) -> tuple[dict[str, Path], list[str]]:
    """{split: folder} by the folders' names, and the others; {"train": base} if base itself holds the class folders."""
    names = scan.subfolders(base)
    found = {part: [name for name in names if name.lower() in words] for part, words in SPLIT_NAMES.items()}
    if not (found["train"] and (found["val"] or found["test"])):
        found = _by_words(base, names) or found
    if not found["train"] or not (found["val"] or found["test"] or len(names) == 1):
        return {"train": base}, []
    for part, several in found.items():
        if len(several) > 1:
            raise DataError(f"both {several[0]} and {several[1]} are in {base}; keep one as the {part} split")
    parts = {part: base / several[0] for part, several in found.items() if several}
    used = {folder.name for folder in parts.values()}
    return parts, [name for name in names if name not in used]


def _by_words(base: Path, names: list[str]) -> dict[str, list[str]] | None:
    """The splits by a word in their folders' names (seg_train, test_set); all must hold folders of the same names."""
    found = {
        part: [name for name in names if set(re.split(r"[^a-z]+", name.lower())) & {*words}]
        for part, words in SPLIT_NAMES.items()
    }
    if not found["train"] or not (found["val"] or found["test"]):
        return None
    inside = [set(Scan().subfolders(_unwrapped(base / name, Scan()))) for several in found.values() for name in several]
    return found if all(inside) and all(one <= inside[0] for one in inside) else None
