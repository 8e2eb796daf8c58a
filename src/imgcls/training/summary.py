"""The lines at the top of a run: every default that changes the result gets its word."""

from __future__ import annotations

import torch
from torch import nn

from imgcls.attacks import Attack
from imgcls.config.components import Component
from imgcls.config.schema import TrainConfig
from imgcls.data.datamodule import AUTO_BATCH, Data
from imgcls.data.fetchers import memory_bytes
from imgcls.data.preprocessing import Preprocessing
from imgcls.data.source import describe_parts
from imgcls.data.transforms.augment import Augment
from imgcls.loggers.run_log import RunLog
from imgcls.runtime.device import cpu_has_bf16
from imgcls.runtime.session import Runtime
from imgcls.text import line


def say_data(log: RunLog, data: Data, config: TrainConfig, augment: Augment, batch_size: int) -> None:
    """Data set, splits, image size, augmentation, and the batch if it had to be cut."""
    splits, shape = data.splits, data.preprocessing
    kind = {1: "grey", 3: "RGB"}.get(shape.channels, f"{shape.channels} channels")
    parts = describe_parts(splits.parts)
    log.info(
        line("data", f"{data.name}: {parts}; {len(data.source.classes)} classes, {shape.width}x{shape.height} {kind}")
    )
    for words in (*splits.how, data.words):
        if words:
            log.info(line("", words))
    for note in data.source.notes:
        log.info(note)
    for warning in data.source.warnings:
        log.warning(warning)
    is_default = config.augment["name"] == "default" and augment.draws
    why = f"  (the default for {data.name}; augment=none turns it off)" if is_default else ""
    log.info(line("augment", f"{augment.words}{why}"))
    if config.batch_size == "auto":
        if batch_size < AUTO_BATCH:
            log.info(line("batch", f"{batch_size} for so few images (auto; {AUTO_BATCH} for a thousand and more)"))
    elif batch_size < config.batch_size:
        log.info(line("batch", f"cut from {config.batch_size} to {batch_size}, all the training images there are"))


def say_model(
    log: RunLog,
    module: nn.Module,
    model: Component,
    loss: Component,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    batch: int,
    begun: str,
) -> None:
    """Model and its size, optimizer, schedule, batch; the model's own note; what it began with."""
    count = sum(parameter.numel() for parameter in module.parameters())
    auto = " (auto)" if config.model["name"] == "auto" else ""
    lr = optimizer.param_groups[0].get("lr")
    rate = f" lr {lr:g}" if isinstance(lr, float) else ""
    method = f"{config.optimizer['name']}{rate}, {config.scheduler['name']}"
    whole = f"batch {batch}{f' in {config.accumulate} parts' if config.accumulate > 1 else ''}"
    log.info(line("model", f"{model.name}{auto}, {count:,} parameters; {method}; {whole}"))
    smoothing = loss.params.get("label_smoothing")
    extras = {
        "loss {}": None if loss.name == "cross_entropy" else loss.name,
        "labels smoothed by {:g}": smoothing or None,
        "classes weighted in the loss": config.class_weights,
        "each class drawn as often as any other": "" if config.sampler == "balanced" else None,
        "weights averaged (ema {:g})": config.ema,
        "gradient's norm at most {:g}": config.clip_grad,
        "learning rate x {:g} for each block further from the last": config.layer_decay,
        "stops after {} epochs without a better one": config.patience,
        "best by {}": None if config.monitor == "val_accuracy" else config.monitor,
    }
    if said := [words.format(value) for words, value in extras.items() if value is not None]:
        log.info(line("", "; ".join(said)))
    if note := getattr(module, "note", ""):
        log.info(line("", note))
    if begun:
        log.info(line("", begun))


def say_attack(log: RunLog, attack: Attack | None, shape: Preprocessing) -> None:
    """What each batch is attacked by, if it is."""
    if attack is not None:
        words = attack.words(shape.channels, shape.height, shape.width)
        log.info(line("attack", f"{words}; each batch is attacked"))


def say_device(log: RunLog, runtime: Runtime, data: Data, *, resident: bool, workers: int) -> None:
    """Device, precision, and where the images lie."""
    megabytes = memory_bytes(len(data.splits.train), data.preprocessing) / 1e6
    where = (
        f"images in memory, {megabytes:,.0f} MB"
        if resident
        else f"images streamed by {workers} workers ({megabytes:,.0f} MB in all)"
    )
    log.info(line("device", f"{runtime.describe()}; {where}"))


def say_speed(
    log: RunLog, config: TrainConfig, runtime: Runtime, model: Component, is_compiled: bool, why: str
) -> None:
    """What compile and deterministic mean here, where either was asked for; that bf16 would pay, where it would."""
    is_slow = config.precision == "auto" and runtime.device.type == "cpu" and model.name.startswith("resnet")
    if is_slow and cpu_has_bf16():
        log.info(line("", "precision=bf16 is about twice as fast on this CPU, with other rounding"))
    if config.compile is not False:
        log.info(line("compile", f"{'yes' if is_compiled else 'no'} ({why})"))
    if config.deterministic:
        cost = (
            "costs nothing on a CPU, where every run is bit-exact"
            if runtime.device.type == "cpu"
            else "no algorithm is chosen by its speed, and slower ones stand in where the fast one is not exact"
        )
        log.info(line("", f"deterministic: {cost}"))
