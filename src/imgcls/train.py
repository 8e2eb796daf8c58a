"""``imgcls train``: the wiring of a run, from its configuration to its report."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import yaml
from torch import nn

from imgcls import checkpoint as checkpoints
from imgcls import report as pictures
from imgcls import rundir, seeding
from imgcls.checkpoint import State
from imgcls.config import Component, Node, TrainConfig, convert, every_of, select
from imgcls.data.augment import AUGMENTS, Augment
from imgcls.data.loaders import Loader, memory_bytes
from imgcls.errors import ConfigError, ImgclsError, RunError, Stopped
from imgcls.evaluate import Report, assess, complete, empty_classes, table, write
from imgcls.inference import MODEL_FACTS, build_model, describe_parts, infer, restore, versions
from imgcls.knobs import Range
from imgcls.logbook import Logbook, Row
from imgcls.loop import Recipe, Signals, Watch, fit
from imgcls.losses import LOSSES
from imgcls.metrics import cross_entropy
from imgcls.models import MODELS, automatic
from imgcls.optim import OPTIMIZERS, parameter_groups
from imgcls.prepare import Data, DataChoice, choose_data, fetcher_for, is_resident, load_data, resolved, with_statistics
from imgcls.runtime import Runtime, choose_device, choose_precision, rank_and_world, session
from imgcls.schedules import SCHEDULERS

ClassCount = Annotated[int, Range(low=1, high=100_000)]
AUTO_WORKERS = 8
MISTAKES = 24  # in the picture of the most confident ones


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

    model, num_classes = dict(config.model), None
    if (count := model.pop("num_classes", None)) is not None:
        num_classes = convert(count, ClassCount, "model.num_classes")
    scheduler = select(SCHEDULERS, config.scheduler, "scheduler")
    scheduler(1, config.epochs)  # milestones and warm-up are checked against the epochs
    return Parts(
        data=choose_data(config.dataset, trusted=may(config.dataset)),
        model=None
        if model["name"] == "auto"
        else select(MODELS, model, "model", facts=MODEL_FACTS, trusted=may(model)),
        optimizer=select(OPTIMIZERS, config.optimizer, "optimizer", trusted=may(config.optimizer)),
        scheduler=scheduler,
        loss=select(LOSSES, config.loss, "loss"),
        augment=None if config.augment["name"] == "default" else select(AUGMENTS, config.augment, "augment"),
        num_classes=num_classes,
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
    chosen: dict[str, Any]
    log: Logbook


def build(config: TrainConfig, parts: Parts, runtime: Runtime, log: Logbook, stored: Mapping[str, Any]) -> Run:
    """Read the data, make the model: everything but the folder. Says the header's lines as the facts become known.

    stored: what an earlier part of the same run chose (``loader``), to be kept.
    """
    model_name = parts.model.name if parts.model else "auto"
    data = load_data(parts.data, model_name)
    if parts.num_classes not in (None, len(data.source.classes)):
        raise ConfigError(
            f"model.num_classes: {parts.num_classes} does not fit, {data.name} has {len(data.source.classes)} classes"
        )
    size = (data.preprocessing.height, data.preprocessing.width)
    model = parts.model or select(MODELS, resolved(_without_count(config.model), "model", automatic(size)), "model")
    augment = _augment(config, parts, data, size)
    batch_size = min(config.batch_size, len(data.splits.train))
    _say_data(log, data, config, augment, batch_size)

    preprocessing = with_statistics(data.preprocessing, data.splits.train)
    data = replace(data, preprocessing=preprocessing)
    resident = (
        stored.get(
            "loader", "resident" if is_resident(data.splits.train, preprocessing, runtime, config.loader) else "stream"
        )
        == "resident"
    )
    workers = _workers(config, runtime)

    seeding.seed_default(config.seed, "weights")
    module = runtime.place(build_model(model, preprocessing, len(data.source.classes)))
    optimizer = _optimizer(parts.optimizer, module)
    _say_model(log, module, model, parts, config, optimizer, batch_size)
    _say_device(log, runtime, data, resident, workers)

    fetcher = fetcher_for(data.splits.train, preprocessing, runtime, resident=resident, workers=workers)
    loader = Loader(
        fetcher,
        data.splits.train.labels,
        batch_size=batch_size,
        seed=config.seed,
        draws=augment.draws,
        device=runtime.device,
        rank=runtime.rank,
        world=runtime.world,
    )
    recipe = Recipe(
        epochs=config.epochs,
        seed=config.seed,
        schedule=parts.scheduler(len(loader), config.epochs),
        base_lrs=tuple(float(group.get("lr", 0.0)) for group in optimizer.param_groups),
        augment=augment,
        normalise=preprocessing.normaliser(runtime.device),
        loss=parts.loss(),
        autocast=runtime.autocast,
        rank=runtime.rank,
        world=runtime.world,
    )
    sums = torch.zeros(3, dtype=torch.float32 if runtime.device.type == "mps" else torch.float64, device=runtime.device)
    state = State(module, optimizer, runtime.scaler(), sums)
    chosen = {
        "device": runtime.device.type,
        "precision": runtime.precision,
        "threads": runtime.threads,
        "loader": "resident" if resident else "stream",
    }
    return Run(config, runtime, data, model, state, runtime.wrap(module), loader, recipe, chosen, log)


def _without_count(node: Node) -> Node:
    return {key: value for key, value in node.items() if key != "num_classes"}


def _augment(config: TrainConfig, parts: Parts, data: Data, size: tuple[int, int]) -> Augment:
    component = parts.augment or select(AUGMENTS, resolved(config.augment, "augment", data.source.augment), "augment")
    augment: Augment = component(size, data.source.mirror)
    return augment


def _optimizer(component: Component, module: nn.Module) -> torch.optim.Optimizer:
    groups = parameter_groups(module)
    if not groups:
        raise ConfigError("model: it has no parameters to train")
    optimizer = component(groups)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"optimizer.name={component.name}: expected a torch optimizer, got {type(optimizer).__name__}"
        )
    return optimizer


def _workers(config: TrainConfig, runtime: Runtime) -> int:
    return min(AUTO_WORKERS, runtime.threads) if config.workers == "auto" else int(config.workers)


# --- the header ------------------------------------------------------------------------------------------------------


def _say_data(log: Logbook, data: Data, config: TrainConfig, augment: Augment, batch_size: int) -> None:
    splits, shape = data.splits, data.preprocessing
    kind = {1: "grey", 3: "RGB"}.get(shape.channels, f"{shape.channels} channels")
    parts = describe_parts({"train": splits.train, "val": splits.val, "test": splits.test})
    log.say(f"data     {data.name}: {parts}; {len(data.source.classes)} classes, {shape.width}x{shape.height} {kind}")
    for words in (*splits.how, data.words):
        if words:
            log.say(f"         {words}")
    for note in data.source.notes:
        log.say(note)
    for warning in data.source.warnings:
        log.warn(warning)
    why = (
        f"  (the default for {data.name}; augment=none turns it off)"
        if config.augment["name"] == "default" and augment.draws
        else ""
    )
    log.say(f"augment  {augment.words}{why}")
    if batch_size < config.batch_size:
        log.say(f"batch    {batch_size}, all the training images there are (batch_size={config.batch_size})")


def _say_model(
    log: Logbook,
    module: nn.Module,
    model: Component,
    parts: Parts,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
) -> None:
    count = sum(parameter.numel() for parameter in module.parameters())
    auto = " (auto)" if config.model["name"] == "auto" else ""
    lr = optimizer.param_groups[0].get("lr")
    rate = f" lr {lr:g}" if isinstance(lr, float) else ""
    log.say(
        f"model    {model.name}{auto}, {count:,} parameters; {parts.optimizer.name}{rate}, {parts.scheduler.name}; batch {batch_size}"
    )
    if note := getattr(module, "note", ""):
        log.say(f"         {note}")


def _say_device(log: Logbook, runtime: Runtime, data: Data, resident: bool, workers: int) -> None:
    megabytes = memory_bytes(len(data.splits.train), data.preprocessing) / 1e6
    where = (
        f"images in memory, {megabytes:,.0f} MB"
        if resident
        else f"images streamed by {workers} workers ({megabytes:,.0f} MB in all)"
    )
    log.say(f"device   {runtime.describe()}; {where}")


# --- around the loop -------------------------------------------------------------------------------------------------


class Keeper(Watch):
    """Validates, saves and stops a run."""

    def __init__(self, run: Run, folder: Path | None, signals: Signals) -> None:
        self.run = run
        self.folder = folder  # None in every process but the main one
        self.signals = signals
        self.every_steps, self.every_seconds = every_of(run.config.checkpoint_every)
        self.saved_at = time.monotonic()
        self.train_seconds = sum(float(row["seconds"]) for row in run.log.rows)
        val, runtime = run.data.splits.val, run.runtime
        self.val = None
        if val is not None:
            resident = is_resident(val, run.data.preprocessing, runtime, run.config.loader)
            self.val = fetcher_for(
                val, run.data.preprocessing, runtime, resident=resident, workers=_workers(run.config, runtime)
            )
        self.meta = _meta(run)

    def after_step(self, state: State) -> None:
        """See Watch: save every so often, and stop when asked to."""
        stop = self.run.runtime.any(bool(self.signals.received))
        if stop or self._is_due(state.step):
            self.save_last(state)
        if stop:
            self._stop(state)

    def _is_due(self, step: int) -> bool:
        if self.every_steps is not None:
            return step % self.every_steps == 0
        return self.every_seconds is not None and time.monotonic() - self.saved_at >= self.every_seconds

    def _stop(self, state: State) -> None:
        number = self.signals.received or 2
        folder = self.folder or Path()
        raise Stopped(
            f"stopped by {'SIGINT' if number == 2 else 'SIGTERM'} and saved at step {state.step:,}; "
            f"go on with: imgcls train resume={folder}",
            number,
        )

    def after_epoch(self, state: State, images: int, seconds: float, lr: float) -> None:
        """See Watch: validate, write the epoch's row, save last and perhaps best, stop when asked to."""
        run = self.run
        loss_sum, hits, seen = run.runtime.sum(state.sums).tolist()
        run.log.check_finite(loss_sum, state.step, state.epochs, lr)
        val_loss, val_accuracy = self._validate(state)
        row: Row = {
            "epoch": state.epochs + 1,
            "step": state.step,
            "lr": lr,
            "train_loss": loss_sum / seen,
            "train_accuracy": hits / seen,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "seconds": round(seconds, 4),
            "images_per_second": round(images / max(seconds, 1e-9), 1),
        }
        best = max((quality(one) for one in run.log.rows), default=None)
        is_best = best is None or quality(row) > best
        best_accuracy = (
            val_accuracy if is_best else next(one["val_accuracy"] for one in run.log.rows if quality(one) == best)
        )
        state.epochs += 1
        self.train_seconds += seconds
        run.log.epoch(row, is_best=is_best, is_last=state.epochs == run.config.epochs, best=best_accuracy)
        if is_best:
            self._save(checkpoints.BEST, checkpoints.model_tensors(state.module), state, {})
        self.save_last(state)
        if run.runtime.any(bool(self.signals.received)) and state.epochs < run.config.epochs:
            self._stop(state)

    def _validate(self, state: State) -> tuple[float | None, float | None]:
        val = self.run.data.splits.val
        if self.val is None or val is None:
            return None, None
        logits = infer(state.module, self.val, len(val), self.run.data.preprocessing, self.run.runtime)
        loss = cross_entropy(logits, val.labels)
        if not math.isfinite(loss):
            raise RunError(
                f"the validation loss is not finite (epoch {state.epochs + 1}, step {state.step:,}); the last checkpoint "
                "is from before; try a smaller optimizer.lr"
            )
        return loss, float((logits.argmax(1) == val.labels).mean())

    def save_last(self, state: State) -> None:
        """The whole state, to go on from; never one whose loss has ceased to be a number."""
        lr = float(state.optimizer.param_groups[0].get("lr", 0.0))
        self.run.log.check_finite(float(state.sums[0]), state.step, state.epochs, lr)
        sums = self.run.runtime.sum(state.sums)
        if self.folder is not None:
            tensors, numbers = checkpoints.state_tensors(replace(state, sums=sums))
            self._save(checkpoints.LAST, tensors, state, {"optimizer_numbers": numbers})
        self.saved_at = time.monotonic()

    def _save(self, name: str, tensors: dict[str, torch.Tensor], state: State, more: dict[str, Any]) -> None:
        if self.folder is None:
            return
        meta = {**self.meta, "step": state.step, "epochs_done": state.epochs, **more}
        folder = self.folder / "checkpoints"
        keep_as = folder / checkpoints.PREV if name == checkpoints.LAST else None
        checkpoints.write(folder / name, checkpoints.encode(tensors, meta), keep_as=keep_as)


