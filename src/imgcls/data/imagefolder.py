"""The user's own images: a folder for each class, flat or under train/, val/ and test/."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from imgcls.data.pixels import HEIF_SUFFIXES, SUFFIXES
from imgcls.data.source import Images, Source
from imgcls.data.verify import leaks, without_broken
from imgcls.errors import DataError

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
    base = Path(os.path.expanduser(root))
    if not os.path.isdir(base):  # Path.is_dir raises for a name that is too long
        raise DataError(f"not a folder: {base}" if os.path.exists(base) else f"no such folder: {base}")
    scan = Scan(None if follow_links else base)
    base = _unwrapped(base, scan)
    folders, others = _part_folders(base, scan)
    folders["train"] = _unwrapped(folders["train"], scan)
    names = scan.subfolders(folders["train"])
    for part, folder in folders.items():
        if not {*scan.subfolders(folder)} <= {*names}:
            folders[part] = _unwrapped(folder, scan)
    if not names:
        hint = "; the images must lie in one folder for each class" if _has_images(folders["train"]) else ""
        raise DataError(f"no class folders in {folders['train']}{hint}")
    warnings = _alike(names)
    parts = {name: _images(folder, names, base, scan, warnings) for name, folder in folders.items()}
    for folder in folders.values():
        if loose := sum(is_image_name(entry.name) and not entry.name.startswith(".") for entry in _entries(folder)):
            warnings.append(
                f"{loose:,} image{'s' * (loose > 1)} in no class folder of {one_line(str(folder))} left out"
            )
    if others:
        warnings.append(
            f"{_some(others)} beside {folders['train'].name}/ {'is' if len(others) == 1 else 'are'} not used"
        )
    places = [str(folders["train"] / name) for name in names]
    return source_of(
        parts,
        tuple(one_line(name) for name in names),
        places,
        verify=verify,
        on_error=on_error,
        notes=scan.notes(),
        warnings=warnings,
    )


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
    said, skipped = list(warnings), list(missing)
    if verify or on_error == "skip":
        parts, broken = without_broken(parts, skip=on_error == "skip")
        skipped += broken
    empty = np.flatnonzero(np.bincount(parts["train"].labels, minlength=len(classes)) == 0)
    if len(empty):
        i = int(empty[0])
        where = f"in the class folder {places[i]}" if places else f"of the class '{classes[i]}' to train on"
        raise DataError(f"no images {where}; add some or remove it")
    if len(classes) == 1:
        said.append(f"only one class: {classes[0]}; nothing can be learned from it")
    said += leaks(parts) if len(parts) > 1 else []
    if skipped:
        more = f" and {len(skipped) - 3:,} more" if len(skipped) > 3 else ""
        said.append(f"left out: {'; '.join(skipped[:3])}{more}")
    return Source(
        classes,
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        augment="standard",
        mirror=True,
        notes=notes,
        warnings=tuple(said),
        skipped=len(skipped),
    )


class Scan:
    """Looks through folders, and counts what it passes over.

    within: the folder that no link may lead out of, if that is asked for.
    """

    def __init__(self, within: Path | None = None) -> None:
        self.within = None if within is None else os.path.realpath(within)
        self.ignored: Counter[str] = Counter()  # files by suffix
        self.hidden: set[str] = set()  # names of folders
        self.seen_through: list[Path] = []  # folders that hold nothing but one folder

    def notes(self) -> tuple[str, ...]:
        """What was passed over, as lines for the header."""
        counts = sorted(self.ignored.items(), key=lambda pair: (-pair[1], pair[0]))
        by_suffix = ", ".join(f"{count:,} {one_line(suffix)}" for suffix, count in counts[:8])
        more = "; pip install 'imgcls[heif]' to read HEIC and AVIF" if self.ignored.keys() & {*HEIF_SUFFIXES} else ""
        files = f"ignored  {by_suffix} (no image files by their suffix{more})" if by_suffix else ""
        folders = f"ignored  hidden folders: {_some(sorted(self.hidden))}" if self.hidden else ""
        around = [f"folder   {one_line(str(inner))}, all that lies in the one above" for inner in self.seen_through]
        return tuple(note for note in (*around, files, folders) if note)

    def _is_hidden(self, name: str, *, is_folder: bool) -> bool:
        hidden = name.startswith(".") or name == "__MACOSX"
        if hidden and is_folder:
            self.hidden.add(name)
        return hidden

    def subfolders(self, folder: Path) -> list[str]:
        """The names of the folders in it, sorted."""
        entries = [entry for entry in _entries(folder) if os.path.isdir(entry.path)]
        seen = [entry for entry in entries if not self._is_hidden(entry.name, is_folder=True)]
        for entry in seen:
            self._check_link(entry.path)
        return sorted(entry.name for entry in seen)

    def _check_link(self, path: str) -> None:
        if self.within is None or not os.path.islink(path):
            return
        target = os.path.realpath(path)
        if os.path.commonpath([self.within, target]) != self.within:
            raise DataError(
                f"{one_line(path)} is a link out of the data folder, to {one_line(target)}; remove it, or let it be "
                "followed by dataset.follow_links=true"
            )

    def images(self, folder: str | Path) -> list[str]:
        """Image files at any depth, sorted. Links are followed, each folder once; one to a folder above is an error."""
        found: list[str] = []
        seen: set[str] = set()
        for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
            real = os.path.realpath(parent)
            if os.path.islink(parent) and _lies_in(parent, real, start=str(folder)):
                raise DataError(
                    f"{one_line(parent)} is a link to {one_line(real)}, which it lies in: a loop; remove it"
                )
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not self._is_hidden(name, is_folder=True))
            for name in folders:
                self._check_link(os.path.join(parent, name))
            for name in files:
                if self._is_hidden(name, is_folder=False):
                    continue
                if is_image_name(name):
                    found.append(os.path.join(parent, name))
                    self._check_link(found[-1])
                else:
                    self.ignored[os.path.splitext(name)[1].lower() or "without suffix"] += 1
        return sorted(found)


def is_image_name(name: str) -> bool:
    """Whether the suffix is one of an image."""
    return name.lower().endswith(SUFFIXES)


def printable(path: str) -> str:
    """A file's name as text, bytes that are no UTF-8 as escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    """Text for a terminal: bytes that are no UTF-8, line breaks, control characters and the like as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in printable(text))


