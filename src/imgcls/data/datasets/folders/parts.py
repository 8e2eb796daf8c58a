"""Rules for folders with train/, val/ and test/: at the top, or in each class folder. None if a rule does not apply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from imgcls.data.datasets.folders import layout_names as names_of
from imgcls.data.datasets.folders.description import Seen, class_folders, see, stray_findings, unwrapped
from imgcls.data.datasets.folders.places import typed
from imgcls.data.datasets.folders.reading import (
    FLAT,
    NO_CLASSES,
    RENAME,
    Reading,
    as_flat,
    ask,
    below_images,
    check_task,
    not_classes,
    what_instead,
)
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.datasets.folders.strays import read_as_classes
from imgcls.data.findings import Finding
from imgcls.data.source import in_order
from imgcls.errors import DataError
from imgcls.text import listing, one_line


def of_parts(seen: Seen, scan: Scan) -> Reading | None:
    """train/ with val/, test/ or both, or train/ alone; by names that say nothing else, else by a word in them."""
    found = seen.parts
    if not ("train" in found and (len(found) > 1 or len(seen.folders) == 1)):
        found = _by_words(seen, scan)
    if not found:
        return None
    for part, several in found.items():
        if len(several) > 1:
            raise DataError(f"both {several[0]} and {several[1]} are in {seen.path}; keep one as the {part} split")
    folders = {part: seen.path / several[0] for part, several in found.items()}
    others = [name for name in seen.folders if name not in {folder.name for folder in folders.values()}]
    findings = [_renamed(folders)]
    if others:
        plural = "s" if len(others) > 1 else ""
        text = f"ignored the folder{plural} {listing(others)} next to {folders['train'].name}/"
        findings.append(Finding("not_used", "warning", text, len(others), tuple(others[:5])))
    return _from_parts(seen, scan, folders, [one for one in findings if one is not None])


def _renamed(folders: Mapping[str, Path]) -> Finding | None:
    """A note on which folder is which part, unless the names are the usual ones."""
    if all(folder.name.lower() in names_of.USUAL_PARTS[part] for part, folder in folders.items()):
        return None
    which = ", ".join(f"{one_line(folder.name)}/ is {part}" for part, folder in folders.items())
    return Finding("parts", "note", f"parts by the names of the folders: {which}", len(folders))


def _by_words(seen: Seen, scan: Scan) -> Mapping[str, tuple[str, ...]]:
    """The parts by a word in their folders' names (seg_train, test_a); all must hold folders of the same names."""
    found: dict[str, tuple[str, ...]] = {}
    for part, words in names_of.PART_WORDS.items():
        if several := tuple(name for name in seen.folders if set(re.split(r"[^a-z]+", name.lower())) & {*words}):
            found[part] = several
    if "train" not in found or len(found) < 2:
        return {}
    inside = [
        {*class_folders(unwrapped(seen.path / name, Scan()), scan)} for several in found.values() for name in several
    ]
    return found if all(inside) and all(one <= inside[0] for one in inside) else {}


def _from_parts(seen: Seen, scan: Scan, folders: dict[str, Path], findings: Sequence[Finding]) -> Reading:
    """The class folders of each part. Raises DataError for a part without any."""
    folders["train"] = unwrapped(folders["train"], scan)
    names = {*class_folders(folders["train"], scan)}
    for part, folder in folders.items():
        if not {*class_folders(folder, scan)} <= names:
            folders[part] = unwrapped(folder, scan)
    flat = [
        part
        for part, folder in folders.items()
        if not (own := class_folders(folder, scan)) or [names_of.part_of(name) for name in own] == [part]
    ]
    if flat:
        raise DataError(_no_class_folders(seen, scan, folders, flat))
    for folder in folders.values():
        check_task(folder, scan)
    places = {}
    for part, folder in folders.items():
        inner = below_images({name: folder / name for name in class_folders(folder, scan)}, scan)
        places[part], more = inner
        findings = [*findings, *more]
    findings = [*findings, *read_as_classes(in_order(places["train"]))]
    return Reading(seen.path, places, folders, tuple(findings))


def _no_class_folders(seen: Seen, scan: Scan, folders: Mapping[str, Path], flat: Sequence[str]) -> str:
    """The message for parts that hold images but no class folders."""
    first = folders["train" if "train" in flat else flat[0]]
    said = f"no class folders in {one_line(str(first))}"
    if "train" not in flat:
        leave = f"for {one_line(folders['train'].name)}/ alone type dataset={typed(folders['train'])}"
        return f"{said}: its images have no labels; {NO_CLASSES}, or add a table with their labels; {leave}"
    names = [f"{one_line(folder.name)}/" for folder in (first, *folders.values())]
    return f"{said}{not_classes(list(dict.fromkeys(names)))}{what_instead(first, seen, scan)}"


