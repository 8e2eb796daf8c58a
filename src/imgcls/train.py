"""``imgcls train``: a new run or a resumed one, from its configuration to its report."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import yaml

from imgcls import decisions, files
from imgcls.checkpoints import format as checkpoint_format
from imgcls.config.schema import TrainConfig, every_of
from imgcls.data.datamodule import with_stored_tables
from imgcls.errors import ConfigError, ImgclsError, RunError
from imgcls.inference.assess import assess, assess_attacked, choose_attack
from imgcls.inference.restore import restore
from imgcls.loggers.run_log import RunLog
from imgcls.parallel.background import BackgroundWorker
from imgcls.reports import plots
from imgcls.reports.report import Report, complete, empty_classes, write_predictions, write_report
from imgcls.reports.tables import result_lines
from imgcls.runs import fingerprint
from imgcls.runs import folder as run_folders
from imgcls.runs.folder import folder_word
from imgcls.runs.provenance import add_resumed, write_provenance
from imgcls.runs.tested import tested_before
from imgcls.runtime.device import choose_device, rank_and_world
from imgcls.runtime.session import Runtime, keep_freed_memory, session
from imgcls.runtime.signals import Signals
from imgcls.training.artifacts import draw_batch, draw_test, log_result
from imgcls.training.builder import Run, build, checkpoint_metadata
from imgcls.training.callback import TrainingCallback
from imgcls.training.checkpointer import Checkpointer
from imgcls.training.earlier_run import settled
from imgcls.training.failures import reading_explained, resume_command, training_explained
from imgcls.training.loop import fit
from imgcls.training.resume import ResumePoint, began_with, rate_change, restore_run, resume_point
from imgcls.training.spec import RunSpec, check
from imgcls.training.summary import summary
from imgcls.training.validation import Best, Validator

__all__ = ["check", "resume", "train"]


@dataclass(frozen=True)
class Outputs:
    """Where a run's results go: its folder, its log, and the process that draws its plots."""

    folder: Path
    log: RunLog
    plotter: BackgroundWorker


def train(config: TrainConfig, *, is_quiet: bool = False, plotter: BackgroundWorker | None = None) -> Report | None:
    """A new run; returns its report (in the main process). plotter: draws its plots."""
    config = settled(config)
    return begin(config, check(config), is_quiet=is_quiet, plotter=plotter)


def begin(
    config: TrainConfig,
    spec: RunSpec,
    *,
    same_as: Path | None = None,
    is_quiet: bool = False,
    plotter: BackgroundWorker | None = None,
) -> Report | None:
    """A new run of these components. same_as: a run's folder; raises DataError unless its images are the same."""
    with (
        reading_explained(spec),
        _session(config, config.precision, config.threads) as runtime,
        closing(RunLog(is_main=runtime.is_main, is_quiet=is_quiet)) as log,
    ):
        run = build(config, spec, runtime, {})
        if same_as is not None:
            fingerprint.check_same_images(same_as, run.data.splits.parts)
        with _new_folder(run) as folder:
            log.open(folder)
            _print_header(run, log, str(folder))
            return _execute(run, Outputs(folder, log, plotter or BackgroundWorker()))


