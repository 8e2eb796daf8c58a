"""A YAML file as plain values; what is wrong with it is reported as file:line:column."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from imgcls.errors import ConfigError

LARGEST = 256 * 1024  # bytes
MOST_NODES = 20_000  # aliases expanded
DEEPEST = 50  # levels, aliases expanded
SURPRISING = re.compile(r"[-+]?0[0-9_]+|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+")  # YAML 1.1: 017 is 15, 1:30 is 90
TAG = "tag:yaml.org,2002:"


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the file, {} if it is empty; dates are text, as in OmegaConf.

    Raises ConfigError (file:line:column) unless it is a modest mapping of plain values that reads as it looks.
    """
    raw, text = _text(path)
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None and not isinstance(root, yaml.MappingNode):
            kind = "list" if isinstance(root, yaml.SequenceNode) else "scalar"
            raise ConfigError(f"{path}:1:1: expected a mapping (key: value), got a {kind}")
        return {} if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        problem = error.problem or ""
        if error.context and problem.startswith(("but found", "second occurrence")):
            problem = f"{error.context}, {problem}"
        mark = error.problem_mark or error.context_mark
        place = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise ConfigError(f"{path}:{place}: {' '.join(problem.split())}") from error
    except yaml.reader.ReaderError as error:
        place = _place(raw, len(text[: error.position].encode()))
        raise ConfigError(f"{path}:{place}: character {error.character!r} is not allowed") from error


def _text(path: Path) -> tuple[bytes, str]:
    """The file's bytes and text."""
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


def _place(raw: bytes, position: int) -> str:
    """line:column of a byte, from 1."""
    line, column = raw.count(b"\n", 0, position) + 1, position - raw.rfind(b"\n", 0, position)
    return f"{line}:{column}"


class _Loader(yaml.SafeLoader):
    """Checks every node as it is composed; nothing is built before all of them have passed.

    Refused: explicit tags, keys that are not text or appear twice, aliases that refer to themselves or expand to too
    much, and numbers that do not read as they look.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.count = self.depth = 0
        self.sizes: dict[
            yaml.Node, tuple[int, int]
        ] = {}  # finished nodes: how many, and how deep, with aliases expanded
        self.keys: dict[yaml.Node, set[str]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        """See yaml.composer.Composer; index is None for the root and for keys."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self.count
        is_alias, is_collection = isinstance(event, yaml.AliasEvent), isinstance(event, yaml.CollectionStartEvent)
        if tag := getattr(event, "tag", None):
            _refuse(event, f"the tag '{tag.replace(TAG, '!!')}' is not allowed; write the value alone")
        self.depth += is_collection
        self._check_size(event, 0 if is_alias else 1, 0)
        node: Any = super().compose_node(parent, index)
        if is_alias:
            if node not in self.sizes:
                _refuse(event, f"alias '*{event.anchor}' refers to itself")
            self._check_size(event, *self.sizes[node])
        else:
            self.sizes[node] = self.count - before, self._levels(node)
        self.depth -= is_collection
        if index is None and parent is not None:
            self._check_key(parent, node, event)
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{TAG}int":
            self._check_int(node, event)
        return node

    def _check_size(self, event: Any, nodes: int, levels: int) -> None:
        self.count += nodes
        if self.count > MOST_NODES:
            _refuse(event, f"too many nodes once aliases are expanded (limit {MOST_NODES:,})")
        if self.depth + levels > DEEPEST:
            _refuse(event, f"nested too deeply (limit {DEEPEST})")

    def _levels(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 0
        children = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
        return 1 + max((self.sizes[child][1] for child in children), default=0)

    def _check_key(self, parent: yaml.Node, key: yaml.Node, event: Any) -> None:
        """Text or, below the top, a whole number; never twice in a mapping."""
        if not isinstance(key, yaml.ScalarNode):
            _refuse(event, "a key must be text")
        kinds = ("str", "timestamp", "merge", *(["int"] if self.depth > 1 else []))
        if key.tag.removeprefix(TAG) not in kinds:
            _refuse(event, f"key '{key.value}' is not text; quote it")
        seen = self.keys.setdefault(parent, set())
        if key.value in seen:
            _refuse(event, f"duplicate key '{key.value}'")
        seen.add(key.value)

    def _check_int(self, node: yaml.ScalarNode, event: Any) -> None:
        try:
            number = self.construct_yaml_int(node)
        except ValueError:  # of thousands of digits
            _refuse(event, "cannot be read as int")
        if SURPRISING.fullmatch(node.value) and str(number) != node.value:
            _refuse(event, f"{node.value} would be read as {number}; write {number}, or quote it if it is text")


def _refuse(event: Any, problem: str) -> NoReturn:
    raise yaml.MarkedYAMLError(None, None, problem, event.start_mark)


_Loader.add_constructor(f"{TAG}timestamp", yaml.SafeLoader.construct_yaml_str)  # type: ignore[type-var]
