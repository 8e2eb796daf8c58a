"""A look at a YAML file before anybody builds objects from it: what is wrong, as file:line:column."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from imgcls.errors import ConfigError

LARGEST = 256 * 1024  # bytes
MOST_NODES = 20_000  # aliases expanded
DEEPEST = 50
SEXAGESIMAL = re.compile(r"[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
OCTAL = re.compile(r"[-+]?0[0-9_]+")


def check_yaml(path: Path) -> None:
    """Raises ConfigError unless the file is a modest YAML mapping that reads as it looks."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(raw) > LARGEST:
        raise ConfigError(f"{path}:1:1: {len(raw):,} bytes are too many for a configuration (limit {LARGEST:,})")
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{path}:1:1: starts with a byte order mark; save it as UTF-8 without one")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}:{_place(raw, error.start)}: not UTF-8 (byte 0x{raw[error.start]:02x})") from error
    try:
        root, count = _walk(text, path)
    except yaml.MarkedYAMLError as error:
        raise damaged(error, path) from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"{path}:{_place(raw, len(text[: error.position].encode()))}: character {error.character!r} is not allowed"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path}:1:1: nested too deep") from error
    if root != "mapping" and count:
        raise ConfigError(f"{path}:1:1: expected a mapping (key: value), got a {root}")


def damaged(error: yaml.YAMLError, path: Path | None = None) -> ConfigError:
    """What YAML itself says of a file, as file:line:column; path: None if the error's own mark names it."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return ConfigError(f"{_where(path or Path(mark.name if mark else 'YAML'), mark)}: {' '.join(problem.split())}")


def _where(path: Path, mark: Any) -> str:
    """path:line:column, from 1."""
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}:1:1"


def _place(raw: bytes, position: int) -> str:
    """line:column of a byte, from 1."""
    line, column = raw.count(b"\n", 0, position) + 1, position - raw.rfind(b"\n", 0, position)
    return f"{line}:{column}"


def _walk(text: str, path: Path) -> tuple[str, int]:
    """The kind of the root and the number of nodes, from the parser's events alone: nothing is built."""
    depth = 0
    root, count = "", 0
    sizes: dict[str, int] = {}  # nodes under each anchor
    open_anchors: list[tuple[str | None, int]] = []
    keys: list[set[str] | None] = []  # of each open mapping; None for a sequence
    expects_key: list[bool] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = _where(path, event.start_mark)
        if isinstance(event, yaml.ScalarEvent | yaml.AliasEvent | yaml.CollectionStartEvent):
            root = root or {"ScalarEvent": "scalar", "SequenceStartEvent": "list", "MappingStartEvent": "mapping"}.get(
                type(event).__name__, ""
            )
            count += sizes.get(event.anchor or "", 1) if isinstance(event, yaml.AliasEvent) else 1
            if count > MOST_NODES:
                raise ConfigError(f"{where}: too many nodes once aliases are expanded (limit {MOST_NODES:,})")
            if keys and keys[-1] is not None:
                if expects_key[-1] and isinstance(event, yaml.ScalarEvent):
                    if event.value in keys[-1]:
                        raise ConfigError(f"{where}: key '{event.value}' stands here twice")
                    keys[-1].add(event.value)
                expects_key[-1] = not expects_key[-1]
        if isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                sizes[event.anchor] = 1
            if event.implicit[0] and event.style is None:
                _check_surprise(event.value, where)
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise ConfigError(f"{where}: nested too deep (limit {DEEPEST})")
            open_anchors.append((event.anchor, count))
            keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            expects_key.append(True)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            anchor, before = open_anchors.pop()
            if anchor:
                sizes[anchor] = count - before + 1
            keys.pop()
            expects_key.pop()
    return root, count


def _check_surprise(value: str, where: str) -> None:
    """Numbers that YAML 1.1 reads otherwise than a person does."""
    if SEXAGESIMAL.fullmatch(value) or OCTAL.fullmatch(value):
        read_as = yaml.safe_load(value)
        if str(read_as) != value:
            raise ConfigError(
                f"{where}: {value} would be read as {read_as}; write {read_as}, or quote it if it is text"
            )
