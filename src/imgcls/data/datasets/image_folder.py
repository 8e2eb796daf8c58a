"""The user's own images: a folder for each class, flat or under train/, val/ and test/."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from imgcls.data.datasets.checks import leaks, without_broken
from imgcls.data.datasets.scan import Scan, entries, has_images, is_image_name
from imgcls.data.source import Images, Source
from imgcls.errors import DataError
from imgcls.text import listing, one_line, printable

PART_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}


def imagefolder(
    *,
    root: str | None,
    follow_links: bool,
    verify: bool,
    on_error: Literal["error", "skip"],
) -> Source:
    """Class folders under root. Images of any size and mode are brought to one size when they are decoded.

    Hidden folders and files (a leading dot, __MACOSX) are passed over; files whose suffix is no image's are counted.
    Class names come from train; the other parts are matched to it by name. follow_links=false refuses links that lead
    out of root. verify decodes every file once, and names all that cannot be; on_error=skip leaves those out.
    """
    if root is None:
        raise ValueError(
            "missing required value 'dataset.root': the folder of the images (dataset=./photos says the same)"
        )
    scan = Scan(None if follow_links else _existing(root))
    base = _unwrapped(_existing(root), scan)
    folders, others = _split_folders(base, scan)
    names = scan.subfolders(folders["train"])
    if not names:
        hint = "; the images must lie in one folder for each class" if has_images(folders["train"]) else ""
        raise DataError(f"no class folders in {folders['train']}{hint}")
    warnings = _alike(names)
    parts = {name: _images(folder, names, base, scan, warnings) for name, folder in folders.items()}
    return source_of(
        parts,
        tuple(map(one_line, names)),
        [str(folders["train"] / name) for name in names],
        verify=verify,
        on_error=on_error,
        notes=scan.notes(),
        warnings=[*warnings, *_unused(folders, others)],
    )


def _existing(root: str) -> Path:
    base = Path(os.path.expanduser(root))
    if not os.path.isdir(base):  # Path.is_dir raises for a name that is too long
        raise DataError(f"not a folder: {base}" if os.path.exists(base) else f"no such folder: {base}")
    return base


def _unused(folders: dict[str, Path], others: Sequence[str]) -> list[str]:
    """Warnings for images in no class folder, and for folders next to those of the splits."""

    def loose(folder: Path) -> int:
        return sum(is_image_name(entry.name) and not entry.name.startswith(".") for entry in entries(folder))

    counts = {one_line(str(folder)): loose(folder) for folder in folders.values()}
    warnings = [
        f"{count:,} image{'s' * (count > 1)} in no class folder of {folder} left out"
        for folder, count in counts.items()
        if count
    ]
    if others:
        is_are = "is" if len(others) == 1 else "are"
        warnings.append(f"{listing(others)} beside {folders['train'].name}/ {is_are} not used")
    return warnings


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
) -> Source:
    """The user's own files as a data set, broken ones found or left out, and what else deserves a warning.

    places: the folders of the classes, where they have any. missing: a message for each file that is not there, to be
    counted with the broken ones.
    """
    skipped = list(missing)
    if verify or on_error == "skip":
        parts, broken = without_broken(parts, skip=on_error == "skip")
        skipped += broken
    _check_not_empty(parts["train"], classes, places)
    only = [f"only one class: {classes[0]}; nothing can be learned from it"] if len(classes) == 1 else []
    left_out = f"left out: {'; '.join(skipped[:3])}" + (f" and {len(skipped) - 3:,} more" if len(skipped) > 3 else "")
    return Source(
        classes,
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        augment="standard",
        mirror=True,
        notes=notes,
        warnings=(*warnings, *only, *leaks(parts), *([left_out] if skipped else [])),
        skipped=len(skipped),
    )


def _check_not_empty(train: Images, classes: tuple[str, ...], places: Sequence[str]) -> None:
    """Raises DataError for a class without training images."""
    empty = np.flatnonzero(np.bincount(train.labels, minlength=len(classes)) == 0)
    if len(empty):
        i = int(empty[0])
        where = f"in the class folder {places[i]}" if places else f"of the class '{classes[i]}' to train on"
        raise DataError(f"no images {where}; add some or remove it")


def _unwrapped(folder: Path, scan: Scan) -> Path:
    """The folder that holds the classes or the parts, where folders that hold nothing but one folder lie around it.

    So archives are often unpacked: photos/photos/cat. A single folder without folders of its own is a single class.
    """
    names = scan.subfolders(folder)
    if len(names) != 1 or names[0].lower() in PART_NAMES["train"] or has_images(folder):
        return folder
    inner = folder / names[0]
    found = _unwrapped(inner, scan)
    if found == inner and (len(scan.subfolders(inner)) < 2 or has_images(inner)):
        return folder
    if found == inner:  # else it has been said
        scan.seen_through.append(found)
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
    found = {part: [name for name in names if name.lower() in words] for part, words in PART_NAMES.items()}
    if not (found["train"] and (found["val"] or found["test"])):
        found = _by_words(base, names) or found
    if not found["train"] or not (found["val"] or found["test"] or len(names) == 1):
        return {"train": base}, []
    for part, several in found.items():
        if len(several) > 1:
            raise DataError(f"both {several[0]} and {several[1]} in {base}: which one is the {part} part?")
    parts = {part: base / several[0] for part, several in found.items() if several}
    used = {folder.name for folder in parts.values()}
    return parts, [name for name in names if name not in used]


def _by_words(base: Path, names: list[str]) -> dict[str, list[str]] | None:
    """The parts by a word in their folders' names (seg_train, test_set), which must hold folders of the same names."""
    found = {
        part: [name for name in names if set(re.split(r"[^a-z]+", name.lower())) & {*words}]
        for part, words in PART_NAMES.items()
    }
    if not found["train"] or not (found["val"] or found["test"]):
        return None
    inside = [set(Scan().subfolders(_unwrapped(base / name, Scan()))) for several in found.values() for name in several]
    return found if all(inside) and all(one <= inside[0] for one in inside) else None


def _alike(names: list[str]) -> list[str]:
    """A warning for classes whose names differ in case or in Unicode's composition only."""
    first: dict[str, str] = {}
    warnings = []
    for name in names:
        plain = unicodedata.normalize("NFC", one_line(name)).casefold()
        if plain in first:
            warnings.append(f"the classes {first[plain]!a} and {name!a} differ in case or composition only")
        first.setdefault(plain, name)
    return warnings


def _images(folder: Path, names: list[str], base: Path, scan: Scan, warnings: list[str]) -> Images:
    """The part in that folder; label i stands for names[i]."""
    own = scan.subfolders(folder)
    if unknown := [name for name in own if name not in names]:
        raise DataError(
            f"{folder} has classes that train does not have: {listing(unknown)}; train has {listing(names, 10)}"
        )
    if not own:
        raise DataError(f"no class folders in {folder}; its images must lie in one folder for each class, or rename it")
    if absent := [name for name in names if name not in own]:
        warnings.append(f"{folder} has no folder for {listing(absent)}")
    paths: list[str] = []
    ids: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = scan.images(folder / name) if name in own else []
        paths += files
        start, short = len(str(folder / name)), os.path.relpath(folder / name, base)
        ids += [printable(short + path[start:]) for path in files]  # relpath of each would take half of the scan
        labels += [label] * len(files)
    return Images(labels, paths=paths, ids=ids)
