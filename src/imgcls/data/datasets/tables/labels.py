"""The labels of a table as classes: numbers cut, names merged, and what looks wrong about them."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from imgcls.data.datasets.tables.columns import Columns
from imgcls.data.datasets.tables.grid import Line
from imgcls.data.datasets.tables.one_hot import mark, share
from imgcls.data.datasets.tables.parts import cell, plain_name
from imgcls.data.datasets.tables.values import MOST_NUMBERS, broken_numbers, number
from imgcls.data.findings import Finding
from imgcls.data.source import in_order
from imgcls.errors import DataError
from imgcls.text import is_text, listing, one_line

MISSING = (  # how programs write that there is no value
    "nan", "na", "n/a", "n.a.", "#n/a", "<na>", "null", "#value!", "#ref!", "#name?", "tbd", "[]",
)  # fmt: skip
MARKS = ("?", "??", "-", "--", ".")  # the same, beside classes that are words
CUTS = (r"\s*[|;]\s*", r"\s*,\s*", r"\s*[+&/]\s*", r"\s+")  # between several labels in a cell
ID_NAME = re.compile(
    r"(.*_)?(patient|subject|case|person|participant|individual|animal|plant|lesion|slide|specimen|sample|study|series|"
    r"session|scene|video|sequence|group|site|camera|location|user|burst|clip|movie|recording|track|donor|exam|visit|flight|"
    r"tree|deployment|household)(_?(id|no|nr|num|number|uid|code|name))?"
    r"|.+_(id|uid|uuid)|.*[a-z]id"
)
MEASURES = re.compile(  # words in the names of columns of measurements
    r"(^|_)(age|ages|score|scores|rating|count|counts|price|year|years|month|months|days|weight|height|width|length|"
    r"size|area|volume|temperature|temp|angle|degrees|depth|distance|speed|number_of|quality|percent|mos|bmi|time)(_|$)"
)
LIST = re.compile(  # as programs write one: ['red', 'blue'], ('red',), {"choices": ["red"]}
    r"(\[.*\]|\(['\"].*\))|\{\s*['\"]choices['\"]\s*:\s*(\[.*\])\s*\}"
)
NO_ID = re.compile(
    r".*(valid|covid|grid|solid|fluid|liquid|acid|hybrid|humid|avoid|void|thyroid|paid|class|categor|label).*"
)


def labels_of(rows: Sequence[Line], columns: Columns, table: Path) -> list[str]:
    """The label of each row, by one of three ways. Raises DataError, with the line, for a row without exactly one."""
    if columns.is_soft:
        return [_likeliest(line, columns, table) for line in rows]
    if columns.ones:
        return [_hot(line, columns, table) for line in rows]
    found = [cell(line, columns.label) for line in rows]
    for line, label in zip(rows, found, strict=True):
        if not label:
            raise DataError(f"{table}, line {line.number}: no label")
        if not all(map(is_text, label)):
            raise DataError(f"{table}, line {line.number}: the label {label[:40]!a} is not plain text")
    if columns.cut is None:
        return _without_brackets(found)
    cut: list[str] = []
    for line, label in zip(rows, found, strict=True):
        if (value := number(label)) is None:
            raise DataError(
                f"{table}, line {line.number}: '{one_line(label[:40])}' in a column of numbers (dataset.label)"
            )
        cut.append(columns.cut(value))
    return cut


def _without_brackets(labels: list[str]) -> list[str]:
    """The labels of cells that are all lists: ['red'] is red, and of several 'red|blue', which is warned about."""
    found = {label: _listed(label) for label in {*labels}}
    return labels if None in found.values() else [found[label] or label for label in labels]


def _listed(label: str) -> str | None:
    """The elements of a list with bars between them, empty for one without any; None for what is no such list."""
    match = LIST.fullmatch(label)
    if match is None:
        return None
    text = match[1] or match[2]
    try:
        elements = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        elements = [one.strip() for one in text[1:-1].split(",")]
    is_plain = isinstance(elements, list | tuple) and all(isinstance(one, str | int | float) for one in elements)
    return "|".join(map(str, elements)) if is_plain else None


def _hot(line: Line, columns: Columns, table: Path) -> str:
    """The name of the column in which the row has its 1."""
    values = {i: cell(line, i).lower() for i in columns.ones}
    hot = [columns.header[i] for i, value in values.items() if mark(value)]
    if odd := next((i for i, value in values.items() if mark(value) is None), None):
        raise DataError(f"{table}, line {line.number}: '{values[odd]}' in the one-hot column '{columns.name(odd)}'")
    if len(hot) != 1:
        names = listing([columns.header[i] for i in columns.ones], 8)
        what = f"{len(hot)} of them are 1 ({listing(hot)})" if hot else "none of them is 1"
        raise DataError(
            f"{table}, line {line.number}: of the one-hot columns {names}, {what}; one class an image is needed: "
            "remove such rows, or name one column with dataset.label=COLUMN (its 0 and 1 are then the classes)"
        )
    return hot[0]


def _likeliest(line: Line, columns: Columns, table: Path) -> str:
    """The name of the column with the row's largest probability."""
    values = {columns.header[i]: share(cell(line, i)) or 0 for i in columns.ones}
    most = max(values.values())
    best = [name for name, value in values.items() if value == most]
    if len(best) > 1:
        raise DataError(
            f"{table}, line {line.number}: {listing(best, 3)} have the same probability; one class an image is needed: "
            "remove such rows, or cut one column: dataset.label='" + best[0] + " > 0.5'"
        )
    return best[0]


