"""Problems with the classes: empty, tiny, of names that look alike."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from imgcls.data.findings import Finding
from imgcls.data.inspection.problem import Problem
from imgcls.data.source import Indices, Source
from imgcls.text import listing, one_line

FEW = 10  # pictures of a class


def find(source: Source, places: Sequence[str]) -> list[Problem]:
    """places: the split of each picture in training, empty if it is not used."""
    labels = np.concatenate([images.labels for images in source.parts.values()])
    here = {
        part: np.bincount(labels[np.array(places) == part], minlength=len(source.classes))
        for part in ("train", "val", "test")
    }
    counts = np.bincount(labels, minlength=len(source.classes))
    found = [_alike(source.classes)]
    empty = [name for name, count in zip(source.classes, counts, strict=True) if not count]
    found.append(
        Finding("empty_class", "warning", _text(empty, "without a single image"), len(empty), tuple(empty))
        if empty
        else None
    )
    found += [_tiny(source, counts, here["test"]), _absent(source, counts)]
    return [Problem(one) for one in found if one is not None]


def _text(names: Sequence[str], what: str) -> str:
    return f"{len(names):,} class{'es' * (len(names) != 1)} {what} ({listing(names)})"


def _tiny(source: Source, counts: Indices, tested: Indices) -> Finding | None:
    """Classes of few pictures; a warning if there is one that the test has no picture of."""
    tiny = np.flatnonzero((counts > 0) & (counts < FEW)).tolist()
    if not tiny:
        return None
    lost = [one_line(source.classes[i]) for i in tiny if not tested[i]]
    names = [f"{one_line(source.classes[i])}: {int(counts[i])}" for i in tiny]
    advice = "add some, or leave them out with dataset.classes"
    if lost:
        advice = f"the test has no image of {listing(lost)}; {advice}"
    text = _text(names, f"of fewer than {FEW} images")
    return Finding("tiny_class", "warning" if lost else "note", text, len(tiny), tuple(names), advice)


def _absent(source: Source, counts: Indices) -> Finding | None:
    """Classes that a split of the data set's own has no picture of."""
    absent = [
        f"{one_line(name)} in {part}"
        for part, images in source.parts.items()
        for name, count in zip(source.classes, np.bincount(images.labels, minlength=len(source.classes)), strict=True)
        if not count and counts[source.classes.index(name)] >= FEW
    ]
    if not absent:
        return None
    text = f"no image of {listing(absent)}"
    return Finding("empty_class", "warning", text, len(absent), tuple(absent), "its figures there say nothing")


def _alike(classes: Sequence[str]) -> Finding | None:
    """Classes whose names differ only in case, blanks, dashes or Unicode normalization."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        plain = unicodedata.normalize("NFKC", name).casefold()
        plain = re.sub(r"[\s\u200b-\u200d]+", " ", plain).strip()
        groups[re.sub(r"(?<=\w)[\s_\-]+(?=\w)", "", plain) or name].append(name)  # A- is not A
    alike = [names for names in groups.values() if len(names) > 1]
    if not alike:
        return None
    names = tuple(" = ".join(f"{name!a}" for name in names) for names in alike)
    text = f"classes whose names look alike: {', '.join(names[:5])}"
    old, new = alike[0][1], alike[0][0]
    return Finding("alike_names", "warning", text, len(alike), names, f"one class? dataset.rename={{{old}: {new}}}")
