"""conf/: which options a group has, and the keys that stand in their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from imgcls.config import torchvision_names

Node = dict[str, Any]

SHARED = {"model": torchvision_names.MODELS, "dataset": torchvision_names.DATASETS}  # options without a file each
SUCH_AS = ("vgg16", "mobilenet_v3_small", "vit_b_16")  # in messages


def conf_dir() -> Path:
    """conf/ as packaged in the wheel, else the checkout's."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


def options(group: str) -> list[str]:
    """The names in a group of conf/, and torchvision's."""
    return sorted([*(path.stem for path in (conf_dir() / group).glob("*.yaml")), *SHARED.get(group, ())])


def option_file(group: str, name: str) -> Path:
    """The file that holds the option's keys: torchvision's models share one, and so do its data sets."""
    is_shared = name in SHARED.get(group, ())
    return conf_dir() / f"torchvision_{group}.yaml" if is_shared else conf_dir() / group / f"{name}.yaml"


def option_node(group: str, name: str) -> Node:
    """The node of one option as conf/ has it (what an ``auto`` stands for); without a group, a command's keys.

    An option whose defaults list names another has that one's keys, but for those that it sets itself.
    """
    import yaml

    node: Node = yaml.safe_load(option_file(group, name).read_text(encoding="utf-8"))
    if not group:
        return node
    bases = [base for base in node.pop("defaults", ()) if base != "_self_"]
    inherited = {key: value for base in bases for key, value in option_node(group, base).items()}
    return {**inherited, "name": name, **node}


def as_yaml(table: Mapping[str, Any]) -> str:
    """The table as YAML."""
    import yaml

    return yaml.safe_dump(dict(table), sort_keys=False, allow_unicode=True)


def listed(names: Iterable[str]) -> str:
    """The names for a message: torchvision's many models in a few words."""
    names = list(names)
    others = [name for name in names if name not in torchvision_names.MODELS]
    more = [f"and torchvision's, such as {', '.join(SUCH_AS)}: imgcls train --help"] if len(others) < len(names) else []
    return ", ".join([*others, *more])


GROUPS = ("model", "dataset", "optimizer", "scheduler", "loss", "augment", "attack", "experiment")
OWN_PARTS = ("model", "dataset", "optimizer")  # groups whose name may be a user's own package:attribute
