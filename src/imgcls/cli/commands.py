"""The command line: verbs and exit codes. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imgcls.cli.arguments import Line, joined, sort_out
from imgcls.compose.overrides import make_absolute
from imgcls.config.options import as_yaml
from imgcls.errors import ConfigError, PartialFailure
from imgcls.runtime.signals import signals_wait
from imgcls.version import __version__

if TYPE_CHECKING:
    from imgcls.compose.composer import Composer
    from imgcls.compose.overrides import Override
    from imgcls.parallel.background import BackgroundWorker

OWN_NAMES = ("model.name", "dataset.name", "optimizer.name")


def dispatch(arguments: list[str]) -> int:
    from imgcls.cli import help as texts  # imports no Hydra

    line = sort_out(arguments)
    if line.flags.get("version"):
        print(f"imgcls {__version__}")
        return 0
    if not line.command:
        if line.flags.get("help"):
            print(texts.overview(), end="")
            return 0
        print(texts.overview(), end="", file=sys.stderr)
        return 2
    from imgcls.compose.composer import Composer

    composer = Composer(line.flags.get("config_dir"), line.flags.get("config_name"))
    if line.flags.get("help"):
        print(texts.command_help(line.command, composer, line.words), end="")
        return 0
    commands = {"train": _train, "evaluate": _evaluate, "predict": _predict, "data": _data}
    return commands[line.command](line, composer)


def _plotter() -> BackgroundWorker:
    """Where the pictures of a run are drawn: in the main process of several, apart if torch is not there yet."""
    from imgcls.parallel.background import BackgroundWorker

    return BackgroundWorker(apart="torch" not in sys.modules and os.environ.get("RANK", "0") == "0")


def _ready() -> None:
    """All that is heavy is imported: garbage is collected again, though never looked for among what was imported."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


# --- train -----------------------------------------------------------------------------------------------------------


def _train(line: Line, composer: Composer) -> int:
    from imgcls.compose.overrides import read_all
    from imgcls.config.parsing import parse
    from imgcls.config.schema import TrainConfig

    if line.literal:
        raise ConfigError(f"expected key=value, got '{line.literal[0]}'")
    words = joined(line.words, lambda word: re.fullmatch(r"[+~]*[A-Za-z_][\w.]*", word))
    if line.flags.get("multirun"):
        return _sweep(line, words, composer)
    overrides = read_all(words, composer.paths)
    run = next((composer.paths.restore(one.value) for one in overrides if one.key == "resume" and one.value), "null")
    if run != "null":
        return _resume(run, [one for one in overrides if one.key != "resume"], line, composer)
    table = composer.table(overrides, "train")
    config = parse(TrainConfig, table)
    if config.sweep_dir is not None:
        raise ConfigError("sweep_dir: only a sweep has one; add --multirun, or name this run's folder by run_dir=")
    if config.job_timeout is not None:
        raise ConfigError("job_timeout: only a sweep has jobs; add --multirun, or leave it out")
    if "cfg" in line.flags:
        print(as_yaml(table), end="")
        return 0
    with contextlib.closing(_plotter()) as plotter:
        with signals_wait():
            from imgcls.train import train

        _ready()
        return _finish(lambda: train(config, is_quiet=bool(line.flags.get("json")), plotter=plotter), line)


def _finish(run: Callable[[], Any], line: Line) -> int:
    """Run the command; with --json its result is all that stdout gets, what there is of it if some inputs failed."""
    result = None
    try:
        result = run()
    except PartialFailure as error:
        result = error.result
        raise
    finally:
        if line.flags.get("json") and result is not None:
            print(json.dumps(result, indent=1, allow_nan=False))
    return 0


