"""Hydra's and OmegaConf's errors in our own words, naming the key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from imgcls.errors import ConfigError
from imgcls.text import brief, show

ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*([^,}\s]*)")


def bad_value(key: str, value: str) -> ConfigError:
    """The error for a value that Hydra's grammar does not accept."""
    value = brief(value)
    odd = next((f" (unexpected character '{letter}')" for letter in value if not letter.isascii()), "")
    has_quoted_names = re.search(r"""[{,]\s*['"]""", value)
    hint = "names in {name: value} are not quoted" if has_quoted_names else "quote it if it is text"
    return ConfigError(f"bad value '{value}' for {key}{odd}; {hint}")


def composing_error(error: Exception, reason: str, words: Sequence[str]) -> ConfigError:
    """Hydra's error about one of the words, naming the key; reason: its text, paths restored."""
    reason = first_line(reason) or type(error).__name__
    for word in sorted(words, key=len, reverse=True):
        key, _, value = word.lstrip("+~").partition("=")
        if key in str(error) or f"'{key.rpartition('.')[2]}'" in str(error):
            return ConfigError(f"{key}: cannot be set to {brief(value)} ({reason})")
    return ConfigError(reason)


def first_line(text: str) -> str:
    """The first line that is not blank, and the next one if it ends with a colon."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])


def refuse_environment(table: Any, key: str = "") -> None:
    """Raises ConfigError for values from the environment: they would be stored with the run."""
    if isinstance(table, str) and (match := ENVIRONMENT.search(table)):
        raise ConfigError(
            f"unresolved interpolation {show(table)} in {key}: environment values are not read; "
            f'let the shell insert it: {key}="${match[1]}"'
        )
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for name, value in items:
        refuse_environment(value, f"{key}.{name}" if key else str(name))


def interpolation_error(error: Exception) -> ConfigError:
    """OmegaConf's error about an interpolation such as ${epochs}, naming the key that has it."""
    key = getattr(error, "full_key", None) or "the configuration"
    first = next(iter(str(error).splitlines()), "")
    if "ecursive" in first:
        return ConfigError(f"recursive interpolation in '{key}'")
    reason = re.sub(r"^\w+ raised while resolving interpolation: |HydraConfig was not set", "", first)
    return ConfigError(f"unresolved interpolation in {key}{f': {reason}' if reason else ''}")