def quality(row: Row) -> tuple[float, float, int]:
    """What "best" compares: validation accuracy, then loss; without validation the latest is the best."""
    if row["val_accuracy"] is None:
        return 0.0, 0.0, int(row["epoch"])
    return row["val_accuracy"], -row["val_loss"], 0


def _meta(run: Run) -> dict[str, Any]:
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
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """The commit checked out where the command was given, if that is a repository."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


# --- the command -----------------------------------------------------------------------------------------------------


def train(config: TrainConfig, *, is_quiet: bool = False) -> Report | None:
    """A new run."""
    check(config)
    parts = choose_parts(config)
    with session(
        config.device, config.precision, config.threads, deterministic=config.deterministic, distributed=True
    ) as runtime:
        log = Logbook(is_main=runtime.is_main, is_quiet=is_quiet, holding=True)
        try:
            run = build(config, parts, runtime, log, {})
            folder = _claim(config, run)
            log.open(folder, "")
            if runtime.is_main:
                _write_split(folder, run.data)
            return _go(run, folder)
        finally:
            log.close()


def resume(config: TrainConfig, folder: Path, own_names: frozenset[str], *, is_quiet: bool = False) -> Report | None:
    """Go on with the run in that folder, whose own (perhaps longer) configuration this is."""
    checkpoint, warnings = rundir.last_checkpoint(folder)
    stored = checkpoint.meta["chosen"] if checkpoint is not None else {}
    done = int(checkpoint.meta["epochs_done"]) if checkpoint is not None else 0
    precision = stored.get("precision", config.precision)
    with session(
        config.device,
        precision,
        config.threads or stored.get("threads"),
        deterministic=config.deterministic,
        distributed=True,
    ) as runtime:
        log = Logbook(is_main=runtime.is_main, is_quiet=is_quiet, holding=True)
        for warning in warnings:
            log.warn(warning)
        if done >= config.epochs and (folder / "report.json").is_file():
            log.say(f"{folder} is already complete (epoch {done}/{config.epochs}); give it more by epochs={done * 2}")
            finished: Report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            return finished if runtime.is_main else None
        parts = choose_parts(config, own_names)
        run = build(config, parts, runtime, log, stored if config.loader == "auto" else {})
        if checkpoint is not None:
            checkpoints.load_state(run.state, checkpoint)
            if not runtime.is_main:
                run.state.sums.zero_()  # rank 0 carries what all have summed
        held = rundir.RunFolder(folder) if runtime.is_main else None
        try:
            words = f", going on at step {run.state.step:,} (epoch {run.state.epochs + 1} of {config.epochs})"
            log.open(folder, words, keep_epochs=run.state.epochs)
            return _go(run, folder)
        finally:
            log.close()
            if held is not None:
                held.close()


def _claim(config: TrainConfig, run: Run) -> Path:
    """The run's folder: rank 0 decides and tells the others, its failure too."""
    answer = ""
    failure: ImgclsError | None = None
    if run.runtime.is_main:
        try:
            held = rundir.claim(config.run_dir, f"{_word(run.model.name)}-{_word(run.data.name)}")
            HELD.append(held)
            (held.path / "config.yaml").write_text(
                yaml.safe_dump(vars(config), sort_keys=False, allow_unicode=True), encoding="utf-8"
            )
            answer = str(held.path)
        except ImgclsError as error:
            failure = error
        except OSError as error:
            failure = ImgclsError(f"cannot write into the run folder: {error.strerror}")
    answer = run.runtime.say_to_all(answer)
    if failure is not None:
        raise failure
    if not answer:
        raise ImgclsError("rank 0 could not make the run folder")
    return Path(answer)


