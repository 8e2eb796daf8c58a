"""A run, put together: from its configuration to everything that the loop needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from imgcls import seeding
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints.state import State, check_storable
from imgcls.config.components import Component
from imgcls.config.schema import TrainConfig
from imgcls.data.datamodule import (
    Data,
    auto_workers,
    fetcher_for,
    fitting_batch,
    is_resident,
    load_data,
    with_statistics,
)
from imgcls.data.loader import Loader
from imgcls.data.transforms.augment import Augment
from imgcls.errors import (
    ConfigError,
)
from imgcls.loggers.run_log import RunLog
from imgcls.losses import weighted
from imgcls.models.build import build_model, default_image_size
from imgcls.models.finetune import freeze
from imgcls.optim import fast_step
from imgcls.optim.param_groups import parameter_groups, scale_rates
from imgcls.runs.provenance import git_commit, versions
from imgcls.runtime.device import choose_compile
from imgcls.runtime.session import Runtime
from imgcls.training.loop import Recipe
from imgcls.training.spec import RunSpec, class_weights, input_preset, resolve_auto
from imgcls.training.summary import say_attack, say_data, say_device, say_model, say_speed


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
    log: RunLog


def build(config: TrainConfig, parts: RunSpec, runtime: Runtime, log: RunLog, stored: Mapping[str, Any]) -> Run:
    """Read the data, make the model: everything but the folder. Says the header's lines as the facts become known.

    stored: what an earlier part of the same run chose where the configuration says auto, to be kept.
    """
    data, model, augment = _read(config, parts)
    train, shape = data.splits.train, data.preprocessing
    batch_size = fitting_batch(config.batch_size, len(train))
    say_data(log, data, config, augment, batch_size)

    where = stored.get("loader", config.loader) if config.loader == "auto" else config.loader
    resident = is_resident(train, shape, runtime, where)
    workers = auto_workers(runtime) if config.workers == "auto" else int(config.workers)
    seeding.seed_default(config.seed, "weights")
    module = build_model(model, shape.channels, shape.image_size, len(data.source.classes))
    check_storable(module, model.name)
    begun = _finetune(module, parts, len(data.source.classes), is_new=not stored)
    module = runtime.place(module)
    optimizer = _optimizer(parts.optimizer, module, config.layer_decay)
    say_model(log, module, model, parts.loss, config, optimizer, batch_size, begun)
    say_attack(log, parts.attack, shape)
    say_device(log, runtime, data, resident=resident, workers=workers)

    if config.patience is not None and data.splits.val is None:
        raise ConfigError("patience: there is no validation part to watch; set dataset.val_fraction or patience=null")
    loader = Loader(
        fetcher_for(train, shape, runtime, resident=resident, workers=workers),
        train.labels,
        augment,
        shape.normalizer(runtime.device),
        batch_size=batch_size,
        seed=config.seed,
        device=runtime.device,
        rank=runtime.rank,
        world=runtime.world,
        is_balanced=config.sampler == "balanced",
        num_classes=len(data.source.classes),
    )
    steps = config.epochs * len(loader)
    if "compile" in stored and config.compile == "auto":
        is_compiled, why = bool(stored["compile"]), "auto, as the run began"
    else:
        is_compiled, why = choose_compile(config.compile, runtime.device, runtime.precision, model.name, steps)
    say_speed(log, config, runtime, model, is_compiled, why)
    if len(train) // len(loader) < runtime.world:
        raise ConfigError(f"batch_size: {batch_size} is too small to share out over {runtime.world} processes")
    recipe = _recipe(config, parts, data, runtime, optimizer, len(loader))
    average = copy.deepcopy(module).requires_grad_(False) if config.ema is not None else None
    state = State(module, optimizer, runtime.scaler(), runtime.zeros(3), average=average)
    chosen = {
        "device": runtime.device.type,
        "precision": runtime.precision,
        "threads": runtime.threads,
        "loader": "resident" if resident else "stream",
        "compile": is_compiled,
    }
    forward = runtime.wrap(module, is_compiled=is_compiled)
    return Run(config, runtime, data, model, state, forward, loader, recipe, workers, chosen, log)


def _recipe(
    config: TrainConfig,
    parts: RunSpec,
    data: Data,
    runtime: Runtime,
    optimizer: torch.optim.Optimizer,
    steps_per_epoch: int,
) -> Recipe:
    """What the loop does to a batch."""
    loss, shape = parts.loss(), data.preprocessing
    weights = class_weights(config.class_weights, data.source.classes, data.splits.train.labels)
    if weights is not None:
        loss = weighted(loss, torch.tensor(weights, device=runtime.device))
    return Recipe(
        epochs=config.epochs,
        seed=config.seed,
        schedule=parts.scheduler(steps_per_epoch, config.epochs),
        base_lrs=tuple(float(group.get("lr", 0.0)) for group in optimizer.param_groups),
        loss=loss,
        autocast=runtime.autocast,
        accumulate=config.accumulate,
        clip_grad=config.clip_grad,
        ema=config.ema,
        attack=None if parts.attack is None else partial(parts.attack, mean=shape.mean, std=shape.std),
        rank=runtime.rank,
        world=runtime.world,
    )


def _read(config: TrainConfig, parts: RunSpec) -> tuple[Data, Component, Augment]:
    """The data, and the choices that depend on it: what auto and default stand for."""
    data = load_data(
        parts.data, default_image_size(parts.model.name if parts.model else "auto"), input_preset(parts.pretrained)
    )
    model, augment = resolve_auto(parts, data)
    return with_statistics(data, input_preset(parts.pretrained)), model, augment


def _finetune(module: nn.Module, parts: RunSpec, num_classes: int, *, is_new: bool) -> str:
    """Load the weights that it begins with (a run that goes on has its own), freeze layers; words for the header."""
    words = []
    if parts.pretrained is not None:
        if is_new:
            parts.pretrained.load(module, num_classes)
        words.append(f"pretrained: {parts.pretrained.path.name}, the last layer new")
    try:
        words.append(freeze(module, parts.options.freeze, num_classes))
    except ValueError as error:
        raise ConfigError(f"model.{error}") from error
    return "; ".join(filter(None, words))


def _optimizer(component: Component, module: nn.Module, layer_decay: float | None) -> torch.optim.Optimizer:
    groups = parameter_groups(module, layer_decay)
    if not groups:
        raise ConfigError("model: it has no parameters to train")
    fast_step.spare_compiler()
    optimizer = component(groups)
    if not isinstance(optimizer, torch.optim.Optimizer):
        given = type(optimizer).__name__
        raise ConfigError(f"optimizer.name={component.name}: expected a torch optimizer, got {given}")
    scale_rates(optimizer)
    return optimizer


def checkpoint_metadata(run: Run) -> dict[str, Any]:
    """What a checkpoint says beside its tensors: enough to use it without anything else."""
    return {
        "format_version": checkpoint_format.FORMAT,
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
