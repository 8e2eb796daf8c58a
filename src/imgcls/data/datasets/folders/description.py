"""What lies in a folder of images, as a value, before it is decided what it means."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imgcls.data.datasets.folders import layout_names as names_of
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.datasets.folders.strays import not_used, strays_in
from imgcls.data.findings import Finding
from imgcls.text import listing


@dataclass(frozen=True)
class Seen:
    """What lies in a folder, before it is decided what it means.

    **Arguments:**

    - path: the folder.
    - images: the names of the image files in the folder itself.
    - folders: the names of the folders that may hold images of the data set, sorted.
    - parts: of these, those whose names mean train, val or test, by part.
    - strays: the folders with images that are no classes, as a rule: {name: what it holds}.
    - support: the folders without images whose names are those of annotations, lists or code.
    - tables, archives: names of files.
    """

    path: Path
    images: tuple[str, ...]
    folders: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    strays: Mapping[str, str]
    support: tuple[str, ...]
    tables: tuple[str, ...]
    archives: tuple[str, ...]


def see(path: Path, scan: Scan) -> Seen:
    """The description of the folder."""
    if (known := scan.described.get(str(path))) is None:
        known = scan.described[str(path)] = _described(path, scan)
    assert isinstance(known, Seen)
    return known


def _described(path: Path, scan: Scan) -> Seen:
    here = scan.look(path)
    if not here.folders and not here.others:  # a folder of images, of which there may be many thousands
        return Seen(path, tuple(here.images), (), {}, {}, (), (), ())
    everything = scan.subfolders(path)
    support = [name for name in everything if is_support(name) and not scan.has_images(path / name)]
    strays = strays_in(path, [name for name in everything if name not in support], scan)
    folders = tuple(name for name in everything if name not in support and name not in strays)
    parts = [names_of.part_of(name) for name in folders]
    found = {part: tuple(itertools.compress(folders, [one == part for one in parts])) for part in names_of.PART_WORDS}
    return Seen(
        path,
        tuple(here.images),
        folders,
        {part: several for part, several in found.items() if several},
        strays,
        tuple(support),
        tuple(name for name in here.others if name.lower().endswith(names_of.TABLE_SUFFIXES)),
        tuple(name for name in here.others if names_of.archive_suffix(name)),
    )


def is_support(name: str) -> bool:
    """Whether a folder of this name is no class if there are no images in it."""
    return names_of.without_part(name) in names_of.SUPPORT or name.lower() in names_of.SUPPORT


def class_folders(path: Path, scan: Scan) -> list[str]:
    """The names of the folders in it that may be classes: more than one folder that is merely called images."""
    folders = see(path, scan).folders
    if len(folders) == 1 and names_of.is_image_folder(folders[0]):
        return class_folders(path / folders[0], scan) and list(folders)
    return list(folders)


def levels(root: Path, base: Path) -> list[Path]:
    """The folders from root down to base, both included."""
    return [root, *(root / inner for inner in reversed([base.relative_to(root), *base.relative_to(root).parents][:-1]))]


def unwrapped(folder: Path, scan: Scan) -> Path:
    """The folder that holds the classes or the splits, inside any wrapper folders that hold no other images.

    Archives are often unpacked like that: photos/photos/cat. A single folder without subfolders is a class.
    """
    seen = see(folder, scan)
    if len(seen.folders) != 1 or seen.images:
        return folder
    if names_of.part_of(seen.folders[0]) == "train" and names_of.part_of(folder.name) != "train":
        return folder
    inner = folder / seen.folders[0]
    found = unwrapped(inner, scan)
    inside = see(inner, scan)
    is_class = len(inside.folders) < 2 and not (inside.folders and inside.parts.get("train"))
    if found == inner and (is_class or inside.images):
        return folder
    if found == inner:  # else it is already noted
        scan.unwrapped[found] = "with images in" if seen.support else "inside"
    return found


def left_over(seen: Seen) -> list[Finding]:
    """A note on the folders without images that are not used."""
    if not seen.support:
        return []
    shown = listing([f"{name}/" for name in seen.support])
    text = f"not used: {shown} (no images in {'them' if len(seen.support) > 1 else 'it'})"
    return [Finding("not_used", "note", text, len(seen.support), seen.support[:5])]


def stray_findings(seen: Seen, scan: Scan, advice: str) -> list[Finding]:
    """What to say about the folders in it that are no classes."""
    return not_used(seen.path, {seen.path / name: kind for name, kind in seen.strays.items()}, scan, advice)