HELD: list[rundir.RunFolder] = []  # the lock of this process's run, held until the process ends


def _word(name: str) -> str:
    """A name as part of a folder's name."""
    plain = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name.rpartition(":")[2])
    return plain.strip("-.")[:60] or "images"


def _write_split(folder: Path, data: Data) -> None:
    """split.npz: which images are train, val and test, by index or path."""
    parts = {"train": data.splits.train, "val": data.splits.val, "test": data.splits.test}
    np.savez_compressed(folder / "split.npz", **{name: part.ids for name, part in parts.items() if part is not None})


def _go(run: Run, folder: Path) -> Report | None:
    """Train, then test the best checkpoint once."""
    total = run.config.epochs * len(run.loader)
    board = run.log.start_board(run.state.step + 1)
    if board is not None and run.state.step == 0:
        size = (1, run.data.preprocessing.channels, run.data.preprocessing.height, run.data.preprocessing.width)
        board.graph(
            run.state.module, torch.zeros(size, device=run.runtime.device).contiguous(memory_format=torch.channels_last)
        )
    with Signals() as signals:
        keeper = Keeper(run, folder if run.runtime.is_main else None, signals)
        run.log.begin(step=run.state.step, total=total, epochs=run.config.epochs)
        fit(run.state, run.forward, run.loader, run.recipe, run.log, keeper)
    run.log.end_live()
    return _test(run, folder, keeper.train_seconds)


