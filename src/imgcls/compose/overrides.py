"""Command-line words as overrides: a key and a value, paths taken literally."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from imgcls.config.options import GROUPS, option_node, options
from imgcls.config.parsing import DEEPEST, FORBIDDEN, flatten, forbidden
from imgcls.errors import ConfigError
from imgcls.text import show

TABLES = (
    *(".csv", ".tsv", ".txt", ".jsonl", ".ndjson"),
    *(".json", ".xlsx", ".xls", ".ods", ".parquet"),  # refused by the reader, which says what to do
)
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
NO_PATHS = ("true", "false", "auto", "latest", "null")  # values of model.pretrained
BRACKETS = {"(": ")", "[": "]", "{": "}"}


def check_value(key: str, value: str) -> None:
    """Raises ConfigError for typing errors that Hydra's parser would describe by its token names."""
    if value.startswith("="):
        raise ConfigError(f"bad value '{value}' for {key}; one '=' is enough")
    open_ones: list[str] = []
    quote, escaped = "", False
    for letter in value:
        if quote:
            quote = "" if letter == quote and not escaped else quote
        elif letter in "'\"" and not escaped:
            quote = letter
        elif letter in BRACKETS:
            open_ones.append(letter)
        elif letter in BRACKETS.values() and (not open_ones or BRACKETS[open_ones.pop()] != letter):
            raise ConfigError(f"{key}: '{letter}' without an opening bracket in '{value}'")
        if len(open_ones) > DEEPEST:
            raise ConfigError(f"{key}: nested more than {DEEPEST} levels deep")
        escaped = letter == "\\" and not escaped
    if quote or open_ones:
        raise ConfigError(f"{key}: unclosed {quote or repr(open_ones[-1])} in '{value}'")


def check_path(key: str, path: str) -> None:
    """Raises ConfigError for what cannot be the name of a file."""
    if "\0" in path:
        raise ConfigError(f"{key}: a path cannot contain a NUL character")


def is_table(path: str) -> bool:
    """Whether the path is a table of images rather than a folder."""
    return path.lower().endswith(TABLES) and not os.path.isdir(os.path.expanduser(path))


def make_absolute(dataset: Any) -> None:
    """Make the user's folders absolute paths, as the run may be resumed or evaluated from another folder."""
    for key in ("root", "images", "test"):
        if isinstance(dataset, dict) and isinstance(dataset.get(key), str):
            dataset[key] = os.path.abspath(os.path.expanduser(dataset[key]))


def is_weights_path(value: Any) -> bool:
    """Whether a value of model.pretrained is a run or a file, not the name of weights."""
    if not isinstance(value, str) or value.lower() in NO_PATHS:
        return False
    is_named = any(mark in value for mark in "/\\") or value.lower().endswith(WEIGHT_FILES)
    return is_named or os.path.exists(os.path.expanduser(value))


def make_weights_absolute(model: Any) -> None:
    """The same for model.pretrained."""
    if isinstance(model, dict) and is_weights_path(model.get("pretrained")):
        model["pretrained"] = os.path.abspath(os.path.expanduser(model["pretrained"]))


PATH_KEYS = (
    *("checkpoint", "input", "output", "run_dir", "resume", "sweep_dir"),
    *("dataset.root", "dataset.images", "dataset.test", "dataset.exclude", "dataset.relabel"),
)
COLUMN_KEYS = ("dataset.path", "dataset.label", "dataset.split")  # names of columns, which may be any text
PATTERN_KEYS = ("dataset.group",)  # a column or a regular expression, whose marks are others in Hydra's grammar
NAMED_KEYS = ("class_weights", "dataset.rename")  # {name: ...}: names of classes may be anything
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*(\.[A-Za-z0-9_\-]+)*")
LONGEST = 20_000  # characters of a word
LONGEST_KEY = 200
PLAIN = re.compile(r"[A-Za-z0-9_.+-]{1,100}")  # one word or number in Hydra's grammar
COLUMN = re.compile(r"[^\[\]{}()'\"$]+[ <>][^\[\]{}'\"$]*")  # words or an expression, which Hydra's grammar refuses


@dataclass(frozen=True)
class Override:
    """One word of the command line: sign ("", "+", "++", "~"), key, and the value as typed (None for ~key)."""

    sign: str
    key: str
    value: str | None

    def __str__(self) -> str:
        return f"{self.sign}{self.key}" + ("" if self.value is None else f"={self.value}")


@dataclass
class Paths:
    """Path values, each by its placeholder."""

    values: dict[str, str] = field(default_factory=dict)

    def hold(self, path: str) -> str:
        """A placeholder for the path, which Hydra's grammar reads as plain text."""
        placeholder = f"__path_{len(self.values)}__"
        self.values[placeholder] = path
        return placeholder

    def restore(self, value: Any) -> Any:
        """The value with every placeholder replaced by its path."""
        if isinstance(value, str):
            return self.values.get(value, value)
        if isinstance(value, dict):
            return {key: self.restore(one) for key, one in value.items()}
        return [self.restore(one) for one in value] if isinstance(value, list) else value

    def restore_text(self, text: str) -> str:
        """The text with every placeholder in it replaced."""
        return re.sub(r"__path_\d+__", lambda match: self.values.get(match[0], match[0]), text)


