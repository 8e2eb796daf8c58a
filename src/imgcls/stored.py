"""A configuration that an earlier version of the program may have stored with its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgcls.config import Node, option_node

# fmt: off
FIRST_KEYS = frozenset([  # of version 0.1.0: every run's config.yaml has them
    "model", "dataset", "optimizer", "scheduler", "loss", "augment", "epochs", "batch_size", "seed", "device",
    "precision", "deterministic", "threads", "loader", "workers", "checkpoint_every", "run_dir", "resume", "sweep_dir",
])
# fmt: on
NEWER_KNOBS = {"imagefolder": ("follow_links", "verify", "on_error")}


def completed(table: Mapping[str, Any]) -> Node:
    """The table with the keys that are newer than it, at their defaults in conf/train.yaml.

    The keys that every version has had are not filled in: where one is missing, the file is damaged.
    """
    defaults = option_node("", "train")
    for entry in defaults.pop("defaults"):
        defaults |= entry if isinstance(entry, dict) else {}
    whole = {**{key: value for key, value in defaults.items() if key not in FIRST_KEYS}, **table}
    return whole | ({"dataset": completed_dataset(whole["dataset"])} if isinstance(whole.get("dataset"), dict) else {})


def completed_dataset(node: Node) -> Node:
    """A data set's node with the knobs that are newer than it, at their defaults in conf/dataset/."""
    name = node.get("name")
    newer = NEWER_KNOBS.get(name, ()) if isinstance(name, str) else ()
    return {**{knob: option_node("dataset", str(name))[knob] for knob in newer}, **node}
