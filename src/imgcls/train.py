"""``imgcls train``: a new run or one that goes on, from its configuration to its report."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from imgcls import files
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints import state as checkpoint_state
from imgcls.checkpoints.format import Checkpoint
from imgcls.config.options import OWN_PARTS
from imgcls.config.schema import TrainConfig
from imgcls.data.datamodule import fetcher_for, is_resident
from imgcls.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ImgclsError,
    RunError,
    Stopped,
    UnreadableImage,
    is_out_of_memory,
)
from imgcls.inference.assess import assess, assess_attacked, choose_attack, fetcher_of
from imgcls.inference.restore import restore
from imgcls.loggers.run_log import RunLog
from imgcls.parallel.background import BackgroundWorker
from imgcls.reports import plots
from imgcls.reports.report import Report, complete, empty_classes, write_predictions, write_report
from imgcls.reports.tables import table
from imgcls.runs import fingerprint
from imgcls.runs import folder as run_folders
from imgcls.runs.folder import folder_word
from imgcls.runtime.device import choose_device, rank_and_world
from imgcls.runtime.session import keep_freed_memory, session
from imgcls.runtime.signals import Signals
from imgcls.training.artifacts import draw_batch, draw_test
from imgcls.training.builder import Run, build, checkpoint_metadata
from imgcls.training.callback import Best, Keeper, Validation, is_exhausted
from imgcls.training.loop import fit
from imgcls.training.resume import check_position, check_same_config, finished_report, lost_best, stored_best
from imgcls.training.spec import RunSpec, check, run_spec

__all__ = ["check", "resume", "train"]


def train(config: TrainConfig, *, is_quiet: bool = False, plotter: BackgroundWorker | None = None) -> Report | None:
    """A new run; returns its report (in the main process). studio: where its pictures are drawn."""
    check(config)
    parts = run_spec(config)
    keys = {"deterministic": config.deterministic, "distributed": True}
    with session(config.device, config.precision, config.threads, **keys) as runtime:
        log = RunLog(is_main=runtime.is_main, is_quiet=is_quiet, holding=True)
        held: run_folders.RunFolder | None = None
        try:
            run = build(config, parts, runtime, log, {})
            held, failure = _claim(run) if runtime.is_main else (None, None)
            folder = runtime.broadcast_text(str(held.path) if held else "")
            if not folder:
                raise failure or RunError("the main process could not make the run folder")
            log.open(Path(folder), "")
            return _go(run, Path(folder), None, plotter or BackgroundWorker())
        except UnreadableImage as error:
            log.drop_held()
            if "on_error" not in parts.data.source.params:
                raise
            ways = "dataset.verify=true names all such files, dataset.on_error=skip leaves them out"
            raise DataError(f"{error}; {ways}") from error
        except ImgclsError:
            log.drop_held()
            raise
        finally:
            log.close()
            if held is not None:
                held.close()


def _claim(run: Run) -> tuple[run_folders.RunFolder | None, ImgclsError | None]:
    """The run's folder with its configuration and split, or why it cannot be had."""
    try:
        held = run_folders.claim(run.config.run_dir, f"{folder_word(run.model.name)}-{folder_word(run.data.name)}")
        parts = {name: part for name, part in run.data.splits.parts.items() if part is not None}
        ids: dict[str, Any] = {name: part.ids for name, part in parts.items()}
        ids |= {f"{name}.fingerprint": part.fingerprint() for name, part in parts.items()}
        file = io.BytesIO()
        np.savez_compressed(file, **ids)
        files.write_whole(held.path / "split.npz", file.getbuffer())
        _write_config(held.path, run.config)  # last: where it stands there is a run to go on with
    except ImgclsError as error:
        return None, error
    except OSError as error:
        return None, RunError(f"cannot write into the run folder: {error.strerror}: {error.filename}")
    return held, None


def _write_config(folder: Path, config: TrainConfig) -> None:
    text = yaml.safe_dump(vars(config), sort_keys=False, allow_unicode=True)
    files.write_whole(folder / "config.yaml", text.encode())


