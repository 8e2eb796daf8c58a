"""What a folder of images looks like, as a value, and how it is read: which folders are classes, which are parts.

``see`` describes, ``reading_of`` decides. A decision that another reading could rival is a DataError that names both,
and what to type for each: ``dataset.layout=flat`` always means that every folder is a class.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgcls.data.datasets.folders import layout_names as names_of
from imgcls.data.datasets.folders.other_tasks import has_class_folders, task_in
from imgcls.data.datasets.folders.places import typed, unpack
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.datasets.folders.strays import MOST_TYPED, may_be_strays, not_used, read_as_classes, strays_in
from imgcls.data.findings import Finding
from imgcls.errors import DataError
from imgcls.text import listing, one_line

Places = Mapping[str, Path]  # of the classes: the folder of each, by its name
DATES = re.compile(r"(19|20)\d\d([-_.]?\d\d){0,2}")
MOST_FOLDS = 20  # more folders than that are classes, whatever the names below them
MOSTLY = 0.6  # of the names below: these sub-folders are the same everywhere
FLAT = "dataset.layout=flat"
RENAME = "rename the folder to use it"
NO_CLASSES = "put the images into one folder for each class"


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


@dataclass(frozen=True)
class Reading:
    """How a folder is read: for each part the folder of each of its classes.

    base: the folder that the names of the images are relative to. homes: the folder of each part. findings: what was
    decided, and what is not used.
    """

    base: Path
    parts: Mapping[str, Places]
    homes: Mapping[str, Path]
    findings: tuple[Finding, ...] = ()

    @property
    def classes(self) -> list[str]:
        """The names of the folders of train's classes, in the order of the labels."""
        return in_order(self.parts["train"])


