"""Folders of pictures that are no classes, beside class folders or below them: thumbnails, plots, what was set aside.

The tables of names are in layout_names.py. Where a name alone does not tell, the contents do.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from imgcls.data.datasets.folders import layout_names as names_of
from imgcls.data.datasets.folders.scan import Listing, Scan
from imgcls.data.findings import Finding, Severity
from imgcls.text import listing, one_line

MOSTLY = 0.6  # of the pictures: their names repeat those beside the folder, or are those of plots
SIZE_WORDS = re.compile(
    r"^(thumb(nail)?|small|tn|preview|mask)[_\-.]|[_\-.](thumb(nail)?|small|tn|preview|masks?|gt|seg|\d+x\d+)$", re.I
)
MASKS = "masks of those beside them"
ASKED = (names_of.RESULTS, names_of.REDUCED)
COPIED = "copies of those beside"
MOST_TYPED = 12  # names of classes in an advice
MARKED = ("_", "!", "~", "#", "-")  # first characters of folders that people put out of the way


def strays_in(path: Path, names: Sequence[str], scan: Scan) -> dict[str, str]:
    """Those of the folders in it that are no classes, {name: what it holds}.

    Empty if the others would be too few for a data set: then all of them are classes.
    """
    has_train = any(names_of.part_of(name) == "train" for name in names)  # then unlabeled images may be beside it
    own = [name for name in names if not (has_train and names_of.without_part(name) in names_of.UNLABELED)]
    found = {name: kind for name in own if (kind := _kind_beside(path, name, names, scan))}
    rest = [name for name in names if name not in found]
    if len(rest) > 1 or (rest and _holds_classes(path, rest[0], scan)):
        return found
    return {}


def _holds_classes(path: Path, name: str, scan: Scan) -> bool:
    """Whether the only other folder is more than one class, or the pictures themselves."""
    is_whole = names_of.is_image_folder(name) or names_of.without_part(name) in names_of.ORIGINALS
    return is_whole or names_of.part_of(name) == "train" or bool(scan.subfolders(path / name))


def _kind_beside(path: Path, name: str, names: Collection[str], scan: Scan) -> str | None:
    """What the folder among class folders holds if it is no class, by its name and contents; else None."""
    if kind := names_of.kind_in(name, names_of.NO_CLASSES):
        return kind
    if "".join(names_of.words_of(name)) in names_of.UNNAMED:
        return names_of.ASIDE
    kind = names_of.kind_in(name, names_of.MAY_BE_CLASSES)
    is_mask = len(names) > 2 and not names_of.MASK_WORDS.isdisjoint(names_of.words_of(name))
    if not (kind or is_mask):
        return None
    others = [one for one in names if one != name]
    if is_mask and _repeats_folders(path, name, others, scan):
        return MASKS
    if not kind:
        return None
    if name.startswith(MARKED) and not all(one.startswith(MARKED) for one in names):
        return kind
    if kind == names_of.RESULTS:
        return kind if _is_of_results(path / name, scan) else None
    if kind == names_of.REDUCED:
        return kind if _repeats_folders(path, name, others, scan) else None
    return None


def _is_of_results(folder: Path, scan: Scan) -> bool:
    """Whether the pictures are named like plots, or lie beside what else a training leaves."""
    pictures = 0
    plots = 0
    for here in map(scan.look, scan.walk(folder)):
        if any(names_of.RESULT_FILES.fullmatch(name.lower()) for name in here.others):
            return True
        pictures += len(here.images)
        plots += sum(not names_of.PLOT_WORDS.isdisjoint(names_of.words_of(name)) for name in here.images)
    return plots >= MOSTLY * pictures > 0


def _repeats_folders(path: Path, name: str, others: Sequence[str], scan: Scan) -> bool:
    """Whether it holds the other folders again, or those in one of them, or pictures named like theirs.

    Among several folders numbers are no names.
    """
    if inner := {*scan.subfolders(path / name)}:
        return inner <= {*others} or any(inner <= {*scan.subfolders(path / one)} for one in others)
    beside = {_stem(one) for other in others for here in map(scan.look, scan.walk(path / other)) for one in here.images}
    stems = map(_stem, scan.look(path / name).images)
    own = [stem for stem in stems if len(others) == 1 or not stem.isdecimal()]
    return sum(stem in beside for stem in own) >= MOSTLY * len(own) > 0


def _stem(name: str) -> str:
    """The file's name without its suffix, and without what says that it is a reduced copy."""
    return SIZE_WORDS.sub("", os.path.splitext(name)[0].lower())