def _sweep(line: Line, words: list[str], composer: Composer) -> int:
    """Compose and check every job; only then run the first."""
    with signals_wait():
        from imgcls.sweeps import local as sweep
        from imgcls.sweeps import plan as sweep_plan
        from imgcls.training.dry_run import DryRun

    if "cfg" in line.flags:
        raise ConfigError("--cfg cannot be used with --multirun")
    plans, folder, timeout = sweep_plan.plan(composer, words, DryRun())
    flags = [
        f"--{name.replace('_', '-')}={line.flags[name]}" for name in ("config_dir", "config_name") if name in line.flags
    ]
    if line.flags.get("debug"):
        flags.append("--debug")
    return sweep.run(plans, flags, folder, timeout, is_quiet=bool(line.flags.get("json")))


def _resume(run: str, overrides: Sequence[Override], line: Line, composer: Composer) -> int:
    """Go on with a run by its own configuration; beside it only what does not change what is computed may be given."""
    with signals_wait():
        from imgcls.training.resume import resumed_config

    from imgcls.config.parsing import parse
    from imgcls.config.schema import TrainConfig

    given = composer.values(overrides)
    folder, table = resumed_config(run, given)
    if "cfg" in line.flags:
        print(as_yaml(table), end="")
        return 0
    make_absolute(table.get("dataset"))
    config = parse(TrainConfig, table)
    own_names = frozenset(str(given[key]) for key in OWN_NAMES if key in given)
    with contextlib.closing(_plotter()) as plotter:
        with signals_wait():
            from imgcls.train import resume

        _ready()
        is_quiet = bool(line.flags.get("json"))
        return _finish(lambda: resume(config, folder, own_names, is_quiet=is_quiet, plotter=plotter), line)


# --- evaluate and predict --------------------------------------------------------------------------------------------


def _split_words(line: Line, *beside: str) -> tuple[list[str], dict[str, str]]:
    """(positional words, {key: word}); ``beside`` the command's own keys these, and all below a group, are known."""
    from imgcls.compose.overrides import KEY
    from imgcls.config.options import GROUPS, option_node
    from imgcls.config.parsing import unknown_key

    own = {} if line.command == "data" else option_node("", line.command)  # it has the data set's keys alone

    def is_known(key: str) -> bool:
        return key in own or key in beside or key.partition(".")[0] in set(beside) & set(GROUPS)

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
                raise ConfigError(f"{key}: not a key of {line.command}, which takes it from the checkpoint")
            raise unknown_key(key, own | {other: {} for other in beside})
        else:
            positional.append(word)
    return positional + line.literal, words


def _own_names(words: Mapping[str, str]) -> frozenset[str]:
    return frozenset(words[key].partition("=")[2] for key in OWN_NAMES if key in words and ":" in words[key])


def _evaluate(line: Line, composer: Composer) -> int:
    from imgcls.compose.composer import Composer
    from imgcls.compose.overrides import read_all
    from imgcls.config.parsing import parse
    from imgcls.config.schema import EvaluateConfig

    _no_multirun(line)
    positional, words = _split_words(line, "dataset", "attack", "model.name")
    if len(positional) > 1:
        raise ConfigError(f"expected one RUN, got {len(positional)}: {' '.join(positional)}; keys are set by key=value")
    if positional and "checkpoint" in words:
        raise ConfigError(f"checkpoint is given twice: '{positional[0]}' and '{words['checkpoint']}'")
    if positional:
        words["checkpoint"] = f"checkpoint={positional[0]}"
    if "checkpoint" not in words:
        raise ConfigError("missing RUN: a run folder, a checkpoint file, or latest (imgcls evaluate latest)")
    names = _own_names(words)
    words.pop("model.name", None)
    of_dataset, of_attack = (
        [words.pop(key) for key in list(words) if key.partition(".")[0] == group] for group in ("dataset", "attack")
    )
    table = composer.table(read_all(list(words.values()), composer.paths), "evaluate")
    config = parse(EvaluateConfig, table)
    own = Composer(line.flags.get("config_dir"))
    dataset, changes = _node("dataset", of_dataset, own)
    attack, attack_changes = _node("attack", of_attack, own)
    if "cfg" in line.flags:
        chosen = {"dataset": dataset, "attack": attack}
        print(as_yaml(table | {group: node for group, node in chosen.items() if node}), end="")
        return 0
    with signals_wait():
        from imgcls.evaluate import evaluate
    from imgcls.config.components import Choice

    _ready()
    choices = {"dataset": Choice(dataset, changes), "attack": Choice(attack, attack_changes)}
    is_quiet = bool(line.flags.get("json"))
    return _finish(lambda: evaluate(config, **choices, own_names=names, is_quiet=is_quiet), line)


