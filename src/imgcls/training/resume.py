"""What a run needs to resume: its stored configuration, its newest checkpoint, and proof that it is the same run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints.format import Checkpoint
from imgcls.checkpoints.state import load_state
from imgcls.config import parsing
from imgcls.config.migrations import completed
from imgcls.config.schema import OF_THE_COMMAND, RESUMABLE, TrainConfig
from imgcls.config.types import Count
from imgcls.config.yaml_files import read_yaml
from imgcls.errors import CheckpointError, ConfigError
from imgcls.models.pretrained import Pretrained, is_file
from imgcls.reports.report import Report
from imgcls.runs import fingerprint
from imgcls.runs import folder as run_folders
from imgcls.text import show
from imgcls.training.builder import Run
from imgcls.training.earlier_run import EarlierRun, earlier_run
from imgcls.training.spec import RunSpec, weights
from imgcls.training.validation import Best, is_exhausted


def stored_config(folder: Path) -> dict[str, Any]:
    """A run's config.yaml as a table of plain values. Raises CheckpointError if it is damaged."""
    path = folder / "config.yaml"
    try:
        table = read_yaml(path)
        parsing.reject_forbidden(table)
    except ConfigError as error:
        where = "" if str(error).startswith(f"{path}:") else f"{path}: "
        raise CheckpointError(f"{where}{error}; the run's configuration is damaged") from error
    return completed(table)


