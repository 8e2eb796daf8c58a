"""A command line, taken apart: the command, its flags wherever they are, and the other words."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from imgcls.cli.commands import COMMANDS
from imgcls.errors import ConfigError

# flag, its value ("" for none), what it does (as in help, "" to leave it out)
FLAGS = (
    ("-m --multirun", "", "a sweep: every combination of a,b, range(), choice()"),
    ("-c --cfg", "job", "print the configuration and do nothing else"),
    ("-cd --config-dir", "DIR", "a folder with your own YAML files, laid out as conf/"),
    ("-cn --config-name", "NAME", "start from NAME.yaml instead of the command's own"),
    ("--json", "", "print the result as JSON and nothing else on stdout"),
    ("--debug", "", "show the traceback of an error"),
    ("-h -help --help", "", ""),
    ("--version", "", ""),
)
UNSUPPORTED = (  # Hydra's other flags
    *("--experimental-rerun", "--run", "-r", "--config-path", "-cp", "--info", "-i", "--package", "-p", "--resolve"),
    *("--hydra-help", "--shell-completion", "-sc"),
)


@dataclass
class Line:
    """A command line, taken apart; flags: only those that were given."""

    command: str = ""
    words: list[str] = field(default_factory=list)
    literal: list[str] = field(default_factory=list)  # after --
    flags: dict[str, Any] = field(default_factory=dict)


class _Parser(argparse.ArgumentParser):
    """argparse without its abbreviations and its own way to end the program."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        return []  # -cx is not -c x


def _parser() -> _Parser:
    keys: dict[str, Any] = {"add_help": False, "allow_abbrev": False, "exit_on_error": False}
    narrow = partial(argparse.HelpFormatter, width=80)  # else argparse asks for the terminal's width, 5 ms
    parser = _Parser("imgcls", argument_default=argparse.SUPPRESS, formatter_class=narrow, **keys)
    for names, value, _ in FLAGS:
        parser.add_argument(*names.split(), action="store" if value else "store_true")
    return parser


def parse_line(arguments: Sequence[str]) -> Line:
    """Take the arguments apart. Raises ConfigError for an unknown command or flag."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if name := next((name for name in (word.partition("=")[0] for word in arguments[:end]) if name in UNSUPPORTED), ""):
        raise ConfigError(f"flag {name} is not supported; imgcls COMMAND --help lists the flags")
    flags, words = _flags(arguments[:end])
    line = Line(literal=list(arguments[end + 1 :]), flags=flags)
    for i, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if equals and re.fullmatch(r"--[A-Za-z_][\w.]*", name):
            line.words.append(word[2:])  # --key=value is key=value
        elif word.startswith("-") and len(word) > 1 and _is_flag(word):
            raise _unknown_flag(word, words[i + 1] if i + 1 < len(words) else "")
        elif not line.command:
            line.command = _command(word)
        else:
            line.words.append(word)
    if line.command == "help":
        line.command = _command(line.words[0]) if line.words else ""
        line.flags["help"] = True
    elif line.words and line.words[0] == "help" and not os.path.lexists("help"):
        line.flags["help"] = True
    return line


def _flags(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """(the flags that were given, the other words)"""
    _check_values(arguments)
    try:
        found, words = _parser().parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error.argument_name} needs a value") from error
    flags = vars(found)
    if empty := next((name for name, value in flags.items() if value == ""), None):
        raise ConfigError(f"--{empty.replace('_', '-')} needs a value")
    if flags.get("cfg", "job") != "job":
        raise ConfigError(f"--cfg: unknown '{flags['cfg']}' (choices: job)")
    return flags, words


def _check_values(arguments: Sequence[str]) -> None:
    """Raises ConfigError for what argparse would misread: -m=h, to it -m -h, and --cfg=--, a value that it drops."""
    for word in arguments:
        name, equals, value = word.partition("=")
        for names, takes_value, _ in FLAGS:
            if equals and name in names.split() and (not takes_value or value in ("", "--")):
                raise ConfigError(f"{name} {'needs a value' if takes_value else 'takes no value'}")


def _is_flag(word: str) -> bool:
    """Whether the word is a flag rather than a file: without a value, or one that should be a key (--batch-size=64)."""
    return "=" not in word or (word.startswith("--") and _without_dashes(word, "") is not None)


def _unknown_flag(word: str, following: str) -> ConfigError:
    from imgcls.text import did_you_mean

    keys = "keys are set by key=value, without dashes"
    if typed := _without_dashes(word, following):
        return ConfigError(f"unknown flag {word.partition('=')[0]}; {keys}: {typed}")
    near = did_you_mean(word, [name for names, _, _ in FLAGS for name in names.split()])
    return ConfigError(f"unknown flag {word}{near or f'; {keys}; a file is given as ./{word}'}")


def _without_dashes(word: str, following: str) -> str | None:
    """What to type for a flag that is one of our keys or another library's (--batch-size 64, --lr=0.1), else None."""
    from imgcls.config import peers
    from imgcls.config.options import option_node

    name, equals, value = word.lstrip("-").partition("=")
    key = name.replace("-", "_")
    if not equals:
        value = following if following and not following.startswith("-") and "=" not in following else "..."
    own = {**option_node("", "train"), **option_node("", "evaluate"), **option_node("", "predict")}
    if key in own:
        return f"{key}={value}"
    return peers.key_hint(key, value).removeprefix("type ") or None


def _command(word: str) -> str:
    from imgcls.config.peers import command_hint
    from imgcls.text import did_you_mean

    if word in (*COMMANDS, "help"):
        return word
    if "=" in word:
        raise ConfigError(f"a command is missing before '{word}'; for example: imgcls train {word}")
    if hint := command_hint(word):
        raise ConfigError(f"unknown command '{word}'; {hint}")
    near = did_you_mean(word, (*COMMANDS, "help"))
    raise ConfigError(f"unknown command '{word}'{near} (commands: {', '.join(COMMANDS)})")


def joined(words: Sequence[str], is_key: Callable[[str], Any]) -> list[str]:
    """``key = value`` typed with spaces as one word; is_key: whether a word can be a key."""
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
