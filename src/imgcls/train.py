"""``imgcls train``: a new run or one that goes on, from its configuration to its report."""

from __future__ import annotations

import io
import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from imgcls import checkpoint as checkpoints
from imgcls import config as configs
from imgcls import report as pictures
from imgcls import rundir
from imgcls.assembly import Parts, Run, build, check, choose_parts
from imgcls.checkpoint import Checkpoint
from imgcls.config import OWN_PARTS, TrainConfig
from imgcls.data.loaders import decode_all
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
from imgcls.evaluate import (
    Report,
    assess,
    assess_attacked,
    choose_attack,
    complete,
    empty_classes,
    fetcher_of,
    table,
    write_predictions,
    write_report,
)
from imgcls.inference import restore, versions
from imgcls.keeper import Best, Keeper, Validation, git_commit, is_exhausted
from imgcls.logbook import Logbook
from imgcls.loop import fit
from imgcls.prepare import fetcher_for, is_resident
from imgcls.runtime import choose_device, keep_freed_memory, rank_and_world, session
from imgcls.signals import Signals
from imgcls.stored import completed
from imgcls.studio import Studio

__all__ = ["check", "resume", "train"]

MAY_CHANGE = {  # in config.yaml between the parts of a run
    *("epochs", "device", "workers", "threads", "loader", "dataset.root", "dataset.images", "checkpoint_every"),
    *("run_dir", "resume", "sweep_dir", "job_timeout"),
}
MISTAKES = 24  # in the picture of the most confident ones
TILES = 32  # of the training batch in its picture


def train(config: TrainConfig, *, is_quiet: bool = False, studio: Studio | None = None) -> Report | None:
    """A new run; returns its report (in the main process). studio: where its pictures are drawn."""
    check(config)
    parts = choose_parts(config)
    keys = {"deterministic": config.deterministic, "distributed": True}
    with session(config.device, config.precision, config.threads, **keys) as runtime:
        log = Logbook(is_main=runtime.is_main, is_quiet=is_quiet, holding=True)
        held: rundir.RunFolder | None = None
        try:
            run = build(config, parts, runtime, log, {})
            held, failure = _claim(run) if runtime.is_main else (None, None)
            folder = runtime.say_to_all(str(held.path) if held else "")
            if not folder:
                raise failure or RunError("the main process could not make the run folder")
            log.open(Path(folder), "")
            return _go(run, Path(folder), None, studio or Studio())
        except UnreadableImage as error:
            log.drop_held()
            if "on_error" not in parts.data.source.knobs:
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


def _claim(run: Run) -> tuple[rundir.RunFolder | None, ImgclsError | None]:
    """The run's folder with its configuration and split, or why it cannot be had."""
    try:
        held = rundir.claim(run.config.run_dir, f"{_word(run.model.name)}-{_word(run.data.name)}")
        parts = {name: part for name, part in run.data.splits.parts.items() if part is not None}
        ids: dict[str, Any] = {name: part.ids for name, part in parts.items()}
        ids |= {f"{name}.fingerprint": part.fingerprint() for name, part in parts.items()}
        file = io.BytesIO()
        np.savez_compressed(file, **ids)
        checkpoints.write_whole(held.path / "split.npz", file.getbuffer())
        _write_config(held.path, run.config)  # last: where it stands there is a run to go on with
    except ImgclsError as error:
        return None, error
    except OSError as error:
        return None, RunError(f"cannot write into the run folder: {error.strerror}: {error.filename}")
    return held, None


def _write_config(folder: Path, config: TrainConfig) -> None:
    text = yaml.safe_dump(vars(config), sort_keys=False, allow_unicode=True)
    checkpoints.write_whole(folder / "config.yaml", text.encode())


def _word(name: str) -> str:
    """A name as part of a folder's name."""
    plain = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name.rpartition(":")[2])
    return plain.strip("-.")[:60] or "images"


def resume(
    config: TrainConfig,
    folder: Path,
    own_names: frozenset[str],
    *,
    is_quiet: bool = False,
    studio: Studio | None = None,
) -> Report | None:
    """Go on with the run in that folder, whose own (perhaps longer) configuration this is."""
    parts = choose_parts(config, own_names)
    rank, _, _ = rank_and_world()
    held = rundir.RunFolder(folder) if rank == 0 else None  # before anything is read: another process may be writing
    try:
        checkpoint, warnings = rundir.last_checkpoint(folder)
        return _resume(config, parts, folder, checkpoint, warnings, studio or Studio(), is_quiet=is_quiet)
    finally:
        if held is not None:
            held.close()


