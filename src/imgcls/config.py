"""The run's keys: types and ranges, once. Their defaults stand in conf/, once.

A table of plain values (from Hydra, from a run's config.yaml or from a checkpoint) becomes a dataclass by ``parse``;
the node of a component ({name: adamw, lr: 0.003, ...}) becomes a ``Component`` by ``select``, checked against the
keyword-only arguments of the function that the name stands for.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from imgcls.confdir import Node, listed, option_node, options
from imgcls.errors import ConfigError
from imgcls.knobs import Count, Length, Positive, Range, Seed, Share

T = TypeVar("T")
TestTime = Literal["none", "flip", "shift"]  # looks at an image in testing

FORBIDDEN = frozenset({"_target_", "_partial_", "_args_", "_recursive_", "_convert_"})
GROUPS = ("model", "dataset", "optimizer", "scheduler", "loss", "augment", "attack", "experiment")
OWN_PARTS = ("model", "dataset", "optimizer")  # groups whose name may be a user's own package:attribute
FRACTION = re.compile(r"(\d{1,9})/0*([1-9]\d{0,8})")  # 8/255, a number as the field writes it
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
WEIGHT = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)"|([^'",:{}][^,:{}]*))\s*:\s*([^\s,{}]+)\s*(?:,|$)""")  # name: number
DEEPEST = 20  # levels of nesting in a configuration
LONGEST_WORD = 100  # letters: of a message's longer ones the rest is left out


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The keys of ``imgcls train``; conf/train.yaml says what each means."""

    model: Node
    dataset: Node
    optimizer: Node
    scheduler: Node
    loss: Node
    augment: Node
    attack: Node
    experiment: str | None  # the recipe's name, for the record: what it said stands in the other keys
    epochs: Count
    batch_size: Literal["auto"] | Count
    accumulate: Count
    sampler: Literal["shuffle", "balanced"]
    class_weights: Any  # "auto" | dict | None: weights_of says more than a type could
    clip_grad: Positive | None
    ema: Annotated[float, Range(above=0, below=1)] | None
    layer_decay: Share | None
    patience: Count | None
    monitor: Literal["val_accuracy", "val_loss"]
    seed: Seed
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    deterministic: bool
    compile: Literal["auto"] | bool
    threads: Annotated[int, Range(low=1, high=1024)] | None
    loader: Literal["auto", "resident", "stream"]
    workers: Literal["auto"] | Annotated[int, Range(low=0, high=256)]
    checkpoint_every: Any  # str | int | None: every_of says more than a type could
    run_dir: str | None
    resume: str | None  # taken by the command line, null by the time a run starts
    sweep_dir: str | None  # likewise
    job_timeout: Positive | None  # likewise

    def __post_init__(self) -> None:
        every_of(self.checkpoint_every)
        object.__setattr__(self, "class_weights", weights_of(self.class_weights))  # class names are text
        if self.class_weights == "auto" and self.sampler == "balanced":
            raise ConfigError("class_weights: auto beside sampler=balanced would count small classes twice; choose one")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The keys of ``imgcls evaluate``."""

    checkpoint: str
    split: Literal["train", "val", "test", "all"]
    tta: TestTime
    output: str | None
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    threads: Annotated[int, Range(low=1, high=1024)] | None


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """The keys of ``imgcls predict``."""

    checkpoint: str
    input: list[str]
    output: str | None
    topk: Annotated[int, Range(low=1, high=1000)]
    tta: TestTime
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    threads: Annotated[int, Range(low=1, high=1024)] | None


def every_of(value: Any) -> tuple[int | None, float | None]:
    """checkpoint_every as (steps, seconds): 200 -> (200, None), "30s" -> (None, 30.0), null -> (None, None)."""
    if value is None:
        return None, None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value, None
    if isinstance(value, str) and value.endswith("s"):
        try:
            seconds = float(value[:-1])
        except ValueError:
            seconds = math.nan
        if 0 < seconds < math.inf:
            return None, seconds
    raise ValueError(f"checkpoint_every: expected steps (200) or seconds (30s), got {show(value)}")


def weights_of(value: Any) -> Literal["auto"] | dict[str, float] | None:
    """class_weights: auto, null, or a number above 0 for each class that is named."""
    if value is None or value == "auto":
        return value  # type: ignore[no-any-return]
    if isinstance(value, str) and value[:1] + value[-1:] == "{}" and not WEIGHT.sub("", value[1:-1]).strip():
        pairs = [(a or b or c, number) for a, b, c, number in WEIGHT.findall(value[1:-1])]
        value = {name.strip(): float(number) if NUMBER.fullmatch(number) else number for name, number in pairs}
    if not isinstance(value, dict):
        raise ConfigError(f"class_weights: expected auto, null or {{name: weight, ...}}, got {show(value)}")
    return {str(name): convert(weight, Positive, f"class_weights.{name}") for name, weight in value.items()}


# --- words -----------------------------------------------------------------------------------------------------------


def brief(text: str) -> str:
    """Text short enough for a message."""
    return text if len(text) <= LONGEST_WORD else f"{text[:LONGEST_WORD]}..."


