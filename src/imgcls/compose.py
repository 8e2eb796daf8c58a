"""From the words on the command line to a table of plain values: the only module that knows Hydra.

Hydra's grammar, groups, sweeps and config folders hold; its messages do not reach the user. Path values are taken as they
stand: a placeholder travels through Hydra's parser in their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgcls.config import (
    GROUPS,
    OWN_PARTS,
    conf_dir,
    did_you_mean,
    flatten,
    options,
    reject_forbidden,
    show,
    unknown_key,
)
from imgcls.errors import ConfigError
from imgcls.yamlcheck import check_yaml

PATH_KEYS = ("checkpoint", "input", "output", "run_dir", "resume", "sweep_dir", "dataset.root")
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*(\.[A-Za-z0-9_\-]+)*")
BRACKETS = {"(": ")", "[": "]", "{": "}"}


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
    """Path values by the placeholder that stands for each."""

    values: dict[str, str] = field(default_factory=dict)

    def hold(self, path: str) -> str:
        """A word that Hydra's grammar reads as plain text."""
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


# --- words -----------------------------------------------------------------------------------------------------------


def read(word: str) -> Override:
    """A word as an override; raises ConfigError where it is none."""
    if not word.strip():
        raise ConfigError("empty argument; expected key=value")
    sign = next((sign for sign in ("++", "+", "~") if word.startswith(sign)), "")
    key, equals, value = word[len(sign) :].partition("=")
    if not equals and sign != "~":
        near = did_you_mean(key, [*GROUPS]) if key not in GROUPS else f"; for example {key}={options(key)[0]}"
        raise ConfigError(f"expected key=value, got '{word}'{near}")
    if not key:
        raise ConfigError(f"missing key before '=' in '{word}'")
    if not KEY.fullmatch(key):
        odd = next((letter for letter in key if not re.match(r"[A-Za-z0-9_.\-]", letter)), None)
        reason = f"unexpected character '{odd}' in key '{key}'" if odd else f"'{key}' is not a key"
        raise ConfigError(f"{reason}; keys look like optimizer.lr")
    if equals and not value.strip():
        raise ConfigError(f"{key}: empty value; type {key}=null for none")
    override = Override(sign, key, value if equals else None)
    if not is_path(override):
        _check_value(override)
    return override


def _check_value(override: Override) -> None:
    """The slips that Hydra's parser would describe by its token names."""
    value = override.value or ""
    if value.startswith("="):
        raise ConfigError(f"bad value '{value}' for {override.key}; expected {override.key}{value}")
    if "_target_" in override.key.split("."):
        raise ConfigError(f"'_target_' is not allowed (in {override.key}); name a part by model.name=my_pkg.nets:MyNet")
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
            raise ConfigError(f"{override.key}: '{letter}' without its opening bracket in '{value}'")
        escaped = letter == "\\" and not escaped
    if quote or open_ones:
        raise ConfigError(f"{override.key}: unclosed {quote or repr(open_ones[-1])} in '{value}'")


def is_path(override: Override) -> bool:
    """Whether the value is a path, to be taken as it stands."""
    if override.value is None or override.value == "null":
        return False
    if override.key == "dataset":
        value = override.value
        return any(mark in value for mark in "/\\") or (
            value not in options("dataset") and Path(value).expanduser().is_dir()
        )
    return override.key in PATH_KEYS


def read_all(words: Sequence[str], paths: Paths, *, is_sweep: bool = False) -> list[Override]:
    """The words as overrides, path values held back; no key twice."""
    overrides: list[Override] = []
    for word in words:
        override = read(word)
        if any(override.key == one.key for one in overrides):
            raise ConfigError(f"{override.key} is given twice")
        if is_path(override) and override.value is not None:
            values = override.value.split(",") if is_sweep else [override.value]
            override = Override(override.sign, override.key, ",".join(paths.hold(value) for value in values))
        overrides.append(override)
    return overrides


# --- Hydra -----------------------------------------------------------------------------------------------------------


