"""A YAML file as plain values, looked at before anything is built from it: what is wrong, as file:line:column."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from imgcls.errors import ConfigError

LARGEST = 256 * 1024  # bytes
MOST_NODES = 20_000  # aliases expanded
DEEPEST = 50  # levels, aliases expanded
SEXAGESIMAL = re.compile(r"[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
OCTAL = re.compile(r"[-+]?0[0-9_]+")
TAG = "tag:yaml.org,2002:"
PLAIN_TAGS = tuple(f"{TAG}{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null"))
KEY_TAGS = tuple(f"{TAG}{name}" for name in ("str", "int", "merge"))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the file, {} if it is empty; a date is text, as it is to OmegaConf.

    Raises ConfigError (file:line:column) unless it is a modest mapping of plain values that reads as it looks.
    """
    raw, text = _text(path)
    try:
        _walk(text, path)
        return _built(text, path)
    except yaml.MarkedYAMLError as error:
        problem = error.problem or ""
        if error.context and problem.startswith(("but found", "second occurrence")):
            problem = f"{error.context}, {problem}"
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{_where(path, mark)}: {' '.join(problem.split())}") from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"{path}:{_place(raw, len(text[: error.position].encode()))}: character {error.character!r} is not allowed"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path}:1:1: nested too deep") from error


def _text(path: Path) -> tuple[bytes, str]:
    """The file's bytes and what they say."""
    if path.exists() and not path.is_file():  # a pipe would never end
        raise ConfigError(f"{path}: not a file")
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        size = path.stat().st_size
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(raw) > LARGEST:
        raise ConfigError(f"{path}:1:1: {size:,} bytes are too many for a configuration (limit {LARGEST:,})")
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{path}:1:1: starts with a byte order mark; save it as UTF-8 without one")
    try:
        return raw, raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}:{_place(raw, error.start)}: not UTF-8 (byte 0x{raw[error.start]:02x})") from error


def _where(path: Path, mark: Any) -> str:
    """path:line:column, from 1."""
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}:1:1"


def _place(raw: bytes, position: int) -> str:
    """line:column of a byte, from 1."""
    line, column = raw.count(b"\n", 0, position) + 1, position - raw.rfind(b"\n", 0, position)
    return f"{line}:{column}"


# --- without building anything ---------------------------------------------------------------------------------------


@dataclass
class _Open:
    """A mapping or list that the parser is in."""

    anchor: str | None
    before: int  # nodes in front of it
    keys: set[str] | None  # None: a list
    levels: int = 1  # of nesting in it, its own included
    is_key_next: bool = True


def _walk(text: str, path: Path) -> None:
    """Refuses what is too much, keys that stand twice and surprising numbers, from the parser's events alone."""
    count = 0
    sizes: dict[str | None, tuple[int, int]] = {}  # of what an anchor names: nodes, levels
    stack: list[_Open] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = _where(path, event.start_mark)
        if isinstance(event, yaml.CollectionEndEvent):
            done = stack.pop()
            sizes[done.anchor] = count - done.before + 1, done.levels
            if stack:
                stack[-1].levels = max(stack[-1].levels, done.levels + 1)
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.AliasEvent) and event.anchor in [one.anchor for one in stack]:
                raise ConfigError(f"{where}: alias '*{event.anchor}' stands in what it names")
            nodes, levels = sizes.get(event.anchor, (1, 0)) if isinstance(event, yaml.AliasEvent) else (1, 0)
            count += nodes
            if count > MOST_NODES:
                raise ConfigError(f"{where}: too many nodes once aliases are expanded (limit {MOST_NODES:,})")
            if stack:
                _check_key(stack[-1], event, where)
                stack[-1].levels = max(stack[-1].levels, levels + 1)
            if isinstance(event, yaml.CollectionStartEvent):
                stack.append(_Open(event.anchor, count, set() if isinstance(event, yaml.MappingStartEvent) else None))
            elif isinstance(event, yaml.ScalarEvent):
                sizes[event.anchor] = 1, 0
                if event.implicit[0] and event.style is None:
                    _check_surprise(event.value, where)
            if len(stack) + levels > DEEPEST:
                raise ConfigError(f"{where}: nested too deep (limit {DEEPEST})")


def _check_key(inside: _Open, event: yaml.NodeEvent, where: str) -> None:
    """No key twice in a mapping."""
    if inside.keys is None:
        return
    if inside.is_key_next and isinstance(event, yaml.ScalarEvent):
        if event.value in inside.keys:
            raise ConfigError(f"{where}: key '{event.value}' stands here twice")
        inside.keys.add(event.value)
    inside.is_key_next = not inside.is_key_next


def _check_surprise(value: str, where: str) -> None:
    """Numbers that YAML 1.1 reads otherwise than a person does."""
    if SEXAGESIMAL.fullmatch(value) or OCTAL.fullmatch(value):
        read_as = yaml.safe_load(value)
        if str(read_as) != value:
            raise ConfigError(
                f"{where}: {value} would be read as {read_as}; write {read_as}, or quote it if it is text"
            )


# --- building plain values -------------------------------------------------------------------------------------------


class _PlainLoader(yaml.SafeLoader):
    """Text, numbers, true, false and null in lists and mappings; all else is an error that knows its place."""

    yaml_constructors: ClassVar = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (*PLAIN_TAGS, None)}
    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As SafeLoader does; !!int abc is a ValueError there, !!bool abc a KeyError."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError) as error:
            kind = node.tag.removeprefix(TAG)
            raise yaml.constructor.ConstructorError(None, None, f"cannot be read as {kind}", node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As SafeLoader does, for keys that are text or, below the top, whole numbers."""
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if key.tag not in KEY_TAGS:
                    raise _no_text(key)
        return super().construct_mapping(node, deep)


def _built(text: str, path: Path) -> dict[str, Any]:
    loader = _PlainLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            kind = "list" if isinstance(root, yaml.SequenceNode) else "scalar"
            raise ConfigError(f"{path}:1:1: expected a mapping (key: value), got a {kind}")
        for key, _ in root.value:
            if key.tag == f"{TAG}int":
                raise _no_text(key)
        table = loader.construct_document(root)
        if not isinstance(table, dict):  # !!str {a: 1}
            raise ConfigError(f"{path}:1:1: expected a mapping (key: value), got {root.tag.removeprefix(TAG)}")
        return table
    finally:
        loader.dispose()


def _no_text(key: yaml.Node) -> yaml.MarkedYAMLError:
    what = f"key '{key.value}' is not text; quote it" if isinstance(key, yaml.ScalarNode) else "a key must be text"
    return yaml.constructor.ConstructorError(None, None, what, key.start_mark)
