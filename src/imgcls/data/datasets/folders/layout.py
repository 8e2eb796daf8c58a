"""How a folder of images is read: which folders are classes, which are parts.

description.py says what lies in it; the rules here and in parts.py decide. A decision that another reading could rival
is a DataError that names both, and what to type for each: ``dataset.layout=flat`` always means that every folder is a
class.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from imgcls.data.datasets.folders import layout_names as names_of
from imgcls.data.datasets.folders.description import Seen, class_folders, see
from imgcls.data.datasets.folders.parts import of_classes_first, of_parts, of_parts_without_train, of_train_alone
from imgcls.data.datasets.folders.places import typed, unpack
from imgcls.data.datasets.folders.reading import (
    FLAT,
    NO_CLASSES,
    Places,
    Reading,
    as_flat,
    ask,
    below_images,
    is_image_or_target,
    what_instead,
)
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.datasets.folders.strays import MOST_TYPED, may_be_strays, read_as_classes
from imgcls.data.findings import Finding
from imgcls.data.source import in_order
from imgcls.errors import DataError
from imgcls.text import listing, one_line

DATES = re.compile(r"(19|20)\d\d([-_.]?\d\d){0,2}")
MOST_FOLDS = 20  # more folders than that are classes, whatever the names below them
MOSTLY = 0.6  # of the names below: these sub-folders are the same everywhere


def reading_of(path: Path, scan: Scan, *, is_flat: bool = False) -> Reading:
    """How the folder is read. Raises DataError where there are no classes, or two readings are likely.

    is_flat: every folder in it is a class, whatever it looks like.
    """
    seen = see(path, scan)
    if is_flat:
        return _as_classes(seen, scan, is_flat=True)
    rules: tuple[Callable[[Seen, Scan], Reading | None], ...] = (
        of_parts, of_train_alone, of_parts_without_train, of_classes_first, _of_flat_parts, _of_repeated_names,
        _of_copies, _of_doubtful,
    )  # fmt: skip
    for rule in rules:
        if (found := rule(seen, scan)) is not None:
            return found
    return _as_classes(seen, scan)


def _of_flat_parts(seen: Seen, scan: Scan) -> None:
    """Raises DataError for folders of images whose names differ only in the word of a part: dogs_train, dogs_test."""
    flat = [name for name in seen.folders if names_of.part_word_in(name) and not class_folders(seen.path / name, scan)]
    for name in flat:
        same = [one for one in flat if names_of.without_part(one) == names_of.without_part(name)]
        if "train" in (parts := {names_of.part_word_in(one) for one in same}) and len(parts) > 1:
            names = ", ".join(f"{one_line(one)}/" for one in same)
            what = f"{names} look like parts, not classes, and hold no class folders"
            raise ask(seen, what, f"{NO_CLASSES} in each of them, or give a table", as_flat(seen))


def _of_copies(seen: Seen, scan: Scan) -> None:
    """Raises DataError for a folder that is a copy of a class beside it, or holds folders named like these."""
    names = {name.lower(): name for name in seen.folders}
    for name in (one for one in seen.folders if not scan.is_link(seen.path / one)):
        match = names_of.COPY_OF.fullmatch(name.lower())
        original = names.get((match["a"] or match["b"]).strip()) if match else None
        inside = [one for one in class_folders(seen.path / name, scan) if one.lower() in names and one != name]
        if original is None and not inside:
            continue
        what = f"{name}/ looks like a copy of {original}/" if original else f"{name}/ holds {listing(inside, 3)} again"
        raise ask(seen, what, _others([one for one in seen.folders if one != name]), as_flat(seen))


def _of_doubtful(seen: Seen, scan: Scan) -> None:
    """Raises DataError for folders that may hold plots or thumbnails, beside others that are classes."""
    if not (found := may_be_strays(seen.folders)):
        return
    names = listing([f"{one_line(name)}/" for name in found])
    which = f"is {names} a class" if len(found) == 1 else f"are {names} classes"
    what = f"{which}, or pictures of another kind (results, thumbnails)?"
    raise ask(seen, what, _others([name for name in seen.folders if name not in found]), as_flat(seen))


def _others(names: Sequence[str]) -> str:
    """What to do for these classes alone."""
    if len(names) > MOST_TYPED:
        return "for the other classes move it out of the folder"
    return f"for the other classes add {FLAT} 'dataset.classes=[{','.join(map(one_line, names))}]'"


def _inside(seen: Seen, scan: Scan) -> dict[str, Seen] | None:
    """What lies in each of several folders, if none of them holds images itself; else None."""
    if len(seen.folders) < 2:
        return None
    inside = {}
    for name in seen.folders:
        one = see(seen.path / name, scan)
        while len(one.folders) == 1 and not one.images and len(see(one.path / one.folders[0], scan).folders) > 1:
            one = see(one.path / one.folders[0], scan)
        inside[name] = one
        if one.images or not one.folders:
            return None
    return inside


def _of_repeated_names(seen: Seen, scan: Scan) -> Reading | None:
    """Sub-folders of the same names in all folders: folds, or the same images in several forms."""
    inside = _inside(seen, scan)
    if inside is None:
        return None
    sets = [{*one.folders} for one in inside.values()]
    common, union = set.intersection(*sets), set.union(*sets)
    if len(common) < 2 or len(common) < MOSTLY * len(union):
        return None
    if len(inside) > MOST_FOLDS and len(common) < len(inside):
        return None
    if all(is_image_or_target(name) for name in union) or all(DATES.fullmatch(name) for name in common):
        return None
    first = seen.folders[0]
    what = f"{listing([f'{name}/' for name in seen.folders], 4)} all hold the folders {listing(in_order([*common]), 4)}"
    if {"train", "test", "val"} & {names_of.part_of(name) for name in common}:
        what += ", parts with class folders"
    forms = all(names_of.without_part(name) in names_of.COPIES for name in seen.folders)
    kind = "the same images in several forms" if forms else "folds, sources or copies of one data set"
    one = f"to read one of them type dataset={typed(inside[first].path)}"
    raise ask(seen, f"{what}: they look like {kind}, not like classes", one, as_flat(seen))


def _as_classes(seen: Seen, scan: Scan, *, is_flat: bool = False) -> Reading:
    """Each folder is a class."""
    folders = sorted([*seen.folders, *seen.strays]) if is_flat else seen.folders
    if not (folders if is_flat else class_folders(seen.path, scan)):
        raise DataError(_nothing_found(seen, scan))
    places = {name: seen.path / name for name in folders}
    findings: list[Finding] = []
    if not is_flat:
        places, findings = below_images(places, scan)
        if "train" in seen.parts:
            text = f"{seen.parts['train'][0]}/ is read as a class, as are {listing(seen.folders, 4)}"
            findings.append(Finding("parts", "note", text))
        findings += read_as_classes(folders)
        findings += _pooled(seen, scan, places)
    return Reading(seen.path, {"train": places}, {"train": seen.path}, tuple(findings))


def _pooled(seen: Seen, scan: Scan, places: Places) -> list[Finding]:
    """A note if class folders hold no images and some of them several folders: those may have been the classes."""
    inside = _inside(seen, scan)
    if inside is None or any(places[name] != seen.path / name for name in places):
        return []
    one = max(inside.values(), key=lambda own: len(own.folders))
    if len(one.folders) < 2:
        return []
    count = sum(len(one.folders) for one in inside.values())
    first = one_line(os.path.relpath(one.path / one.folders[0], seen.path))
    below = f"the {count:,} folders below them ({first}, ...)"
    text = f"the classes are {listing(seen.folders, 4)}; {below} are pooled into these"
    advice = f"for the classes of one of them type dataset={typed(one.path)}"
    return [Finding("pooled", "note", text, count, (), advice)]


def _nothing_found(seen: Seen, scan: Scan) -> str:
    """The message for a folder without class folders."""
    said = f"no class folders in {one_line(str(seen.path))}"
    if seen.archives and not seen.images:
        archive = seen.path / seen.archives[0]
        how = unpack(archive, names_of.archive_suffix(archive.name))
        return f"{said}, but archives ({listing(seen.archives, 3)}); {how}"
    hidden = scan.hidden_there(seen.path) if not seen.folders and not seen.images else []
    if len(hidden) > 1:
        return f"{said} but hidden ones ({listing(hidden, 3)}), which are ignored; rename them"
    if not seen.images and not scan.suffixes(seen.path) and not seen.support:
        return f"{said}; {NO_CLASSES}"
    return f"{said}{what_instead(seen.path, seen, scan)}"
