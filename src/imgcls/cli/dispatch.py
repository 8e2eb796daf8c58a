"""From a command line to the command's function: words to a configuration, imports, signals, --json."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imgcls.cli.arguments import Line, joined, parse_line
from imgcls.cli.commands import COMMANDS, Command
from imgcls.errors import ConfigError, Mismatch, PartialFailure
from imgcls.runtime.signals import signals_wait
from imgcls.version import __version__

if TYPE_CHECKING:
    from imgcls.compose.composer import Composer
    from imgcls.compose.overrides import Override
    from imgcls.config.components import Choice

ALONE = {"sweep_dir": "set run_dir= for a single run", "job_timeout": "leave it out"}  # in place of a sweep's keys


def dispatch(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code. Raises ImgclsError."""
    line = parse_line(arguments)
    wants_help = bool(line.flags.get("help"))
    if line.flags.get("version"):
        print(f"imgcls {__version__}")
        return 0
    if not line.command:
        from imgcls.cli.help import overview  # imports no Hydra

        print(overview(), end="", file=sys.stdout if wants_help else sys.stderr)
        return 0 if wants_help else 2
    from imgcls.compose.composer import Composer

    command = COMMANDS[line.command]
    composer = Composer(line.flags.get("config_dir"), line.flags.get("config_name"))
    if wants_help:
        from imgcls.cli.help import command_help

        print(command_help(line.command, composer, line.words), end="")
        return 0
    if command.allows_multirun:
        return _train(line, composer)
    if line.flags.get("multirun"):
        raise ConfigError(f"--multirun is for train; {line.command} takes one configuration")
    return _run(line, command, composer)


def _call(run: str, line: Line, *args: Any, **keys: Any) -> int:
    """Import a function and call it; with --json its result, even if partial, is all that stdout gets."""
    module, _, name = run.partition(":")
    with signals_wait():
        function = getattr(importlib.import_module(module), name)
    if not gc.isenabled():  # see app.entry; what was imported is never garbage
        gc.freeze()
        gc.enable()
    is_json = bool(line.flags.get("json"))
    result = None
    try:
        result = function(*args, **keys, is_quiet=is_json)
    except (Mismatch, PartialFailure) as error:
        result = error.result
        raise
    finally:
        if is_json and result is not None:
            print(json.dumps(result, indent=1, allow_nan=False))
    return 0


def _print_config(table: Mapping[str, Any]) -> int:
    from imgcls.config.options import as_yaml

    print(as_yaml(table), end="")
    return 0


# --- commands on a run or a data set ---------------------------------------------------------------------------------


def _run(line: Line, command: Command, composer: Composer) -> int:
    from imgcls.compose.composer import Composer
    from imgcls.compose.overrides import read_all
    from imgcls.config import schema
    from imgcls.config.options import GROUPS, own_code
    from imgcls.config.parsing import parse

    words = _words_by_key(line, command)
    lists = _set_arguments(line, command, words)
    own_names = frozenset(own_code({key: word.partition("=")[2] for key, word in words.items()}).values())
    groups: dict[str, list[str]] = {key: [] for key in command.accepts if key in GROUPS}
    own: list[str] = []
    for key, word in words.items():
        if key.partition(".")[0] in groups:
            groups[key.partition(".")[0]].append(word)
        elif key not in command.accepts:
            own.append(word)
    table = composer.table(read_all(own, composer.paths), line.command) | lists
    config = parse(getattr(schema, command.config), table)
    options = Composer(line.flags.get("config_dir"))
    choices = {group: _choice(group, given, options) for group, given in groups.items()}
    if missing := [one.name for one in command.arguments if one.key in choices and choices[one.key].node is None]:
        raise _missing(line, command, missing)
    if "cfg" in line.flags:
        return _print_config(table | {group: choice.node for group, choice in choices.items() if choice.node})
    return _call(command.run, line, config, **choices, own_names=own_names)


def _words_by_key(line: Line, command: Command) -> dict[str, str]:
    """{key: word} of the words that set one of the command's keys; ``line.words`` keeps the others."""
    from imgcls.compose.overrides import KEY
    from imgcls.config.options import GROUPS, option_node
    from imgcls.config.parsing import unknown_key

    own = option_node("", line.command)
    groups = set(command.accepts) & set(GROUPS)

    def is_known(key: str) -> bool:
        return key in own or key in command.accepts or key.partition(".")[0] in groups

    positional: list[str] = []
    words: dict[str, str] = {}
    for word in joined(line.words, is_known):
        key, equals, _ = word.lstrip("+").partition("=")
        if not word.strip():
            raise ConfigError("empty argument")
        if equals and is_known(key):
            if key in words:
                raise ConfigError(f"{key} is given twice")
            words[key] = word
        elif equals and not key:
            raise ConfigError(f"missing key before '=' in '{word}'")
        elif equals and KEY.fullmatch(key) and not os.path.lexists(word):
            if key.partition(".")[0] in GROUPS:
                why = ", which takes it from the checkpoint" if "checkpoint" in own else ""
                raise ConfigError(f"{key}: not a key of {line.command}{why}")
            hint = f"imgcls {line.command} --help lists the keys"
            known = own | {other: {} for other in command.accepts}
            raise unknown_key(key, known, hint, value=word.partition("=")[2], roots=known)
        else:
            positional.append(word)
    line.words = positional + line.literal
    return words