class Composer:
    """Composes tables from conf/ and, in front of it, the user's own --config-dir."""

    def __init__(self, config_dir: str | None = None, config_name: str | None = None) -> None:
        self.folder = None if config_dir is None else Path(config_dir).expanduser()
        if self.folder is not None and not self.folder.is_dir():
            raise ConfigError(f"directory not found: {config_dir}")
        self.name = config_name
        self.paths = Paths()
        if self.folder is not None:
            for file in self._own_files():
                check_yaml(file)
        if config_name is not None and not self._config_exists(config_name):
            raise ConfigError(
                f"config '{config_name}' not found in {conf_dir()}{f' or {self.folder}' if self.folder else ''}"
            )

    def _own_files(self) -> list[Path]:
        assert self.folder is not None
        files = list(self.folder.glob("*.yaml"))
        for group in GROUPS:
            files += sorted((self.folder / group).rglob("*.yaml"))
        return files

    def _config_exists(self, name: str) -> bool:
        folders = [conf_dir()] + ([self.folder] if self.folder else [])
        return any((folder / f"{name.removesuffix('.yaml')}.yaml").is_file() for folder in folders)

    def options(self, group: str) -> list[str]:
        """The options of a group, the user's own included."""
        own = [path.stem for path in (self.folder / group).glob("*.yaml")] if self.folder else []
        return sorted({*options(group), *own})

    def expand(self, words: Sequence[str]) -> list[list[Override]]:
        """Each job of a sweep as its overrides, in Hydra's order (the last key varies fastest)."""
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.override_parser.overrides_parser import OverridesParser

        overrides = read_all(words, self.paths, is_sweep=True)
        with self._hydra() as loader:
            parser = OverridesParser.create(config_loader=loader)
            try:
                parsed = [parser.parse_override(str(one)) for one in overrides]
                if any(one.is_sweep_override() and type(one.value()).__name__ == "IntervalSweep" for one in parsed):
                    raise ConfigError(
                        "interval() needs a sweeper that draws from it; list the values, or use range() or choice()"
                    )
                batches = BasicSweeper.split_arguments(parsed, None)
            except ConfigError:
                raise
            except Exception as error:  # Hydra raises several kinds, all of them about the words
                raise ConfigError(f"cannot expand the sweep: {self._first_line(error)}") from error
        return [[self._reread(word) for word in job] for batch in batches for job in batch]

    def _reread(self, word: str) -> Override:
        sign = next((sign for sign in ("++", "+", "~") if word.startswith(sign)), "")
        key, equals, value = word[len(sign) :].partition("=")
        return Override(sign, key, value if equals else None)

    def words(self, job: Iterable[Override]) -> list[str]:
        """A job's overrides as a person would type them."""
        return [self.paths.restore_text(str(one)) for one in job]

    def table(self, overrides: Sequence[Override], config_name: str) -> dict[str, Any]:
        """The composed, resolved configuration as plain values."""
        from omegaconf import OmegaConf
        from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

        composed = self._compose(self._for_hydra(overrides), self.name or config_name)
        try:
            raw = OmegaConf.to_container(composed, resolve=False)
            _refuse_environment(raw)
            reject_forbidden(raw)
            table = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as error:
            raise ConfigError(f"missing required value '{error.full_key}'") from error
        except OmegaConfBaseException as error:
            raise _interpolation_error(error) from error
        except RecursionError as error:
            raise ConfigError("recursive interpolation in the configuration") from error
        assert isinstance(table, dict)
        return {str(key): self.paths.restore(value) for key, value in table.items()}

    def values(self, overrides: Sequence[Override]) -> dict[str, Any]:
        """{key: value} of plain overrides, for commands that compose nothing."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        parser = OverridesParser.create()
        found: dict[str, Any] = {}
        for one in overrides:
            if one.value is None:
                raise ConfigError(f"'{one}' cannot be removed here")
            self._refuse_sweep(one)
            value = parser.parse_override(f"{one.key}={one.value}").value()
            found[one.key] = self.paths.restore(_plain(value))
        return found

    # --- inside ---

    def _hydra(self) -> Any:
        """A context in which Hydra's config loader is there."""
        import contextlib

        from hydra import initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        @contextlib.contextmanager
        def context() -> Any:
            with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="imgcls"):
                yield GlobalHydra.instance().config_loader()

        return context()

    def _for_hydra(self, overrides: Sequence[Override]) -> list[str]:
        """The overrides in Hydra's words, our own readings (dataset=PATH, model.name=...) written out."""
        overrides = self._own_readings(overrides)
        own = [one.key.partition(".")[0] for one in overrides if one.key in {f"{group}.name" for group in OWN_PARTS}]
        words: list[str] = []
        for one in overrides:
            self._refuse_sweep(one)
            group, _, rest = one.key.partition(".")
            if one.key in GROUPS and one.value is not None:
                words.append(f"{one.key}={self._option(one)}")
            elif group == "hydra":
                raise ConfigError(
                    f"unknown key '{one.key}'; run folders are set by run_dir=, those of sweeps by sweep_dir="
                )
            elif one.value is None:
                words.append(str(one))
            elif group in own and rest:
                words.append(f"+{one.key}={one.value}")
            else:
                words.append(f"++{one.key}={one.value}")
        words += [f"~{group}" for group in own]
        if self.folder is not None:
            location = str(self.folder.resolve()).replace("'", r"\'")
            words.append(f"hydra.searchpath=['file://{location}']")
        return words

    def _own_readings(self, overrides: Sequence[Override]) -> list[Override]:
        """dataset=PATH is imagefolder with that root; GROUP.name=OPTION is GROUP=OPTION; GROUP.name=pkg:attr drops GROUP=..."""
        result: list[Override] = []
        own = {one.key.partition(".")[0] for one in overrides if one.key.endswith(".name") and ":" in (one.value or "")}
        for one in overrides:
            group, _, rest = one.key.partition(".")
            if one.key == "dataset" and (one.value or "").startswith("__path_"):
                if any(other.key == "dataset.root" for other in overrides):
                    raise ConfigError("dataset.root is given twice: by dataset=PATH too")
                result += [Override("", "dataset", "imagefolder"), Override("", "dataset.root", one.value)]
            elif group in GROUPS and rest == "name" and ":" not in (one.value or ""):
                if any(other.key == group for other in overrides):
                    raise ConfigError(f"{group} is given twice: by {group}= and {group}.name=")
                result.append(Override("", group, one.value))
            elif one.key in own:
                continue
            else:
                result.append(one)
        return result

    def _option(self, one: Override) -> str:
        value = (one.value or "").strip("'\"")
        choices = self.options(one.key)
        if value in choices:
            return value
        if value == "null" or value[:1] in "[{" or re.fullmatch(r"[\d.+-]+|true|false", value):
            raise ConfigError(f"{one.key}: expected one of its options, got {value} (choices: {', '.join(choices)})")
        path = "; a folder is named by a path: dataset=./photos" if one.key == "dataset" else ""
        raise ConfigError(
            f"{one.key}: unknown '{value}'{did_you_mean(value, choices)} (choices: {', '.join(choices)}{path})"
        )

    def _refuse_sweep(self, one: Override) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        try:
            parsed = OverridesParser.create().parse_override(str(one))
        except Exception as error:  # Hydra raises several kinds, all of them about the word
            raise ConfigError(
                f"bad value '{self.paths.restore_text(one.value or '')}' for {one.key}; quote it if it is text"
            ) from error
        if parsed.is_sweep_override():
            raise ConfigError(
                f"several values for {one.key}; add --multirun to try them all, or write a list as {one.key}=[1,2]"
            )

    def _compose(self, words: list[str], config_name: str) -> Any:
        import yaml
        from hydra import compose
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        try:
            with self._hydra():
                return compose(config_name.removesuffix(".yaml"), words)
        except yaml.YAMLError as error:
            raise ConfigError(" ".join(str(error).split())) from error
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise self._explained(error, words, config_name) from error

    def _explained(self, error: Exception, words: list[str], config_name: str) -> ConfigError:
        """Hydra's refusal in our words: mostly a key that does not exist."""
        for word in words:
            if word.startswith("~") and word[1:] not in GROUPS:
                known = self.table([], config_name)
                return unknown_key(word[1:], flatten(known))
        for word in words:
            key = word.lstrip("+~").partition("=")[0]
            if key in str(error):
                return ConfigError(f"{key}: cannot be set to {word.partition('=')[2]} ({self._first_line(error)})")
        return ConfigError(self._first_line(error))

    def _first_line(self, error: Exception) -> str:
        text = self.paths.restore_text(str(error))
        return next((line for line in text.splitlines() if line.strip()), type(error).__name__)


def _plain(value: Any) -> Any:
    """Hydra's parsed value without its quoting classes."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(one) for key, one in value.items()}
    return value


def _refuse_environment(table: Any, key: str = "") -> None:
    """What the environment holds would be stored with the run."""
    if isinstance(table, str) and "${oc.env" in table:
        name = table.partition("${oc.env:")[2].partition("}")[0].partition(",")[0]
        raise ConfigError(
            f'unresolved interpolation {show(table)} in {key}: environment values are not read; let the shell do it: {key}="${name}"'
        )
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for name, value in items:
        _refuse_environment(value, f"{key}.{name}" if key else str(name))


def _interpolation_error(error: Exception) -> ConfigError:
    key = getattr(error, "full_key", None) or "the configuration"
    first = next(iter(str(error).splitlines()), "")
    if "ecursive" in first:
        return ConfigError(f"recursive interpolation in '{key}'")
    return ConfigError(f"unresolved interpolation in {key}: {first}")
