"""dataset.rename: classes that get another name; two that get the same one are merged."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from imgcls.data.source import Source
from imgcls.errors import ConfigError
from imgcls.text import did_you_mean, is_text, listing, show

QUOTED = r"""(?:'([^']*)'|"([^"]*)"|([^'",:{}][^,:{}]*))"""
PAIR = re.compile(rf"\s*{QUOTED}\s*:\s*{QUOTED}\s*(?:,|$)")  # old: new

MOST_TYPED = 30  # pairs in an advice


@dataclass(frozen=True)
class Matching:
    """Classes of train, and how those of other parts are matched to them.

    names: {old: new}, dataset.rename. used: names that only other parts have, and that were matched by it.
    """

    classes: Sequence[str]
    names: Mapping[str, str]
    used: set[str] = field(default_factory=set)

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.classes)}

    def label(self, name: str) -> int | None:
        """The number of the class of that name, else of the one that gets the same new name; None without any."""
        if name in self._labels:
            return self._labels[name]
        new = self.names.get(name, name)
        found = next((i for one, i in self._labels.items() if self.names.get(one, one) == new), None)
        if found is not None and name in self.names:
            self.used.add(name)
        return found

    @property
    def own(self) -> dict[str, str]:
        """dataset.rename without the names that only other parts have."""
        return {old: new for old, new in self.names.items() if old not in self.used}


def renames_of(value: Any) -> dict[str, str]:
    """dataset.rename as {old: new}; text ("{RED: red}") is parsed, with quotes around names that need them.

    Raises ConfigError.
    """
    if value is None:
        return {}
    if isinstance(value, str) and value[:1] + value[-1:] == "{}" and not PAIR.sub("", value[1:-1]).strip():
        found = PAIR.findall(value[1:-1])
        value = {(a or b or c).strip(): (d or e or f).strip() for a, b, c, d, e, f in found}
    if not isinstance(value, dict) or any(isinstance(one, dict | list) or one is None for one in value.values()):
        raise ConfigError(f"dataset.rename: expected null or {{old: new, ...}}, got {show(value)}")
    names = {_text(old): _text(new) for old, new in value.items()}
    if bad := next((new for new in names.values() if not new or not all(map(is_text, new))), None):
        raise ConfigError(f"dataset.rename: {bad!a} is no name of a class")
    return names


def _text(name: Any) -> str:
    """A name as text; YAML reads 1, true and 0.5 as values."""
    return str(name).lower() if isinstance(name, bool) else str(name)


def spellings(name: str) -> set[str]:
    """What a name may also be written as, apart from case, blanks and a number before it: singular and plural."""
    plain = re.sub(r"[\s_\-.]+", "", unicodedata.normalize("NFKC", name).casefold())
    plain = re.sub(r"^\d+(?=\D)|^0+(?=\d)", "", plain)
    found = {plain}
    for ending, other in (("ies", "y"), ("es", ""), ("s", "")):
        if plain.endswith(ending) and len(plain) > len(ending) + 1:
            found.add(plain.removesuffix(ending) + other)
    return found


def advice(unknown: Collection[str], known: Collection[str], given: Mapping[str, str] | None = None) -> str:
    """What to type if unknown classes are known ones in another spelling ("; if ..., add ..."); else empty.

    given: dataset.rename as it is now.
    """
    pairs = {}
    for name in unknown:
        same = [one for one in known if spellings(one) & spellings(name)]
        if len(same) == 1:
            pairs[name] = same[0]
    if not pairs:
        return ""
    before = {old: pairs.get(new, new) for old, new in (given or {}).items()}
    pairs = before | {old: new for old, new in pairs.items() if old not in (given or {}).values()}
    shown = ", ".join(f"{_quoted(old)}: {_quoted(new)}" for old, new in list(pairs.items())[:MOST_TYPED])
    return f"; if they mean the same, add dataset.rename='{{{shown}{', ...' * (len(pairs) > MOST_TYPED)}}}'"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"\w+( \w+)*", name) else f'"{name}"'


def check_renames(names: Mapping[str, str], classes: Collection[str]) -> None:
    """Raises ConfigError if a name to be replaced is not one of the classes."""
    if unknown := next((old for old in names if old not in classes), None):
        shown = listing(sorted(classes), 12)
        hint = did_you_mean(unknown, classes)
        raise ConfigError(f"dataset.rename: no class is called '{unknown}'{hint} (classes: {shown})")


def renamed(source: Source, names: Mapping[str, str]) -> Source:
    """The data set with classes under their new names, merged where two get the same one; in their old order.

    Raises ConfigError for an unknown name.
    """
    if not names:
        return source
    check_renames(names, source.classes)
    new = [names.get(name, name) for name in source.classes]
    classes = tuple(dict.fromkeys(new))
    labels = [classes.index(name) for name in new]
    parts: dict[str, Any] = {name: part.relabel(labels) for name, part in source.parts.items()}
    if source.untrained is not None:
        parts["untrained"] = {name: part.relabel(labels) for name, part in source.untrained.items()}
    left = {*source.classes} - {*names}
    warnings = tuple(
        one
        for one in source.warnings
        if "differ only in case" not in one or not any(ascii(old) in one for old in names)
    )
    if len(classes) == 1 < len(source.classes):
        warnings += (f"only one class ({classes[0]}) is left by dataset.rename: there is nothing to learn",)
    findings = tuple(one for one in source.findings if one.kind != "alike_names" or {*one.examples} <= left)
    return replace(source, classes=classes, warnings=warnings, findings=findings, **parts)