def may_be_strays(names: Sequence[str]) -> list[str]:
    """Those of the names that are as likely those of results as of classes, in a data set of other classes."""
    found = [name for name in names if names_of.kind_in(name, names_of.MAY_BE_CLASSES) in ASKED]
    rest = [name for name in names if name not in found]
    is_of_documents = any(names_of.without_fillers(name) in names_of.DOCUMENT_CLASSES for name in rest)
    return [] if len(rest) < 2 or is_of_documents else found


def read_as_classes(names: Sequence[str]) -> list[Finding]:
    """A note on classes that have the names of what is no class elsewhere, beside several others."""
    asked = may_be_strays(names)
    aside = [name for name in names if names_of.kind_in(name, names_of.MAY_BE_CLASSES) == names_of.ASIDE]
    seldom = names_of.BACKGROUNDS | names_of.SELDOM_CLASSES
    marked = [name for name in names if name.startswith(MARKED) and not name[1:].isdecimal()]
    aside += [name for name in names if names_of.without_fillers(name) in seldom]
    aside = list(dict.fromkeys([*aside, *(marked if len(marked) == 1 else [])]))
    aside = aside if len(names) - len(aside) > 1 else []
    sure = [name for name in names if names_of.kind_in(name, names_of.NO_CLASSES)]
    found = sorted({*asked, *aside, *sure})
    if not found:
        return []
    verb = "is read as a class" if len(found) == 1 else "are read as classes"
    rest = [one_line(name) for name in names if name not in found]
    is_short = 1 < len(rest) <= MOST_TYPED
    advice = f"the others alone: 'dataset.classes=[{','.join(rest)}]'" if is_short else ""
    text = f"{listing([f'{one_line(name)}/' for name in found])} {verb}"
    return [Finding("parts", "note", text, len(found), tuple(found[:5]), advice)]


def not_used(base: Path, folders: Mapping[Path, str], scan: Scan, advice: str) -> list[Finding]:
    """What to say about folders that are passed over, {folder: what it holds}."""
    found = []
    for kind in sorted({*folders.values()}):
        own = [folder for folder, one in folders.items() if one == kind]
        names = [f"{one_line(os.path.relpath(folder, base))}/" for folder in own]
        count = sum(len(here.images) for folder in own for here in map(scan.look, scan.walk(folder)))
        images = f"{count:,} image{'s' * (count > 1)}" if count else "no images"
        text = f"not used: {listing(names, 4)} ({images}, {kind} by their names)"
        severity: Severity = "warning" if count and kind != names_of.REDUCED else "note"
        found.append(Finding("not_used", severity, text, count, tuple(names[:5]), advice if count else ""))
    return found


def strays_below(places: Iterable[Path], scan: Scan) -> tuple[dict[Path, str], dict[Path, str]]:
    """Folders below those of classes that hold no pictures of these, and those that may: {folder: what it holds}."""
    sure: dict[Path, str] = {}
    doubtful: dict[Path, str] = {}
    waiting = list(map(str, places))  # there may be many: text is faster than paths
    while waiting:
        folder = waiting.pop(0)
        inner = {name: os.path.join(folder, name) for name in scan.subfolders(folder)}
        here = {
            one: kind
            for name, one in inner.items()
            if (kind := _kind_below(name, scan.look(folder), scan.look(one), one, scan)) and scan.has_images(one)
        }
        rest = {name: one for name, one in inner.items() if one not in here}
        if here and (scan.look(folder).images or any(map(scan.has_images, rest.values()))):
            sure |= {Path(one): kind for one, kind in here.items()}
        for name, one in rest.items():
            if kind := names_of.kind_in(name, names_of.MAY_BE_CLASSES):
                doubtful[Path(one)] = kind
        waiting[:0] = [one for one in rest.values() if not scan.is_link(one)]
    return sure, doubtful


