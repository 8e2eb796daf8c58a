"""The command line: verbs and exit codes. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from imgcls import __version__
from imgcls.argv import Line, joined, make_absolute, sort_out
from imgcls.confdir import as_yaml
from imgcls.errors import ConfigError, DeviceError, ImgclsError, is_lost_peer, is_out_of_memory
from imgcls.signals import signals_wait, terminable

if TYPE_CHECKING:
    from imgcls.compose import Composer, Override
    from imgcls.studio import Studio

RESUME_KEYS = ("epochs", "device", "workers", "threads", "loader", "dataset.root", "dataset.images", "checkpoint_every")
HEAD_START = 5  # seconds
LONGEST_MESSAGE = 1000
OWN_NAMES = ("model.name", "dataset.name", "optimizer.name")


def entry() -> NoReturn:
    """The console script: ``main``, and an end that does not take torch and its libraries down piece by piece.

    That takes 0.5 s of CPU for nothing. What was registered to be done at exit is done.
    """
    gc.disable()  # while modules are imported: nothing of theirs is garbage
    code = main()
    is_stopped = code >= 128  # Python would rather end by SIGINT itself if one was seen within some imports
    if not is_stopped and ("torch" not in sys.modules or len(threading.enumerate()) > 1):
        sys.exit(code)
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a reader that has gone
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code. Errors are one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_debug = "--debug" in arguments
    try:
        os.getcwd()
    except FileNotFoundError:
        return _fail("the working folder no longer exists; cd to another", 2, is_debug)
    _fill_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with terminable():
            return _dispatch(arguments)
    except ImgclsError as error:
        return _fail(error, error.exit_code, is_debug)
    except KeyboardInterrupt as error:
        number = getattr(error, "signal_number", signal.SIGINT)
        return _fail("stopped; what was saved before is kept", 128 + number, False)
    except BrokenPipeError:  # the reader of stdout has gone: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if is_out_of_memory(error):
            return _fail(_unexpected(error), 1, is_debug)
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", 1, is_debug)
    except MemoryError:
        return _fail("out of memory; try a smaller batch_size or dataset.image_size, or loader=stream", 1, is_debug)
    except Exception as error:  # noqa: BLE001 - the last resort: still one line
        if (stop := _stop_behind(error)) is not None:
            number = getattr(stop, "signal_number", signal.SIGINT)
            return _fail("stopped; what was saved before is kept", 128 + number, False)
        if is_lost_peer(error):
            time.sleep(HEAD_START + 2)  # let the one that knows why say it
            return _fail(
                "another of the processes has ended; imgcls train resume=RUN goes on from the last save", 1, is_debug
            )
        return _fail(_unexpected(error), 1, is_debug)


def _fill_streams() -> None:
    """Where stdin, stdout or stderr is closed (2>&-), /dev/null takes its place: no later file may get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            if os.open(os.devnull, os.O_RDWR) == number:  # the lowest that is free
                setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _stop_behind(error: BaseException | None) -> BaseException | None:
    """The interrupt that a library's clean-up has replaced by an error of its own, if there was one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _unexpected(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    if is_out_of_memory(error):
        return f"out of memory; try a smaller batch_size or dataset.image_size ({text[:120]})"
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _fail(error: ImgclsError | str, code: int, is_debug: bool) -> int:
    text = " ".join(str(error).split())
    text = text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."
    rank = os.environ.get("RANK", "0")
    if rank == "0" or isinstance(error, DeviceError):
        with contextlib.suppress(OSError):  # a terminal that has gone
            print(f"imgcls: error: {text}" if code < 128 else f"\n{text}", file=sys.stderr, flush=True)
    if is_debug and sys.exc_info()[0] is not None:
        import traceback

        traceback.print_exc()
    if rank != "0":
        time.sleep(HEAD_START)  # torchrun ends all processes with the first: let the main one say what is wrong
        if code < 128 and not isinstance(error, DeviceError):  # it was not wrong there
            print(f"imgcls: error (rank {rank}): {text}", file=sys.stderr, flush=True)
    return code


def _dispatch(arguments: list[str]) -> int:
    from imgcls import help as texts  # imports no Hydra

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
    from imgcls.compose import Composer

    composer = Composer(line.flags.get("config_dir"), line.flags.get("config_name"))
    if line.flags.get("help"):
        print(texts.command_help(line.command, composer, line.words), end="")
        return 0
    commands = {"train": _train, "evaluate": _evaluate, "predict": _predict, "data": _data}
    return commands[line.command](line, composer)


def _studio() -> Studio:
    """Where the pictures of a run are drawn: in the main process of several, apart if torch is not there yet."""
    from imgcls.studio import Studio

    return Studio(apart="torch" not in sys.modules and os.environ.get("RANK", "0") == "0")


def _ready() -> None:
    """All that is heavy is imported: garbage is collected again, though never looked for among what was imported."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


# --- train -----------------------------------------------------------------------------------------------------------


def _train(line: Line, composer: Composer) -> int:
    from imgcls.compose import read_all
    from imgcls.config import TrainConfig, parse

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
    with contextlib.closing(_studio()) as studio:
        with signals_wait():
            from imgcls.train import train

        _ready()
        return _finish(train(config, is_quiet=bool(line.flags.get("json")), studio=studio), line)