def resumed_config(run: str, given: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The run's folder, and its stored configuration with the given keys changed.

    Raises ConfigError for a key that cannot change on resume, CheckpointError if the configuration is damaged.
    """
    folder = run_folders.run_folder(run)
    table = stored_config(folder)
    try:
        parsing.parse(TrainConfig, table)
        parsing.convert(table["epochs"], Count, "epochs")  # auto became a number when the run began
        if table["optimizer"].get("lr") == "auto" and ":" not in table["optimizer"]["name"]:
            raise ConfigError("optimizer.lr: expected a number, got 'auto'")
    except ConfigError as error:
        raise CheckpointError(f"{folder / 'config.yaml'}: damaged ({error})") from error
    known = parsing.flatten(table)
    for key, value in given.items():
        if key in ("epochs", "optimizer.lr") and value == "auto":
            continue  # what it became when the run began
        if key not in known:
            raise parsing.unknown_key(key, known, value=value, roots=known)
        current = known[key].get("name") if isinstance(known[key], dict) else known[key]
        outer, _, inner = key.rpartition(".")
        if key in RESUMABLE:
            (table[outer] if outer else table)[inner] = value
        elif current != value:
            raise ConfigError(
                f"{key} is {show(current)} in {folder} and cannot become {show(value)} on resume; "
                f"only {', '.join(RESUMABLE)} can be changed (for anything else, start a new run)"
            )
    return folder, table


@dataclass(frozen=True)
class ResumePoint:
    """Where a run stopped: its newest intact checkpoint (None before the first), and what is known of its result.

    best: the best epoch so far, None if its checkpoint is lost. report: of the finished run.
    warnings: about checkpoints that are damaged.
    """

    folder: Path
    checkpoint: Checkpoint | None
    best: Best | None
    report: Report | None
    warnings: tuple[str, ...] = ()

    @property
    def chosen(self) -> dict[str, Any]:
        """What auto became when the run began, and model_node: the model with its keys. Empty before a checkpoint."""
        if self.checkpoint is None:
            return {}
        size = [
            self.meta["preprocessing"][key] for key in ("height", "width")
        ]  # earlier versions did not store it here
        return {**self.meta["chosen"], "model_node": self.meta["model"], "image_size": size}

    @property
    def meta(self) -> dict[str, Any]:
        """What the checkpoint says besides its tensors; empty before the first one."""
        return {} if self.checkpoint is None else self.checkpoint.meta

    @property
    def was_tested(self) -> bool:
        """Whether the run has used its test images."""
        return self.report is not None and self.report.get("split", "test") == "test"

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return 0 if self.checkpoint is None else int(self.checkpoint.meta["epochs_done"])

    def complete(self, config: TrainConfig, rise: int = 0) -> str:
        """Why there is nothing left to do, empty if there is. rise: see is_exhausted."""
        if self.report is None:
            return ""
        is_early = is_exhausted(self.best, self.epochs, config.patience, rise) or self._ended_early(config)
        if not is_early and self.epochs < config.passes:
            return ""
        more = "early stopping ended it" if is_early else f"to train on, add epochs={2 * self.epochs}"
        return f"{self.folder} is already complete (epoch {self.epochs}/{config.passes}); {more}"

    def _ended_early(self, config: TrainConfig) -> bool:
        """Whether early stopping ended it, perhaps of a version that counted from the first epoch."""
        if config.patience is None or self.checkpoint is None:
            return False
        return self.epochs < int(self.checkpoint.meta["config"]["epochs"])


def resume_point(folder: Path, config: TrainConfig) -> ResumePoint:
    """Where the run in that folder stopped. Raises CheckpointError if it cannot be resumed."""
    checkpoint, warnings = run_folders.last_checkpoint(folder)
    if checkpoint is None:
        return ResumePoint(folder, None, None, _finished_report(folder), tuple(warnings))
    done, steps = checkpoint.meta["epochs_done"], checkpoint.meta["step"]
    best = _stored_best(checkpoint.meta)
    if done > steps:
        raise CheckpointError(f"{checkpoint.path}: inconsistent checkpoint: {done:,} epochs but only {steps:,} steps")
    point = ResumePoint(folder, checkpoint, best, _finished_report(folder), tuple(warnings))
    if best is None or not (lost := _lost_best(folder)):
        return point
    if done >= config.passes:
        raise CheckpointError(f"{lost}; train on with epochs={done + 1} to make a new best checkpoint")
    warning = f"{lost}; the best of the remaining epochs takes its place"
    return replace(point, best=None, warnings=(*warnings, warning))


def began_with(spec: RunSpec, config: TrainConfig, point: ResumePoint) -> Pretrained | EarlierRun | None:
    """The weights that the run began with: of a file or another run, which may be gone, what its checkpoint says."""
    path = config.model.get("pretrained")
    if not is_file(path):
        return spec.pretrained
    if point.checkpoint is not None:
        return earlier_run(path, point.meta)
    return weights(config.model["name"], path)


def restore_run(run: Run, point: ResumePoint) -> None:
    """Put the checkpoint into a freshly built run, if the run is still the same.

    Raises ConfigError if its configuration has changed, DataError if its data has, CheckpointError if they do not fit.
    """
    fingerprint.check_same_images(point.folder, run.data.splits.parts)
    if point.checkpoint is None:
        return
    _check_same_config(run.config, point.checkpoint, point.folder)
    load_state(run.state, point.checkpoint)
    _check_position(run, point.checkpoint)
    if run.runtime.is_main:
        run_folders.put_damaged_aside(point.folder, point.checkpoint)
    else:
        run.state.totals.zero_()  # the main process carries the sums of all


def rate_change(run: Run, point: ResumePoint) -> str | None:
    """That the learning rate jumps, with both rates, if other ``epochs`` stretch the schedule; None if it does not."""
    if point.checkpoint is None or not run.state.step:
        return None
    step, steps, base = run.state.step, len(run.loader), run.recipe.base_lrs[0]
    before_epochs, epochs = int(point.checkpoint.meta["config"]["epochs"]), run.config.passes
    if epochs in (before_epochs, point.epochs) or not base:
        return None
    before = run.spec.scheduler(steps, before_epochs)
    ends = step >= before_epochs * steps
    last, now = base * before(step - 1 if ends else step), base * run.recipe.schedule(step)
    if math.isclose(last, now, rel_tol=0.01):
        return None
    share = f"{now / (base * max(map(run.recipe.schedule, range(0, epochs * steps, max(1, steps // 20))))):.0%}"
    verb = "rises" if now > last else "falls"
    what = f"the learning rate {verb} from {last:.3g} to {now:.3g}, {share} of its highest"
    why = f"{run.config.scheduler['name']} now spans {epochs} epochs instead of {before_epochs}"
    return f"{what}: {why}; a new run with epochs={epochs} has no such jump"


def _check_same_config(config: TrainConfig, checkpoint: Checkpoint, folder: Path) -> None:
    """Raises ConfigError if config.yaml differs from what the run was trained with in a key that cannot change."""
    before, now = (parsing.flatten(completed(table)) for table in (checkpoint.meta["config"], vars(config)))
    for key in [key for key in {**now, **before} if key not in (*RESUMABLE, *OF_THE_COMMAND)]:
        one, other = now.get(key), before.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            continue  # its keys are compared one by one
        if one != other:
            raise ConfigError(
                f"{key} is {show(one)} in {folder / 'config.yaml'}, but the run was trained with "
                f"{show(other)}; change it back (for anything else, start a new run)"
            )


def _check_position(run: Run, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError if the step is not within or at the end of its epoch."""
    state, steps = run.state, len(run.loader)
    if not state.epochs * steps <= state.step <= (state.epochs + 1) * steps:
        position = f"step {state.step:,} after {state.epochs:,} epochs of {steps:,} steps"
        raise CheckpointError(f"{checkpoint.path}: inconsistent checkpoint: {position}")


def _stored_best(meta: dict[str, Any]) -> Best | None:
    """Quality and number of the best epoch, as the checkpoint has them."""
    stored = meta.get("best")
    if stored is None:
        return None
    try:
        # version 0.1.0 did not keep the epoch
        (first, second, third), epoch = stored if len(stored) == 2 else (stored, meta["epochs_done"])
        best = Best((float(first), float(second), int(third)), int(epoch))
        if not (all(map(math.isfinite, best.quality[:2])) and 0 <= best.epoch <= meta["epochs_done"]):
            raise ValueError(f"{stored}")
        return best
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the checkpoint's best epoch is invalid ({error})") from error


def _lost_best(folder: Path) -> str:
    """Why the best checkpoint cannot be used, empty if it can."""
    try:
        checkpoint_format.read(folder / "checkpoints" / checkpoint_format.BEST)
    except CheckpointError as error:
        return str(error)
    return ""


def _finished_report(folder: Path) -> Report | None:
    """report.json, if the run has been finished."""
    try:
        report: Report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report
