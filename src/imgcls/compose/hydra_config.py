"""Hydra's part of composing: options of conf/ and of the user's --config-dir, chosen and overridden by words."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from imgcls.compose import experiments
from imgcls.compose.errors import composing_error, first_line, interpolation_error, refuse_environment
from imgcls.compose.overrides import Paths
from imgcls.config.options import SHARED, conf_dir, is_timm, option_node
from imgcls.config.parsing import reject_forbidden
from imgcls.config.yaml_files import LARGEST
from imgcls.errors import ConfigError


class Composed(NamedTuple):
    """What Hydra made of the words.

    config: OmegaConf's DictConfig, not resolved. experiment: the name of the one that was chosen. files: each file of
    the --config-dir that was read, with its contents, and each that would have been if it existed, with None.
    """

    config: Any
    experiment: str | None
    files: dict[Path, object]


def compose_words(words: Sequence[str], start: str, folder: Path | None, paths: Paths) -> Composed:
    """Compose the file ``start`` with the words, options in the folder before our own. Raises ConfigError."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import open_dict
    from omegaconf.errors import OmegaConfBaseException

    _register_shared()
    files: dict[Path, object] = {}
    try:
        with (
            warnings.catch_warnings(action="error", category=UserWarning),  # about a --config-dir's defaults lists
            initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="imgcls"),
        ):
            if folder is not None:
                _put_first(folder, files)
            composed = compose(start, list(words), return_hydra_config=True)
            experiment = composed.hydra.runtime.choices.get("experiment")
            with open_dict(composed):
                del composed["hydra"]
            return Composed(composed, experiment, files)
    except RecursionError as error:
        raise ConfigError(f"{start}: a file in --config-dir is in its own defaults list") from error
    except (HydraException, OmegaConfBaseException, ValueError, UserWarning) as error:
        reason = paths.restore_text(str(error) or str(error.__cause__))
        raise composing_error(error, reason, words) from error


def resolved(config: Any) -> dict[str, Any]:
    """The configuration as plain values, interpolations resolved. Raises ConfigError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        raw = OmegaConf.to_container(config, resolve=False)
        refuse_environment(raw)
        reject_forbidden(raw)
        table = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"missing required value '{error.full_key}'") from error
    except OmegaConfBaseException as error:
        raise interpolation_error(error) from error
    except RecursionError as error:
        raise ConfigError("recursive interpolation in the configuration") from error
    return cast(dict[str, Any], table)


def unresolved(config: Any) -> dict[str, Any]:
    """The same with its interpolations and missing values as text."""
    from omegaconf import OmegaConf

    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))


def contents(path: Path) -> object:
    """The bytes of a file, None if there is none; equal to nothing else if it is too large or not a file."""
    if not os.path.lexists(path):
        return None
    return path.read_bytes() if path.is_file() and path.stat().st_size <= LARGEST else object()


@cache
def _register_shared() -> None:
    """Tell Hydra about the options that share a file."""
    from hydra.core.config_store import ConfigStore

    for group, names in SHARED.items():
        keys = option_node(group, names[0])
        for name in names:
            ConfigStore.instance().store(name, {**keys, "name": name}, group=group)
    ConfigStore.instance().repo["model"]["timm"] = _TimmModels()


class _TimmModels(dict[str, Any]):
    """The folder model/timm/ of Hydra's store has whatever may be a name: timm is asked when the model is chosen."""

    def __contains__(self, file: object) -> bool:
        return is_timm("model", f"timm/{str(file).removesuffix('.yaml')}")

    def __getitem__(self, file: str) -> Any:
        from hydra.core.config_store import ConfigNode
        from omegaconf import OmegaConf

        node = OmegaConf.create(option_node("model", f"timm/{file.removesuffix('.yaml')}"))
        return ConfigNode(name=file, node=node, group="model", package="model", provider=None)


def _put_first(folder: Path, files: dict[Path, object]) -> None:
    """Put the user's --config-dir before conf/, and note in ``files`` which of its files are read."""
    from hydra.core.global_hydra import GlobalHydra

    loader: Any = GlobalHydra.instance().config_loader()
    loader.get_search_path().prepend("own", f"file://{folder.resolve()}", anchor="main")
    loader.repository.initialize_sources(loader.get_search_path())
    for source in loader.repository.get_sources():
        _check_before_loading(source, folder, files)


def _check_before_loading(source: Any, folder: Path, files: dict[Path, object]) -> None:
    """Have each file of the user's checked before Hydra loads it, wherever a defaults list points."""
    load = source.load_config

    def check_and_load(config_path: str) -> Any:
        name = source._normalize_file_name(config_path)
        files[folder / name] = contents(folder / name)
        if source.scheme() != "file":
            return load(config_path)
        file = Path(folder if source.provider == "own" else source.path, name)
        if not file.resolve().is_relative_to(conf_dir()):
            experiments.check_file(file)
        try:
            return load(config_path)
        except Exception as error:  # of YAML, OmegaConf or Hydra, all about this file
            raise ConfigError(f"{file}: {first_line(str(error))}") from error

    source.load_config = check_and_load
