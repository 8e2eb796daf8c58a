"""What a person should know about the parts that were cut: classes without an image, people in both."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from imgcls.data.findings import Finding
from imgcls.data.source import Images, Source
from imgcls.data.splits import Cut, Splits
from imgcls.text import listing, one_line

SUBJECTS = (
    *("patient", "subject", "person", "participant", "donor", "case", "study", "slide", "specimen", "animal", "plant"),
    *("site", "session", "video", "scene", "clip"),
)  # of which there are several images, in file names
SUBJECT = re.compile(rf"(?:^|[/\\_.\- ])((?:{'|'.join(SUBJECTS)})[_\- ]?\d+)(?=[/\\_.\- ])", re.IGNORECASE)
LEAST_IDS, LEAST_OF_EACH = 3, 2  # ids, images of an id on average: fewer are no id


def cut_findings(source: Source, splits: Splits) -> list[Finding]:
    """Classes that have no image in a part that was cut, and file names that hold an id found in several parts."""
    cut = [one for one in splits.cuts if one.split != "train" and one.fraction is not None]
    missing = [finding for one in cut if (finding := _missing(source, splits, one)) is not None]
    sizes = [finding for one in cut if (finding := _uneven(splits, one)) is not None]
    unlearned = _unlearned(source, splits) if any(one.fold for one in cut) else []
    return [*missing, *unlearned, *sizes, *(_ids(splits, cut[0], len(source.classes)) if cut else [])]


def _unlearned(source: Source, splits: Splits) -> list[Finding]:
    """A warning for classes all of whose images are in a fold: as they are few, or of one group."""
    own, all_of = (np.bincount(one.labels, minlength=len(source.classes)) for one in (splits.train, source.train))
    absent = [source.classes[i] for i in np.flatnonzero((own == 0) & (all_of > 0))]
    if not absent:
        return []
    verb = "class has" if len(absent) == 1 else "classes have"
    text = f"{len(absent):,} {verb} no image in train, so it is not learned here: {listing(absent)}"
    return [Finding("tiny_class", "warning", text, len(absent), tuple(absent[:10]), "add images or groups of it")]


def _uneven(splits: Splits, cut: Cut) -> Finding | None:
    """A warning on a part that is much larger or smaller than was asked for, as its groups are large."""
    part = splits.parts[cut.split]
    if part is None or part.groups is None or cut.fraction is None:
        return None
    wanted = cut.total * cut.fraction
    if wanted / 2 <= cut.count <= wanted * 1.5:
        return None
    images = [*part.groups, *splits.train.groups] if splits.train.groups else part.groups
    name, most = Counter(one for one in images if one).most_common(1)[0] if any(images) else ("", 1)
    text = (
        f"{cut.split} has {cut.count:,} images, {cut.count / cut.total:.0%} in place of {cut.fraction:.0%}, as groups "
    )
    text += f"stay whole: {one_line(name)} has {most:,}"
    return Finding("group", "warning", text, cut.count, (name,), "more groups, or smaller ones, make even parts")


def _missing(source: Source, splits: Splits, cut: Cut) -> Finding | None:
    """The classes that have no image in that part, though they have some elsewhere; None if there are none."""
    part = splits.parts[cut.split]
    if part is None:
        return None
    count = len(source.classes)
    origin = [source.train] if cut.split == "test" else [splits.train, part]
    sizes = np.sum([np.bincount(one.labels, minlength=count) for one in origin], axis=0)
    absent = np.flatnonzero((np.bincount(part.labels, minlength=count) == 0) & (sizes > 0))
    if len(absent) == 0:
        return None
    names = [source.classes[i] for i in absent]
    own = sizes[absent]
    number = f"{own.min()}" if own.min() == own.max() else f"{own.min()} to {own.max()}"
    plural = "s" if own.max() > 1 else ""
    text = f"{len(names):,} of {count:,} classes {'has' if len(names) == 1 else 'have'} no image in {cut.split}"
    text += f" ({number} image{plural}{' each' if len(names) > 1 else ''}): {listing(names)}"
    severity, advice = ("warning" if cut.split == "test" and not cut.fold else "note"), ""
    if cut.fold or cut.groups:
        text += ", in this fold" if cut.fold else "; its groups are too few or too large"
    elif own.max() > 1 and cut.split == "test":
        least = int(own[own > 1].min())
        fraction = math.ceil(100 / least) / 100
        if cut.fraction is not None and fraction > cut.fraction:
            advice = f"dataset.test_fraction={fraction:g} takes one of {least}"
    elif cut.split == "test":
        advice = "a class of one image stays in train"
    return Finding("tiny_class", severity, text, len(names), tuple(names[:10]), advice)  # type: ignore[arg-type]


def _ids(splits: Splits, cut: Cut, count: int) -> list[Finding]:
    """A note on ids in the file names (patient012_03.png) that train shares with another part. count: classes."""
    train, part = _subjects(splits.train), _subjects(splits.parts[cut.split] or splits.test)
    ids = {*train, *part}
    shared = sorted(set(train) & set(part))
    is_rare = len(ids) <= max(count, LEAST_IDS - 1) or len(train) + len(part) < LEAST_OF_EACH * len(ids)
    if "" in ids or is_rare or not shared:  # as many ids as classes are the classes
        return []
    text = f"the file names hold an id, and {len(shared):,} of {len(ids):,} are in both train and {cut.split}"
    word = re.split(r"[_\- ]?\d", train[0] or part[0])[0]
    advice = f"results flatter if their images are alike: dataset.group='({word}[_ -]?\\d+)' keeps each in one part"
    return [Finding("id_column", "note", f"{text} ({listing(shared, 3)})", len(shared), tuple(shared[:10]), advice)]


def _subjects(images: Images) -> Sequence[str]:
    """The id in each file's name, '' for none."""
    if images.paths is None:
        return [""]
    return [match[1] if (match := SUBJECT.search(str(name))) else "" for name in images.ids.tolist()]
