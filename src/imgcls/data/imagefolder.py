"""The user's own images: a folder for each class, flat or under train/, val/ and test/."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from imgcls.data.pixels import SUFFIXES
from imgcls.data.source import Images, Source
from imgcls.errors import DataError

PART_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}


def imagefolder(*, root: str | None) -> Source:
    """Class folders under root. Images of any size and mode are brought to one size when they are decoded.

    Hidden folders and files (a leading dot, __MACOSX) are passed over; files whose suffix is no image's are counted.
    Class names come from train; the other parts are matched to it by name.
    """
    if root is None:
        raise ValueError(
            "missing required value 'dataset.root': the folder of the images (dataset=./photos says the same)"
        )
    base = Path(root).expanduser()
    if not base.is_dir():
        raise DataError(f"no such folder: {base}" if not base.exists() else f"not a folder: {base}")
    folders = _part_folders(base)
    classes = tuple(_subfolders(folders["train"]))
    if not classes:
        hint = "; the images must lie in one folder for each class" if _has_images(folders["train"]) else ""
        raise DataError(f"no class folders in {folders['train']}{hint}")
    ignored: Counter[str] = Counter()
    warnings: list[str] = []
    parts = {
        name: _images(folder, classes, base, ignored, warnings, is_train=name == "train")
        for name, folder in folders.items()
    }
    if len(classes) == 1:
        warnings.append(f"only one class: {classes[0]}; nothing can be learned from it")
    listing = ", ".join(f"{count:,} {suffix}" for suffix, count in ignored.most_common())
    notes = (f"ignored  {listing} (no image files by their suffix)",) if listing else ()
    return Source(
        classes,
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        augment="standard",
        mirror=True,
        notes=notes,
        warnings=tuple(warnings),
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not _is_hidden(entry.name))


def _has_images(folder: Path) -> bool:
    return any(entry.name.lower().endswith(SUFFIXES) for entry in os.scandir(folder))


def _part_folders(base: Path) -> dict[str, Path]:
    """{part: folder}; {"train": base} where the class folders lie in base itself."""
    by_name = {name.lower(): name for name in _subfolders(base)}
    found = {part: [by_name[name] for name in names if name in by_name] for part, names in PART_NAMES.items()}
    if not found["train"] or not (found["val"] or found["test"] or len(by_name) == 1):
        return {"train": base}
    for part, names in found.items():
        if len(names) > 1:
            raise DataError(f"both {names[0]} and {names[1]} in {base}: which one is the {part} part?")
    return {part: base / names[0] for part, names in found.items() if names}


def _images(
    folder: Path, classes: tuple[str, ...], base: Path, ignored: Counter[str], warnings: list[str], *, is_train: bool
) -> Images:
    own = _subfolders(folder)
    if unknown := [name for name in own if name not in classes]:
        raise DataError(
            f"{folder} has classes that train does not have: {', '.join(unknown[:5])}"
            f"{' ...' if len(unknown) > 5 else ''}; train has {', '.join(classes[:10])}{' ...' if len(classes) > 10 else ''}"
        )
    if absent := [name for name in classes if name not in own]:
        warnings.append(f"{folder} has no folder for {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = _files(folder / name, ignored) if name in own else []
        if is_train and not files:
            raise DataError(f"no images in the class folder {folder / name}; add some or remove it")
        paths += files
        labels += [label] * len(files)
    ids = np.array([_printable(os.path.relpath(path, base)) for path in paths], dtype=np.str_)
    return Images(labels, paths=paths, ids=ids)


def _files(folder: Path, ignored: Counter[str]) -> list[str]:
    """Image files at any depth, sorted; links are followed, each folder once."""
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in files:
            if _is_hidden(name):
                continue
            if name.lower().endswith(SUFFIXES):
                found.append(os.path.join(parent, name))
            else:
                ignored[os.path.splitext(name)[1].lower() or "without suffix"] += 1
    return sorted(found)


def _printable(path: str) -> str:
    """A path as text, bytes that are no UTF-8 as escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