def of_train_alone(seen: Seen, scan: Scan) -> Reading | None:
    """train/ with class folders beside folders that are no parts: unlabeled images, or more data of another kind."""
    if "train" not in seen.parts or len(seen.parts) > 1:
        return None
    name = seen.parts["train"][0]
    folder = unwrapped(seen.path / name, scan)
    inside, others = class_folders(folder, scan), [one for one in seen.folders if one != name]
    is_flat = {one: not class_folders(seen.path / one, scan) for one in others}
    unlabeled = [one for one in others if names_of.without_part(one) in names_of.UNLABELED]
    if not inside or see(folder, scan).images:
        if len(unlabeled) == len(others):
            raise DataError(_no_class_folders(seen, scan, {"train": folder}, ["train"]))
        return None  # a class that is called train
    same = [one for one in others if {*class_folders(seen.path / one, scan)} & {*inside}]
    beside = f"{listing([f'{one}/' for one in others], 3)} beside {name}/"
    alone = f"for {name}/ alone type dataset={typed(seen.path / name)}"
    if same:
        rename = f"rename {same[0]}/ to test/ or val/ to use it as that part"
        raise ask(seen, f"{same[0]}/ beside {name}/ holds the same class folders", rename, alone, as_flat(seen))
    if len(unlabeled) == len(others) or (len(others) == 1 and is_flat[others[0]]):
        text = f"classes from {name}/; not used: {beside}"
        finding = Finding("not_used", "warning", text, len(others), tuple(others[:5]), f"{FLAT} makes them classes")
        return _from_parts(seen, scan, {"train": seen.path / name}, [finding])
    raise ask(seen, f"is {name}/ a part or a class? There is {beside}", alone, as_flat(seen))


def of_parts_without_train(seen: Seen, scan: Scan) -> Reading | None:
    """val/ or test/ without train/: parts without images to train on, or strangers among class folders."""
    if not seen.parts or "train" in seen.parts:
        return None
    named = [name for several in seen.parts.values() for name in several]
    if len(named) == len(seen.folders):
        if not class_folders(unwrapped(seen.path / named[0], scan), scan):
            folders = {part: seen.path / several[0] for part, several in seen.parts.items()}
            first = folders[next(iter(folders))]
            names = not_classes([f"{one_line(name)}/" for name in named])
            raise DataError(f"no class folders in {one_line(str(first))}{names}{what_instead(first, seen, scan)}")
        ways = [f"for {name}/ type dataset={typed(seen.path / name)}" for name in named[:3]]
        raise ask(seen, f"{listing([f'{name}/' for name in named])} and no train/", *ways)
    rest = [name for name in seen.folders if name not in named]
    away = f"for {listing(rest, 4)} alone move {named[0]}/ out of the folder"
    train = f"to make it a part, move the class folders into {typed(seen.path / 'train')}"
    what = f"is {named[0]}/ a class or a part? It is beside {listing(rest, 4)}"
    raise ask(seen, what, away, train, as_flat(seen))


def of_classes_first(seen: Seen, scan: Scan) -> Reading | None:
    """A folder for each class, and train/ and test/ in each of them."""
    below = {name: see(seen.path / name, scan) for name in seen.folders}
    split = [name for name, one in below.items() if _is_split(one)]
    if not split:
        return None
    if len(split) < len(below) or any(one.images for one in below.values()):
        odd = [name for name, one in below.items() if name not in split or one.images]
        what = f"{split[0]}/ is split into {listing(below[split[0]].folders)}, but {listing(odd)} is not"
        raise ask(seen, what, "split all class folders", f"to pool what is below each of them add {FLAT}")
    if any(class_folders(seen.path / name / inner, scan) for name in split for inner in below[name].folders[:1]):
        return None  # folds, each with its parts and class folders
    places: dict[str, dict[str, Path]] = {}
    for name, one in below.items():
        for inner in one.folders:
            own = places.setdefault(names_of.part_word_in(inner) or "", {})
            if name in own:
                raise DataError(f"both {own[name].name} and {inner} are in {one.path}; keep one of them")
            own[name] = one.path / inner
    which = listing(sorted({inner for one in below.values() for inner in one.folders}))
    finding = Finding("parts", "note", f"parts from the folders {which} in each class folder", len(places))
    homes = dict.fromkeys(places, seen.path)
    more = [one for inner in below.values() for one in stray_findings(inner, scan, RENAME)]
    parts = {part: places[part] for part in names_of.PART_WORDS if part in places}
    return Reading(seen.path, parts, homes, (finding, *more))


def _is_split(one: Seen) -> bool:
    """Whether all folders in it are parts, train among them."""
    parts = {names_of.part_word_in(name) for name in one.folders}
    return "train" in parts and len(parts) > 1 and None not in parts
