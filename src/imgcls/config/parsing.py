"""From a table of plain values (by Hydra, from a run's config.yaml or a checkpoint) to a dataclass, every key checked.

Types and ranges are the dataclass's annotations; defaults are in conf/ only. Components ({name: adamw, lr: 0.003}) are
checked later, by ``components.select``.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Container, Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from imgcls.config import peers
from imgcls.config.options import GROUPS, Node, listed, options
from imgcls.config.types import Length, Range, Word
from imgcls.errors import ConfigError
from imgcls.text import brief, closest, did_you_mean, show

T = TypeVar("T")

FORBIDDEN = frozenset({"_target_", "_partial_", "_args_", "_recursive_", "_convert_"})
FRACTION = re.compile(r"(\d{1,9})/0*([1-9]\d{0,8})")  # 8/255, a number as the field writes it
DEEPEST = 20  # levels of nesting in a configuration


def unknown_key(
    key: str,
    table: Mapping[str, Any],
    hint: str = "imgcls COMMAND --help lists the keys",
    *,
    value: Any = ...,
    roots: Container[str] | None = None,
) -> ConfigError:
    """The error for an unknown key: what it is here if it is another library's, the known one that was meant, or hint.

    table: the known keys, dotted, with their values. value: the one that was given. roots: see peers.key_hint.
    """
    near = closest(key, table)
    outer = key.rpartition(".")[0]
    is_sibling = outer and near is not None and near.rpartition(".")[0] == outer
    peer = "" if is_sibling else peers.key_hint(key, value, roots)
    if peer and not (near and peer.startswith(f"type {near}=")):
        return ConfigError(f"unknown key '{key}'; {peer}")
    if near is None:
        return ConfigError(f"unknown key '{key}'; {hint}")
    current = table[near]
    now = "" if isinstance(current, Mapping) or current == "???" else f" (now {show(current)})"
    return ConfigError(f"unknown key '{key}'; did you mean '{near}'{now}?")


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a": {"b": 1}, "a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat[f"{prefix}{key}"] = value
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
    return flat


def convert(value: Any, kind: Any, key: str) -> Any:
    """The value as the annotated kind; kinds that a configuration cannot have pass unchanged.

    Raises ConfigError, which names the key.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if isinstance(value, str) and Word(value) in arguments:
            return value
        return _in_range(convert(value, arguments[0], key), arguments[1:], key, value)
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, key)
    if origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
        raise _no_choice(value, [str(argument) for argument in arguments], key)
    if origin in (list, tuple) or kind in (list, tuple):
        return _convert_list(value, kind, origin or kind, arguments, key)
    if kind is bool and not isinstance(value, bool):
        raise ConfigError(f"{key}: expected true or false, got {show(value)}")
    if kind is int and (not isinstance(value, int) or isinstance(value, bool)):
        raise ConfigError(f"{key}: expected an integer, got {show(value)}")
    if kind is float:
        return _convert_float(value, key)
    if kind is str and not isinstance(value, str):
        hint = " (YAML reads an unquoted yes, no, on or off as a boolean; quote it)" if isinstance(value, bool) else ""
        raise ConfigError(f"{key}: expected text, got {show(value)}{hint}")
    if origin is dict and not isinstance(value, dict):
        raise ConfigError(f"{key}: expected a group of keys, got {show(value)}")
    return value


def _no_choice(value: Any, names: list[str], key: str) -> ConfigError:
    hint = did_you_mean(value, names) if isinstance(value, str) and value not in names else ""
    return ConfigError(f"{key}: unknown {show(value)}{hint} (choices: {', '.join(names)})")