def resume(
    config: TrainConfig,
    folder: Path,
    own_names: frozenset[str],
    *,
    is_quiet: bool = False,
    plotter: BackgroundWorker | None = None,
) -> Report | None:
    """Resume the run in that folder, whose own (perhaps longer) configuration this is.

    own_names: names of the user's own code that were typed for this command.
    """
    spec = RunSpec.from_config(config, own_names)
    spec = replace(spec, data=with_stored_tables(spec.data, folder))
    rank, _, _ = rank_and_world()
    # locked before anything is read: another process may be writing
    with closing(run_folders.RunFolder(folder)) if rank == 0 else nullcontext():
        point = resume_point(folder, config)
        spec = replace(spec, data=replace(spec.data, rule=fingerprint.cut_rule(folder, point.meta)))
        spec = replace(spec, pretrained=began_with(spec, config, point))
        precision = point.chosen.get("precision", config.precision)
        if precision == "fp16" and choose_device(config.device).type == "cpu":
            raise ConfigError(f"device: {folder} was trained in fp16; resume it on a GPU")
        threads = config.threads or point.chosen.get("threads")
        with (
            reading_explained(spec),
            _session(config, precision, threads) as runtime,
            closing(RunLog(is_main=runtime.is_main, is_quiet=is_quiet)) as log,
        ):
            if reason := point.complete(config, spec.rise(config)):
                _print_warnings(log, point)
                log.info(reason)
                return point.report if runtime.is_main else None
            run = build(config, spec, runtime, point.chosen)
            restore_run(run, point)
            if runtime.is_main:
                _write_config(folder, config)
                add_resumed(folder, step=run.state.step, **_size(run))
                (folder / "report.json").unlink(missing_ok=True)  # the shorter run's
            state = run.state
            log.open(folder, keep_epochs=state.epochs)
            where = f"resuming at step {state.step:,} (epoch {state.epochs + 1} of {config.passes})"
            _print_header(run, log, f"{folder}, {where}", point)
            outputs = Outputs(folder, log, plotter or BackgroundWorker())
            return _execute(run, outputs, point.best, was_tested=point.was_tested)


def _session(config: TrainConfig, precision: str, threads: int | None) -> AbstractContextManager[Runtime]:
    return session(config.device, precision, threads, deterministic=config.deterministic, distributed=True)


@contextmanager
def _new_folder(run: Run) -> Iterator[Path]:
    """The run's folder with its configuration and splits, made by the main process and held while the run lasts."""
    held: run_folders.RunFolder | None = None
    failure: ImgclsError | None = None
    try:
        if run.runtime.is_main:
            try:
                name = f"{folder_word(run.model.name)}-{folder_word(run.data.name)}"
                held = run_folders.claim(run.config.run_dir, name)
                earlier = {"rule": 1} if run.spec.data.rule == 1 else {}
                data = fingerprint.write_split(held.path, run.data.splits.parts, **earlier)
                write_provenance(held.path, data, **_size(run))
                for table, content in run.data.source.tables.items():
                    files.write_whole(held.path / table, content)
                _write_config(held.path, run.config)  # last: from here on there is a run to resume
            except ImgclsError as error:
                failure = error
            except OSError as error:
                failure = RunError(f"cannot write into the run folder: {error.strerror}: {error.filename}")
        folder = run.runtime.broadcast_text("" if held is None or failure else str(held.path))
        if not folder:
            raise failure or RunError("the main process could not create the run folder")
        yield Path(folder)
    finally:
        if held is not None:
            held.close()


def _size(run: Run) -> dict[str, int]:
    return {"epochs": run.config.passes, "processes": run.runtime.world}


def _write_config(folder: Path, config: TrainConfig) -> None:
    text = yaml.safe_dump(vars(config), sort_keys=False, allow_unicode=True)
    files.write_whole(folder / "config.yaml", text.encode())


def _print_header(run: Run, log: RunLog, first: str, point: ResumePoint | None = None) -> None:
    log.info(f"run      {first}")
    if point is not None:
        _print_warnings(log, point)
    for line in summary(run) if run.runtime.is_main else ():
        log.info(line)
    if point is not None and (change := rate_change(run, point)):
        log.warning(change)


def _print_warnings(log: RunLog, point: ResumePoint) -> None:
    for warning in point.warnings:
        log.warning(warning)


def _execute(run: Run, outputs: Outputs, best: Best | None = None, *, was_tested: bool = False) -> Report | None:
    """Train, then test the best checkpoint once."""
    folder, log, plotter = outputs.folder, outputs.log, outputs.plotter
    has_plots = run.config.plots and run.runtime.is_main
    with training_explained(run, folder):
        if has_plots:
            draw_batch(run, folder, plotter)
        _fit(run, folder, log, best)
        log.end_progress()
        if has_plots:
            plotter.draw(plots.curves, log.rows, folder / "plots" / "curves.png")
        return _test(run, outputs, was_tested=was_tested)