def show(value: Any) -> str:
    """A value as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"'{brief(value)}'"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {show(one)}' for key, one in value.items())}}}"
    if isinstance(value, int) and value.bit_length() > 14_000:  # Python refuses to write more than 4,300 digits
        return "a number of thousands of digits"
    return str(value)


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that was probably meant: like it in spelling, or of the same last part (lr -> optimizer.lr)."""

    def tail(name: str) -> str:
        return name.rpartition(".")[2].lower()

    def likeness(name: str) -> float:
        is_sibling = name.rpartition(".")[0] == word.rpartition(".")[0]
        whole = 0.0 if is_sibling else difflib.SequenceMatcher(None, name.lower(), word.lower()).ratio()
        return max(whole, difflib.SequenceMatcher(None, tail(name), tail(word)).ratio() - (0.0 if is_sibling else 0.1))

    word = word[:LONGEST_WORD]
    best = max(sorted(candidates), key=likeness, default=None)
    return best if best is not None and likeness(best) > 0.63 else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or nothing."""
    near = closest(word, candidates)
    return f"; did you mean '{near}'?" if near else ""


def unknown_key(key: str, table: Mapping[str, Any]) -> ConfigError:
    """The error for a key that nothing knows; ``table`` holds the known ones, dotted, with their values."""
    near = closest(key, table)
    if near is None:
        return ConfigError(f"unknown key '{key}'; imgcls COMMAND --help lists the keys")
    value = table[near]
    now = "" if isinstance(value, Mapping) or value == "???" else f" (now {show(value)})"
    return ConfigError(f"unknown key '{key}'; did you mean '{near}'{now}?")


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a": {"b": 1}, "a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat[f"{prefix}{key}"] = value
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
    return flat


# --- values ----------------------------------------------------------------------------------------------------------


def convert(value: Any, kind: Any, key: str) -> Any:
    """The value as the annotated kind; raises ConfigError that names the key. Kinds that it does not know pass."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
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
        hint = " (YAML reads a bare yes, no, on or off so; quote it)" if isinstance(value, bool) else ""
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
    """The error for a key that Hydra would take for code to call."""
    return ConfigError(f"'{name}' is not allowed (in {where}); name a part by model.name=my_pkg.nets:MyNet")


def reject_forbidden(table: Any, key: str = "", depth: int = 0) -> None:
    """No ``_target_`` or the like at any depth: a configuration names parts, it never names code to call."""
    if depth > DEEPEST:
        raise ConfigError(f"{key.split('.')[0]}: nested more than {DEEPEST} levels deep")
    items = table.items() if isinstance(table, Mapping) else enumerate(table) if isinstance(table, list) else ()
    for name, value in items:
        if name in FORBIDDEN:
            raise forbidden(str(name), key or "the configuration")
        reject_forbidden(value, f"{key}.{name}" if key else str(name), depth + 1)


def parse(cls: type[T], table: Mapping[str, Any], prefix: str = "") -> T:
    """The table as that dataclass. Raises ConfigError for unknown, missing, mistyped and out-of-range values."""
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in table:
        if name not in names:
            known = {f"{prefix}{key}": value for key, value in flatten(table).items() if key.split(".")[0] in names}
            raise unknown_key(prefix + max(flatten({name: table[name]}), key=len), known)
    if absent := [name for name in names if name not in table]:
        raise ConfigError(f"missing required value '{prefix}{absent[0]}'")
    values = {name: _convert_field(table[name], hints[name], f"{prefix}{name}") for name in names}
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _convert_field(value: Any, kind: Any, key: str) -> Any:
    if kind == Node and key in GROUPS:
        choices = listed(options(key))
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: expected one of its options, got {show(value)} (choices: {choices})")
        if "name" not in value:
            raise ConfigError(f"missing required value '{key}.name': which {key} is meant (choices: {choices})")
        return value
    return convert(value, kind, key)


# --- components ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Component:
    """A part that the configuration chose: the function, and its knobs already checked."""

    group: str
    name: str
    function: Callable[..., Any]
    knobs: Node

    @property
    def node(self) -> Node:
        """{name: ..., knob: ...}, as it can be selected again."""
        return {"name": self.name, **self.knobs}

    def __call__(self, *args: Any, **facts: Any) -> Any:
        """Build it. ``facts`` are what the run knows (num_classes, ...); a user's own part gets those it asks for."""
        if ":" in self.name:
            accepted = _parameters(self.function)
            facts = {key: value for key, value in facts.items() if key in accepted}
        try:
            return self.function(*args, **facts, **self.knobs)
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
    facts: tuple[str, ...] = (),
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
    return Component(group, name, function, _knobs(function, node, group, name, facts))


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


def _knobs(function: Callable[..., Any], node: Node, group: str, name: str, facts: tuple[str, ...]) -> Node:
    parameters = _parameters(function)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if ":" in name:
        first = 1 if group == "optimizer" else 0  # the parameter groups
        own = {
            key: p
            for key, p in list(parameters.items())[first:]
            if key not in facts and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        }
    else:
        own = {key: p for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    hints = _hints(function)
    given = {key: value for key, value in node.items() if key != "name"}
    for key in given:
        if key not in own and not takes_any:
            known = {
                f"{group}.{knob}": given.get(knob, p.default if p.default is not p.empty else None)
                for knob, p in own.items()
            }
            beside = option_node("", "train").get(group) or {}  # the keys that every option has
            known_too = known | {f"{group}.{knob}": value for knob, value in beside.items()}
            if closest(f"{group}.{key}", known_too):
                raise unknown_key(f"{group}.{key}", known_too)
            raise ConfigError(
                f"unknown key '{group}.{key}'; {group}={name} has {', '.join(known) or 'no keys of its own'}"
            )
    for key, parameter in own.items():
        if key not in given and parameter.default is parameter.empty:
            raise ConfigError(f"missing required value '{group}.{key}'")
    return {key: convert(value, hints.get(key, Any), f"{group}.{key}") for key, value in given.items()}
