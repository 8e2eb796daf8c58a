"""Configurations stored with their runs by earlier versions: the keys that did not exist yet are filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgcls.config.options import Node, common_keys, option_node

# fmt: off
FIRST_KEYS = frozenset([  # of version 0.1.0: every run's config.yaml has them
    "model", "dataset", "optimizer", "scheduler", "loss", "augment", "epochs", "batch_size", "seed", "device",
    "precision", "deterministic", "threads", "loader", "workers", "checkpoint_every", "run_dir", "resume", "sweep_dir",
])
# fmt: on
NEWER_KEYS = {
    "model": ("pretrained", "freeze"),
    "dataset": (
        "classes",
        "background",
        "depth",
        "exclude",
        "relabel",
        "fit",
        "crop_share",
        "positive",
        "folds",
        "fold",
    ),
}
BEFORE = {  # (group, newer key): what earlier versions did, where that is not its default
    ("model", "pretrained"): False,
    ("dataset", "depth"): "full",
    ("dataset", "layout"): "old",
    ("augment", "area"): None,
    ("augment", "border"): "black",
}
PHOTO_PARAMS = ("area", "ratio", "border", "vertical_flip", "quarter_turns")
NEWER_PARAMS: dict[str, dict[str, tuple[str, ...]]] = {
    "dataset": {
        "imagefolder": ("follow_links", "rename", "verify", "on_error", "layout", "group"),
        "imagelist": ("test", "rename", "encoding", "group"),
    },
    "augment": {
        "strong": PHOTO_PARAMS,
        "trivialaugment": PHOTO_PARAMS,
        "standard": (
            *PHOTO_PARAMS,
            *("degrees", "shift", "scale", "brightness", "contrast", "saturation"),
            *("policy", "operations", "magnitude", "erasing", "mixup", "cutmix"),
        ),
    },
    "model": {
        "mlp": ("activation", "batch_norm"),
        "lenet": ("widths", "hidden", "activation", "batch_norm", "dropout"),
        "convnet": ("activation", "batch_norm", "dropout"),
    },
}


def completed(table: Mapping[str, Any]) -> Node:
    """The table with the keys that are newer than it, at their defaults in conf/train.yaml.

    Keys that every version has had are not filled in: if one is missing, the file is damaged.
    """
    defaults = option_node("", "train")
    for entry in defaults.pop("defaults"):
        for group, name in entry.items() if isinstance(entry, dict) else ():
            if group not in FIRST_KEYS:
                defaults[group] = None if name is None else option_node(group, name)
    whole = {**{key: value for key, value in defaults.items() if key not in FIRST_KEYS}, **table}
    augment, dataset = whole.get("augment"), whole.get("dataset")
    if isinstance(augment, dict) and augment.get("name") == "default" and "fit" not in (dataset or ()):
        whole["augment"] = {"border": BEFORE["augment", "border"], **augment}
    groups = {group for group in (*NEWER_KEYS, *NEWER_PARAMS) if isinstance(whole.get(group), dict)}
    return whole | {group: completed_node(group, whole[group], with_keys=True) for group in groups}


def completed_node(group: str, node: Node, *, with_keys: bool) -> Node:
    """An option's node with the parameters that are newer than it, at their defaults in conf/.

    with_keys: also the keys that every option of the group has.
    """
    name = node.get("name")
    newer = NEWER_PARAMS.get(group, {}).get(name, ()) if isinstance(name, str) else ()
    filled = {param: option_node(group, str(name))[param] for param in newer}
    if with_keys:
        filled |= {key: common_keys(group)[key] for key in NEWER_KEYS.get(group, ())}
    return {**{key: BEFORE.get((group, key), value) for key, value in filled.items()}, **node}
