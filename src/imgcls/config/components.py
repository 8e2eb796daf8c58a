"""Components: a name and its parameters, checked against the signature of the function behind the name."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from imgcls.config.options import OWN_PARTS, Node, common_keys, listed
from imgcls.config.parsing import convert, unknown_key
from imgcls.errors import ConfigError
from imgcls.text import did_you_mean


@dataclass(frozen=True)
class Choice:
    """A group on the command line of evaluate, predict, ...: an option instead of the run's, or changes to its keys."""

    node: Node | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


NO_CHOICE = Choice()  # the command line says nothing


@dataclass(frozen=True)
class Component:
    """A function that the configuration chose, with its checked parameters."""

    group: str
    name: str
    function: Callable[..., Any]
    params: Node

    @property
    def node(self) -> Node:
        """{name: ..., parameter: ...}, as ``select`` takes it."""
        return {"name": self.name, **self.params}

    def __call__(self, *args: Any, **context: Any) -> Any:
        """Call the function. context: what the run knows (num_classes, ...); the user's own code gets what it accepts.

        Raises ConfigError for what the function refuses.
        """
        if ":" in self.name:
            accepted = _signature(self.function).parameters
            context = {key: value for key, value in context.items() if key in accepted}
        try:
            return self.function(*args, **context, **self.params)
        except ValueError as error:
            raise ConfigError(f"{self.group}: {error}") from error
        except (TypeError, SystemExit) as error:  # the user's own code may be any callable: sys:exit
            if ":" not in self.name:
                raise
            reason = "it exits the program" if isinstance(error, SystemExit) else error
            raise ConfigError(f"{self.group}.name={self.name}: {reason}") from error


def select(
    table: Mapping[str, Callable[..., Any]],
    node: Node,
    group: str,
    *,
    context: tuple[str, ...] = (),
    trusted: bool = True,
) -> Component:
    """The component that the node names, its parameters checked against the function's keyword-only arguments.

    A name with a colon is the user's own code. It is imported only if ``trusted``: typed by the user for this command
    (or in their own --config-dir), never because a checkpoint or a stored configuration names it.
    context: names of the arguments that the run supplies. Raises ConfigError.
    """
    name = convert(node.get("name"), str, f"{group}.name")
    if ":" in name:
        function = _import(name, group, trusted)
    elif name in table:
        function = table[name]
    else:
        raise ConfigError(f"{group}: unknown '{name}'{did_you_mean(name, table)} (choices: {listed(table)})")
    return Component(group, name, function, _params(function, node, group, name, context))


def own_component(
    function: Callable[..., Any], group: str, params: Node, *, context: tuple[str, ...] = ()
) -> Component:
    """A user's own function as a component, its parameters checked as if it were named on the command line."""
    inner = getattr(function, "func", function)  # functools.partial
    name = f"{getattr(inner, '__module__', '')}:{getattr(inner, '__qualname__', type(inner).__name__)}"
    return Component(group, name, function, _params(function, params, group, name, context))


def _import(name: str, group: str, trusted: bool) -> Callable[..., Any]:
    if group not in OWN_PARTS:
        raise ConfigError(
            f"{group}.name: '{name}' is not an option; only {', '.join(OWN_PARTS)} can name your own code"
        )
    if not trusted:
        raise ConfigError(
            f"the stored configuration imports the code {name}; if you trust it, add {group}.name={name} "
            f"(in Python: imgcls.load(RUN, own_names=['{name}']))"
        )
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # importing runs the code
        raise ConfigError(f"{group}.name={name}: cannot import it ({type(error).__name__}: {error})") from error
    if not callable(found):
        raise ConfigError(f"{group}.name={name}: expected a class or a function, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def unknown_param(
    group: str, name: str, param: str, params: Mapping[str, Any], hint: str = "", *, value: Any = ...
) -> ConfigError:
    """The error for a parameter that an option does not have.

    params: those that it has, with their values; the keys that every option of the group has are added. hint: added
    if none of these is similar.
    """
    known = {f"{group}.{key}": value for key, value in {**params, **common_keys(group), **params}.items()}
    has = f"{group}={name} has {', '.join(known) or 'no keys'}"
    return unknown_key(f"{group}.{param}", known, has + hint, value=value)


class Signature(NamedTuple):
    """What a function accepts, and the resolved annotations."""

    parameters: Mapping[str, inspect.Parameter]
    hints: Mapping[str, Any]


def _signature(function: Callable[..., Any]) -> Signature:
    return _kept_signature(function) if isinstance(function, Hashable) else _read_signature(function)


def _read_signature(function: Callable[..., Any]) -> Signature:
    parameters: Mapping[str, inspect.Parameter] = {}
    with contextlib.suppress(ValueError, TypeError):  # some builtins have none
        parameters = inspect.signature(function).parameters
    inner = function.func if hasattr(function, "func") else function  # functools.partial
    hints: Mapping[str, Any] = {}
    with contextlib.suppress(NameError, TypeError):  # the user's annotations may not resolve
        hints = get_type_hints(inner.__init__ if isinstance(inner, type) else inner, include_extras=True)  # type: ignore[misc]
    return Signature(parameters, hints)


_kept_signature = lru_cache(maxsize=1000)(_read_signature)  # a sweep asks for the same ones for every job


def _params(function: Callable[..., Any], node: Node, group: str, name: str, context: tuple[str, ...]) -> Node:
    parameters, hints = _signature(function)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if ":" in name:
        first = 1 if group == "optimizer" else 0  # the parameter groups
        own = {
            key: p
            for key, p in list(parameters.items())[first:]
            if key not in context and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        }
    else:
        own = {key: p for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    given = {key: value for key, value in node.items() if key != "name"}
    for key in given:
        if key not in own and not takes_any:
            defaults = {param: None if p.default is p.empty else p.default for param, p in own.items()}
            values = {param: given.get(param, default) for param, default in defaults.items()}
            raise unknown_param(group, name, key, values, value=node[key])
    for key, parameter in own.items():
        if key not in given and parameter.default is parameter.empty:
            raise ConfigError(f"missing required value '{group}.{key}'")
    return {key: convert(value, hints.get(key, Any), f"{group}.{key}") for key, value in given.items()}