def _node(group: str, words: Sequence[str], composer: Composer) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """(the option that the words name, None if they name none; what they change in it, or in the run's own)"""
    from imgcls.compose.overrides import read_all

    overrides = read_all(words, composer.paths)
    node: dict[str, Any] | None = None
    changes = overrides
    if any(one.key == group or (one.key == f"{group}.name" and ":" not in (one.value or "")) for one in overrides):
        node = composer.table(overrides, "train")[group]
        changes = [one for one in overrides if one.key not in (group, f"{group}.name") and one.value is not None]
    return node, {key.partition(".")[2]: value for key, value in composer.values(changes).items()}


def _predict(line: Line, composer: Composer) -> int:
    from imgcls.compose.overrides import read, read_all
    from imgcls.config.parsing import parse
    from imgcls.config.schema import PredictConfig

    _no_multirun(line)
    positional, words = _split_words(line, "model.name")
    if "checkpoint" not in words and positional:
        words["checkpoint"] = f"checkpoint={positional.pop(0)}"
    if "checkpoint" not in words:
        raise ConfigError("missing RUN and INPUT: imgcls predict RUN INPUT... (imgcls predict latest photo.png)")
    inputs = [read(words.pop("input")).value] if "input" in words else []
    inputs += positional
    if not inputs:
        raise ConfigError("missing INPUT: image files, folders or globs (imgcls predict latest photo.png)")
    names = _own_names(words)
    words.pop("model.name", None)
    table = composer.table(read_all([*words.values(), "input=null"], composer.paths), "predict") | {"input": inputs}
    config = parse(PredictConfig, table)
    if "cfg" in line.flags:
        print(as_yaml(table), end="")
        return 0
    with signals_wait():
        from imgcls.predict import predict

    _ready()
    return _finish(lambda: predict(config, own_names=names, is_quiet=bool(line.flags.get("json"))), line)


def _data(line: Line, composer: Composer) -> int:
    _no_multirun(line)
    positional, words = _split_words(line, "dataset")
    given = positional + [word for key, word in words.items() if key == "dataset"]
    if len(given) > 1:
        raise ConfigError(f"expected one data set, got {len(given)}: {' '.join(given)}")
    if positional:
        words["dataset"] = f"dataset={positional[0]}"
    if not any(key.partition(".")[0] == "dataset" for key in words):
        raise ConfigError("missing data set: a folder, a table or a name (imgcls data ./photos)")
    node, _ = _node("dataset", list(words.values()), composer)
    if node is None:
        raise ConfigError("missing data set: its keys alone do not say which (imgcls data mnist dataset.root=...)")
    if "cfg" in line.flags:
        print(as_yaml({"dataset": node}), end="")
        return 0
    with signals_wait():
        from imgcls.reports.dataset import inspect_dataset
    from imgcls.config.components import Choice
    from imgcls.config.schema import DataConfig

    _ready()
    is_quiet = bool(line.flags.get("json"))
    return _finish(lambda: inspect_dataset(DataConfig(), dataset=Choice(node), is_quiet=is_quiet), line)


def _no_multirun(line: Line) -> None:
    if line.flags.get("multirun"):
        raise ConfigError(f"--multirun is for train; {line.command} takes one configuration")
