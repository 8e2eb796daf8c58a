"""A run, put together: from its configuration to everything that the loop needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imgcls import lean, rundir, seeding
from imgcls.attacks import ATTACKS, Attack
from imgcls.checkpoint import State
from imgcls.confdir import Node
from imgcls.config import Component, TrainConfig, did_you_mean, parse, select, weights_of
from imgcls.data.augment import AUGMENTS, Augment
from imgcls.data.loaders import Loader
from imgcls.errors import ConfigError
from imgcls.header import say_attack, say_data, say_device, say_model, say_speed
from imgcls.inference import MODEL_FACTS, build_model
from imgcls.logbook import Logbook
from imgcls.loop import Recipe
from imgcls.losses import LOSSES, weighted
from imgcls.models import MODELS, automatic, check_knobs
from imgcls.models.finetune import ModelOptions, freeze
from imgcls.models.pretrained import Pretrained, pretrained
from imgcls.optim import OPTIMIZERS, parameter_groups, scale_rates
from imgcls.prepare import (
    Data,
    DataChoice,
    auto_workers,
    choose_data,
    fetcher_for,
    fitting_batch,
    is_resident,
    load_data,
    resolved,
    with_statistics,
)
from imgcls.runtime import Runtime, choose_compile, choose_device, choose_precision, rank_and_world
from imgcls.schedules import SCHEDULERS

MOST_NAMES = 12  # of classes, in a message


@dataclass(frozen=True)
class Parts:
    """The components that the configuration chose, their knobs checked; None where the choice needs the data."""

    data: DataChoice
    model: Component | None
    optimizer: Component
    scheduler: Component
    loss: Component
    augment: Component | None
    attack: Attack | None
    options: ModelOptions
    pretrained: Pretrained | None


def choose_parts(config: TrainConfig, own_names: frozenset[str] | None = None) -> Parts:
    """Check every component of the configuration, touching neither data nor disk.

    own_names: the names of the user's own code that may be imported; None: any, since the user wrote the configuration.
    """

    def may(node: Node) -> bool:
        return own_names is None or node.get("name") in own_names

    common = {field.name for field in fields(ModelOptions)}
    options = parse(ModelOptions, {key: value for key, value in config.model.items() if key in common}, "model.")
    model = {key: value for key, value in config.model.items() if key not in common}
    if options.pretrained is not False and model.get("stem") == "auto":
        model["stem"] = "large"  # the one that the weights are for
    scheduler = select(SCHEDULERS, config.scheduler, "scheduler")
    scheduler(1, config.epochs)  # milestones and warm-up are checked against the epochs
    if model["name"] == "auto":
        resolved(model, "model", "lenet")  # it has no knobs of its own
    if config.augment["name"] == "default":
        resolved(config.augment, "augment", "none")
    return Parts(
        data=choose_data(config.dataset, trusted=may(config.dataset)),
        model=None if model["name"] == "auto" else _model(model, trusted=may(model)),
        optimizer=select(OPTIMIZERS, config.optimizer, "optimizer", trusted=may(config.optimizer)),
        scheduler=scheduler,
        loss=select(LOSSES, config.loss, "loss"),
        augment=None if config.augment["name"] == "default" else select(AUGMENTS, config.augment, "augment"),
        attack=select(ATTACKS, config.attack, "attack")(),
        options=options,
        pretrained=_weights(str(model["name"]), options),
    )


def _model(node: Node, *, trusted: bool) -> Component:
    component = select(MODELS, node, "model", facts=MODEL_FACTS, trusted=trusted)
    try:
        check_knobs(component.name, component.knobs)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    return component


def _weights(name: str, options: ModelOptions) -> Pretrained | None:
    """The weights that the model begins with, if any."""
    if options.pretrained is not False and name == "auto":
        raise ConfigError("model.pretrained: name the model too, such as model=resnet18")
    try:
        return pretrained(name, options.pretrained)
    except ValueError as error:
        raise ConfigError(f"model.pretrained: {error}") from error


def check(config: TrainConfig) -> None:
    """Everything that can be refused before any data is read or anything is made on disk."""
    _, local_rank, world = rank_and_world()
    choose_precision(config.precision, choose_device(config.device, local_rank, world))
    choose_parts(config)
    rundir.check_new(config.run_dir)


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
    workers = auto_workers(runtime) if config.workers == "auto" else int(config.workers)
    seeding.seed_default(config.seed, "weights")
    module = build_model(model, shape, len(data.source.classes))
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
        shape.normaliser(runtime.device),
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
    parts: Parts,
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


def class_weights(value: Any, classes: tuple[str, ...], labels: NDArray[np.int64]) -> list[float] | None:
    """The factor on the loss of each class; auto: the images' mean of it is 1, and all classes have the same sum."""
    wanted = weights_of(value)
    if wanted is None:
        return None
    if wanted == "auto":
        counts = np.bincount(labels, minlength=len(classes))
        present = np.count_nonzero(counts)
        return [float(len(labels) / (present * count)) if count else 1.0 for count in counts]
    for name in wanted:
        if name not in classes:
            shown = ", ".join(classes[:MOST_NAMES]) + (", ..." if len(classes) > MOST_NAMES else "")
            raise ConfigError(f"class_weights: unknown class '{name}'{did_you_mean(name, classes)} (classes: {shown})")
    return [wanted.get(name, 1.0) for name in classes]


def _read(config: TrainConfig, parts: Parts) -> tuple[Data, Component, Augment]:
    """The data, and the choices that depend on it: what auto and default stand for."""
    data = load_data(parts.data, parts.model.name if parts.model else "auto", parts.pretrained)
    model, augment = settle(parts, data)
    return with_statistics(data, parts.pretrained), model, augment


def settle(parts: Parts, data: Data) -> tuple[Component, Augment]:
    """The model and the augmentation for these images: what auto and default stand for.

    Raises ConfigError for what does not go with them.
    """
    count = len(data.source.classes)
    if parts.options.num_classes not in (None, count):
        given = f"model.num_classes: {parts.options.num_classes} does not fit"
        raise ConfigError(f"{given}, dataset {data.name} has {count} classes; leave it null")
    size = (data.preprocessing.height, data.preprocessing.width)
    model = parts.model or select(MODELS, resolved({"name": "auto"}, "model", automatic(size)), "model")
    default = resolved({"name": "default"}, "augment", data.source.augment)
    component = parts.augment or select(AUGMENTS, default, "augment")
    return model, component(size, data.source.mirror)


def _finetune(module: nn.Module, parts: Parts, num_classes: int, *, is_new: bool) -> str:
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
    lean.spare_compiler()
    optimizer = component(groups)
    if not isinstance(optimizer, torch.optim.Optimizer):
        given = type(optimizer).__name__
        raise ConfigError(f"optimizer.name={component.name}: expected a torch optimizer, got {given}")
    scale_rates(optimizer)
    return optimizer
