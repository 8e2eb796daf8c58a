"""Plain values without Hydra.

Nearly every command line, and every job of a sweep, sets plain values on top of a few choices of options. Hydra needs
some 50 ms for each; so the table that it composed for the choices is kept, and the values are set on a copy of it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from imgcls.compose.hydra_config import compose_words, contents, unresolved
from imgcls.compose.overrides import Paths

MOST = 200  # bases kept at a time
KEY = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", re.ASCII)
INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)", re.ASCII)
FLOAT = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+([eE][+-]?\d+)?|[eE][+-]?\d+)", re.ASCII)
WORD = re.compile(r"(?!(inf|nan)$)[a-z_]\w*", re.ASCII | re.IGNORECASE)
CONSTANTS = {"null": None, "true": True, "false": False}


class Base(NamedTuple):
    """What Hydra composed for some choices of options; interpolations and missing values are text."""

    table: dict[str, Any]
    experiment: str | None
    files: dict[Path, object]  # of the --config-dir, as they were


_kept: dict[tuple[str, str, tuple[str, ...]], Base] = {}


def base(choices: Sequence[str], start: str, folder: Path | None) -> Base:
    """The base for these words of Hydra's, kept while the files of the --config-dir are the same."""
    key = (str(folder and folder.absolute()), start, tuple(choices))
    found = _kept.get(key)
    if found is None or any(contents(path) != before for path, before in found.files.items()):
        composed = compose_words(choices, start, folder, Paths())
        if len(_kept) >= MOST:
            _kept.clear()
        found = _kept[key] = Base(unresolved(composed.config), composed.experiment, composed.files)
    return found


def filled(base: Base, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """A copy of the base with the values set; None if only Hydra can do it.

    That is if a key's parent does not exist, a value would be merged, or something is an interpolation or missing.
    """
    table = copy.deepcopy(base.table)
    for key, value in values.items():
        *outer, last = key.split(".")
        node: Any = table
        for name in outer:
            node = node.get(name) if isinstance(node, dict) else None
        if not KEY.fullmatch(key) or not isinstance(node, dict) or _merges(node.get(last), value):
            return None
        node[last] = value
    return table if _is_plain(table) else None


def _merges(before: Any, value: Any) -> bool:
    return isinstance(before, dict) or (isinstance(before, list) and isinstance(value, dict))


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return "${" not in value and value != "???"
    if isinstance(value, dict):
        return None not in value and all(map(_is_plain, value.values()))  # OmegaConf refuses the key null
    return not isinstance(value, list) or all(map(_is_plain, value))


def plain_value(key: str, text: str) -> Any:
    """A value as Hydra's grammar reads it. Raises Hydra's errors."""
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    if INTEGER.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    return text if WORD.fullmatch(text) else parse(f"{key}={text}").value()


@lru_cache(maxsize=5000)
def parse(word: str) -> Any:
    """An override as Hydra's parser reads it. Raises Hydra's errors."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(word)