def resume(
    config: TrainConfig,
    folder: Path,
    own_names: frozenset[str],
    *,
    is_quiet: bool = False,
    plotter: BackgroundWorker | None = None,
) -> Report | None:
    """Go on with the run in that folder, whose own (perhaps longer) configuration this is."""
    parts = run_spec(config, own_names)
    rank, _, _ = rank_and_world()
    held = (
        run_folders.RunFolder(folder) if rank == 0 else None
    )  # before anything is read: another process may be writing
    try:
        checkpoint, warnings = run_folders.last_checkpoint(folder)
        return _resume(config, parts, folder, checkpoint, warnings, plotter or BackgroundWorker(), is_quiet=is_quiet)
    finally:
        if held is not None:
            held.close()


def _resume(
    config: TrainConfig,
    parts: RunSpec,
    folder: Path,
    checkpoint: Checkpoint | None,
    warnings: list[str],
    plotter: BackgroundWorker,
    *,
    is_quiet: bool,
) -> Report | None:
    meta: dict[str, Any] = checkpoint.meta if checkpoint is not None else {"chosen": {}, "epochs_done": 0}
    precision = meta["chosen"].get("precision", config.precision)
    threads = config.threads or meta["chosen"].get("threads")
    if precision == "fp16" and choose_device(config.device).type == "cpu":
        raise ConfigError(f"device: {folder} is trained in fp16, which needs a GPU to go on")
    keys = {"deterministic": config.deterministic, "distributed": True}
    with session(config.device, precision, threads, **keys) as runtime:
        log = RunLog(is_main=runtime.is_main, is_quiet=is_quiet, holding=True)
        try:
            for warning in warnings:
                log.warning(warning)
            report, done, best = finished_report(folder), meta["epochs_done"], stored_best(meta)
            if checkpoint is not None and done > meta["step"]:
                raise CheckpointError(f"{checkpoint.path}: {done:,} epochs in {meta['step']:,} steps cannot be")
            if best is not None and (lost := lost_best(folder)):
                if done >= config.epochs:
                    raise CheckpointError(f"{lost}; more epochs would bring another best: add epochs={done + 1}")
                log.warning(f"{lost}; the best of the epochs from here on counts")
                best = None
            is_through, is_early = done >= config.epochs, is_exhausted(best, done, config.patience)
            if report is not None and (is_through or is_early):
                more = "; patience stopped it early" if is_early else f"; epochs={2 * done} would go on"
                log.info(f"{folder} is already complete (epoch {done}/{config.epochs}){more}")
                return report if runtime.is_main else None
            run = build(config, parts, runtime, log, meta["chosen"])
            fingerprint.check_same_images(folder, run.data.splits.parts)
            if checkpoint is not None:
                check_same_config(config, checkpoint, folder)
                checkpoint_state.load_state(run.state, checkpoint)
                check_position(run, checkpoint)
                if runtime.is_main:
                    run_folders.put_damaged_aside(folder, checkpoint)
                if not runtime.is_main:
                    run.state.totals.zero_()  # the main process carries what all have summed
            words = f", going on at step {run.state.step:,} (epoch {run.state.epochs + 1} of {config.epochs})"
            if runtime.is_main:
                _write_config(folder, config)
                (folder / "report.json").unlink(missing_ok=True)  # it is of the shorter run
            log.open(folder, words, keep_epochs=run.state.epochs)
            return _go(run, folder, best, plotter, was_tested=report is not None)
        except ImgclsError:
            log.drop_held()
            raise
        finally:
            log.close()


