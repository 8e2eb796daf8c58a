"""The report on a data set: counts, and everything that was found, each with its pictures."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imgcls.data.datamodule import DataSpec, cut
from imgcls.data.findings import Finding
from imgcls.data.inspection import classes as of_classes
from imgcls.data.inspection import copies as of_copies
from imgcls.data.inspection import looks as of_looks
from imgcls.data.inspection.pictures import Pictures, look_at
from imgcls.data.inspection.problem import Problem
from imgcls.data.source import Images, Source
from imgcls.data.splits import Splits
from imgcls.errors import ConfigError, DataError

OF_COPIES = ("duplicate", "near_duplicate", "leak", "label_conflict")
SEVERITIES = ("error", "warning", "note")
MOST_EXAMPLES = 20
# fmt: off
KINDS = (  # of what readers say in words alone
    ("leak", r"\b(is|are) in both\b"),
    ("alike_names", r"differ only in case|alike"),
    ("broken", r"^left out: |corrupt file|not a readable image"),
    ("empty_class", r"has no folder for|no images in the class folder|no images of class"),
    ("not_used", r"^ignored\b|not used"),
    ("other_task", r"other task|segmentation|detection|estimation|counting|captioning|super-resolution|restoration"),
)
# fmt: on


@dataclass(frozen=True)
class Inspection:
    """What was found. **Attributes:**

    - problems: the most severe first. pictures: all that were read, None if the data set's reader refused it.
    - report: for --json; ``classes`` and ``parts`` count images, ``class_parts`` both, ``sizes`` in pixels, the most
      frequent first, ``gray`` and ``color`` the pictures that can be read, ``findings`` the problems.
    """

    problems: tuple[Problem, ...]
    pictures: Pictures | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        """How many problems are that severe."""
        return sum(one.finding.severity == severity for one in self.problems)


def inspect_source(source: Source, spec: DataSpec) -> Inspection:
    """Read every picture of the data set once and look for problems, as training would cut it."""
    pictures = look_at(source)
    problems = [Problem(one) for one in _of_reader(source)]
    splits, found = _cut(source, spec)
    problems += found
    told = {one.finding.kind for one in problems}
    places = _places(source, splits)
    problems += of_looks.find(pictures, spec.options, own_files=source.train.paths is not None)
    problems += of_copies.find(pictures, places)
    problems += [one for one in of_classes.find(source, places) if one.finding.kind not in told]
    return _inspection(problems, pictures, source)


def without_source(error: DataError) -> Inspection:
    """What is left to say of a data set that its reader refused."""
    kind = error.kind or ("error" if str(error).startswith("no such") else _kind(str(error)) or "error")
    return _inspection([Problem(Finding(kind, "error", str(error)))], None, None)


def _inspection(problems: list[Problem], pictures: Pictures | None, source: Source | None) -> Inspection:
    ordered = sorted(problems, key=lambda one: SEVERITIES.index(one.finding.severity))
    return Inspection(tuple(ordered), pictures, _counts(source, pictures) | {"findings": list(map(_plain, ordered))})


def _plain(problem: Problem) -> dict[str, Any]:
    found = problem.finding
    return {
        "kind": found.kind,
        "severity": found.severity,
        "count": found.count,
        "text": found.text,
        "examples": list(found.examples[:MOST_EXAMPLES]),
        "advice": found.advice,
    }


def _counts(source: Source | None, pictures: Pictures | None) -> dict[str, Any]:
    if source is None or pictures is None:
        return {"classes": {}, "parts": {}, "class_parts": {}, "sizes": [], "gray": 0, "color": 0}
    fine = [one for one in pictures.facts if one.digest]
    sizes = Counter((one.width, one.height) for one in fine)
    by_part = {part: np.bincount(one.labels, minlength=len(source.classes)) for part, one in source.parts.items()}
    gray = sum(one.is_gray for one in fine)
    return {
        "classes": {name: sum(int(one[i]) for one in by_part.values()) for i, name in enumerate(source.classes)},
        "parts": {part: len(one) for part, one in source.parts.items()},
        "class_parts": {
            name: {part: int(one[i]) for part, one in by_part.items()} for i, name in enumerate(source.classes)
        },
        "sizes": [{"width": w, "height": h, "images": count} for (w, h), count in sizes.most_common()],
        "gray": gray,
        "color": len(fine) - gray,
    }


def _of_reader(source: Source) -> list[Finding]:
    """What the data set's reader saw: its findings, and its notes and warnings in words."""
    lines = {one.line for one in source.findings}
    said = [Finding(_kind(text) or "reader", "warning", text) for text in source.warnings if text not in lines]
    noted = [Finding(_kind(text) or "reader", "note", " ".join(text.split())) for text in source.notes]
    return [*said, *noted, *source.findings]


def _kind(text: str) -> str:
    return next((kind for kind, words in KINDS if re.search(words, text)), "")


def _cut(source: Source, spec: DataSpec) -> tuple[Splits | None, list[Problem]]:
    """The splits that training would use, and what it would say of them but for copies; or why there are none."""
    try:
        splits, found = cut(source, spec)
        return splits, [Problem(one) for one in found if one.kind not in OF_COPIES]
    except (ConfigError, DataError) as error:
        return None, [Problem(Finding("too_few", "error", str(error)))]


def _places(source: Source, splits: Splits | None) -> list[str]:
    """For each picture the split that training has it in, empty if in none; val only if it is the data set's own."""
    if splits is None:
        return [part for part, images in source.parts.items() for _ in range(len(images))]
    found: dict[Any, str] = {}
    for part, images in splits.parts.items():
        if images is not None:
            name = "train" if part == "val" and source.val is None else part
            found |= dict.fromkeys(_identities(images), name)
    return [found.get(one, "") for images in source.parts.values() for one in _identities(images)]


def _identities(images: Images) -> list[Any]:
    """Something that is equal for the same picture in a data set and in its splits only."""
    if images.paths is not None:
        return list(images.paths)
    rows = range(len(images)) if images.rows is None else images.rows.tolist()
    return [(id(images.whole), row) for row in rows]
