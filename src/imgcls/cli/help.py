"""The text of --help, made from the table of commands and conf/: a key's text is the comment after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imgcls.cli.arguments import FLAGS
from imgcls.cli.commands import COMMANDS

if TYPE_CHECKING:
    from imgcls.compose.composer import Composer

WIDTH = 80


def overview() -> str:
    """imgcls --help"""
    first = [(f"{name:<9} {words}", text) for name, one in COMMANDS.items() for words, text in one.overview]
    more = [(f"{name} {words}", text) for name, one in COMMANDS.items() for words, text in one.more]
    return "\n".join(
        [
            "imgcls: train, evaluate and use image classifiers",
            "",
            *(f"  imgcls {words:<28} {text}" for words, text in first),
            f"  imgcls {'COMMAND --help':<28} a command's keys and their defaults",
            "",
            "RUN is a run folder, a checkpoint file, or latest.",
            "",
            "more",
            *(f"  imgcls {words:<34} {text}".rstrip() for words, text in [*more, ("--version", "")]),
            "",
        ]
    )


def command_help(name: str, composer: Composer, words: Sequence[str] = ()) -> str:
    """imgcls COMMAND --help; for train with the keys of the options that the words choose."""
    command = COMMANDS[name]
    keys = _train_keys(composer, words) if command.allows_multirun else ["keys (key=value)", *_keys("", name)]
    lines = [f"usage: imgcls {name} {command.usage}", "", *keys, *(f"  {line}" for line in command.help), "", "flags"]
    for names, value, text in FLAGS:
        if text and (command.allows_multirun or "--multirun" not in names):
            lines.append(f"  {', '.join(names.split())} {value}".ljust(27) + text)
    return "\n".join([*lines, "", "examples", *(f"  imgcls {name} {example}" for example in command.examples), ""])


def _train_keys(composer: Composer, words: Sequence[str]) -> list[str]:
    from imgcls.config.options import GROUPS, SHARED, is_timm, option_node, options
    from imgcls.config.parsing import flatten

    entries = [entry for entry in option_node("", "train")["defaults"] if isinstance(entry, dict)]
    defaults = {group: name for entry in entries for group, name in entry.items()}
    given = {key: value for key, _, value in (word.partition("=") for word in words) if key in GROUPS}
    experiments = {name: composer.experiment(name) for name in composer.options("experiment")}
    chosen = experiments.get(given.get("experiment", ""))
    lines = ["groups (group=option; * is the default)"]
    for group in GROUPS:
        shared = SHARED.get(group, ())
        names = [name for name in composer.options(group) if name not in shared]
        lines += _wrapped(f"  {group:<10} ", [f"{name}*" if name == defaults[group] else name for name in names])
        if shared:
            lines += _wrapped(f"{'':<13}torchvision's: ", sorted(shared))
        if group == "model":
            lines += [f"{'':<13}timm's: timm/NAME (pip install 'imgcls[timm]')"]
    lines += ["", "experiments (experiment=NAME: options and keys at once; the command line", "takes precedence)"]
    for name, one in experiments.items():
        lines += _wrapped(f"  {name:<23} ", one.about.split(), separator=" ")
    lines += ["", f"keys (key=value{f'; defaults of {chosen.path.stem}' if chosen else ''})"]
    values = flatten(chosen.values) if chosen else {}
    lines += _keys("", "train", values)
    for group in GROUPS[:-1]:
        candidates = [given.get(group), chosen.choices.get(group) if chosen else None, defaults[group]]
        lines += _keys(
            group, next(name for name in candidates if name in options(group) or is_timm(group, name)), values
        )
    return [*lines, "", "For another option's keys, name it: imgcls train model=mlp dataset=mnist --help"]


def _keys(group: str, name: str, values: Mapping[str, Any] | None = None) -> list[str]:
    """'  key   default   comment' for each key of an option or a command; values: defaults other than the file's."""
    from imgcls.config.options import documented
    from imgcls.text import show

    lines: list[str] = []
    for key, (default, comment) in documented(group, name).items():
        full = f"{group}.{key}" if group else key
        value = (values or {}).get(full, default)
        shown = "(required)" if value == "???" else show(value).strip("'")
        lines += _wrapped(f"  {full:<23} {shown:<10} ", comment.split(), separator=" ")
    return lines


def _wrapped(start: str, words: Sequence[str], separator: str = ", ") -> list[str]:
    lines, line = [], start
    for i, word in enumerate(words):
        piece = word + (separator if i < len(words) - 1 else "")
        if len(line) + len(piece.rstrip()) > WIDTH and line.strip():
            lines.append(line.rstrip())
            line = " " * len(start)
        line += piece
    return [*lines, line.rstrip()]