def _go(
    run: Run, folder: Path, best: Best | None, plotter: BackgroundWorker, *, was_tested: bool = False
) -> Report | None:
    """Train, then test the best checkpoint once."""
    try:
        if run.runtime.is_main:
            draw_batch(run, folder, plotter)
        _train(run, folder, best)
        run.log.end_live()
        if run.runtime.is_main:
            plotter.draw(plots.curves, run.log.rows, folder / "plots" / "curves.png")
        return _test(run, folder, plotter, was_tested=was_tested)
    except KeyboardInterrupt as error:
        number = getattr(error, "signal_number", 2)
        raise Stopped(f"stopped; go on with: {_resume_command(run, folder)}", number) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        size = f"{run.data.preprocessing.width}x{run.data.preprocessing.height}"
        key = "accumulate: its parts are" if run.config.accumulate > 1 else "batch_size:"
        raise ConfigError(f"{key} too small for the batch norm of {run.model.name} on {size} images") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        kept = f"what was saved before is kept; go on with: {_resume_command(run, folder)}"
        raise RunError(f"{error.strerror or error}: {error.filename or folder}; {kept}") from error
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            what = f"out of memory with batch_size={run.loader.batch_size}"
            ways = "a smaller one, accumulate=4 (the same batch in four parts), dataset.image_size, loader=stream"
            raise RunError(f"{what}; try {ways}; what was saved before is kept") from error
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise RunError(f"torch.compile fails on {run.model.name} ({error}); compile=false goes without it") from error


def _resume_command(run: Run, folder: Path) -> str:
    """The command that goes on with the run, the user's own parts named again."""
    names = [f" {group}.name={getattr(run.config, group)['name']}" for group in OWN_PARTS]
    return f"imgcls train resume={shlex.quote(str(folder))}" + "".join(name for name in names if ":" in name)


def _train(run: Run, folder: Path, best: Best | None) -> None:
    config, runtime, shape = run.config, run.runtime, run.data.preprocessing
    blank = torch.zeros(1, shape.channels, shape.height, shape.width, device=runtime.device)
    run.log.start_board(run.state.step + 1 if run.state.step else None, run.state.module, blank)
    validation = None
    if (val := run.data.splits.val) is not None:
        resident = is_resident(val, shape, runtime, config.loader)
        fetcher = fetcher_for(val, shape, runtime, resident=resident, workers=run.workers)
        validation = Validation(val, fetcher, shape, run.recipe.loss)
    with Signals() as signals:
        keeper = Keeper(
            folder,
            config,
            validation,
            checkpoint_metadata(run),
            runtime,
            run.log,
            signals,
            _resume_command(run, folder),
            best,
        )
        run.log.begin(step=run.state.step, total=config.epochs * len(run.loader), epochs=config.epochs)
        if runtime.device.type == "cpu":
            keep_freed_memory()
        try:
            fit(run.state, run.forward, run.loader, run.recipe, run.log, keeper)
            keeper.look(run.state)  # the test is for the run that goes on
        except RunError:  # a signal to the whole group ends the decoding processes too
            if signals.received and runtime.world == 1:
                keeper.save_and_stop(run.state)
            raise


def _test(run: Run, folder: Path, plotter: BackgroundWorker, *, was_tested: bool) -> Report | None:
    """The only look at the test images: predictions.npz, the table, the pictures, and last of all report.json."""
    best = checkpoint_format.read(folder / "checkpoints" / checkpoint_format.BEST)
    exact = replace(run.runtime, precision="fp32")
    trained = restore(best, exact, frozenset({run.model.name}))
    images = run.data.splits.test
    fetcher = fetcher_of(trained, images, exact, loader=run.config.loader, workers=run.workers)
    numbers, logits = assess(trained, images, fetcher, exact)
    attack = choose_attack(best.meta)
    if (made := attack()) is not None:
        numbers |= assess_attacked(trained, images, fetcher, exact, made, attack.node)
    if not run.runtime.is_main:
        return None
    report = complete(numbers, best, trained.parameters, "test", run.data.name, run.data.source.skipped)
    if warning := empty_classes(report):
        run.log.warning(warning)
    write_predictions(folder, report, logits, images)
    draw_test(run, folder, report, plotter)
    write_report(folder, report)
    run.log.info("")
    used = "used before by the shorter run" if was_tested else "never used before"
    for line in table(report, f"{used}; checkpoint of epoch {report['epoch']}"):
        run.log.output(line)
    own = f" model.name={run.model.name}" if ":" in run.model.name else ""
    run.log.output(f"\nreport   {folder / 'report.json'}")
    run.log.output(f"next     imgcls predict {shlex.quote(str(folder))} photo.png{own}")
    return report
