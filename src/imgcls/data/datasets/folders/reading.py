"""How a folder of images is read, as a value; and the errors for one that cannot be read, or only after a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgcls.data.datasets.folders import layout_names as names_of
from imgcls.data.datasets.folders.description import Seen, see
from imgcls.data.datasets.folders.other_tasks import has_class_folders, task_in
from imgcls.data.datasets.folders.places import typed
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.findings import Finding
from imgcls.data.source import in_order
from imgcls.errors import DataError
from imgcls.text import listing, one_line

Places = Mapping[str, Path]  # of the classes: the folder of each, by its name
FLAT = "dataset.layout=flat"
RENAME = "rename the folder to use it"
NO_CLASSES = "put the images into one folder for each class"


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
    def classes(self) -> tuple[str, ...]:
        """The names of the folders of train's classes, in the order of the labels."""
        return in_order(self.parts["train"])


def ask(seen: Seen, what: str, *choices: str) -> DataError:
    """Two readings are likely: what was seen, and what to type for each."""
    return DataError(f"{one_line(str(seen.path))}: {what}; {', or '.join(choices)}")


def as_flat(seen: Seen) -> str:
    return f"for the classes {listing(seen.folders, 4)} add {FLAT}"


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


def not_classes(names: Sequence[str]) -> str:
    """' (train/, test1/ are parts, not classes)'; empty for a single train/."""
    if len(names) == 1:
        return "" if names_of.part_of(names[0]) == "train" else f" ({names[0]} is a part, not a class)"
    return f" ({', '.join(names)} are parts, not classes)"


def what_instead(folder: Path, seen: Seen, scan: Scan) -> str:
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


def is_image_or_target(name: str) -> bool:
    return names_of.is_image_folder(name) or names_of.task_of_target(name) is not None


def below_images(places: dict[str, Path], scan: Scan) -> tuple[dict[str, Path], list[Finding]]:
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