def _resume(
    config: TrainConfig,
    parts: Parts,
    folder: Path,
    checkpoint: Checkpoint | None,
    warnings: list[str],
    studio: Studio,
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
        log = Logbook(is_main=runtime.is_main, is_quiet=is_quiet, holding=True)
        try:
            for warning in warnings:
                log.warn(warning)
            report, done, best = _finished_report(folder), meta["epochs_done"], _best(meta)
            if checkpoint is not None and done > meta["step"]:
                raise CheckpointError(f"{checkpoint.path}: {done:,} epochs in {meta['step']:,} steps cannot be")
            if best is not None and (lost := _lost_best(folder)):
                if done >= config.epochs:
                    raise CheckpointError(f"{lost}; more epochs would bring another best: add epochs={done + 1}")
                log.warn(f"{lost}; the best of the epochs from here on counts")
                best = None
            is_through, is_early = done >= config.epochs, is_exhausted(best, done, config.patience)
            if report is not None and (is_through or is_early):
                more = "; patience stopped it early" if is_early else f"; epochs={2 * done} would go on"
                log.say(f"{folder} is already complete (epoch {done}/{config.epochs}){more}")
                return report if runtime.is_main else None
            run = build(config, parts, runtime, log, meta["chosen"])
            rundir.check_same_images(folder, run.data.splits.parts)
            if checkpoint is not None:
                _check_same(config, checkpoint, folder)
                checkpoints.load_state(run.state, checkpoint)
                _check_place(run, checkpoint)
                if runtime.is_main:
                    rundir.put_damaged_aside(folder, checkpoint)
                if not runtime.is_main:
                    run.state.sums.zero_()  # the main process carries what all have summed
            words = f", going on at step {run.state.step:,} (epoch {run.state.epochs + 1} of {config.epochs})"
            if runtime.is_main:
                _write_config(folder, config)
                (folder / "report.json").unlink(missing_ok=True)  # it is of the shorter run
            log.open(folder, words, keep_epochs=run.state.epochs)
            return _go(run, folder, best, studio, was_tested=report is not None)
        except ImgclsError:
            log.drop_held()
            raise
        finally:
            log.close()


def _check_same(config: TrainConfig, checkpoint: Checkpoint, folder: Path) -> None:
    """Raises ConfigError if config.yaml is not what the run was trained with, but for what may change."""
    before, now = (configs.flatten(completed(table)) for table in (checkpoint.meta["config"], vars(config)))
    for key in [key for key in {**now, **before} if key not in MAY_CHANGE]:
        one, other = now.get(key), before.get(key)
        if one != other:
            raise ConfigError(
                f"{key} is {configs.show(one)} in {folder / 'config.yaml'}, but the run was trained with "
                f"{configs.show(other)}; put it back (a changed run is a new run)"
            )


def _check_place(run: Run, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError if the step does not lie within or at the end of the epoch that it says."""
    state, steps = run.state, len(run.loader)
    if not state.epochs * steps <= state.step <= (state.epochs + 1) * steps:
        place = f"step {state.step:,} after {state.epochs:,} epochs of {steps:,} steps"
        raise CheckpointError(f"{checkpoint.path}: {place} cannot be")


def _best(meta: dict[str, Any]) -> Best | None:
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


def _lost_best(folder: Path) -> str:
    """Why the best checkpoint cannot be used, if so."""
    try:
        checkpoints.read(folder / "checkpoints" / checkpoints.BEST)
    except CheckpointError as error:
        return str(error)
    return ""


def _finished_report(folder: Path) -> Report | None:
    """report.json, if the run has been tested."""
    try:
        report: Report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report


def _go(run: Run, folder: Path, best: Best | None, studio: Studio, *, was_tested: bool = False) -> Report | None:
    """Train, then test the best checkpoint once."""
    try:
        if run.runtime.is_main:
            _draw_batch(run, folder, studio)
        _train(run, folder, best)
        run.log.end_live()
        if run.runtime.is_main:
            studio.draw(pictures.curves, run.log.rows, folder / "plots" / "curves.png")
        return _test(run, folder, studio, was_tested=was_tested)
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
            folder, config, validation, _meta(run), runtime, run.log, signals, _resume_command(run, folder), best
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


def _meta(run: Run) -> dict[str, Any]:
    """What a checkpoint says beside its tensors: enough to use it without anything else."""
    return {
        "format_version": checkpoints.FORMAT,
        "imgcls": versions()["imgcls"],
        "config": vars(run.config) | {"run_dir": None},  # two equal runs are to have equal checkpoints
        "model": run.model.node,
        "classes": list(run.data.source.classes),
        "preprocessing": run.data.preprocessing.as_dict(),
        "dataset": run.data.name,
        "chosen": run.chosen,
        "versions": versions(),
        "git_commit": git_commit(),
    }


def _test(run: Run, folder: Path, studio: Studio, *, was_tested: bool) -> Report | None:
    """The only look at the test images: predictions.npz, the table, the pictures, and last of all report.json."""
    best = checkpoints.read(folder / "checkpoints" / checkpoints.BEST)
    exact = replace(run.runtime, precision="fp32")
    trained = restore(best, exact, frozenset({run.model.name}))
    images = run.data.splits.test
    fetcher = fetcher_of(trained, images, exact, loader=run.config.loader, workers=run.workers)
    numbers, logits = assess(trained, images, fetcher, exact)
    attack = choose_attack(best.meta, None, {})
    if (made := attack()) is not None:
        numbers |= assess_attacked(trained, images, fetcher, exact, made, attack.node)
    if not run.runtime.is_main:
        return None
    report = complete(numbers, trained, "test", run.data.name, run.data.source.skipped)
    if warning := empty_classes(report):
        run.log.warn(warning)
    write_predictions(folder, report, logits, images)
    _draw(run, folder, report, studio)
    write_report(folder, report)
    run.log.say("")
    used = "used before by the shorter run" if was_tested else "never used before"
    for line in table(report, f"{used}; checkpoint of epoch {report['epoch']}"):
        run.log.result(line)
    own = f" model.name={run.model.name}" if ":" in run.model.name else ""
    run.log.result(f"\nreport   {folder / 'report.json'}")
    run.log.result(f"next     imgcls predict {shlex.quote(str(folder))} photo.png{own}")
    return report


# --- pictures --------------------------------------------------------------------------------------------------------


def _draw_batch(run: Run, folder: Path, studio: Studio) -> None:
    """The first training images as the net sees them."""
    (folder / "plots").mkdir(exist_ok=True)
    images, targets = run.loader.first(TILES)
    classes, normalise = run.data.source.classes, run.data.preprocessing.normaliser(run.runtime.device)
    if run.recipe.attack is not None:
        images = run.recipe.attack(run.state.module, images, targets, run.recipe.loss, seed=run.config.seed)
    captions = [_caption(target, classes) for target in targets.tolist()]
    studio.draw(pictures.batch, list(normalise.inverse(images)), captions, folder / "plots" / "train_batch.png")


def _caption(target: int | list[float], classes: tuple[str, ...]) -> str:
    """The class, or of a mixed image the two with their shares: 'ship .7 truck .3'"""
    if isinstance(target, int) or len(target) == 1:
        return classes[0 if isinstance(target, list) else target]
    first, second = sorted(range(len(target)), key=lambda i: -target[i])[:2]
    if target[second] < 0.05:
        return classes[first]
    return " ".join(f"{classes[i][:6]} {target[i]:.1f}".replace(" 0.", " .") for i in (first, second))


def _draw(run: Run, folder: Path, report: Report, studio: Studio) -> None:
    """The pictures of the test, and TensorBoard's last entries."""
    plots, classes = folder / "plots", run.data.source.classes
    worst = pictures.worst_mistakes(folder / "predictions.npz", MISTAKES)
    pixels = [_pixels(run, row) for row, _, _, _ in worst]
    studio.draw(
        pictures.mistakes, pixels, [(true, taken, p) for _, true, taken, p in worst], classes, plots / "mistakes.png"
    )
    studio.draw(pictures.confusion_matrix, report["confusion_matrix"], classes, plots / "confusion_matrix.png")
    *_, matrix = studio.finish()
    if run.log.board is not None:
        run.log.board.begin()
        run.log.board.picture("test/confusion_matrix", run.state.step, matrix)
        numbers = {"hparam/test_accuracy": report["accuracy"], "hparam/test_loss": report["loss"]}
        if accuracies := [row["val_accuracy"] for row in run.log.rows if row["val_accuracy"] is not None]:
            numbers["hparam/val_accuracy"] = max(accuracies)
        run.log.board.hparams(settings(run.config), numbers)
        run.log.board.flush()


def _pixels(run: Run, row: int) -> NDArray[np.uint8]:
    """A test image as the model sees it, before normalisation."""
    one = run.data.splits.test.take(np.array([row]))
    pixels: NDArray[np.uint8] = decode_all(one, run.data.preprocessing, threads=1)[0]
    return pixels


def settings(config: TrainConfig) -> dict[str, Any]:
    """The configuration as flat hyperparameters: {"model": "mlp", "model.dropout": 0.0, ...}"""
    flat: dict[str, Any] = {}
    for key, value in vars(config).items():
        nested = value if isinstance(value, dict) else {"name": value}
        flat |= {key if knob == "name" else f"{key}.{knob}": one for knob, one in nested.items()}
    return {key: value for key, value in flat.items() if value is not None and key != "run_dir"}
