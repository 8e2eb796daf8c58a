"""Problems with pictures that are there twice: duplicates, leaks between parts, two labels for one picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from imgcls.data.findings import Finding
from imgcls.data.inspection.groups import Groups, equal_groups, near_groups
from imgcls.data.inspection.pictures import Pictures
from imgcls.data.inspection.problem import Problem
from imgcls.text import one_line

Rows = list[tuple[int, int]]
NAMED = 20


def find(pictures: Pictures, places: Sequence[str]) -> list[Problem]:
    """places: the split of each picture in training, empty if it is not used."""
    equal = equal_groups(pictures)
    near = near_groups(pictures, equal)
    copies = {rows[0]: rows for rows in equal}
    whole = [[one for row in rows for one in copies.get(row, [row])] for rows in near]  # with all their copies
    return [
        *_conflicts(pictures, equal, "the same picture, byte for byte"),
        *_conflicts(pictures, [rows for rows in whole if not _is_one(rows, copies)], "nearly the same picture"),
        *_leaks(pictures, equal, places, "byte for byte"),
        *_leaks(pictures, near, places, "nearly the same"),
        *_surplus(pictures, equal, "duplicate"),
        *_surplus(pictures, near, "near_duplicate"),
    ]


def _is_one(rows: Sequence[int], copies: dict[int, list[int]]) -> bool:
    return rows[0] in copies and len(copies[rows[0]]) == len(rows)


def _conflicts(pictures: Pictures, groups: Groups, what: str) -> list[Problem]:
    found = [rows for rows in groups if len({pictures.label(row) for row in rows}) > 1]
    if not found:
        return []
    examples = _named([" = ".join(f"{_name(pictures, row)} ({pictures.label(row)})" for row in rows) for rows in found])
    text = f"{what} in several classes: {_times(len(found))}"
    advice = "keep each in one class (dataset.relabel) or leave it out (dataset.exclude)"
    rows = [(row, _other(pictures, row, group)) for group in found for row in group]
    return [Problem(Finding("label_conflict", "warning", text, len(found), examples, advice), tuple(rows))]


def _other(pictures: Pictures, row: int, group: Sequence[int]) -> int:
    """Another of the group with another label."""
    return next(one for one in group if pictures.label(one) != pictures.label(row))


def _leaks(pictures: Pictures, groups: Groups, places: Sequence[str], how: str) -> list[Problem]:
    """A problem for each pair of splits that share pictures."""
    problems = []
    for first, second in (("train", "test"), ("train", "val"), ("val", "test")):
        found: list[tuple[list[int], list[int]]] = []
        for rows in groups:
            sides = [[row for row in rows if places[row] == place] for place in (first, second)]
            if all(sides):
                found.append((sides[0], sides[1]))
        if not found:
            continue
        count = sum(len(right) for _, right in found)
        is_one = count == 1
        text = f"{_images(count)} of {second} {'is' if is_one else 'are'} in {first} too, {how}"
        advice = f"results on {second} are inflated; leave them out of {first} with dataset.exclude"
        names = [
            f"{first}: {_name(pictures, left[0])} = {second}: {_name(pictures, right[0])}" for left, right in found
        ]
        pairs = [(row, right[0]) for left, right in found for row in left]
        own = [pair for pair in pairs if len({pictures.parts[row] for row in pair}) > 1]  # others are duplicates, too
        finding = Finding("leak", "warning", text, count, _named(names), advice)
        problems.append(Problem(finding, tuple(own), tuple(row for pair in pairs for row in pair)))
    return problems


def _surplus(pictures: Pictures, groups: Groups, kind: Literal["duplicate", "near_duplicate"]) -> list[Problem]:
    """All but one picture of each group, of each split of the data set."""
    rows: Rows = []
    for group in groups:
        kept: dict[str, int] = {}
        for row in group:
            first = kept.setdefault(pictures.parts[row], row)
            rows += [(row, first)] if first != row else []
    if not rows:
        return []
    how = "byte for byte the same as another one" if kind == "duplicate" else "nearly the same as another one"
    examples = _named([f"{_name(pictures, row)} = {_name(pictures, first)}" for row, first in rows])
    text = f"{_images(len(rows))} {'is' if len(rows) == 1 else 'are'} {how} of the same part"
    return [Problem(Finding(kind, "note", text, len(rows), examples, "dataset.exclude leaves them out"), tuple(rows))]


def _named(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)[:NAMED]


def _name(pictures: Pictures, row: int) -> str:
    return one_line(pictures.names[row])


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