def _lies_in(link: str, target: str, *, start: str) -> bool:
    """Whether the link, or the folder in which the walk began, is somewhere inside the target."""
    inner = [os.path.dirname(link)] if link == start else [os.path.dirname(link), start]
    return any(os.path.commonpath([target, os.path.realpath(one)]) == target for one in inner)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot read the folder {one_line(str(error.filename))}: {error.strerror}") from error


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError as error:
        _refuse(error)
        raise


def _has_images(folder: Path) -> bool:
    return any(is_image_name(entry.name) for entry in _entries(folder))


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(map(one_line, names[:most])) + (f" ... ({len(names)} in all)" if len(names) > most else "")


def _unwrapped(folder: Path, scan: Scan) -> Path:
    """The folder that holds the classes or the parts, where folders that hold nothing but one folder lie around it.

    So archives are often unpacked: photos/photos/cat. A single folder without folders of its own is a single class.
    """
    names = scan.subfolders(folder)
    if len(names) != 1 or names[0].lower() in PART_NAMES["train"] or _has_images(folder):
        return folder
    inner = folder / names[0]
    found = _unwrapped(inner, scan)
    if found == inner and (len(scan.subfolders(inner)) < 2 or _has_images(inner)):
        return folder
    if found == inner:  # else it has been said
        scan.seen_through.append(found)
    return found


def _part_folders(base: Path, scan: Scan) -> tuple[dict[str, Path], list[str]]:
    """{part: folder} and the other folders; {"train": base} where the class folders lie in base itself."""
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
            f"{folder} has classes that train does not have: {_some(unknown)}; train has {_some(names, 10)}"
        )
    if not own:
        raise DataError(f"no class folders in {folder}; its images must lie in one folder for each class, or rename it")
    if absent := [name for name in names if name not in own]:
        warnings.append(f"{folder} has no folder for {_some(absent)}")
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