def read(word: str) -> Override:
    """A word as an override. Raises ConfigError if it is not one."""
    if not word.strip():
        raise ConfigError("empty argument; expected key=value")
    if len(word) > LONGEST:
        raise ConfigError(f"an argument of {len(word):,} characters is too long (limit {LONGEST:,}): {word[:50]}...")
    sign = next((sign for sign in ("++", "+", "~") if word.startswith(sign)), "")
    key, equals, value = word[len(sign) :].partition("=")
    if not equals and sign != "~":
        raise ConfigError(f"expected key=value, got '{word}'{_as_key_and_value(word)}")
    if not key:
        raise ConfigError(f"missing key before '=' in '{word}'")
    if not KEY.fullmatch(key) or len(key) > LONGEST_KEY:
        odd = next((letter for letter in key if not re.match(r"[A-Za-z0-9_.\-]", letter)), None)
        reason = f"unexpected character '{odd}' in key '{key}'" if odd else f"'{key}' is not a key"
        raise ConfigError(f"{reason}; keys look like optimizer.lr")
    if sign == "~" and equals:
        raise ConfigError(f"'{word}': a key is removed without a value: ~{key}")
    if equals and not value.strip():
        raise ConfigError(f"{key}: empty value; give one after the '='")
    if name := next((part for part in key.split(".") if part in FORBIDDEN), None):
        raise forbidden(name, key)
    override = Override(sign, key, value if equals else None)
    if is_path(override):
        check_path(key, value)
    else:
        check_value(key, value)
    return override


def _as_key_and_value(word: str) -> str:
    """A hint at the missing half of key=value: lenet -> model=lenet, epochs -> epochs=20."""
    if word in GROUPS:
        return f"; for example {word}={options(word)[0]}"
    if word in (known := flatten(option_node("", "train"))):
        return f"; for example {word}={show(known[word])}"
    group = next((group for group in GROUPS if word in options(group)), None)
    if group is not None:
        return f"; did you mean {group}={word}?"
    return f"; did you mean dataset={word}?" if any(mark in word for mark in "/\\") else ""


def is_path(override: Override) -> bool:
    """Whether the value is a path, to be taken literally."""
    if not override.value or override.value == "null":
        return False
    if override.key == "dataset":
        value = override.value
        return any(mark in value for mark in "/\\") or (
            value not in options("dataset") and (os.path.exists(os.path.expanduser(value)) or is_table(value))
        )
    if override.key == "model.pretrained":
        return is_weights_path(override.value)
    return override.key in PATH_KEYS or is_column(override)


def is_column(override: Override) -> bool:
    """Whether the value is a column or a pattern that Hydra's grammar may not read as text ('prob > 0.5')."""
    if override.key in PATTERN_KEYS:
        return re.fullmatch(r"\d+", override.value or "") is None
    return override.key in COLUMN_KEYS and COLUMN.fullmatch(override.value or "") is not None


def unquoted(value: str) -> str:
    """The text without a pair of quotes around it."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def values_of(text: str) -> list[str]:
    """The values of a sweep, at commas: a,b -> [a, b]; a value in quotes may have commas: "a,b",c -> ["a,b", c].

    A quote within a value is a letter, and so is one that is not closed at the end of its value.
    """
    return [match[1] for match in re.finditer(r"""(?:^|,)("[^"]*"(?=,|$)|'[^']*'(?=,|$)|[^,]*)""", text)]


def read_all(words: Sequence[str], paths: Paths, *, is_sweep: bool = False) -> list[Override]:
    """The words as overrides, placeholders for their paths. Raises ConfigError, also for a key given twice."""
    overrides: list[Override] = []
    for word in words:
        override = read(word)
        if any(override.key == one.key for one in overrides):
            raise ConfigError(f"{override.key} is given twice")
        values = values_of(override.value or "") if is_sweep else [override.value or ""]
        pieces = [Override(override.sign, override.key, value) for value in values]
        bare = [replace(one, value=unquoted(one.value or "")) if is_sweep else one for one in pieces]
        if override.key in NAMED_KEYS and override.value and override.value[0] == "{" and not is_sweep:
            held = paths.hold(override.value)  # see weights_of and renames_of
            override = Override(override.sign, override.key, held)
        elif is_column(override) and not is_sweep:
            override = Override(override.sign, override.key, paths.hold(unquoted(override.value or "")))
        elif any(map(is_path, bare)):
            pairs = zip(pieces, bare, strict=True)
            held = ",".join(paths.hold(path.value or "") if is_path(path) else str(one.value) for one, path in pairs)
            override = Override(override.sign, override.key, held)
        overrides.append(override)
    return overrides