def in_order(names: Collection[str]) -> list[str]:
    """The names of classes, sorted: as text, or by value if all of them are whole numbers."""
    if all(name.isdecimal() and name.isascii() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def see(path: Path, scan: Scan) -> Seen:
    """The description of the folder."""
    if (known := scan.described.get(str(path))) is None:
        known = scan.described[str(path)] = _described(path, scan)
    assert isinstance(known, Seen)
    return known


def _described(path: Path, scan: Scan) -> Seen:
    here = scan.look(path)
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
    if len(seen.folders) != 1 or seen.images or names_of.part_of(seen.folders[0]) == "train":
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


def reading_of(path: Path, scan: Scan, *, is_flat: bool = False) -> Reading:
    """How the folder is read. Raises DataError where there are no classes, or two readings are likely.

    is_flat: every folder in it is a class, whatever it looks like.
    """
    seen = see(path, scan)
    if is_flat:
        return _as_classes(seen, scan, is_flat=True)
    rules: tuple[Callable[[Seen, Scan], Reading | None], ...] = (
        _of_parts, _of_train_alone, _of_parts_without_train, _of_classes_first, _of_repeated_names, _of_copies,
        _of_doubtful,
    )  # fmt: skip
    for rule in rules:
        if (found := rule(seen, scan)) is not None:
            return found
    return _as_classes(seen, scan)


def _of_copies(seen: Seen, scan: Scan) -> None:
    """Raises DataError for a folder that is a copy of a class beside it, or holds folders named like these."""
    names = {name.lower(): name for name in seen.folders}
    for name in (one for one in seen.folders if not os.path.islink(seen.path / one)):
        match = names_of.COPY_OF.fullmatch(name.lower())
        original = names.get((match["a"] or match["b"]).strip()) if match else None
        inside = [one for one in class_folders(seen.path / name, scan) if one.lower() in names and one != name]
        if original is None and not inside:
            continue
        what = f"{name}/ looks like a copy of {original}/" if original else f"{name}/ holds {listing(inside, 3)} again"
        others = ",".join(one for one in seen.folders if one != name)
        raise ask(seen, what, f"for the other classes add {FLAT} 'dataset.classes=[{others}]'", _flat(seen))


def _of_doubtful(seen: Seen, scan: Scan) -> None:
    """Raises DataError for folders that may hold plots or thumbnails, beside others that are classes."""
    if not (found := may_be_strays(seen.folders)):
        return
    names = listing([f"{one_line(name)}/" for name in found])
    which = f"is {names} a class" if len(found) == 1 else f"are {names} classes"
    rest = [one_line(name) for name in seen.folders if name not in found]
    others = (
        f"add {FLAT} 'dataset.classes=[{','.join(rest)}]'" if len(rest) <= MOST_TYPED else "move it out of the folder"
    )
    what = f"{which}, or pictures of another kind (results, thumbnails)?"
    raise ask(seen, what, f"for the other classes {others}", _flat(seen))


def ask(seen: Seen, what: str, *choices: str) -> DataError:
    """Two readings are likely: what was seen, and what to type for each."""
    return DataError(f"{one_line(str(seen.path))}: {what}; {', or '.join(choices)}")


def check_task(path: Path, scan: Scan) -> None:
    """Raises DataError if the folder looks like a data set of another task; with a way out if there are classes."""
    if not (task := task_in(path, scan)):
        return
    seen = see(path, scan)
    folder = next((name for name in seen.folders if names_of.is_image_folder(name)), None)
    has_classes = folder is not None and has_class_folders(seen.path / folder, scan)
    ways = [f"for the class folders in {folder}/ type dataset={typed(seen.path / str(folder))}"] if has_classes else []
    flat = [f"if its folders are the classes, {FLAT}"] if len(seen.folders) > 1 else []
    no_way = ["a classifier needs a folder for each class, or a table with a path and a label in each row"]
    error = DataError(f"{one_line(str(seen.path))}: {task}; {', or '.join([*ways, *flat] or no_way)}")
    error.kind = "other_task"
    raise error


# --- train/, val/ and test/ -------------------------------------------------------------------------------------------


def _of_parts(seen: Seen, scan: Scan) -> Reading | None:
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
    flat = [part for part, folder in folders.items() if not class_folders(folder, scan)]
    if flat:
        raise DataError(_no_class_folders(seen, scan, folders, flat))
    for folder in folders.values():
        check_task(folder, scan)
    places = {}
    for part, folder in folders.items():
        inner = _below_images({name: folder / name for name in class_folders(folder, scan)}, scan)
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
    return f"{said}{_not_classes(list(dict.fromkeys(names)))}{_what_instead(first, seen, scan)}"


def _not_classes(names: Sequence[str]) -> str:
    """' (train/, test1/ are parts, not classes)'; empty for a single train/."""
    if len(names) == 1:
        return "" if names_of.part_of(names[0]) == "train" else f" ({names[0]} is a part, not a class)"
    return f" ({', '.join(names)} are parts, not classes)"


def _what_instead(folder: Path, seen: Seen, scan: Scan) -> str:
    """What to do about images without class folders: what the folder looks like, what its names say."""
    if task := task_in(folder, scan, has_classes=False) or task_in(seen.path, scan, has_classes=False):
        return f"; {task}"
    if target := next((name for name in seen.support if names_of.task_of_target(name)), None):
        return f"; {target}/ beside {one_line(folder.name)}/ looks like {names_of.task_of_target(target)}"
    images = scan.look(folder).images
    prefixes = sorted({match[1] for name in images if (match := names_of.CLASS_IN_NAME.fullmatch(name))})
    tables = [typed(place / name) for place in dict.fromkeys((folder, seen.path)) for name in see(place, scan).tables]
    table = f"type dataset={tables[0]} dataset.images={typed(folder)}" if tables else ""
    ignored = "" if images else scan.ignored_there(folder)
    advice = f"{ignored}; {table or 'give a table with a path and a label in each row'}, or {NO_CLASSES}"
    if 2 <= len(prefixes) < max(3, len(images) / 2):
        names = f"the names of the images seem to say the class ({listing(prefixes, 3)}: {one_line(images[0])})"
        return f"; {names}{advice}"
    return advice


def _of_train_alone(seen: Seen, scan: Scan) -> Reading | None:
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
        raise ask(seen, f"{same[0]}/ beside {name}/ holds the same class folders", rename, alone, _flat(seen))
    if len(unlabeled) == len(others) or (len(others) == 1 and is_flat[others[0]]):
        text = f"classes from {name}/; not used: {beside}"
        finding = Finding("not_used", "warning", text, len(others), tuple(others[:5]), f"{FLAT} makes them classes")
        return _from_parts(seen, scan, {"train": seen.path / name}, [finding])
    raise ask(seen, f"is {name}/ a part or a class? There is {beside}", alone, _flat(seen))


def _flat(seen: Seen) -> str:
    return f"for the classes {listing(seen.folders, 4)} add {FLAT}"


def _of_parts_without_train(seen: Seen, scan: Scan) -> Reading | None:
    """val/ or test/ without train/: parts without images to train on, or strangers among class folders."""
    if not seen.parts or ("train" in seen.parts and len(seen.parts) > 1):
        return None
    named = [name for several in seen.parts.values() for name in several]
    if "train" in seen.parts:  # beside flat folders, see _of_train_alone
        return None
    if len(named) == len(seen.folders):
        if not class_folders(unwrapped(seen.path / named[0], scan), scan):
            folders = {part: seen.path / several[0] for part, several in seen.parts.items()}
            first = folders[next(iter(folders))]
            names = _not_classes([f"{one_line(name)}/" for name in named])
            raise DataError(f"no class folders in {one_line(str(first))}{names}{_what_instead(first, seen, scan)}")
        ways = [f"for {name}/ type dataset={typed(seen.path / name)}" for name in named[:3]]
        raise ask(seen, f"{listing([f'{name}/' for name in named])} and no train/", *ways)
    rest = [name for name in seen.folders if name not in named]
    away = f"for {listing(rest, 4)} alone move {named[0]}/ out of the folder"
    train = f"to make it a part, move the class folders into {typed(seen.path / 'train')}"
    what = f"is {named[0]}/ a class or a part? It is beside {listing(rest, 4)}"
    raise ask(seen, what, away, train, _flat(seen))


# --- other orders of folders ------------------------------------------------------------------------------------------


def _inside(seen: Seen, scan: Scan) -> dict[str, Seen] | None:
    """What lies in each of several folders, if none of them holds images itself; else None."""
    if len(seen.folders) < 2:
        return None
    inside = {}
    for name in seen.folders:
        inside[name] = one = see(seen.path / name, scan)
        if one.images or not one.folders:
            return None
    return inside


def _of_classes_first(seen: Seen, scan: Scan) -> Reading | None:
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
    if all(_is_image_or_target(name) for name in union) or all(DATES.fullmatch(name) for name in common):
        return None
    first = seen.folders[0]
    what = f"{listing([f'{name}/' for name in seen.folders], 4)} all hold the folders {listing(in_order([*common]), 4)}"
    if {"train", "test", "val"} & {names_of.part_of(name) for name in common}:
        what += ", parts with class folders"
    forms = all(names_of.without_part(name) in names_of.COPIES for name in seen.folders)
    kind = "the same images in several forms" if forms else "folds, sources or copies of one data set"
    one = f"to read one of them type dataset={typed(seen.path / first)}"
    raise ask(seen, f"{what}: they look like {kind}, not like classes", one, _flat(seen))


def _is_image_or_target(name: str) -> bool:
    return names_of.is_image_folder(name) or names_of.task_of_target(name) is not None


def _below_images(places: dict[str, Path], scan: Scan) -> tuple[dict[str, Path], list[Finding]]:
    """Only the images where each class folder holds images/ and masks/ or the like, and a warning that says so."""
    found: dict[str, Path] = {}
    left: set[str] = set()
    for name, folder in places.items():
        inner = scan.subfolders(folder)
        images = [one for one in inner if names_of.is_image_folder(one)]
        targets = [one for one in inner if names_of.task_of_target(one)]
        if scan.look(folder).images or len(images) != 1 or len(images) + len(targets) != len(inner) or not targets:
            return places, []
        found[name] = folder / images[0]
        left |= {*targets}
    if not found or not any(scan.has_images(places[name] / one) for name in found for one in left):
        return places, []
    shown = listing([f"{one}/" for one in sorted(left)])
    text = f"of each class folder only {next(iter(found.values())).name}/ is used, not {shown}"
    return found, [Finding("other_task", "warning", text, len(found), tuple(sorted(left)), f"{FLAT} uses all")]


def _as_classes(seen: Seen, scan: Scan, *, is_flat: bool = False) -> Reading:
    """Each folder is a class."""
    folders = sorted([*seen.folders, *seen.strays]) if is_flat else seen.folders
    if not (folders if is_flat else class_folders(seen.path, scan)):
        raise DataError(_nothing_found(seen, scan))
    places = {name: seen.path / name for name in folders}
    findings: list[Finding] = []
    if not is_flat:
        places, findings = _below_images(places, scan)
        if "train" in seen.parts:
            text = f"{seen.parts['train'][0]}/ is read as a class, as are {listing(seen.folders, 4)}"
            findings.append(Finding("parts", "note", text))
        findings += read_as_classes(folders)
        findings += _pooled(seen, scan, places)
    return Reading(seen.path, {"train": places}, {"train": seen.path}, tuple(findings))


def _pooled(seen: Seen, scan: Scan, places: Places) -> list[Finding]:
    """A note if every class folder holds several folders and no images: those may have been the classes."""
    inside = _inside(seen, scan)
    if inside is None or any(places[name] != seen.path / name for name in places):
        return []
    if any(len(one.folders) < 2 for one in inside.values()):
        return []
    name, one = next(iter(inside.items()))
    count = sum(len(one.folders) for one in inside.values())
    below = f"the {count:,} folders below them ({one_line(name)}/{one_line(one.folders[0])}, ...)"
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
    if not seen.images and not scan.suffixes(seen.path) and not seen.support:
        return f"{said}; {NO_CLASSES}"
    return f"{said}{_what_instead(seen.path, seen, scan)}"
