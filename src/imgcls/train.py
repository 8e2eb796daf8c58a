"""``imgcls train``: the wiring of a run, from its configuration to its report."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

from imgcls import checkpoint as checkpoints
from imgcls import report as pictures
from imgcls import rundir, seeding
from imgcls.checkpoint import Checkpoint, State
from imgcls.config import OWN_PARTS, Component, Node, TrainConfig, convert, every_of, select
from imgcls.data.augment import AUGMENTS, Augment
from imgcls.data.loaders import Loader, decode_all
from imgcls.errors import ConfigError, DataError, ImgclsError, RunError, Stopped
from imgcls.evaluate import Report, assess, complete, empty_classes, table, write_predictions, write_report
from imgcls.header import say_data, say_device, say_model
from imgcls.inference import MODEL_FACTS, build_model, restore, versions
from imgcls.keeper import Keeper, Signals, Validation, git_commit
from imgcls.knobs import Range
from imgcls.logbook import Logbook
from imgcls.loop import Recipe, fit
from imgcls.losses import LOSSES
from imgcls.models import MODELS, automatic
from imgcls.optim import OPTIMIZERS, parameter_groups
from imgcls.prepare import (
    Data,
    DataChoice,
    choose_data,
    fetcher_for,
    fitting_batch,
    is_resident,
    load_data,
    resolved,
    with_statistics,
)
from imgcls.runtime import Runtime, choose_device, choose_precision, rank_and_world, session
from imgcls.schedules import SCHEDULERS

ClassCount = Annotated[int, Range(low=1, high=100_000)]
AUTO_WORKERS = 8
MISTAKES = 24  # in the picture of the most confident ones
TILES = 32  # of the training batch in its picture


@dataclass(frozen=True)
class Parts:
    """The components that the configuration chose, their knobs checked; None where the choice needs the data."""

    data: DataChoice
    model: Component | None
    optimizer: Component
    scheduler: Component
    loss: Component
    augment: Component | None
    num_classes: int | None


def choose_parts(config: TrainConfig, own_names: frozenset[str] | None = None) -> Parts:
    """Check every component of the configuration, touching neither data nor disk.

    own_names: the names of the user's own code that may be imported; None: any, since the user wrote the configuration.
    """

    def may(node: Node) -> bool:
        return own_names is None or node.get("name") in own_names

    model = {key: value for key, value in config.model.items() if key != "num_classes"}
    scheduler = select(SCHEDULERS, config.scheduler, "scheduler")
    scheduler(1, config.epochs)  # milestones and warm-up are checked against the epochs
    if model["name"] == "auto":
        resolved(model, "model", "lenet")  # it has no knobs of its own
    if config.augment["name"] == "default":
        resolved(config.augment, "augment", "none")
    return Parts(
        data=choose_data(config.dataset, trusted=may(config.dataset)),
        model=None
        if model["name"] == "auto"
        else select(MODELS, model, "model", facts=MODEL_FACTS, trusted=may(model)),
        optimizer=select(OPTIMIZERS, config.optimizer, "optimizer", trusted=may(config.optimizer)),
        scheduler=scheduler,
        loss=select(LOSSES, config.loss, "loss"),
        augment=None if config.augment["name"] == "default" else select(AUGMENTS, config.augment, "augment"),
        num_classes=convert(config.model.get("num_classes"), ClassCount | None, "model.num_classes"),
    )


def check(config: TrainConfig) -> None:
    """Everything that can be refused before any data is read or anything is made on disk."""
    _, local_rank, world = rank_and_world()
    choose_precision(config.precision, choose_device(config.device, local_rank, world))
    choose_parts(config)
    rundir.check_new(config.run_dir)


# --- a run, built ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """All of a run: what stays the same (config, data, recipe) and what changes (state)."""

    config: TrainConfig
    runtime: Runtime
    data: Data
    model: Component
    state: State
    forward: nn.Module
    loader: Loader
    recipe: Recipe
    workers: int
    chosen: dict[str, Any]
    log: Logbook


def build(config: TrainConfig, parts: Parts, runtime: Runtime, log: Logbook, stored: Mapping[str, Any]) -> Run:
    """Read the data, make the model: everything but the folder. Says the header's lines as the facts become known.

    stored: what an earlier part of the same run chose where the configuration says auto, to be kept.
    """
    data, model, augment = _read(config, parts)
    train, shape = data.splits.train, data.preprocessing
    batch_size = fitting_batch(config.batch_size, len(train))
    say_data(log, data, config, augment, batch_size)

    where = stored.get("loader", config.loader) if config.loader == "auto" else config.loader
    resident = is_resident(train, shape, runtime, where)
    workers = min(AUTO_WORKERS, runtime.threads) if config.workers == "auto" else int(config.workers)
    seeding.seed_default(config.seed, "weights")
    module = runtime.place(build_model(model, shape, len(data.source.classes)))
    optimizer = _optimizer(parts.optimizer, module)
    say_model(log, module, model, config, optimizer, batch_size)
    say_device(log, runtime, data, resident=resident, workers=workers)

    loader = Loader(
        fetcher_for(train, shape, runtime, resident=resident, workers=workers),
        train.labels,
        batch_size=batch_size,
        seed=config.seed,
        draws=augment.draws,
        device=runtime.device,
        rank=runtime.rank,
        world=runtime.world,
    )
    if len(train) // len(loader) < runtime.world:
        raise ConfigError(f"batch_size: {batch_size} is too small to share out over {runtime.world} processes")
    recipe = Recipe(
        epochs=config.epochs,
        seed=config.seed,
        schedule=parts.scheduler(len(loader), config.epochs),
        base_lrs=tuple(float(group.get("lr", 0.0)) for group in optimizer.param_groups),
        augment=augment,
        normalise=shape.normaliser(runtime.device),
        loss=parts.loss(),
        autocast=runtime.autocast,
        rank=runtime.rank,
        world=runtime.world,
    )
    state = State(module, optimizer, runtime.scaler(), runtime.zeros(3))
    chosen = {
        "device": runtime.device.type,
        "precision": runtime.precision,
        "threads": runtime.threads,
        "loader": "resident" if resident else "stream",
    }
    return Run(config, runtime, data, model, state, runtime.wrap(module), loader, recipe, workers, chosen, log)


def _read(config: TrainConfig, parts: Parts) -> tuple[Data, Component, Augment]:
    """The data, and the choices that depend on it: what auto and default stand for."""
    data = load_data(parts.data, parts.model.name if parts.model else "auto")
    count = len(data.source.classes)
    if parts.num_classes not in (None, count):
        given = f"model.num_classes: {parts.num_classes} does not fit"
        raise ConfigError(f"{given}, dataset {data.name} has {count} classes; leave it null")
    size = (data.preprocessing.height, data.preprocessing.width)
    model = parts.model or select(MODELS, resolved({"name": "auto"}, "model", automatic(size)), "model")
    default = resolved({"name": "default"}, "augment", data.source.augment)
    component = parts.augment or select(AUGMENTS, default, "augment")
    return with_statistics(data), model, component(size, data.source.mirror)


def _optimizer(component: Component, module: nn.Module) -> torch.optim.Optimizer:
    groups = parameter_groups(module)
    if not groups:
        raise ConfigError("model: it has no parameters to train")
    optimizer = component(groups)
    if not isinstance(optimizer, torch.optim.Optimizer):
        given = type(optimizer).__name__
        raise ConfigError(f"optimizer.name={component.name}: expected a torch optimizer, got {given}")
    return optimizer


# --- the command -----------------------------------------------------------------------------------------------------


def train(config: TrainConfig, *, is_quiet: bool = False) -> Report | None:
    """A new run; returns its report (in the main process)."""
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
            return _go(run, Path(folder), None)
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
        _write_config(held.path, run.config)
        ids: dict[str, Any] = {name: part.ids for name, part in run.data.splits.parts.items() if part is not None}
        np.savez_compressed(held.path / "split.npz", **ids)
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


def resume(config: TrainConfig, folder: Path, own_names: frozenset[str], *, is_quiet: bool = False) -> Report | None:
    """Go on with the run in that folder, whose own (perhaps longer) configuration this is."""
    parts = choose_parts(config, own_names)
    rank, _, _ = rank_and_world()
    held = rundir.RunFolder(folder) if rank == 0 else None  # before anything is read: another process may be writing
    try:
        checkpoint, warnings = rundir.last_checkpoint(folder)
        return _resume(config, parts, folder, checkpoint, warnings, is_quiet)
    finally:
        if held is not None:
            held.close()


def _resume(
    config: TrainConfig, parts: Parts, folder: Path, checkpoint: Checkpoint | None, warnings: list[str], is_quiet: bool
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
            report = _finished_report(folder)
            if report is not None and meta["epochs_done"] >= config.epochs:
                done = meta["epochs_done"]
                log.say(f"{folder} is already complete (epoch {done}/{config.epochs}); epochs={2 * done} would go on")
                return report if runtime.is_main else None
            run = build(config, parts, runtime, log, meta["chosen"])
            rundir.check_same_images(folder, run.data.splits.parts)
            if checkpoint is not None:
                checkpoints.load_state(run.state, checkpoint)
                if not runtime.is_main:
                    run.state.sums.zero_()  # the main process carries what all have summed
            words = f", going on at step {run.state.step:,} (epoch {run.state.epochs + 1} of {config.epochs})"
            if runtime.is_main:
                _write_config(folder, config)
                (folder / "report.json").unlink(missing_ok=True)  # it is of the shorter run
            log.open(folder, words, keep_epochs=run.state.epochs)
            return _go(run, folder, meta.get("best"), was_tested=report is not None)
        except ImgclsError:
            log.drop_held()
            raise
        finally:
            log.close()


def _finished_report(folder: Path) -> Report | None:
    """report.json, if the run has been tested."""
    try:
        report: Report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report


def _go(run: Run, folder: Path, best: list[float] | None, *, was_tested: bool = False) -> Report | None:
    """Train, then test the best checkpoint once."""
    try:
        _train(run, folder, best)
        run.log.end_live()
        return _test(run, folder, was_tested)
    except KeyboardInterrupt as error:
        number = getattr(error, "signal_number", 2)
        raise Stopped(f"stopped; go on with: {_resume_command(run, folder)}", number) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        size = f"{run.data.preprocessing.width}x{run.data.preprocessing.height}"
        raise ConfigError(f"batch_size: too small for the batch norm of {run.model.name} on {size} images") from error
    except (DataError, RunError) as error:
        if not run.runtime.is_main:  # the main process knows nothing of it
            print(f"imgcls: error (rank {run.runtime.rank}): {error}", file=sys.stderr)
        raise


def _resume_command(run: Run, folder: Path) -> str:
    """The command that goes on with the run, the user's own parts named again."""
    names = [f" {group}.name={getattr(run.config, group)['name']}" for group in OWN_PARTS]
    return f"imgcls train resume={shlex.quote(str(folder))}" + "".join(name for name in names if ":" in name)


