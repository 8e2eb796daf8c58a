"""Components: a name and its parameters, checked against the signature of the function that the name stands for."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from imgcls.config.options import OWN_PARTS, Node, listed, option_node
from imgcls.config.parsing import convert, unknown_key
from imgcls.errors import ConfigError
from imgcls.text import closest, did_you_mean


@dataclass(frozen=True)
class Choice:
    """What the command line says about a group: another option, or keys that change in the run's own option."""

    node: Node | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


NO_CHOICE = Choice()  # the command line says nothing


@dataclass(frozen=True)
class Component:
    """A part that the configuration chose: the function, and its knobs already checked."""

    group: str
    name: str
    function: Callable[..., Any]
    params: Node

    @property
    def node(self) -> Node:
        """{name: ..., knob: ...}, as it can be selected again."""
        return {"name": self.name, **self.params}

    def __call__(self, *args: Any, **context: Any) -> Any:
        """Build it. ``facts`` are what the run knows (num_classes, ...); a user's own part gets those it asks for."""
        if ":" in self.name:
            accepted = _parameters(self.function)
            context = {key: value for key, value in context.items() if key in accepted}
        try:
            return self.function(*args, **context, **self.params)
        except ValueError as error:
            raise ConfigError(f"{self.group}: {error}") from error
        except (TypeError, SystemExit) as error:  # a user's own part may be anything that can be called: sys:exit
            if ":" not in self.name:
                raise
            reason = "it ends the program" if isinstance(error, SystemExit) else error
            raise ConfigError(f"{self.group}.name={self.name}: {reason}") from error


def select(
    table: Mapping[str, Callable[..., Any]],
    node: Node,
    group: str,
    *,
    context: tuple[str, ...] = (),
    trusted: bool = True,
) -> Component:
    """The component that the node names, its knobs checked against the function's keyword-only arguments.

    A name with a colon is a user's own part: it is imported only if ``trusted``, that is, typed by the user for this
    command (or in their own --config-dir), never because a checkpoint or a stored configuration says so.
    facts: the arguments that the run itself supplies.
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
        raise ConfigError(f"{group}.name: '{name}' names code of your own, which only {', '.join(OWN_PARTS)} can be")
    if not trusted:
        raise ConfigError(
            f"the stored configuration names code of its own; if you trust it, add {group}.name={name} "
            f"(in Python: imgcls.load(RUN, own_names=['{name}']))"
        )
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # importing runs the user's own code
        raise ConfigError(f"{group}.name={name}: cannot import it ({type(error).__name__}: {error})") from error
    if not callable(found):
        raise ConfigError(f"{group}.name={name}: expected a class or a function, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (ValueError, TypeError):  # some builtins have none
        return {}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    inner = function.func if hasattr(function, "func") else function  # functools.partial
    try:
        return get_type_hints(inner.__init__ if isinstance(inner, type) else inner, include_extras=True)  # type: ignore[misc]
    except (NameError, TypeError):  # a user's annotations may not resolve
        return {}


def _params(function: Callable[..., Any], node: Node, group: str, name: str, context: tuple[str, ...]) -> Node:
    parameters = _parameters(function)
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
    hints = _hints(function)
    given = {key: value for key, value in node.items() if key != "name"}
    for key in given:
        if key not in own and not takes_any:
            known = {
                f"{group}.{param}": given.get(param, p.default if p.default is not p.empty else None)
                for param, p in own.items()
            }
            beside = option_node("", "train").get(group) or {}  # the keys that every option has
            known_too = known | {f"{group}.{param}": value for param, value in beside.items()}
            if closest(f"{group}.{key}", known_too):
                raise unknown_key(f"{group}.{key}", known_too)
            raise ConfigError(
                f"unknown key '{group}.{key}'; {group}={name} has {', '.join(known) or 'no keys of its own'}"
            )
    for key, parameter in own.items():
        if key not in given and parameter.default is parameter.empty:
            raise ConfigError(f"missing required value '{group}.{key}'")
    return {key: convert(value, hints.get(key, Any), f"{group}.{key}") for key, value in given.items()}
