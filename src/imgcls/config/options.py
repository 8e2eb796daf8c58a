"""conf/: the options of each group, and the keys, defaults and comments in their files."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from imgcls.config import torchvision_names

Node = dict[str, Any]

GROUPS = ("model", "dataset", "optimizer", "scheduler", "loss", "augment", "attack", "experiment")
OWN_PARTS = ("model", "dataset", "optimizer")  # groups whose name may be the user's own code, package:attribute
SHARED = {"model": torchvision_names.MODELS, "dataset": torchvision_names.DATASETS}  # options that share one file
SUCH_AS = ("vgg16", "mobilenet_v3_small", "vit_b_16")  # in messages
TIMM = re.compile(r"timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")  # model=timm/NAME or timm/NAME.TAG: known where timm is
KEY_LINE = re.compile(r"( *)([A-Za-z_]\w*):(?:.*?\s#\s+(.*))?.*")  # indent, key, comment


class Documented(NamedTuple):
    """What conf/ says about a key."""

    default: Any
    comment: str


@cache
def conf_dir() -> Path:
    """conf/ as packaged in the wheel, else the checkout's."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


def options(group: str) -> list[str]:
    """The names in a group of conf/, and torchvision's."""
    return list(_options(group))


@cache
def _options(group: str) -> tuple[str, ...]:
    return tuple(sorted([*(path.stem for path in (conf_dir() / group).glob("*.yaml")), *SHARED.get(group, ())]))


def is_timm(group: str, name: object) -> bool:
    """Whether an option of the group has the form of a model of timm's; whether there is one, timm alone knows."""
    return group == "model" and isinstance(name, str) and TIMM.fullmatch(name) is not None


def option_node(group: str, name: str) -> Node:
    """The keys of one option with their defaults; without a group, those of a command.

    An option whose defaults list names another one has that one's keys too.
    """
    return copy.deepcopy(_option_node(group, name))


@cache
def _option_node(group: str, name: str) -> Node:
    _, node = _read(group, name)
    if not group:
        return node
    inherited = {key: value for base in _bases(node) for key, value in _option_node(group, base).items()}
    return {**inherited, "name": name, **{key: value for key, value in node.items() if key != "defaults"}}


@cache
def _read(group: str, name: str) -> tuple[str, Node]:
    """The text of a file of conf/, and what it says. torchvision's models share one, its data sets, timm's models."""
    import yaml

    path = f"torchvision_{group}.yaml" if name in SHARED.get(group, ()) else f"{group}/{name}.yaml"
    path = "timm_model.yaml" if is_timm(group, name) else path
    text = (conf_dir() / path.lstrip("/")).read_text(encoding="utf-8")
    return text, yaml.safe_load(text) or {}


def _bases(node: Node) -> list[str]:
    return [base for base in node.get("defaults", ()) if base != "_self_"]


def common_keys(group: str) -> Node:
    """The keys that every option of the group has, with their defaults."""
    return option_node("", "train").get(group) or {}


def documented(group: str, name: str) -> dict[str, Documented]:
    """The default of each key of an option (without a group: of a command), and the comment after it.

    Keys of a command's groups are dotted: dataset.limit.
    """
    comments = _comments(group, name)
    leaves: Node = {}
    for key, value in _option_node(group, name).items():
        leaves |= {f"{key}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
    return {key: Documented(leaves[key], comments.get(key, "")) for key in leaves if key not in ("name", "defaults")}


def _comments(group: str, name: str) -> dict[str, str]:
    text, node = _read(group, name)
    found = {
        key: comment for base in (_bases(node) if group else ()) for key, comment in _comments(group, base).items()
    }
    outer = ""
    for line in text.splitlines():
        if match := KEY_LINE.fullmatch(line):
            indent, key, comment = match.groups()
            outer = outer if indent else key
            if comment:
                found[f"{outer}.{key}" if indent else key] = comment
    return found


def own_code(keys: Mapping[str, Any]) -> dict[str, str]:
    """{"model.name": "my_pkg.nets:MyNet"}: the user's own code that a flat table of keys names."""
    names = {f"{group}.name": keys.get(f"{group}.name") for group in OWN_PARTS}
    return {key: name for key, name in names.items() if isinstance(name, str) and ":" in name}


def as_yaml(table: Mapping[str, Any]) -> str:
    """The table as YAML."""
    import yaml

    def dump(dumper: Any) -> str:
        return str(yaml.dump(dict(table), Dumper=dumper, sort_keys=False, allow_unicode=True))

    text = dump(getattr(yaml, "CSafeDumper", yaml.SafeDumper))  # ten times as fast
    return dump(yaml.SafeDumper) if "\\" in text else text  # libyaml also escapes what need not be, such as emoji


def listed(names: Iterable[str]) -> str:
    """The names for a message, torchvision's and timm's many models in a few words."""
    names = list(names)
    others = [name for name in names if name not in torchvision_names.MODELS]
    more = f"timm/NAME for timm's, and torchvision's, such as {', '.join(SUCH_AS)}: imgcls train --help"
    return ", ".join([*others, *([more] if len(others) < len(names) else [])])
