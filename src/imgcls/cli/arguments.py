"""The words on the command line, sorted: the command, its words, its flags wherever they stood."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from imgcls.errors import ConfigError

COMMANDS = ("train", "evaluate", "predict", "data")
VALUE_FLAGS = {
    "--cfg": "cfg",
    "-c": "cfg",
    "--config-dir": "config_dir",
    "-cd": "config_dir",
    "--config-name": "config_name",
    "-cn": "config_name",
}
BARE_FLAGS = {
    "-m": "multirun",
    "--multirun": "multirun",
    "--json": "json",
    "--debug": "debug",
    "-h": "help",
    "-help": "help",
    "--help": "help",
    "--version": "version",
}
UNSUPPORTED = (
    "--experimental-rerun",
    "--run",
    "-r",
    "--config-path",
    "-cp",
    "--info",
    "-i",
    "--package",
    "-p",
    "--resolve",
    "--hydra-help",
    "--shell-completion",
    "-sc",
)


@dataclass
class Line:
    """A command line, sorted: flags out of the words, wherever they stood."""

    command: str = ""
    words: list[str] = field(default_factory=list)
    literal: list[str] = field(default_factory=list)  # after --
    flags: dict[str, Any] = field(default_factory=dict)


def sort_out(arguments: Sequence[str]) -> Line:
    """The command, its words and its flags. Raises ConfigError for what is neither."""
    from imgcls.text import did_you_mean

    line = Line()
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            line.literal, waiting = waiting, []
        elif word in BARE_FLAGS:
            line.flags[BARE_FLAGS[word]] = True
        elif name in BARE_FLAGS:
            raise ConfigError(f"{name} takes no value, got '{word}'")
        elif name in VALUE_FLAGS:
            value = value if equals or not waiting else waiting.pop(0)
            if not value:
                raise ConfigError(f"{name} needs a value")
            line.flags[VALUE_FLAGS[name]] = value
        elif name in UNSUPPORTED:
            raise ConfigError(
                f"option {name} is not supported; imgcls {line.command or 'COMMAND'} --help lists the flags"
            )
        elif word.startswith("--") and equals and re.fullmatch(r"--[A-Za-z_][\w.]*", name):
            line.words.append(word[2:])  # --key=value is understood as key=value
        elif word.startswith("-") and len(word) > 1 and not equals:
            near = did_you_mean(word, [*VALUE_FLAGS, *BARE_FLAGS])
            hint = f"; keys are set by key=value, and a file of that name is given as ./{word}"
            raise ConfigError(f"unknown option {word}{near or hint}")
        elif not line.command:
            line.command = _command(word)
        else:
            line.words.append(word)
    if line.command == "help":
        line.command = _command(line.words[0]) if line.words else ""
        line.flags["help"] = True
    elif line.words and line.words[0] == "help" and not os.path.lexists("help"):
        line.flags["help"] = True
    cfg = line.flags.get("cfg", "job")
    if cfg != "job":
        raise ConfigError(f"--cfg: unknown '{cfg}' (choices: job)")
    return line


def _command(word: str) -> str:
    from imgcls.text import did_you_mean

    if word in (*COMMANDS, "help"):
        return word
    if "=" in word:
        raise ConfigError(f"a command is missing before '{word}'; for example: imgcls train {word}")
    near = did_you_mean(word, (*COMMANDS, "help"))
    raise ConfigError(f"unknown command '{word}'{near} (commands: {', '.join(COMMANDS)})")


def joined(words: Sequence[str], is_key: Any) -> list[str]:
    """``key = value`` typed with spaces, as one word; ``is_key`` says which bare words can be keys."""
    result: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if waiting and "=" not in word and is_key(word) and waiting[0].startswith("="):
            word += waiting.pop(0)
            if word.endswith("=") and waiting:
                word += waiting.pop(0)
        elif word.endswith("=") and word.count("=") == 1 and is_key(word[:-1]) and waiting and "=" not in waiting[0]:
            word += waiting.pop(0)
        result.append(word)
    return result