def _test(run: Run, folder: Path, train_seconds: float) -> Report | None:
    """The only look at the test images: report.json, predictions.npz, the table, the pictures."""
    best = checkpoints.read(folder / "checkpoints" / checkpoints.BEST)
    fp32 = replace(run.runtime, precision="fp32")
    trained = restore(best, fp32, frozenset({run.model.name}))
    images = run.data.splits.test
    report, logits = assess(trained, images, fp32, loader=run.config.loader, workers=_workers(run.config, run.runtime))
    report = complete(report, trained, "test", run.data.name) | {"train_seconds": round(train_seconds, 3)}
    if not run.runtime.is_main:
        return None
    write(folder, report, logits, images)
    if warning := empty_classes(report):
        run.log.warn(warning)
    run.log.result("")
    for line in table(report, f"never used before; checkpoint of epoch {report['epoch']}"):
        run.log.result(line)
    _draw(run, folder, report)
    run.log.result(f"\nreport   {folder / 'report.json'}")
    run.log.result(f"next     imgcls predict {folder} photo.png")
    return report


def _draw(run: Run, folder: Path, report: Report) -> None:
    """The pictures, and TensorBoard's last entries. A picture that fails is said and costs nothing else."""
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    classes = run.data.source.classes
    pictures.curves(run.log.rows, plots / "curves.png")
    matrix = pictures.confusion_matrix(report["confusion_matrix"], classes, plots / "confusion_matrix.png")
    mistakes = pictures.worst_mistakes(folder / "predictions.npz", MISTAKES)
    pixels = [_pixels(run, row) for row, *_ in mistakes]
    pictures.mistakes(pixels, [tuple(rest) for _, *rest in mistakes], classes, plots / "mistakes.png")
    images, labels, draws = next(run.loader.epoch(0))
    seen = run.recipe.normalise.inverse(run.recipe.normalise(run.recipe.augment(images[:32], draws[:32])))
    pictures.batch(list(seen), [classes[int(label)] for label in labels[:32]], plots / "train_batch.png")
    if run.log.board is not None:
        run.log.board.picture("test/confusion_matrix", run.state.step, matrix)
        numbers = {"hparam/test_accuracy": report["accuracy"], "hparam/test_loss": report["loss"]}
        if (
            val := max((row["val_accuracy"] for row in run.log.rows if row["val_accuracy"] is not None), default=None)
        ) is not None:
            numbers["hparam/val_accuracy"] = val
        run.log.board.hparams(_settings(run.config), numbers)


def _pixels(run: Run, row: int) -> Any:
    one = run.data.splits.test.take(np.array([row]))
    if one.paths is not None:
        return run.data.preprocessing.load(one.paths[0])
    assert one.pixels is not None
    return run.data.preprocessing.fit(one.pixels)[0]


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The configuration as TensorBoard's flat hyperparameters."""
    flat: dict[str, Any] = {}
    for key, value in vars(config).items():
        if isinstance(value, dict):
            flat |= {key if knob == "name" else f"{key}.{knob}": one for knob, one in value.items()}
        else:
            flat[key] = value
    return {key: value for key, value in flat.items() if value is not None and key != "run_dir"}
