"""``dataset.group``: which images show the same thing (a patient, a video, a burst) and stay in one part."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from imgcls.data.findings import Finding
from imgcls.data.source import Images, Source
from imgcls.errors import ConfigError, DataError
from imgcls.text import brief, listing, one_line

MARKS = re.compile(r"[\\()\[\]{}^$.*+?|]")  # in a pattern, hardly in the name of a column
SHOWN = 3  # examples in a message


def pattern_of(text: str) -> re.Pattern[str]:
    """The regular expression. Raises ConfigError."""
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        what = f"dataset.group: '{one_line(brief(text))}' is no regular expression ({error})"
        raise ConfigError(f"{what}; for example dataset.group='(patient\\d+)'") from error


def grouped_by_path(source: Source, text: str, more: str = "") -> Source:
    """The data set with the groups that a regular expression finds in the images' paths, relative to its root.

    A group is what the first capture group matches, else the whole match. more: what else could be meant, for the error
    if nothing matches. Raises ConfigError for a pattern that cannot be used, and DataError if the groups cannot.
    """
    pattern = pattern_of(text)
    parts = {name: _matched(pattern, images) for name, images in source.parts.items()}
    shown = one_line(brief(text))
    if not any(any(names) for names in parts.values()):
        example = one_line(str(source.train.ids[0]))
        raise ConfigError(f"dataset.group: '{shown}' matches none of the paths, which look like '{example}'{more}")
    return grouped(source, parts, f"by '{shown}' in the path")


def _matched(pattern: re.Pattern[str], images: Images) -> list[str]:
    """The group of each image, "" where there is no match."""
    names = (str(one).replace("\\", "/") for one in images.ids.tolist())
    found = (pattern.search(name) for name in names)
    return ["" if one is None else (one[1] if pattern.groups and one[1] is not None else one[0]) for one in found]


def is_pattern(text: str) -> bool:
    """Whether a text that is no column is meant as a regular expression."""
    return MARKS.search(text) is not None


def grouped(source: Source, names: Mapping[str, Sequence[str]], how: str) -> Source:
    """The data set with a group for each image, and what to say about them.

    names: the groups of each of its parts. how: in words, where they are from. Raises DataError if all images are of
    one group, or each class is one.
    """
    parts: dict[str, Any] = {name: images.grouped(names[name]) for name, images in source.parts.items()}
    sizes = Counter(name for own in names.values() for name in own if name)
    total = sum(map(len, names.values()))
    _check(source, names, sizes, how)
    low, high = min(sizes.values()), max(sizes.values())
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    note = f"groups   {len(sizes):,} {how}, {each} image{'s' * (high > 1)} each; a group stays in one part"
    findings = []
    if high == 1:
        text = f"each of the {len(sizes):,} groups {how} has one image: nothing is kept together (dataset.group)"
        findings.append(Finding("group", "warning", text, len(sizes), tuple(sizes)[:SHOWN]))
    without = [str(one) for name, own in names.items() for one in source.parts[name].ids[[not g for g in own]].tolist()]
    if without:
        verb = "image is" if len(without) == 1 else "images are"
        text = f"{len(without):,} of {total:,} {verb} in no group, so each stays alone: {listing(without, SHOWN)}"
        findings.append(Finding("group", "warning", text, len(without), tuple(without[:10])))
    untrained = source.untrained
    if untrained is not None:
        of = dict(zip(source.train.ids.tolist(), names["train"], strict=True))
        untrained = {part: one.grouped([of[i] for i in one.ids.tolist()]) for part, one in untrained.items()}
    findings += _shared(names)
    return replace(
        source, notes=(*source.notes, note), findings=(*source.findings, *findings), untrained=untrained, **parts
    )


def _check(source: Source, names: Mapping[str, Sequence[str]], sizes: Counter[str], how: str) -> None:
    """Raises DataError for groups that nothing can be cut by."""
    if len(sizes) < 2:
        raise DataError(
            f"dataset.group: all images are of one group {how} ({listing(list(sizes))}), so they cannot be in two "
            "parts; name another column or pattern"
        )
    pairs = {*zip(names["train"], source.train.labels.tolist(), strict=True)}
    groups, labels = ({pair[i] for pair in pairs} for i in (0, 1))
    if "" not in groups and len(groups) == len(labels) == len(pairs):
        raise DataError(
            f"dataset.group: the groups {how} are the classes ({listing(sorted(sizes), SHOWN)}), and a class in one "
            "part cannot be both learned and tested; name another column or pattern"
        )


def _shared(names: Mapping[str, Sequence[str]]) -> list[Finding]:
    """A warning for each two of the data set's own parts that share groups."""
    found = []
    for first, second in itertools.combinations(names, 2):
        both = sorted(({*names[first]} & {*names[second]}) - {""})
        if both:
            count, all_of = len(both), len({*names[second]} - {""})
            verb = "group of" if all_of == 1 else "groups of"
            text = f"{count:,} of the {all_of:,} {verb} {second} {'is' if count == 1 else 'are'} in {first} too"
            text += f", as the data set's own parts have it: {listing(both, SHOWN)}"
            advice = (
                f"results on {second} are inflated; to cut anew by groups, leave out its parts (dataset.split=none)"
            )
            found.append(Finding("leak", "warning", text, count, tuple(both[:10]), advice))
    return found
