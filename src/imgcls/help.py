"""The text of --help, made of conf/: a key's line is the comment behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from imgcls.compose import Composer
from imgcls.config import GROUPS, conf_dir, options

OVERVIEW = """\
imgcls: train, evaluate and use image classifiers

  imgcls train     [key=value ...]      train on images that need no download
  imgcls train     dataset=./photos     train on your own: class folders
  imgcls evaluate  RUN [split=test]     accuracy, precision, recall of a run
  imgcls predict   RUN INPUT...         classify files, folders, globs
  imgcls COMMAND --help                 the keys of a command and their defaults

RUN is a run folder, a checkpoint file, or latest.

more
  imgcls train -m model=mlp,lenet seed=0,1    a sweep: every combination
  imgcls train resume=RUN                     go on with a run that was stopped
  imgcls --version
"""

EXAMPLES = {
    "train": """\
examples
  imgcls train model=lenet dataset=cifar10 epochs=10
  imgcls train dataset=./photos model=resnet18 dataset.image_size=64
  imgcls train optimizer=sgd optimizer.lr=0.1 scheduler=cosine
  imgcls train -m model=mlp,lenet seed=0,1,2
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
    "evaluate": ["  dataset=NAME or ./PATH  another data set; dataset.KEY=... as for train", OWN_CODE],
    "predict": [OWN_CODE],
}

LINE = re.compile(r"( *)([A-Za-z_]\w*):\s*(.*?)\s*(?:\s#\s(.*))?")
WIDTH = 80


def overview() -> str:
    """imgcls --help"""
    return OVERVIEW


def command_help(command: str, composer: Composer, words: Sequence[str] = ()) -> str:
    """imgcls COMMAND --help; for train with the keys of the options that the words choose."""
    lines = [f"usage: {USAGE[command]}", ""]
    if command == "train":
        chosen = _defaults()
        given = [word.split("=", 1) for word in words if "=" in word]
        shown = chosen | {key: value for key, value in given if key in GROUPS and value in options(key)}
        lines.append("groups (group=option; * is the default)")
        for group in GROUPS:
            names = [f"{name}*" if name == chosen[group] else name for name in composer.options(group)]
            lines += _wrapped(f"  {group:<10}", names)
        lines.append("")
    lines.append("keys (key=value)")
    lines += _keys(command)
    if command == "train":
        for group in GROUPS:
            lines += _keys(f"{group}/{shown[group]}", prefix=f"{group}.", skip=("name",))
        lines += ["", "Another option's own keys: imgcls train model=mlp dataset=mnist --help"]
    else:
        lines += BESIDE[command]
    return "\n".join([*lines, "", FLAGS, EXAMPLES[command].rstrip()]) + "\n"


def _defaults() -> dict[str, str]:
    text = (conf_dir() / "train.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^  - (\w+): (\w+)$", text, re.MULTILINE))


def _keys(name: str, prefix: str = "", skip: tuple[str, ...] = ()) -> list[str]:
    """'  key   default   comment' for each key of a file of conf/."""
    lines: list[str] = []
    outer = prefix
    for text in (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        match = LINE.fullmatch(text)
        if match is None or match[2] in ("defaults", *skip):
            continue
        indent, key, value, comment = match.groups()
        if not indent and not value:
            outer = f"{prefix}{key}."
            continue
        start = f"  {(outer if indent else prefix) + key:<23} {value.replace('???', '(needed)'):<10} "
        lines += _wrapped(start, (comment or "").split(), separator=" ")
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