def _train(run: Run, folder: Path, best: list[float] | None) -> None:
    config, runtime, shape = run.config, run.runtime, run.data.preprocessing
    board = run.log.start_board(run.state.step + 1)
    if board is not None and run.state.step == 0:
        blank = torch.zeros(1, shape.channels, shape.height, shape.width, device=runtime.device)
        board.graph(run.state.module, blank)
    validation = None
    if (val := run.data.splits.val) is not None:
        resident = is_resident(val, shape, runtime, config.loader)
        validation = Validation(val, fetcher_for(val, shape, runtime, resident=resident, workers=run.workers), shape)
    with Signals() as signals:
        keeper = Keeper(
            folder,
            config.epochs,
            validation,
            every_of(config.checkpoint_every),
            _meta(run),
            runtime,
            run.log,
            signals,
            _resume_command(run, folder),
            None if best is None else (best[0], best[1], int(best[2])),
        )
        run.log.begin(step=run.state.step, total=config.epochs * len(run.loader), epochs=config.epochs)
        fit(run.state, run.forward, run.loader, run.recipe, run.log, keeper)


def _meta(run: Run) -> dict[str, Any]:
    """What a checkpoint says beside its tensors: enough to use it without anything else."""
    return {
        "format_version": checkpoints.FORMAT,
        "imgcls": versions()["imgcls"],
        "config": vars(run.config),
        "model": run.model.node,
        "classes": list(run.data.source.classes),
        "preprocessing": run.data.preprocessing.as_dict(),
        "dataset": run.data.name,
        "chosen": run.chosen,
        "versions": versions(),
        "git_commit": git_commit(),
    }


