"""The text of --help, made of conf/: a key's line is the comment behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgcls.compose.composer import Composer


OVERVIEW = """\
imgcls: train, evaluate and use image classifiers

  imgcls train     [key=value ...]      train on images that need no download
  imgcls train     dataset=./photos     train on your own: class folders
  imgcls evaluate  RUN [split=test]     accuracy, precision, recall of a run
  imgcls predict   RUN INPUT...         classify files, folders, globs
  imgcls data      ./photos             what is in a data set, and what is wrong with it
  imgcls COMMAND --help                 the keys of a command and their defaults

RUN is a run folder, a checkpoint file, or latest.

more
  imgcls train -m model=mlp,lenet seed=0,1    a sweep: every combination
  imgcls train experiment=mnist_99            a recipe: options and keys at once
  imgcls train resume=RUN                     go on with a run that was stopped
  imgcls --version
"""

EXAMPLES = {
    "data": """\
examples
  imgcls data ./photos
  imgcls data ./labels.csv --json
  imgcls data mnist
""",
    "train": """\
examples
  imgcls train model=lenet dataset=cifar10 epochs=10
  imgcls train dataset=./photos model=resnet18 dataset.image_size=64
  imgcls train optimizer=sgd optimizer.lr=0.1 scheduler=cosine
  imgcls train -m model=mlp,lenet seed=0,1,2
  imgcls train experiment=mnist_99
  imgcls train resume=latest
  imgcls train model.name=my_pkg.nets:MyNet model.width=64
""",
    "evaluate": """\
examples
  imgcls evaluate latest
  imgcls evaluate outputs/lenet-mnist-1 split=val
  imgcls evaluate latest dataset=./more_photos split=all output=./results
""",
    "predict": """\
examples
  imgcls predict latest photo.png
  imgcls predict outputs/lenet-mnist-1 ./folder 'scans/*.png' output=labels.csv
""",
}

USAGE = {
    "train": "imgcls train [key=value ...] [-m]",
    "evaluate": "imgcls evaluate RUN [key=value ...]",
    "predict": "imgcls predict RUN INPUT... [key=value ...]",
    "data": "imgcls data NAME or ./PATH [dataset.key=value ...]",
}

FLAGS = """\
flags
  -m, --multirun        run every combination of a,b, choice(), range(), glob()
  --cfg job             print the configuration and do nothing
  --config-dir DIR      a folder with YAML files of your own, as in conf/
  --config-name NAME    another file than train.yaml to start from
  --json                print the result as JSON and nothing else on stdout
  --debug               show the traceback of an error
"""

OWN_CODE = "  model.name=PKG:NAME     own code that the checkpoint may import, named again"
BESIDE = {
    "evaluate": [
        "  dataset=NAME or ./PATH  another data set; dataset.KEY=... as for train",
        "  attack=fgsm or pgd      also the accuracy under that attack; attack.KEY=...",
        OWN_CODE,
    ],
    "predict": [OWN_CODE],
    "data": ["  dataset.KEY             as for train (imgcls train dataset=mnist --help)"],
}

BASE = re.compile(r"^  - (?!_self_)(\w+)$", re.MULTILINE)  # the option whose keys an option has, too
LINE = re.compile(r"( *)([A-Za-z_]\w*):\s*(.*?)\s*(?:\s#\s(.*))?")
WIDTH = 80


def overview() -> str:
    """imgcls --help"""
    return OVERVIEW


def command_help(command: str, composer: Composer, words: Sequence[str] = ()) -> str:
    """imgcls COMMAND --help; for train with the keys of the options that the words choose."""
    lines = [f"usage: {USAGE[command]}", ""]
    own = [] if command == "data" else _keys(command)
    lines += _train(composer, words) if command == "train" else ["keys (key=value)", *own, *BESIDE[command]]
    return "\n".join([*lines, "", FLAGS, EXAMPLES[command].rstrip()]) + "\n"


def _train(composer: Composer, words: Sequence[str]) -> list[str]:
    from imgcls.compose.experiments import read
    from imgcls.config.options import GROUPS, SHARED, options
    from imgcls.config.parsing import flatten

    defaults = _defaults()
    given = {key: value for key, _, value in (word.partition("=") for word in words) if key in GROUPS}
    experiments = {name: read(name, composer.folder) for name in composer.options("experiment")}
    chosen = experiments.get(given.get("experiment", ""))
    lines = ["groups (group=option; * is the default)"]
    for group in GROUPS:
        shared = SHARED.get(group, ())
        names = [name for name in composer.options(group) if name not in shared]
        lines += _wrapped(f"  {group:<10} ", [f"{name}*" if name == defaults[group] else name for name in names])
        if shared:
            lines += _wrapped(f"{'':<13}torchvision's: ", sorted(shared))
    lines += ["", "experiments (experiment=NAME: options and keys at once; words beside it win)"]
    for name, one in experiments.items():
        lines += _wrapped(f"  {name:<23} ", one.about.split(), separator=" ")
    lines += ["", f"keys (key=value{f'; defaults of {chosen.path.stem}' if chosen else ''})"]
    values = flatten(chosen.values) if chosen else {}
    lines += _keys("train", values=values)
    for group in GROUPS[:-1]:
        options_of = [given.get(group), chosen.choices.get(group) if chosen else None, defaults[group]]
        shown = next(name for name in options_of if name in options(group))
        lines += _keys(shown, group, values=values)
    return [*lines, "", "Another option's own keys: imgcls train model=mlp dataset=mnist --help"]


def _read(name: str, group: str = "") -> str:
    from imgcls.config.options import option_file

    return option_file(group, name).read_text(encoding="utf-8")


def _defaults() -> dict[str, str]:
    return dict(re.findall(r"^  - (\w+): (\w+)$", _read("train"), re.MULTILINE))


def _keys(name: str, group: str = "", values: Mapping[str, Any] | None = None) -> list[str]:
    """'  key   default   comment' for each key of a file of conf/; values: other defaults than the file's."""
    from imgcls.config.options import option_node
    from imgcls.text import show

    text = _read(name, group)
    if group and (base := BASE.search(text)):
        own = {f"{group}.{key}": value for key, value in option_node(group, name).items()}
        return _keys(base[1], group, own | dict(values or {}))
    lines: list[str] = []
    outer = prefix = f"{group}." if group else ""
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match is None or match[2] == ("name" if group else "defaults"):
            continue
        indent, key, value, comment = match.groups()
        if not indent and not value:
            outer = f"{prefix}{key}."
            continue
        full = (outer if indent else prefix) + key
        value = show(values[full]).strip("'") if values and full in values else value.replace("???", "(needed)")
        lines += _wrapped(f"  {full:<23} {value:<10} ", (comment or "").split(), separator=" ")
    return lines


def _wrapped(start: str, words: list[str], separator: str = ", ") -> list[str]:
    lines, line = [], start
    for i, word in enumerate(words):
        piece = word + (separator if i < len(words) - 1 else "")
        if len(line) + len(piece.rstrip()) > WIDTH and line.strip():
            lines.append(line.rstrip())
            line = " " * len(start)
        line += piece
    return [*lines, line.rstrip()]
