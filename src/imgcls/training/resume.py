"""What a run needs to resume: its stored configuration, and checks that it is still the same run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgcls import text
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints.format import Checkpoint
from imgcls.config import parsing
from imgcls.config.migrations import completed
from imgcls.config.schema import OF_THE_COMMAND, RESUMABLE, TrainConfig
from imgcls.config.yaml_files import read_yaml
from imgcls.errors import (
    CheckpointError,
    ConfigError,
)
from imgcls.reports.report import Report
from imgcls.runs import folder as run_folders
from imgcls.training.builder import Run
from imgcls.training.callback import Best


def stored_config(folder: Path) -> dict[str, Any]:
    """A run's config.yaml as a table of plain values."""
    path = folder / "config.yaml"
    try:
        table = read_yaml(path)
        parsing.reject_forbidden(table)
    except ConfigError as error:
        where = "" if str(error).startswith(f"{path}:") else f"{path}: "
        raise CheckpointError(f"{where}{error}; the run's configuration is damaged") from error
    return completed(table)


def resumed_config(run: str, given: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The run's folder and its stored configuration with the given keys changed.

    Raises ConfigError for a key that may not change on resume, CheckpointError if the configuration is damaged.
    """
    folder = run_folders.run_folder(run)
    table = stored_config(folder)
    try:
        parsing.parse(TrainConfig, table)
    except ConfigError as error:
        raise CheckpointError(f"{folder / 'config.yaml'}: damaged ({error})") from error
    known = parsing.flatten(table)
    for key, value in given.items():
        if key not in known:
            raise parsing.unknown_key(key, known)
        current = known[key].get("name") if isinstance(known[key], dict) else known[key]
        outer, _, inner = key.rpartition(".")
        if key in RESUMABLE:
            (table[outer] if outer else table)[inner] = value
        elif current != value:
            raise ConfigError(
                f"{key} is {text.show(current)} in {folder} and cannot become {text.show(value)} on resume; "
                f"only {', '.join(RESUMABLE)} can be changed (for anything else, start a new run)"
            )
    return folder, table


def check_same_config(config: TrainConfig, checkpoint: Checkpoint, folder: Path) -> None:
    """Raises ConfigError if config.yaml is not what the run was trained with, but for what may change."""
    before, now = (parsing.flatten(completed(table)) for table in (checkpoint.meta["config"], vars(config)))
    for key in [key for key in {**now, **before} if key not in (*RESUMABLE, *OF_THE_COMMAND)]:
        one, other = now.get(key), before.get(key)
        if one != other:
            raise ConfigError(
                f"{key} is {text.show(one)} in {folder / 'config.yaml'}, but the run was trained with "
                f"{text.show(other)}; put it back (a changed run is a new run)"
            )


def check_position(run: Run, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError if the step does not lie within or at the end of the epoch that it says."""
    state, steps = run.state, len(run.loader)
    if not state.epochs * steps <= state.step <= (state.epochs + 1) * steps:
        place = f"step {state.step:,} after {state.epochs:,} epochs of {steps:,} steps"
        raise CheckpointError(f"{checkpoint.path}: {place} cannot be")


def stored_best(meta: dict[str, Any]) -> Best | None:
    """Quality and number of the best epoch, as the checkpoint has them."""
    stored = meta.get("best")
    if stored is None:
        return None
    try:
        # version 0.1.0 did not keep the epoch
        (first, second, third), epoch = stored if len(stored) == 2 else (stored, meta["epochs_done"])
        best = (float(first), float(second), int(third)), int(epoch)
        if not (math.isfinite(best[0][0]) and math.isfinite(best[0][1]) and 0 <= best[1] <= meta["epochs_done"]):
            raise ValueError(f"{stored}")
        return best
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the checkpoint's best epoch is not described as imgcls does it ({error})") from error


def lost_best(folder: Path) -> str:
    """Why the best checkpoint cannot be used, if so."""
    try:
        checkpoint_format.read(folder / "checkpoints" / checkpoint_format.BEST)
    except CheckpointError as error:
        return str(error)
    return ""


def finished_report(folder: Path) -> Report | None:
    """report.json, if the run has been tested."""
    try:
        report: Report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report