def _fit(run: Run, folder: Path, log: RunLog, best: Best | None) -> None:
    config, runtime, state, shape = run.config, run.runtime, run.state, run.data.preprocessing
    if config.tensorboard:
        blank = torch.zeros(1, shape.channels, shape.height, shape.width, device=runtime.device)
        log.start_board(state.step + 1 if state.step else None, state.module, blank)
    checkpointer = Checkpointer(folder, checkpoint_metadata(run), runtime, *every_of(config.checkpoint_every))
    val = run.data.splits.val
    validator = None
    if val is not None:
        positive = None if run.positive is None else run.data.source.classes.index(run.positive)
        validator = Validator(
            val, run.data.fetcher("val"), shape, run.recipe.loss, runtime, monitor=config.monitor, positive=positive
        )
    command = resume_command(run, folder)
    with Signals() as signals:
        callback = TrainingCallback(config, runtime, log, signals, checkpointer, validator, command, best, run.rise)
        log.begin(step=state.step, total=config.passes * len(run.loader), epochs=config.passes, monitor=config.monitor)
        if runtime.device.type == "cpu":
            keep_freed_memory()
        try:
            fit(state, run.forward, run.loader, run.recipe, callback)
            callback.stop_if_asked(state)  # an interrupted run is not tested
        except RunError:  # a signal to the whole group ends the decoding processes too
            if signals.received and runtime.world == 1:
                callback.save_and_stop(state)
            raise


def _test(run: Run, outputs: Outputs, *, was_tested: bool) -> Report | None:
    """The only use of the test images: predictions.npz, the plots, the table, and report.json last.

    With test=false the validation images take their place.
    """
    folder, log, data = outputs.folder, outputs.log, run.data
    part: Literal["test", "val"] = "test" if run.config.test else "val"
    images = data.splits.parts[part]
    best = checkpoint_format.read(folder / "checkpoints" / checkpoint_format.BEST)
    exact = replace(run.runtime, precision="fp32")
    trained = restore(best, exact, frozenset({run.model.name}))
    if images is None:
        return _untested(run, outputs, best, trained.parameters)
    fetcher = data.fetcher(part)
    numbers, logits = assess(trained, images, fetcher, exact)
    attack = choose_attack(best.meta)
    if (made := attack()) is not None:
        numbers |= assess_attacked(trained, images, fetcher, exact, made, attack.node)
    if not run.runtime.is_main:
        return None
    report = complete(numbers, best, trained.parameters, part, data.name, data.source.skipped) | run.spec.data.cut_keys
    if warning := empty_classes(report):
        log.warning(warning)
    write_predictions(folder, report, logits, images)
    matrix = draw_test(run, images, folder, report, outputs.plotter) if run.config.plots else None
    log_result(run, log, report, matrix)
    used = _use(folder, was_tested=was_tested) if run.config.test else "the test images are left alone (test=false)"
    write_report(folder, report)
    log.info("")
    for line in result_lines(report, f"{used}; checkpoint of epoch {report['epoch']}", part):
        log.output(line)
    _print_end(run, outputs)
    return report


def _use(folder: Path, *, was_tested: bool) -> str:
    """How often the test images were used before."""
    others = tested_before(folder)
    if was_tested:
        return f"used before by the shorter run{others and f', {others}'}"
    return others or "never used before"


def _untested(run: Run, outputs: Outputs, best: checkpoint_format.Checkpoint, parameters: int) -> Report | None:
    """The report of a run with neither test nor validation: no figures."""
    if not run.runtime.is_main:
        return None
    report = complete(decisions.no_report(), best, parameters, None, run.data.name, run.data.source.skipped)
    write_report(outputs.folder, report)
    outputs.log.output("\ntest     none: the test images are left alone (test=false), and there are no val images")
    _print_end(run, outputs)
    return report


def _print_end(run: Run, outputs: Outputs) -> None:
    """Where the report is, and what can be done next."""
    own = f" model.name={run.model.name}" if ":" in run.model.name else ""
    outputs.log.output(f"\nreport   {outputs.folder / 'report.json'}")
    outputs.log.output(f"next     imgcls predict {shlex.quote(str(outputs.folder))} photo.png{own}")
