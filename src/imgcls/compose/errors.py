"""Hydra's and OmegaConf's refusals in our own words, naming the key."""

from __future__ import annotations

import re
from typing import Any

from imgcls.errors import ConfigError
from imgcls.text import show

ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*([^,}\s]*)")


def first_line(text: str) -> str:
    """The first line that says something; the next one too where it only announces that."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])


def refuse_environment(table: Any, key: str = "") -> None:
    """What the environment holds would be stored with the run."""
    if isinstance(table, str) and (match := ENVIRONMENT.search(table)):
        raise ConfigError(
            f"unresolved interpolation {show(table)} in {key}: environment values are not read; "
            f'let the shell do it: {key}="${match[1]}"'
        )
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for name, value in items:
        refuse_environment(value, f"{key}.{name}" if key else str(name))


def interpolation_error(error: Exception) -> ConfigError:
    key = getattr(error, "full_key", None) or "the configuration"
    first = next(iter(str(error).splitlines()), "")
    if "ecursive" in first:
        return ConfigError(f"recursive interpolation in '{key}'")
    reason = re.sub(r"^\w+ raised while resolving interpolation: |HydraConfig was not set", "", first)
    return ConfigError(f"unresolved interpolation in {key}{f': {reason}' if reason else ''}")