def _convert_float(value: Any, key: str) -> float:
    if isinstance(value, str) and (parts := FRACTION.fullmatch(value)):
        value = int(parts[1]) / int(parts[2])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{key}: expected a number, got {show(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{key}: must be finite, got {brief(show(value))}")
    return number


def _convert_list(value: Any, kind: Any, origin: Any, arguments: tuple[Any, ...], key: str) -> Any:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key}: expected a list such as [1,2], got {show(value)}")
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise ConfigError(f"{key}: expected {len(arguments)} values, got {len(value)}")
        kinds = list(arguments)
    else:
        kinds = [arguments[0] if arguments else Any] * len(value)
    return origin(convert(item, of, f"{key}[{i}]") for i, (item, of) in enumerate(zip(value, kinds, strict=True)))


def _convert_union(value: Any, kinds: tuple[Any, ...], key: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    if bool in kinds:  # "auto" | bool, or bool | something
        names = [str(word) for kind in kinds for word in get_args(kind) if get_origin(kind) is Literal]
        if isinstance(value, bool) or (isinstance(value, str) and value in names):
            return value
        if all(kind is bool or get_origin(kind) is Literal for kind in kinds):
            raise _no_choice(value, [*names, "true", "false"], key)
    errors: list[ConfigError] = []
    for kind in kinds:
        if kind is type(None) or kind is bool:
            continue
        try:
            return convert(value, kind, key)
        except ConfigError as error:
            errors.append(error)
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    raise errors[-1] if numeric or len(errors) == 1 or "expected" not in str(errors[0]) else errors[0]


def _in_range(value: Any, annotations: tuple[Any, ...], key: str, given: Any) -> Any:
    for bounds in annotations:
        if isinstance(bounds, Range | Length) and value is not None and value not in bounds:
            raise ConfigError(f"{key}: must be {bounds}, got {show(given)}")
    return value


def forbidden(name: str, where: str) -> ConfigError:
    """The error for a key that Hydra would treat as code to call."""
    return ConfigError(f"'{name}' is not allowed (in {where}); to use your own code, set model.name=my_pkg.nets:MyNet")


def reject_forbidden(table: Any, key: str = "", depth: int = 0) -> None:
    """Raises ConfigError for ``_target_`` and the like at any depth: a configuration never names code to call."""
    if depth > DEEPEST:
        raise ConfigError(f"{key.split('.')[0]}: nested more than {DEEPEST} levels deep")
    items = table.items() if isinstance(table, Mapping) else enumerate(table) if isinstance(table, list) else ()
    for name, value in items:
        if name in FORBIDDEN:
            raise forbidden(str(name), key or "the configuration")
        reject_forbidden(value, f"{key}.{name}" if key else str(name), depth + 1)


def parse(cls: type[T], table: Mapping[str, Any], prefix: str = "") -> T:
    """The table as that dataclass; ``prefix`` comes before its keys in messages.

    Raises ConfigError for unknown, missing, mistyped and out-of-range keys.
    """
    hints = _hints(cls)  # type: ignore[arg-type]
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in table:
        if name not in names:
            known = {f"{prefix}{key}": value for key, value in flatten(table).items() if key.split(".")[0] in names}
            given = flatten({name: table[name]})
            key = max(given, key=len)
            raise unknown_key(prefix + key, known, value=given[key], roots=None if prefix else names)
    if absent := [name for name in names if name not in table]:
        raise ConfigError(f"missing required value '{prefix}{absent[0]}'")
    values = {name: _convert_field(table[name], hints[name], f"{prefix}{name}") for name in names}
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from error


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _convert_field(value: Any, kind: Any, key: str) -> Any:
    if kind == Node and key in GROUPS:
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: expected one of its options, got {show(value)}{_choices(key)}")
        if "name" not in value:
            raise ConfigError(f"missing required value '{key}.name': the option to use{_choices(key)}")
        return value
    hint = peers.value_hint(key, value)
    try:
        converted = convert(value, kind, key)
    except ConfigError as error:
        raise ConfigError(f"{error}; {hint}") if hint else error from error
    if hint:  # of device, which is plain text to the schema and is checked where the hardware is known
        raise ConfigError(f"{key}: unknown {show(value)} (choices: auto, cpu, cuda, cuda:1, mps); {hint}")
    return converted


def _choices(group: str) -> str:
    return f" (choices: {listed(options(group))})"
