"""From the words on the command line to a table of plain values: the only module that knows Hydra.

Hydra's grammar, groups, sweeps and config folders hold; its messages do not reach the user. Path values are taken as
they stand: a placeholder travels through Hydra's parser in their place.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from imgcls.compose import experiments
from imgcls.compose.errors import first_line, interpolation_error, refuse_environment
from imgcls.compose.overrides import PLAIN, Override, Paths, is_table, make_absolute, read_all
from imgcls.config.options import GROUPS, OWN_PARTS, SHARED, conf_dir, listed, option_node, options
from imgcls.config.parsing import flatten, reject_forbidden, unknown_key
from imgcls.config.schema import TrainConfig, weights_of
from imgcls.errors import ConfigError
from imgcls.text import brief, did_you_mean

OF_THE_COMMAND = frozenset({"resume", "sweep_dir", "job_timeout"})  # keys that no file can set
MOST_JOBS = 1000  # of a sweep


def names_in(folder: Path, pattern: str) -> set[str]:
    """The files of that pattern in the folder, without their suffix."""
    return {
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob(pattern) if os.path.isfile(path)
    }


class Composer:
    """Composes tables from conf/ and, in front of it, the user's own --config-dir."""

    def __init__(self, config_dir: str | None = None, config_name: str | None = None) -> None:
        self.folder = None if config_dir is None else Path(os.path.expanduser(config_dir))
        if self.folder is not None and not os.path.isdir(self.folder):
            raise ConfigError(f"directory not found: {config_dir}")
        self.name = config_name and config_name.removesuffix(".yaml")
        self.paths = Paths()
        folders = [folder for folder in (conf_dir(), self.folder) if folder]
        if self.name is not None and not any(self.name in names_in(one, "*.yaml") for one in folders):
            raise ConfigError(f"config '{config_name}' not found in {' or '.join(map(str, folders))}")

    def options(self, group: str) -> list[str]:
        """The options of a group, the user's own included."""
        own = names_in(self.folder / group, "**/*.yaml") if self.folder else set()
        return sorted({*options(group), *own})

    def expand(self, words: Sequence[str]) -> list[list[Override]]:
        """Each job of a sweep as its overrides, in Hydra's order (the last key varies fastest)."""
        choices = [self._choices(one) for one in read_all(words, self.paths, is_sweep=True)]
        if (count := math.prod(map(len, choices))) > MOST_JOBS:
            raise ConfigError(f"the sweep has {count:,} jobs or more (limit {MOST_JOBS:,}); give fewer values")
        return [list(job) for job in itertools.product(*choices)]

    def _choices(self, one: Override) -> list[Override]:
        """The override once for each of its values."""
        from hydra.core.override_parser.types import Glob

        parsed = self._parsed(one)
        if not parsed.is_sweep_override():
            return [one]
        if parsed.is_interval_sweep():
            raise ConfigError(
                f"{one.key}: interval() needs a sweeper that draws from it; list the values, or use range() or choice()"
            )
        if isinstance(parsed.value(), Glob):
            values = parsed.value().filter(self.options(one.key) if one.key in GROUPS else [])
        else:
            try:
                values = list(itertools.islice(parsed.sweep_string_iterator(), MOST_JOBS + 1))
            except Exception as error:  # range(1,2,0), range(0,nan), ...: each its own kind
                raise self._bad_value(one) from error
        if not values:
            raise ConfigError(f"{one.key}: no value at all in '{one.value}'")
        return [Override(one.sign, one.key, value) for value in values]

    def words(self, job: Iterable[Override]) -> list[str]:
        """A job's overrides as a person would type them."""
        return [self.paths.restore_text(str(one)) for one in job]

    def table(self, overrides: Sequence[Override], config_name: str) -> dict[str, Any]:
        """The composed, resolved configuration as plain values."""
        from omegaconf import OmegaConf
        from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

        composed, name = self._compose(self._for_hydra(overrides), self.name or config_name)
        try:
            raw = OmegaConf.to_container(composed, resolve=False)
            refuse_environment(raw)
            reject_forbidden(raw)
            table = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as error:
            raise ConfigError(f"missing required value '{error.full_key}'") from error
        except OmegaConfBaseException as error:
            raise interpolation_error(error) from error
        except RecursionError as error:
            raise ConfigError("recursive interpolation in the configuration") from error
        assert isinstance(table, dict)
        for one in overrides:
            if one.value is None and one.key != "experiment":
                _remove(table, one.key)
        plain = {str(key): self.paths.restore(value) for key, value in table.items()}
        if isinstance(plain.get("class_weights"), str):
            plain["class_weights"] = weights_of(plain["class_weights"])
        for key in OF_THE_COMMAND - {one.key for one in overrides}:
            if plain.get(key) is not None:
                raise ConfigError(f"{key}: given on the command line ({key}=...), not in a file")
        if config_name == "train":
            make_absolute(plain.get("dataset"))
        if name is not None:
            known = set(TrainConfig.__dataclass_fields__)
            experiments.check_keys(experiments.read(name, self.folder), flatten(plain), known)
            plain["experiment"] = name
        elif config_name == "train":
            plain.setdefault("experiment", None)
        return plain

    def values(self, overrides: Sequence[Override]) -> dict[str, Any]:
        """{key: value} of plain overrides, for commands that compose nothing."""
        found: dict[str, Any] = {}
        for one in overrides:
            if one.value is None:
                raise ConfigError(f"'{one}' cannot be removed here")
            found[one.key] = self.paths.restore(self._single(one).value())
        return found

    # --- inside ---

    def _for_hydra(self, overrides: Sequence[Override]) -> list[str]:
        """The overrides in Hydra's words, our own readings (dataset=PATH, model.name=...) written out."""
        overrides = self._own_readings(overrides)
        own = [one.key.partition(".")[0] for one in overrides if one.key in {f"{group}.name" for group in OWN_PARTS}]
        words: list[str] = []
        for one in overrides:
            group = one.key.partition(".")[0]
            if group == "hydra":
                raise ConfigError(
                    f"unknown key '{one.key}'; run folders are set by run_dir=, those of sweeps by sweep_dir="
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
        words += [f"~{group}" for group in own]
        return words

    def _own_readings(self, overrides: Sequence[Override]) -> list[Override]:
        """dataset=PATH is imagefolder with that root; GROUP.name=OPTION is GROUP=OPTION."""
        result: list[Override] = []
        keys = {one.key for one in overrides}
        for one in overrides:
            group, _, rest = one.key.partition(".")
            if group in GROUPS and rest == "name" and group in keys:
                raise ConfigError(f"{group} is given twice: by {group}= and {group}.name=")
            if one.key == "dataset" and (one.value or "") in self.paths.values:
                if "dataset.root" in keys:
                    raise ConfigError("dataset.root is given twice: by dataset=PATH too")
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
        names = listed(choices)
        if value in choices:
            if one.key == "experiment":
                experiments.check_choices(experiments.read(value, self.folder), self.options)
            return value
        if value == "null" or value[:1] in "[{" or re.fullmatch(r"[\d.+-]+|true|false", value):
            raise ConfigError(f"{one.key}: expected one of its options, got {value} (choices: {names})")
        path = "; a folder is named by a path: dataset=./photos" if one.key == "dataset" else ""
        raise ConfigError(f"{one.key}: unknown '{value}'{did_you_mean(value, choices)} (choices: {names}{path})")

    def _parsed(self, one: Override) -> Any:
        """The override as Hydra's parser reads it."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        try:
            return OverridesParser.create().parse_override(str(one))
        except Exception as error:  # Hydra raises several kinds, all of them about the word
            raise self._bad_value(one) from error

    def _single(self, one: Override) -> Any:
        """The same, refusing several values."""
        parsed = self._parsed(one)
        if parsed.is_sweep_override():
            hint = "" if one.key in GROUPS else f", or write a list as {one.key}=[1,2]"
            raise ConfigError(f"several values for {one.key}; add --multirun to try them all{hint}")
        return parsed

    def _bad_value(self, one: Override) -> ConfigError:
        value = brief(self.paths.restore_text(one.value or ""))
        odd = next((f" (unexpected character '{letter}')" for letter in value if not letter.isascii()), "")
        if re.search(r"""[{,]\s*['"]""", value):
            return ConfigError(f"bad value '{value}' for {one.key}{odd}; names in {{name: value}} stand without quotes")
        return ConfigError(f"bad value '{value}' for {one.key}{odd}; quote it if it is text")

    def _compose(self, words: list[str], config_name: str) -> tuple[Any, str | None]:
        """The composed configuration, and the experiment in it."""
        import warnings

        from hydra import compose, initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra
        from hydra.errors import HydraException
        from omegaconf import open_dict
        from omegaconf.errors import OmegaConfBaseException

        _register_shared()
        try:
            with (
                warnings.catch_warnings(action="error", category=UserWarning),  # of a --config-dir's defaults lists
                initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="imgcls"),
            ):
                if self.folder is not None:
                    loader: Any = GlobalHydra.instance().config_loader()
                    loader.get_search_path().prepend("own", f"file://{self.folder.resolve()}", anchor="main")
                    loader.repository.initialize_sources(loader.get_search_path())
                    for source in loader.repository.get_sources():
                        _look_first(source, self.folder)
                composed = compose(config_name, words, return_hydra_config=True)
                name = composed.hydra.runtime.choices.get("experiment")
                with open_dict(composed):
                    del composed["hydra"]
                return composed, name
        except RecursionError as error:
            raise ConfigError(f"{config_name}: a file of --config-dir stands in its own defaults list") from error
        except (HydraException, OmegaConfBaseException, ValueError, UserWarning) as error:
            raise self._explained(error, words) from error

    def _explained(self, error: Exception, words: list[str]) -> ConfigError:
        """Hydra's refusal, naming the key."""
        reason = first_line(self.paths.restore_text(str(error) or str(error.__cause__))) or type(error).__name__
        for word in sorted(words, key=len, reverse=True):
            key, _, value = word.lstrip("+~").partition("=")
            if key in str(error) or f"'{key.rpartition('.')[2]}'" in str(error):
                return ConfigError(f"{key}: cannot be set to {brief(value)} ({reason})")
        return ConfigError(reason)


@cache
def _register_shared() -> None:
    """Tell Hydra of the options that have no file of their own."""
    from hydra.core.config_store import ConfigStore

    for group, names in SHARED.items():
        keys = option_node(group, names[0])
        for name in names:
            ConfigStore.instance().store(name, {**keys, "name": name}, group=group)


def _look_first(source: Any, folder: Path) -> None:
    """Has each file that Hydra's source is to load looked at before, wherever a defaults list points; not our own."""
    if source.scheme() != "file":
        return
    load = source.load_config

    def look_and_load(config_path: str) -> Any:
        file = Path(folder if source.provider == "own" else source.path, source._normalize_file_name(config_path))
        if not file.resolve().is_relative_to(conf_dir()):
            experiments.check_file(file)
        try:
            return load(config_path)
        except Exception as error:  # of YAML, OmegaConf or Hydra: all of them about this file
            raise ConfigError(f"{file}: {first_line(str(error))}") from error

    source.load_config = look_and_load


def _remove(table: dict[Any, Any], key: str) -> None:
    """~key: a key that has a default elsewhere (in the signature of a user's own model, say)."""
    known = flatten(table)
    if key not in known:
        raise unknown_key(key, known)
    outer, _, inner = key.rpartition(".")
    if not outer:
        raise ConfigError(f"'~{key}': {key} is needed; it can be set to another value, not removed")
    del known[outer][inner]
