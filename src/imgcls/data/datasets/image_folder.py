"""Your own images: a folder for each class, flat or under train/, val/ and test/."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from imgcls.data.datasets.checks import leaks, without_broken
from imgcls.data.datasets.scan import Scan, entries, has_images, is_image_name
from imgcls.data.source import Images, Source
from imgcls.errors import DataError
from imgcls.text import listing, one_line, printable

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def imagefolder(
    *,
    root: str | None,
    follow_links: bool,
    verify: bool,
    on_error: Literal["error", "skip"],
) -> Source:
    """Class folders under root; images of any size and mode, resized when they are decoded.

    Hidden folders and files (a leading dot, __MACOSX) are skipped; files with other suffixes than an image's are
    counted. The class names are those of train; the other splits are matched to them by name.

    **Arguments:**

    - root: the folder; flat, or with train/, val/ and test/ in it (other common names are known, too).
    - follow_links: false refuses symlinks that point outside root.
    - verify: decode every file once, and report all that are corrupt.
    - on_error: "skip" leaves corrupt files out, "error" refuses them.

    Raises DataError if a folder is missing, a class has no images, or files are corrupt.
    """
    if root is None:
        raise ValueError("missing required value 'dataset.root': the folder with the images (short: dataset=./photos)")
    scan = Scan(None if follow_links else _existing(root))
    base = _unwrapped(_existing(root), scan)
    folders, others = _split_folders(base, scan)
    names = scan.subfolders(folders["train"])
    if not names:
        raise DataError(f"no class folders in {folders['train']}; put the images into one folder for each class")
    warnings = _alike(names)
    parts = {name: _images(folder, names, base, scan, warnings) for name, folder in folders.items()}
    source = source_of(
        parts,
        tuple(map(one_line, names)),
        [str(folders["train"] / name) for name in names],
        verify=verify,
        on_error=on_error,
        notes=scan.notes(),
        warnings=[*warnings, *_unused(folders, others)],
    )
    return named_in(source, None if _names_train(folders, _existing(root)) else {})


def _names_train(folders: dict[str, Path], root: Path) -> bool:
    """Whether the folders below root name a train part; a flat folder, or one of another part alone, does not."""
    inner = folders["train"].relative_to(root).parts
    return len(folders) > 1 or any(name.lower() in SPLIT_NAMES["train"] for name in inner)


def _existing(root: str) -> Path:
    base = Path(os.path.expanduser(root))
    if not os.path.isdir(base):  # Path.is_dir raises for a name that is too long
        raise DataError(f"not a folder: {base}" if os.path.exists(base) else f"no such folder: {base}")
    return base


def _unused(folders: dict[str, Path], others: Sequence[str]) -> list[str]:
    """Warnings about images outside the class folders, and about folders next to those of the splits."""

    def loose(folder: Path) -> int:
        return sum(is_image_name(entry.name) and not entry.name.startswith(".") for entry in entries(folder))

    counts = {one_line(str(folder)): loose(folder) for folder in folders.values()}
    warnings = [
        f"ignored {count:,} image{'s' * (count > 1)} in {folder} that {'are' if count > 1 else 'is'} in no class folder"
        for folder, count in counts.items()
        if count
    ]
    if others:
        plural = "s" if len(others) > 1 else ""
        warnings.append(f"ignored the folder{plural} {listing(others)} next to {folders['train'].name}/")
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
    """Your own files as a data set: corrupt ones reported or left out, with warnings about everything else.

    places: the folders of the classes, if they have any. missing: a message for each missing file, which counts as
    skipped. The other arguments are those of imagefolder and of Source.
    """
    skipped = list(missing)
    if verify or on_error == "skip":
        parts, broken = without_broken(parts, skip=on_error == "skip")
        skipped += broken
    _check_not_empty(parts["train"], classes, places)
    only = [f"only one class ({classes[0]}): there is nothing to learn"] if len(classes) == 1 else []
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


def named_in(source: Source, part_of: Mapping[str, str] | None) -> Source:
    """The same data set. part_of: the part that it names for an image, by id, if it brings no train part; else None."""
    if part_of is None:
        return source
    images = source.train
    names = np.array([part_of.get(one, "") for one in images.ids.tolist()] if part_of else [], dtype=np.str_)
    named = {name: images.take(np.flatnonzero(names == name)) for name in sorted({*names.tolist()})}
    return replace(source, untrained={name: part for name, part in named.items() if name})


def _check_not_empty(train: Images, classes: tuple[str, ...], places: Sequence[str]) -> None:
    """Raises DataError if a class has no training images."""
    empty = np.flatnonzero(np.bincount(train.labels, minlength=len(classes)) == 0)
    if len(empty):
        i = int(empty[0])
        where = f"in the class folder {places[i]}" if places else f"of class '{classes[i]}' in train"
        raise DataError(f"no images {where}; add some or remove it")


def _unwrapped(folder: Path, scan: Scan) -> Path:
    """The folder that holds the classes or the splits, inside any wrapper folders that hold nothing else.

    Archives are often unpacked like that: photos/photos/cat. A single folder without subfolders is a class.
    """
    names = scan.subfolders(folder)
    if len(names) != 1 or names[0].lower() in SPLIT_NAMES["train"] or has_images(folder):
        return folder
    inner = folder / names[0]
    found = _unwrapped(inner, scan)
    if found == inner and (len(scan.subfolders(inner)) < 2 or has_images(inner)):
        return folder
    if found == inner:  # else it is already noted
        scan.unwrapped.append(found)
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


def _alike(names: list[str]) -> list[str]:
    """A warning for classes whose names differ only in case or in Unicode normalization."""
    first: dict[str, str] = {}
    warnings = []
    for name in names:
        plain = unicodedata.normalize("NFC", one_line(name)).casefold()
        if plain in first:
            warnings.append(f"the classes {first[plain]!a} and {name!a} differ only in case or Unicode normalization")
        first.setdefault(plain, name)
    return warnings


def _images(folder: Path, names: list[str], base: Path, scan: Scan, warnings: list[str]) -> Images:
    """The split in that folder; label i means names[i]."""
    own = scan.subfolders(folder)
    if unknown := [name for name in own if name not in names]:
        raise DataError(
            f"{folder} has classes that train does not have: {listing(unknown)}; train has {listing(names, 10)}"
        )
    if not own:
        advice = f"put its images into one folder for each class, or rename {folder.name}"
        raise DataError(f"no class folders in {folder}; {advice}")
    if absent := [name for name in names if name not in own]:
        warnings.append(f"{folder} has no folder for {listing(absent)}")
    paths: list[str] = []
    ids: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = scan.images(folder / name) if name in own else []
        paths += files
        start, short = len(str(folder / name)), os.path.relpath(folder / name, base)
        ids += [printable(short + path[start:]) for path in files]  # relpath for each would take half of the scan
        labels += [label] * len(files)
    return Images(labels, paths=paths, ids=ids)