def _finish(report: Mapping[str, Any] | None, line: Line) -> int:
    if line.flags.get("json") and report is not None:
        print(json.dumps(report, indent=1, allow_nan=False))
    return 0


def _sweep(line: Line, words: list[str], composer: Composer) -> int:
    """Compose and check every job; only then run the first."""
    with signals_wait():
        from imgcls import sweep
        from imgcls.rehearsal import Rehearsal

    if "cfg" in line.flags:
        raise ConfigError("--cfg cannot be used with --multirun")
    plans, folder, timeout = sweep.plan(composer, words, Rehearsal())
    flags = [
        f"--{name.replace('_', '-')}={line.flags[name]}" for name in ("config_dir", "config_name") if name in line.flags
    ]
    if line.flags.get("debug"):
        flags.append("--debug")
    return sweep.run(plans, flags, folder, timeout, is_quiet=bool(line.flags.get("json")))


def _resume(run: str, overrides: Sequence[Override], line: Line, composer: Composer) -> int:
    """Go on with a run by its own configuration; beside it only what does not change what is computed may be given."""
    with signals_wait():
        from imgcls import rundir

    from imgcls.config import TrainConfig, flatten, parse, show, unknown_key
    from imgcls.errors import CheckpointError

    given = composer.values(overrides)
    folder = rundir.run_folder(run)
    table = stored_config(folder)
    try:
        parse(TrainConfig, table)
    except ConfigError as error:
        raise CheckpointError(f"{folder / 'config.yaml'}: damaged ({error})") from error
    known = flatten(table)
    for key, value in given.items():
        if key not in known:
            raise unknown_key(key, known)
        current = known[key].get("name") if isinstance(known[key], dict) else known[key]
        outer, _, inner = key.rpartition(".")
        if key in RESUME_KEYS:
            (table[outer] if outer else table)[inner] = value
        elif current != value:
            raise ConfigError(
                f"{key} is {show(current)} in {folder} and cannot become {show(value)} on resume; "
                f"only {', '.join(RESUME_KEYS)} may be given (a changed run is a new run)"
            )
    if "cfg" in line.flags:
        print(as_yaml(table), end="")
        return 0
    make_absolute(table.get("dataset"))
    config = parse(TrainConfig, table)
    own_names = frozenset(str(given[key]) for key in OWN_NAMES if key in given)
    with contextlib.closing(_studio()) as studio:
        with signals_wait():
            from imgcls.train import resume

        _ready()
        is_quiet = bool(line.flags.get("json"))
        return _finish(resume(config, folder, own_names, is_quiet=is_quiet, studio=studio), line)


def stored_config(folder: Path) -> dict[str, Any]:
    """A run's config.yaml as a table of plain values."""
    from imgcls.config import reject_forbidden
    from imgcls.errors import CheckpointError
    from imgcls.stored import completed
    from imgcls.yamlcheck import read_yaml

    path = folder / "config.yaml"
    try:
        table = read_yaml(path)
        reject_forbidden(table)
    except ConfigError as error:
        where = "" if str(error).startswith(f"{path}:") else f"{path}: "
        raise CheckpointError(f"{where}{error}; the run's configuration is damaged") from error
    return completed(table)


# --- evaluate and predict --------------------------------------------------------------------------------------------


def _split_words(line: Line, *beside: str) -> tuple[list[str], dict[str, str]]:
    """(positional words, {key: word}); ``beside`` the command's own keys these, and all below a group, are known."""
    from imgcls.compose import KEY
    from imgcls.confdir import option_node
    from imgcls.config import GROUPS, unknown_key

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
    from imgcls.compose import Composer, read_all
    from imgcls.config import EvaluateConfig, parse

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

    _ready()
    more: Any = {"attack": attack, "attack_changes": attack_changes, "is_quiet": bool(line.flags.get("json"))}
    return _finish(evaluate(config, dataset, changes, names, **more), line)


def _node(group: str, words: Sequence[str], composer: Composer) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """(the option that the words name, None if they name none; what they change in it, or in the run's own)"""
    from imgcls.compose import read_all

    overrides = read_all(words, composer.paths)
    node: dict[str, Any] | None = None
    changes = overrides
    if any(one.key == group or (one.key == f"{group}.name" and ":" not in (one.value or "")) for one in overrides):
        node = composer.table(overrides, "train")[group]
        changes = [one for one in overrides if one.key not in (group, f"{group}.name") and one.value is not None]
    return node, {key.partition(".")[2]: value for key, value in composer.values(changes).items()}


def _predict(line: Line, composer: Composer) -> int:
    from imgcls.compose import read, read_all
    from imgcls.config import PredictConfig, parse

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
    predict(config, names, is_quiet=bool(line.flags.get("json")))
    return 0


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
        from imgcls.examine import examine

    _ready()
    return _finish(examine(node, is_quiet=bool(line.flags.get("json"))), line)


def _no_multirun(line: Line) -> None:
    if line.flags.get("multirun"):
        raise ConfigError(f"--multirun is for train; {line.command} takes one configuration")
