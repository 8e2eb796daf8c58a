"""Experiments: a file of experiment/ chooses options and sets keys at once; the command line takes precedence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgcls.config.components import unknown_param
from imgcls.config.options import GROUPS, common_keys, conf_dir, is_timm, listed, option_node, options
from imgcls.config.parsing import unknown_key
from imgcls.config.yaml_files import read_yaml
from imgcls.errors import ConfigError
from imgcls.text import did_you_mean, show

PACKAGE = "# @package _global_"  # Hydra puts the file's values at the top, not below experiment


@dataclass(frozen=True)
class Experiment:
    """A file of experiment/; about: the first comment line that describes it."""

    path: Path
    about: str
    defaults: Any
    values: dict[str, Any]

    @property
    def choices(self) -> dict[str, str]:
        """{group: option} of its defaults list."""
        entries = self.defaults if isinstance(self.defaults, list) else []
        pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
        found = {str(key).removeprefix("override ").strip().lstrip("/"): str(value) for key, value in pairs}
        return {group: option for group, option in found.items() if group in GROUPS}


def read(name: str, folder: Path | None) -> Experiment:
    """The experiment of that name: in the user's --config-dir, else ours. Raises ConfigError if it is invalid."""
    paths = [root / "experiment" / f"{name}.yaml" for root in (folder, conf_dir()) if root is not None]
    path = next((path for path in paths if path.is_file()), paths[-1])
    values = read_yaml(path)
    comments = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    about = next((line for line in comments if not line.startswith("@")), "")
    return Experiment(path, about, values.pop("defaults", []), values)


def check_file(path: Path) -> None:
    """Raises ConfigError for a file of a --config-dir that is not YAML, or that Hydra would misunderstand."""
    table = read_yaml(path)
    if "hydra" in table:
        raise ConfigError(f"{path}: unknown key 'hydra'; run folders are set by run_dir=, sweep folders by sweep_dir=")
    if dotted := next((key for key in table if "." in key), None):
        outer, _, inner = dotted.partition(".")
        raise ConfigError(f"{path}: unknown key '{dotted}'; write keys of a group below it: {outer}: {{{inner}: ...}}")
    if group := next((key for key in GROUPS if isinstance(table.get(key), list) and "name" not in table), None):
        raise ConfigError(f"{path}: {group}: expected keys and values, got {show(table[group])}")
    defaults = table.get("defaults", [])
    if not isinstance(defaults, list):
        raise ConfigError(f"{path}: defaults must be a list such as [_self_, model: mlp], got {show(defaults)}")
    for entry in defaults:
        pairs = list(entry.items()) if isinstance(entry, dict) else [(entry, None)]
        if len(pairs) != 1 or not isinstance(pairs[0][0], str) or not _is_option(pairs[0][1]):
            raise ConfigError(f"{path}: defaults: expected entries such as _self_ or model: mlp, got {show(entry)}")


def _is_option(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(name, str) for name in names)


def check_choices(one: Experiment, options_of: Callable[[str], list[str]]) -> None:
    """Raises ConfigError for a defaults list that Hydra would refuse or misunderstand."""
    for entry in one.defaults if isinstance(one.defaults, list) else []:
        for key, option in entry.items() if isinstance(entry, dict) else ():
            group = str(key).removeprefix("override ").strip().lstrip("/")
            if group not in GROUPS:
                hint = did_you_mean(group, GROUPS)
                raise ConfigError(f"{one.path}: unknown group '{group}'{hint} (groups: {', '.join(GROUPS)})")
            if key != f"override /{group}":
                raise ConfigError(f"{one.path}: '{key}: {_typed(option)}'; {_in_defaults(group, option)}")
            if option not in options_of(group) and not is_timm(group, option):
                hint = did_you_mean(str(option), options_of(group))
                choices = f"(choices: {listed(options_of(group))})"
                raise ConfigError(f"{one.path}: {group}: unknown '{_typed(option)}'{hint} {choices}")


def check_keys(one: Experiment, composed: Mapping[str, Any], known: set[str]) -> None:
    """Raises ConfigError for a key of the experiment that does not exist in the composed table.

    composed: that table, flat; known: the command's keys. Parameters of the user's own code are checked later, when it
    is imported.
    """
    if one.values and isinstance(composed.get("experiment"), Mapping):
        raise ConfigError(
            f"{one.path}:1:1: the first line must be '{PACKAGE}'; without it Hydra puts the values in the wrong place"
        )
    for key, value in one.values.items():
        if key not in known:
            near = {name: now for name, now in composed.items() if name.partition(".")[0] in known}
            raise ConfigError(f"{one.path}: {unknown_key(key, near)}")
        if key in GROUPS and not isinstance(value, Mapping):
            raise ConfigError(f"{one.path}: '{key}: {_typed(value)}'; {_in_defaults(key, value)}")
        for param in value if key in GROUPS else ():
            if f"{key}.{param}" in composed:  # else ~key has removed it
                _check_param(one.path, key, str(param), composed[key])


def _in_defaults(group: str, option: Any) -> str:
    return f"choose it in the defaults list: - override /{group}: {_typed(option)}"


def _typed(value: Any) -> str:
    """A value as in YAML."""
    return value if isinstance(value, str) else show(value)


def _check_param(path: Path, group: str, param: str, node: Mapping[str, Any]) -> None:
    name = str(node.get("name"))
    if name not in options(group) and not is_timm(group, name):  # the user's own code
        return
    if param == "name":
        raise ConfigError(f"{path}: '{group}.name'; {_in_defaults(group, name)}")
    params = {key: node.get(key) for key in option_node(group, name) if key != "name"}
    if param not in {**params, **common_keys(group)}:
        hint = f"; ~{group}.{param} leaves it out"
        raise ConfigError(f"{path}: {unknown_param(group, name, param, params, hint)}")