def _set_arguments(line: Line, command: Command, words: dict[str, str]) -> dict[str, list[str]]:
    """Set the keys of the command's arguments by the words that are not key=value; returns the values of its lists."""
    from imgcls.compose.overrides import read
    from imgcls.config.options import GROUPS

    typed = [words[one.key] for one in command.arguments if one.key in words]
    lists: dict[str, list[str]] = {}
    waiting = list(line.words)
    missing: list[str] = []
    for one in command.arguments:
        if one.is_list:
            given = [str(read(words[one.key]).value)] if one.key in words else []
            lists[one.key], waiting = given + waiting, []
            words[one.key] = f"{one.key}=null"  # set after composing
        elif waiting and one.key not in words:
            words[one.key] = f"{one.key}={waiting.pop(0)}"
        is_group = one.key in GROUPS  # whose keys may choose an option: see _run
        if not lists.get(one.key, one.key in words or is_group):
            missing.append(one.name)
    if missing:
        raise _missing(line, command, missing)
    if waiting:
        expected = f"one {command.arguments[-1].name}" if command.arguments else "key=value"
        given = [*line.words, *typed]
        raise ConfigError(f"expected {expected}, got {len(given)}: {' '.join(given)}; keys are set by key=value")
    return lists


def _missing(line: Line, command: Command, names: Sequence[str]) -> ConfigError:
    usage = f"imgcls {line.command} {command.usage}"
    example = f"imgcls {line.command} {command.examples[0]}"
    return ConfigError(f"missing {' and '.join(names)}; usage: {usage}; for example: {example}")


def _choice(group: str, words: Sequence[str], composer: Composer) -> Choice:
    """What the words say about a group: the option that they name, and what they change in it or in the run's own."""
    from imgcls.compose.overrides import read_all
    from imgcls.config.components import Choice

    overrides = changes = read_all(words, composer.paths)
    node: dict[str, Any] | None = None
    if any(one.key == group or (one.key == f"{group}.name" and ":" not in (one.value or "")) for one in overrides):
        node = composer.table(overrides, "train")[group]
        changes = [one for one in overrides if one.key not in (group, f"{group}.name") and one.value is not None]
    return Choice(node, {key.partition(".")[2]: value for key, value in composer.values(changes).items()})


# --- train: a new run, a resumed one, a sweep ------------------------------------------------------------------------


def _train(line: Line, composer: Composer) -> int:
    from imgcls.compose.overrides import read_all

    if line.literal:
        raise ConfigError(f"expected key=value, got '{line.literal[0]}'")
    words = [_pinned(word) for word in joined(line.words, lambda word: re.fullmatch(r"[+~]*[A-Za-z_][\w.]*", word))]
    if line.flags.get("multirun"):
        return _sweep(line, words, composer)
    overrides = read_all(words, composer.paths)
    run = next((composer.paths.restore(one.value) for one in overrides if one.key == "resume" and one.value), "null")
    if run != "null":
        return _resume(run, [one for one in overrides if one.key != "resume"], line, composer)
    return _run_training(COMMANDS[line.command].run, line, composer.table(overrides, "train"))


def _pinned(word: str) -> str:
    """model.pretrained=latest with the run that is the latest now: a sweep would take its own jobs for it later."""
    key, _, value = word.partition("=")
    values = value.split(",")
    if key != "model.pretrained" or "latest" not in values:
        return word
    with signals_wait():
        from imgcls.runs.folder import latest
    return f"{key}={','.join(str(latest()) if value == 'latest' else value for value in values)}"


def _resume(run: str, overrides: Sequence[Override], line: Line, composer: Composer) -> int:
    """Resume a run with its own configuration, in which only the keys in RESUMABLE may change."""
    from imgcls.config.options import own_code

    with signals_wait():
        from imgcls.training.resume import resumed_config

    given = composer.values(overrides)
    folder, table = resumed_config(run, given)
    return _run_training("imgcls.train:resume", line, table, folder, frozenset(own_code(given).values()))


def _run_training(run: str, line: Line, table: dict[str, Any], *args: Any) -> int:
    """Call a function of train with the table as its configuration; the process that draws its plots starts first."""
    from imgcls.compose.overrides import make_absolute
    from imgcls.config.parsing import parse
    from imgcls.config.schema import OF_A_SWEEP, TrainConfig

    make_absolute(table.get("dataset"))
    config = parse(TrainConfig, table)
    if key := next((key for key in OF_A_SWEEP if getattr(config, key) is not None), None):
        raise ConfigError(f"{key}: only for a sweep; add --multirun, or {ALONE[key]}")
    if "cfg" in line.flags:
        return _print_config(table)
    from imgcls.parallel.background import BackgroundWorker  # imports numpy

    # in this process if torch is there already, or in a worker of torchrun, which draws nothing
    is_apart = config.plots and "torch" not in sys.modules and os.environ.get("RANK", "0") == "0"
    with contextlib.closing(BackgroundWorker(apart=is_apart)) as plotter:
        return _call(run, line, config, *args, plotter=plotter)


def _sweep(line: Line, words: Sequence[str], composer: Composer) -> int:
    """Compose and check every job, then run them."""
    with signals_wait():
        from imgcls.sweeps import local as sweep
        from imgcls.sweeps import plan as sweep_plan
        from imgcls.training.dry_run import DryRun

    if "cfg" in line.flags:
        raise ConfigError("--cfg cannot be used with --multirun")
    checked = DryRun()
    plans, folder, timeout = sweep_plan.plan(composer, words, checked)
    for model, start in checked.weights.items():
        print(f"weights  {model}: {start}", file=sys.stderr)
    flags = [
        f"--{name.replace('_', '-')}={line.flags[name]}" for name in ("config_dir", "config_name") if name in line.flags
    ]
    flags += ["--debug"] if line.flags.get("debug") else []
    return sweep.run(plans, flags, folder, timeout, is_quiet=bool(line.flags.get("json")))