def _test(run: Run, folder: Path, was_tested: bool) -> Report | None:
    """The only look at the test images: predictions.npz, the table, the pictures, and last of all report.json."""
    best = checkpoints.read(folder / "checkpoints" / checkpoints.BEST)
    exact = replace(run.runtime, precision="fp32")
    trained = restore(best, exact, frozenset({run.model.name}))
    images = run.data.splits.test
    numbers, logits = assess(trained, images, exact, loader=run.config.loader, workers=run.workers)
    if not run.runtime.is_main:
        return None
    report = complete(numbers, trained, "test", run.data.name)
    if warning := empty_classes(report):
        run.log.warn(warning)
    write_predictions(folder, report, logits, images)
    _draw(run, folder, report)
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


def _draw(run: Run, folder: Path, report: Report) -> None:
    """The pictures, and TensorBoard's last entries."""
    plots, classes = folder / "plots", run.data.source.classes
    plots.mkdir(exist_ok=True)
    pictures.curves(run.log.rows, plots / "curves.png")
    matrix = pictures.confusion_matrix(report["confusion_matrix"], classes, plots / "confusion_matrix.png")
    worst = pictures.worst_mistakes(folder / "predictions.npz", MISTAKES)
    pixels = [_pixels(run, row) for row, _, _, _ in worst]
    pictures.mistakes(pixels, [(true, taken, p) for _, true, taken, p in worst], classes, plots / "mistakes.png")
    images, labels, draws = next(run.loader.epoch(0))
    normalise = run.recipe.normalise
    seen = normalise.inverse(normalise(run.recipe.augment(images[:TILES], draws[:TILES])))
    pictures.batch(list(seen), [classes[int(label)] for label in labels[:TILES]], plots / "train_batch.png")
    if run.log.board is not None:
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