def check_numbers(labels: Collection[str], columns: Columns, table: Path) -> list[Finding]:
    """Raises DataError if each of many numbers that are not whole would be a class; a note if each of a few is."""
    known = [label for label in labels if label.casefold() not in MISSING]
    values = [] if columns.cut or columns.ones else broken_numbers(known)
    if not values and (measured := _measured(known, columns)):
        return measured
    if not values or columns.label is None:
        return []
    name, middle = columns.name(columns.label), values[len(values) // 2 - 1]
    low, high = (values[len(values) * i // 3 - 1] for i in (1, 2))
    two = f"dataset.label='{name} > {0.5 if values[0] <= 0.5 < values[-1] else middle:.2g}'"
    if len(values) > MOST_NUMBERS:
        raise DataError(
            f"{table}: column '{name}' has {len(values):,} different numbers from {values[0]:g} to {values[-1]:g}, too "
            f"many for classes; type {two} for two classes, or dataset.label='{name} > {low:.2g}, {high:.2g}' for three"
        )
    text = f"the labels are numbers, and each of {len(values)} is a class ({listing(in_order(labels), 4)})"
    return [Finding("numbers", "note", text, len(values), in_order(labels), f"{two} makes two classes of them")]


def _measured(labels: Collection[str], columns: Columns) -> list[Finding]:
    """A note if each of many whole numbers is a class, in a column that is named like a measurement."""
    is_cut = columns.cut is not None or columns.ones or columns.label is None
    if is_cut or len(labels) <= MOST_NUMBERS or not MEASURES.search(plain_name(columns.name(columns.label or 0))):
        return []
    values = sorted(value for label in labels if (value := number(label)) is not None)
    if len(values) < len(labels):
        return []
    name = columns.name(columns.label or 0)
    text = f"the labels are numbers, and each of {len(values)} is a class ({listing(in_order(labels), 4)})"
    two = f"dataset.label='{name} > {values[len(values) // 2 - 1]:g}'"
    return [Finding("numbers", "note", text, len(values), in_order(labels), f"{two} makes two classes of them")]


def check_classes(labels: Sequence[str], columns: Columns, table: Path) -> None:
    """Raises DataError if a column that nobody named as the label has another value in each row: it numbers them."""
    if columns.label is not None and len(labels) > MOST_NUMBERS and len({*labels}) == len(labels):
        name = columns.name(columns.label)
        are_numbers = all(number(label) is not None for label in labels)
        cut = f", or cut its numbers: dataset.label='{name} > X'" if are_numbers else ""
        shown = listing([one_line(label[:40]) for label in labels], 3)
        raise DataError(
            f"{table}: column '{name}' has another value in each of {len(labels):,} rows ({shown}): it seems to number "
            f"them; name the label's with dataset.label=COLUMN{cut}"
        )


def empty_findings(labels: Collection[str], columns: Columns) -> list[Finding]:
    """A note on one-hot columns that no row has its 1 in: they are no classes."""
    empty = [name for i in columns.ones if (name := columns.header[i]) not in labels]
    if not empty:
        return []
    text = f"no image is of the one-hot column{'s' * (len(empty) > 1)} {listing(empty)}, so there is no such class"
    return [Finding("empty_class", "note", text, len(empty), tuple(empty))]


def label_findings(labels: Sequence[str]) -> list[Finding]:
    """What looks wrong about the labels, given one for each row: spellings, missing values, several in a cell."""
    counts = Counter(labels)
    return [*_alike(counts), *_missing(counts), *_several(counts)]


def _plain(label: str) -> str:
    """A label without what is easily written in several ways: case, Unicode form, blanks and invisible characters."""
    if (value := number(label)) is not None:
        return repr(value)
    folded = unicodedata.normalize("NFKC", label).casefold()
    visible = "".join(letter for letter in folded if unicodedata.category(letter) != "Cf")
    return re.sub(r"(?<=\w)[\s_\-]+(?=\w)|\s+", " ", unicodedata.normalize("NFC", visible)).strip() or label


def _alike(counts: Mapping[str, int]) -> list[Finding]:
    """A warning for labels that are probably one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        groups[_plain(label)].append(label)
    alike = [sorted(group, key=lambda label: (-counts[label], label)) for group in groups.values() if len(group) > 1]
    if not alike:
        return []
    names = tuple(name for group in alike for name in group)
    first = " and ".join(f"{_shown(name)} ({counts[name]:,})" for name in alike[0][:4])
    text = f"labels differ only in case, blanks or Unicode form, and are classes of their own: {first}"
    text += f", and {len(alike) - 1:,} more such group{'s' * (len(alike) > 2)}" if len(alike) > 1 else ""
    return [Finding("alike_names", "warning", text, len(alike), names, f"to merge them: {_typed(alike)}")]


def _shown(name: str) -> str:
    """A label so that Unicode forms and invisible characters can be seen."""
    return f"'{name}'" if name.isascii() else f"'{one_line(name)}' ({ascii(name)[1:-1]})"


def _typed(alike: Sequence[Sequence[str]]) -> str:
    """dataset.rename for groups of labels, the most frequent one first in each."""
    pairs = [f"{_quoted(old)}: {_quoted(group[0])}" for group in alike[:3] for old in group[1:]]
    return f"dataset.rename='{{{', '.join(pairs[:6])}}}'"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"\w+( \w+)*", name) else f'"{name}"'


def _missing(counts: Mapping[str, int]) -> list[Finding]:
    """A warning for labels that mean that there is none."""
    found = [label for label in counts if label.casefold() in MISSING or label == "None"]
    marks = [label for label in counts if label in MARKS]
    if len(marks) == 1 and all(len(label) > 1 for label in counts if label not in MARKS):  # else characters are classes
        found += marks
    others = {label for label in counts if label != "-1"}
    if "-1" in counts and len(others) > 2 and all(map(str.isdecimal, others)):  # of three, it may be the negative one
        found.append("-1")
    if not found:
        return []
    count = sum(counts[label] for label in found)
    text = f"{count:,} rows have the label {listing(found)}, which may mean that they have none, and is a class here"
    advice = f"remove these rows, or name the class: dataset.rename='{{{_quoted(found[0])}: NAME}}'"
    return [Finding("alike_names", "warning", text, count, tuple(found), advice)]


def _several(counts: Mapping[str, int]) -> list[Finding]:
    """A warning for labels that are made of others: 'scab rust' beside scab and rust."""
    found: list[str] = []
    for cut in CUTS:
        parts = {label: re.split(cut, label) for label in counts}
        together = {label: own for label, own in parts.items() if len(own) > 1 and all(own)}
        uses = Counter(part for own in together.values() for part in {*own})
        is_mark = cut is CUTS[0] or _are_numbers(
            together.values()
        )  # names rarely hold it: parts that come again will do
        found += [
            label
            for label, own in together.items()
            if all(part in counts and part != label for part in own)
            or (is_mark and any(part in counts or uses[part] > 1 for part in own))
        ]
    found = list(dict.fromkeys(found))
    if not found:
        return []
    rows = sum(counts[label] for label in found)
    text = f"{rows:,} rows seem to have several labels in one cell ({listing(found, 3)}): each such mixture is a class"
    advice = "one label an image is learned: remove these rows, or merge them with dataset.rename"
    return [Finding("several_labels", "warning", text, rows, tuple(found[:5]), advice)]


def _are_numbers(several: Iterable[Sequence[str]]) -> bool:
    """Whether all parts are whole numbers, as of attributes."""
    return all(part.isdecimal() for own in several for part in own)


def id_findings(rows: Sequence[Line], labels: Sequence[str], parts: Sequence[str], columns: Columns) -> list[Finding]:
    """A note for each unused column that looks like an ID of what several pictures show: patients, scenes.

    Unless each ID lies in one part of the table's own already.
    """
    found = []
    for i, name in enumerate(columns.header):
        if i in columns.used or not ID_NAME.fullmatch(plain_name(name)) or NO_ID.fullmatch(plain_name(name)):
            continue
        values = [cell(line, i) for line in rows]
        filled = {value for value in values if value}
        pairs = len({*zip(values, labels, strict=True)})
        if not 1 < len(filled) <= 0.7 * len(rows) or (len(filled) == pairs == len({*labels})):
            continue  # one for each picture, or another name of the class
        has_parts = len({*parts}) > 1
        across = len({*zip(values, parts, strict=True)}) - len({*values})
        if has_parts and not across:
            continue
        where = "pictures of one ID may land in both train and test"
        if has_parts:
            where = f"{across:,} of them are in several parts"
        text = f"column '{one_line(name)}' looks like an ID ({len(filled):,} for {len(rows):,} images): {where}"
        typed = name if re.fullmatch(r"[\w.-]+", name) else f"'{one_line(name)}'"
        anew = "dataset.split=none " if has_parts else ""
        advice = f"to keep the pictures of each together: {anew}dataset.group={typed}"
        found.append(Finding("id_column", "note", text, len(filled), tuple(sorted(filled)[:5]), advice))
    return found


def plain_header(labels: Sequence[str], rows: Sequence[Line], columns: Columns) -> list[str]:
    """A line for the header of a run on classes that were made of numbers, or taken out of lists."""
    if columns.label is None:
        return []
    name, first = columns.name(columns.label), cell(rows[0], columns.label)
    if columns.cut is None:
        return (
            []
            if labels[0] == first
            else [f"labels   from the lists in '{name}': {one_line(first)} is {one_line(labels[0])}"]
        )
    counts = Counter(labels)
    shown = ", ".join(f"{counts[name]:,} {one_line(name)}" for name in columns.cut.classes)
    return [f"labels   from the numbers in '{name}': {shown}"]