def _kind_below(name: str, parent: Listing, own: Listing, folder: str, scan: Scan) -> str | None:
    """What the folder below that of a class holds if these are no pictures of the class; else None."""
    kind = names_of.kind_in(name, names_of.MAY_BE_CLASSES)
    if kind == names_of.RESULTS and not name.startswith(MARKED) and not _is_of_results(Path(folder), scan):
        return None
    if kind == names_of.ASIDE and not name.startswith(MARKED) and not parent.images:
        return None  # one of several sub-categories
    if kind or (kind := names_of.kind_in(name, names_of.NO_CLASSES)):
        return kind
    if own.images and names_of.without_part(name) in names_of.COPIES:
        stems = {_stem(one) for one in parent.images}
        return COPIED if sum(_stem(one) in stems for one in own.images) >= MOSTLY * len(own.images) else None
    return None


def below_classes(base: Path, places: Iterable[Path], scan: Scan, advice: str) -> list[Finding]:
    """Passes over what is no picture of a class below its folder, and says so; and what is pooled in doubt."""
    sure, doubtful = strays_below(places, scan)
    found = not_used(base, sure, scan, advice)
    scan.left_out |= {str(folder) for folder in sure}
    pooled = [folder for folder in doubtful if scan.has_images(folder)]
    if pooled:
        names = [f"{one_line(os.path.relpath(folder, base))}/" for folder in pooled]
        text = f"used with their classes: {listing(names, 4)}"
        advice = "move out what is no picture of the class"
        found.append(Finding("pooled", "warning", text, len(pooled), tuple(names[:5]), advice))
    return found


def companions(base: Path, places: Iterable[Path], scan: Scan, advice: str) -> list[Finding]:
    """Passes over masks, thumbnails and the like of the pictures beside them, and says so.

    Where only a few pictures have one, these are used as well, with a warning.
    """
    sure: list[str] = []
    doubtful: list[str] = []
    twice: list[str] = []
    for folder in itertools.chain.from_iterable(map(scan.walk, places)):
        images = scan.look(folder).images
        if _are_formats(images):
            twice.append(os.path.join(folder, images[0]))
        if not names_of.MADE_WORD.search("\n".join(images)):  # most folders: a match for each name takes its time
            continue
        of = {name: one for name in images if (one := _companion_of(name))}
        stems = {names_of.PLAIN_WORD.sub("", os.path.splitext(name)[0].lower()) for name in images if name not in of}
        found = [name for name, one in of.items() if one in stems]
        is_most = len({of[name] for name in found}) >= MOSTLY * (len(images) - len(found))
        (sure if is_most else doubtful).extend(os.path.join(folder, name) for name in found)
    scan.left_out |= {*sure}
    out = "move out what is no picture of the class"
    more = [
        _of_companions("not_used", "not used", sure, base, advice),
        _of_companions("pooled", "used with their classes", doubtful, base, out),
    ]
    if twice:
        folders = f"{len(twice):,} folder{'s' * (len(twice) > 1)}"
        shown = one_line(os.path.relpath(twice[0], base))
        text = f"most images in {folders} differ from another one only in the suffix of their names ({shown})"
        text += ": copies may be in two parts"
        more.append(Finding("copies", "warning", text, len(twice), (), "keep one format"))
    return [one for one in more if one is not None]


def _are_formats(images: Sequence[str]) -> bool:
    """Whether most of the names come twice, with different suffixes."""
    if len({name.rpartition(".")[2] for name in images}) < 2:
        return False
    counts = Counter(name.rpartition(".")[0].lower() for name in images)
    return sum(count > 1 for count in counts.values()) >= MOSTLY * len(counts) > 1


def _of_companions(kind: str, verb: str, own: Sequence[str], base: Path, advice: str) -> Finding | None:
    if not own:
        return None
    shown = one_line(os.path.relpath(own[0], base))
    images = f"{len(own):,} image{'s' * (len(own) > 1)}"
    text = f"{verb}: {images} named like masks or copies of those beside them ({shown})"
    return Finding(kind, "warning", text, len(own), (), advice)


def _companion_of(name: str) -> str | None:
    """The stem of the picture that one of this name is made of: a for a_mask.png; None if it does not say so."""
    if names_of.PHOTO_OF_LABEL.fullmatch(name):
        return None
    found = names_of.COMPANION.fullmatch(os.path.splitext(name)[0])
    return names_of.PLAIN_WORD.sub("", (found["of"] or found["from"]).lower()) if found else None
