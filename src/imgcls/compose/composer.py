"""From the words on the command line to a table of plain values.

Hydra's grammar, groups, sweeps and config folders apply (only this package knows Hydra), but its messages do not reach
the user. Path values are taken literally: a placeholder takes their place in what Hydra parses.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imgcls.compose import experiments
from imgcls.compose.bases import base, filled, parse, plain_value
from imgcls.compose.errors import bad_value
from imgcls.compose.experiments import Experiment
from imgcls.compose.hydra_config import compose_words, resolved
from imgcls.compose.overrides import PLAIN, Override, Paths, is_table, make_absolute, make_weights_absolute, read_all
from imgcls.config.options import GROUPS, conf_dir, is_timm, listed, options, own_code
from imgcls.config.parsing import flatten, reject_forbidden, unknown_key
from imgcls.config.peers import value_hint
from imgcls.config.schema import TYPED_ONLY, TrainConfig, weights_of
from imgcls.errors import ConfigError
from imgcls.text import closest, did_you_mean, one_line

MOST_JOBS = 1000  # of a sweep


def names_in(folder: Path, pattern: str) -> set[str]:
    """The files of that pattern in the folder, without their suffix."""
    return {
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob(pattern) if os.path.isfile(path)
    }


class Composer:
    """Composes tables from the user's own --config-dir, if there is one, and conf/."""

    def __init__(self, config_dir: str | None = None, config_name: str | None = None) -> None:
        self.folder = None if config_dir is None else Path(os.path.expanduser(config_dir))
        if self.folder is not None and not os.path.isdir(self.folder):
            raise ConfigError(f"--config-dir: no such folder: {config_dir}")
        self.name = config_name and config_name.removesuffix(".yaml")
        self.paths = Paths()
        self._options: dict[str, list[str]] = {}
        self._experiments: dict[str, Experiment] = {}
        folders = [folder for folder in (conf_dir(), self.folder) if folder]
        if self.name is not None and not any(self.name in names_in(one, "*.yaml") for one in folders):
            raise ConfigError(f"--config-name: no file {self.name}.yaml in {' or '.join(map(str, folders))}")

    def options(self, group: str) -> list[str]:
        """The options of a group, the user's own included."""
        if group not in self._options:
            own = names_in(self.folder / group, "**/*.yaml") if self.folder else set()
            self._options[group] = sorted({*options(group), *own})
        return self._options[group]

    def experiment(self, name: str) -> Experiment:
        """The experiment of that name, the user's own before ours. Raises ConfigError if its file is invalid."""
        if name not in self._experiments:
            self._experiments[name] = experiments.read(name, self.folder)
        return self._experiments[name]

    def expand(self, words: Sequence[str]) -> list[list[Override]]:
        """Each job of a sweep as its overrides, in Hydra's order: the last key varies fastest. Raises ConfigError."""
        choices = [self._choices(one) for one in read_all(words, self.paths, is_sweep=True)]
        if (count := math.prod(map(len, choices))) > MOST_JOBS:
            raise ConfigError(f"the sweep has {count:,} jobs or more (limit {MOST_JOBS:,}); give fewer values")
        return [list(job) for job in itertools.product(*choices)]

    def words(self, job: Iterable[Override]) -> list[str]:
        """A job's overrides as the user would type them."""
        return [self.paths.restore_text(str(one)) for one in job]

    def table(self, overrides: Sequence[Override], config_name: str) -> dict[str, Any]:
        """The composed, resolved configuration as plain values. Raises ConfigError."""
        table, experiment = self._composed(self._hydra_words(overrides), self.name or config_name)
        for one in overrides:
            if one.value is None and one.key != "experiment":
                _remove(table, one.key)
        plain = {str(key): self.paths.restore(value) for key, value in table.items()}
        if isinstance(plain.get("class_weights"), str):
            plain["class_weights"] = weights_of(plain["class_weights"])
        typed = {one.key for one in overrides}
        for key in TYPED_ONLY:
            if plain.get(key) is not None and key not in typed:
                raise ConfigError(f"{key}: set it on the command line ({key}=...), not in a file")
        if config_name == "train":
            make_absolute(plain.get("dataset"))
            make_weights_absolute(plain.get("model"))
        if experiment is not None:
            known = set(TrainConfig.__dataclass_fields__)
            experiments.check_keys(self.experiment(experiment), flatten(plain), known)
            plain["experiment"] = experiment
        elif config_name == "train":
            plain.setdefault("experiment", None)
        return plain

    def values(self, overrides: Sequence[Override]) -> dict[str, Any]:
        """{key: value} of overrides that nothing is composed from. Raises ConfigError."""
        found: dict[str, Any] = {}
        for one in overrides:
            if one.value is None:
                raise ConfigError(f"'{one}' cannot be removed here")
            found[one.key] = self.paths.restore(self._single(one).value())
        return found

    # --- to words for Hydra ---

    def _hydra_words(self, overrides: Sequence[Override]) -> list[str]:
        """The overrides for Hydra: options chosen as GROUP=NAME or ~GROUP, all values set as ++KEY=VALUE."""
        overrides = self._options_chosen(overrides)
        words: list[str] = []
        for one in overrides:
            group = one.key.partition(".")[0]
            if group == "hydra":
                raise ConfigError(
                    f"unknown key '{one.key}'; run folders are set by run_dir=, sweep folders by sweep_dir="
                )
            if one.key == "experiment" and one.value in (None, "null"):
                words.append("~experiment")
                continue
            if one.value is None:
                continue  # removed after composing
            if not PLAIN.fullmatch(one.value):
                self._single(one)
            if one.key in GROUPS:
                words.append(f"{one.key}={self._option(one)}")
            elif group == "experiment":
                raise ConfigError(f"unknown key '{one.key}'; an experiment is chosen by experiment=NAME")
            else:
                words.append(f"++{one.key}={one.value}")
        own = own_code({one.key: one.value for one in overrides})
        return words + [f"~{key.partition('.')[0]}" for key in own]

    def _options_chosen(self, overrides: Sequence[Override]) -> list[Override]:
        """dataset=PATH is imagefolder or imagelist with that root; GROUP.name=OPTION is GROUP=OPTION."""
        result: list[Override] = []
        keys = {one.key for one in overrides}
        for one in overrides:
            group, _, rest = one.key.partition(".")
            if group in GROUPS and rest == "name" and group in keys:
                raise ConfigError(f"{group} is given twice: by {group}= and {group}.name=")
            if one.key == "dataset" and (one.value or "") in self.paths.values:
                if "dataset.root" in keys:
                    raise ConfigError("dataset.root is given twice: dataset=PATH sets it too")
                kind = "imagelist" if is_table(self.paths.values[one.value or ""]) else "imagefolder"
                result += [Override("", "dataset", kind), Override("", "dataset.root", one.value)]
            elif group in GROUPS and rest == "name" and ":" not in (one.value or ""):
                result.append(Override("", group, one.value))
            else:
                result.append(one)
        return result

    def _option(self, one: Override) -> str:
        value = (one.value or "").strip("'\"")
        choices = self.options(one.key)
        if value in choices or is_timm(one.key, value):
            if one.key == "experiment":
                experiments.check_choices(self.experiment(value), self.options)
            return value
        names = listed(choices)
        if value == "null" or value[:1] in "[{" or re.fullmatch(r"[\d.+-]+|true|false", value):
            raise ConfigError(f"{one.key}: expected one of its options, got {value} (choices: {names})")
        path = "; to use a folder, give its path: dataset=./photos" if one.key == "dataset" else ""
        near = did_you_mean(value, choices) or (_near_folder(value) if one.key == "dataset" else "")
        raise ConfigError(f"{one.key}: unknown '{value}'{near} (choices: {names}{path})")

    # --- values ---

    def _parsed(self, one: Override) -> Any:
        """The override as Hydra's parser reads it."""
        try:
            return parse(f"~{one.key}" if one.value is None else f"{one.key}={one.value}")
        except Exception as error:  # Hydra raises several kinds, all about the word
            raise self._bad_value(one) from error

    def _single(self, one: Override) -> Any:
        """The same, refusing several values."""
        parsed = self._parsed(one)
        if parsed.is_sweep_override():
            hint = (
                ""
                if one.key in GROUPS
                else f", or write a list as {one.key}=[{self.paths.restore_text(one.value or '')}]"
            )
            peer = value_hint(one.key, one.value or "")
            hint = f"; {peer}" if peer else hint
            raise ConfigError(f"several values for {one.key}; add --multirun to try them all{hint}")
        return parsed

    def _choices(self, one: Override) -> list[Override]:
        """The override once for each of its values."""
        from hydra.core.override_parser.types import Glob

        parsed = self._parsed(one)
        if not parsed.is_sweep_override():
            return [one]
        if parsed.is_interval_sweep():
            raise ConfigError(f"{one.key}: interval() is not supported; list the values, or use range() or choice()")
        if isinstance(parsed.value(), Glob):
            values = parsed.value().filter(self.options(one.key) if one.key in GROUPS else [])
        else:
            try:
                values = list(itertools.islice(parsed.sweep_string_iterator(), MOST_JOBS + 1))
            except Exception as error:  # range(1,2,0), range(0,nan), ...: each its own kind
                raise self._bad_value(one) from error
        if not values:
            raise ConfigError(f"{one.key}: '{one.value}' has no values")
        return [Override(one.sign, one.key, value) for value in values]

    def _bad_value(self, one: Override) -> ConfigError:
        return bad_value(one.key, self.paths.restore_text(one.value or ""))

    # --- composing ---

    def _composed(self, words: Sequence[str], start: str) -> tuple[dict[str, Any], str | None]:
        """The table that the words make of the file ``start``, and the experiment in it."""
        if (found := self._without_hydra(words, start)) is not None:
            return found
        composed = compose_words(words, start, self.folder, self.paths)
        return resolved(composed.config), composed.experiment

    def _without_hydra(self, words: Sequence[str], start: str) -> tuple[dict[str, Any], str | None] | None:
        """The same by setting plain values on what Hydra composed for the options; None if that is not possible."""
        pairs = [word[2:].partition("=") for word in words if word.startswith("++")]
        if self.folder and any((self.folder / key).is_dir() for key, _, _ in pairs):  # the user's own groups
            return None
        try:
            values = {key: plain_value(key, text) for key, _, text in pairs}
            found = base([word for word in words if not word.startswith("++")], start, self.folder)
        except Exception:  # noqa: BLE001 - ours or Hydra's, about a word or a file: composing all of it says which
            return None
        table = filled(found, values)
        if table is None:
            return None
        reject_forbidden(table)
        return table, found.experiment


def _near_folder(value: str) -> str:
    """ "; did you mean dataset=./photos?" if a folder or table here has a similar name, else ''."""
    here = [one.name for one in os.scandir() if not one.name.startswith(".") and (one.is_dir() or is_table(one.name))]
    near = closest(value.replace(".", " "), {name.replace(".", " "): name for name in here})
    real = next((name for name in here if near is not None and name.replace(".", " ") == near), None)
    return f"; did you mean dataset=./{one_line(real)}?" if real else ""


def _remove(table: dict[Any, Any], key: str) -> None:
    """~key: a key that has a default elsewhere (in the signature of the user's own model, say)."""
    known: Mapping[str, Any] = flatten(table)
    if key not in known:
        raise unknown_key(key, known)
    outer, _, inner = key.rpartition(".")
    if not outer:
        raise ConfigError(f"'~{key}': {key} is required; set it to another value instead")
    del known[outer][inner]
