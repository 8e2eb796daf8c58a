"""RunSpec: every component that the configuration chose, checked before any data is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from imgcls.attacks import ATTACKS, Attack
from imgcls.config.components import Component, select, unknown_param
from imgcls.config.migrations import completed_node
from imgcls.config.options import Node, listed, option_node, options
from imgcls.config.parsing import parse
from imgcls.config.schema import TrainConfig, weights_of
from imgcls.data.datamodule import DataModule, DataSpec, SplitData, data_spec
from imgcls.data.geometry import InputPreset
from imgcls.data.transforms.augment import AUGMENTS, Augment
from imgcls.errors import ConfigError, DataError
from imgcls.losses import LOSSES
from imgcls.models import MODELS, automatic, models_for
from imgcls.models.build import MODEL_CONTEXT, check_params
from imgcls.models.finetune import ModelOptions
from imgcls.models.pretrained import Pretrained, is_file, pretrained
from imgcls.models.timm import is_timm
from imgcls.models.timm_weights import timm_weights
from imgcls.optim.automatic import learning_rate
from imgcls.optim.optimizers import OPTIMIZERS
from imgcls.optim.schedules import SCHEDULERS, rise_of
from imgcls.runs import folder as run_folders
from imgcls.runs.folder import best_checkpoint
from imgcls.runtime.device import choose_device, choose_precision, rank_and_world
from imgcls.text import did_you_mean, listing
from imgcls.training.earlier_run import EarlierRun, earlier_run, is_run

MOST_EPOCHS = 1_000_000  # that auto may become


@dataclass(frozen=True)
class RunSpec:
    """The components that the configuration chose, their parameters checked; None if the choice needs the data.

    missing: why model.pretrained=auto does not find the weights that there are, in words.
    """

    data: DataSpec
    model: Component | None
    optimizer: Component
    scheduler: Component
    loss: Component
    augment: Component | None
    attack: Attack | None
    options: ModelOptions
    pretrained: Pretrained | EarlierRun | None
    missing: str = ""

    @classmethod
    def from_config(cls, config: TrainConfig, own_names: frozenset[str] | None = None) -> RunSpec:
        """Check every component of the configuration, touching no data; a new run that goes on from another reads it.

        own_names: the names of the user's own code that may be imported; None: any, as the user wrote the
        configuration. Raises ConfigError.
        """

        def may(node: Node) -> bool:
            return own_names is None or node.get("name") in own_names

        common = {field.name for field in fields(ModelOptions)}
        options = parse(ModelOptions, {key: value for key, value in config.model.items() if key in common}, "model.")
        model = {key: value for key, value in config.model.items() if key not in common}
        # a resumed run has its own weights, and the file or run that it began with may be gone
        is_begun = own_names is not None and is_file(options.pretrained)
        source = None if is_begun else weights(str(model["name"]), options.pretrained)
        if isinstance(source, Pretrained) and model.get("stem") == "auto":
            model["stem"] = "large"  # the one that the weights are for
        scheduler = select(SCHEDULERS, config.scheduler, "scheduler")
        scheduler(1, MOST_EPOCHS if config.epochs == "auto" else config.epochs)  # checks milestones and warm-up
        if model["name"] == "auto":
            resolved_node(model, "model", "lenet")  # it has no keys
        if config.augment["name"] == "default":
            default_augment(config.augment, "standard")
        return cls(
            data=data_spec(config.dataset, trusted=may(config.dataset)),
            model=None if model["name"] == "auto" else _model(model, trusted=may(model)),
            optimizer=select(OPTIMIZERS, config.optimizer, "optimizer", trusted=may(config.optimizer)),
            scheduler=scheduler,
            loss=select(LOSSES, config.loss, "loss"),
            augment=None if config.augment["name"] == "default" else select(AUGMENTS, config.augment, "augment"),
            attack=select(ATTACKS, config.attack, "attack")(),
            options=options,
            pretrained=source,
        )

    def default_size(self, device: str) -> int:
        """Pixels per side for photos on this kind of device."""
        return automatic.default_image_size(device, self.model.name if self.model else "auto")

    def rise(self, config: TrainConfig) -> int:
        """Epochs until the highest learning rate, from which ``patience`` counts; 0 without patience."""
        return rise_of(self.scheduler, config.passes) if config.patience is not None else 0

    @property
    def preset(self) -> InputPreset | None:
        """The images that the pretrained weights expect, if there are any."""
        weights = self.pretrained
        if isinstance(weights, EarlierRun):
            shape = weights.preprocessing
            return InputPreset(shape.image_size, shape.mean, shape.std, shape.rendering)
        if weights is None or not weights.size:
            return None
        size = (weights.size, weights.size)
        return InputPreset(size, weights.mean, weights.std, crop_share=weights.crop_share)


def _model(node: Node, *, trusted: bool) -> Component:
    component = select(models_for(node.get("name")), node, "model", context=MODEL_CONTEXT, trusted=trusted)
    try:
        check_params(component.name, component.params)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    return component


def weights(model: str, wanted: bool | str) -> Pretrained | EarlierRun | None:
    """The weights that the model starts with, as model.pretrained says. Raises ConfigError, DataError if missing."""
    if is_run(wanted):
        return earlier_run(wanted, best_checkpoint(wanted).meta)
    if is_file(wanted) and not os.path.exists(wanted):
        raise DataError(f"model.pretrained: no such run or file: {wanted}")
    if wanted not in (False, "auto") and model == "auto":
        raise ConfigError("model.pretrained needs a named model; add model=resnet18, for example")
    try:
        return timm_weights(model, wanted) if is_timm(model) else pretrained(model, wanted)
    except ValueError as error:
        raise ConfigError(f"model.pretrained: {error}") from error


def check(config: TrainConfig) -> RunSpec:
    """The chosen components. Raises ConfigError for anything that can be refused before data is read."""
    _, local_rank, world = rank_and_world()
    choose_precision(config.precision, choose_device(config.device, local_rank, world))
    spec = RunSpec.from_config(config)
    run_folders.check_new(config.run_dir)
    return spec


def class_weights(value: Any, classes: tuple[str, ...], labels: NDArray[np.int64]) -> list[float] | None:
    """The factor on the loss of each class; auto: inverse frequency, with a mean of 1 over the images."""
    wanted = weights_of(value)
    if wanted is None:
        return None
    if wanted == "auto":
        counts = np.bincount(labels, minlength=len(classes))
        present = np.count_nonzero(counts)
        return [float(len(labels) / (present * count)) if count else 1.0 for count in counts]
    for name in wanted:
        if name not in classes:
            hint = did_you_mean(name, classes)
            raise ConfigError(f"class_weights: unknown class '{name}'{hint} (classes: {listing(classes, 12)})")
    return [wanted.get(name, 1.0) for name in classes]


def resolve_auto(
    config: TrainConfig, spec: RunSpec, data: SplitData, device: str, stored: Mapping[str, Any]
) -> tuple[TrainConfig, Component, Augment]:
    """The configuration with its number of epochs, the model and the augmentation: what auto and default mean here.

    device: its kind. stored: what auto became when the run began, if it is resumed. Raises ConfigError for what does
    not fit the images.
    """
    if spec.options.num_classes not in (None, data.num_classes):
        given = f"model.num_classes: got {spec.options.num_classes}"
        raise ConfigError(f"{given}, but {data.name} has {data.num_classes} classes; leave it null")
    is_pretrained = spec.pretrained is not None
    model = spec.model or _automatic_model(data, device, stored, is_pretrained)
    if config.epochs == "auto":
        name = "auto" if spec.model is None else model.name
        images = len(data.splits.train.labels)
        epochs = automatic.default_epochs(device, name, images, data.image_size, is_pretrained=is_pretrained)
        config = replace(config, epochs=epochs)
        spec.scheduler(1, config.passes)  # checks milestones and warm-up
    augment = spec.augment or default_augment(config.augment, data.source.augment)
    return config, model, augment(data.image_size, data.source.mirror)


def _automatic_model(data: SplitData, device: str, stored: Mapping[str, Any], is_pretrained: bool) -> Component:
    size = data.image_size
    node = stored["model_node"] if stored else automatic.model_node(device, size, is_pretrained=is_pretrained)
    return select(MODELS, completed_node("model", node, with_keys=False), "model", trusted=False)


def resolve_rate(
    config: TrainConfig, spec: RunSpec, model: Component, module: nn.Module, data: DataModule
) -> tuple[TrainConfig, RunSpec, str]:
    """Both with the number that ``optimizer.lr=auto`` is here, and why it is that one; "" if a number was given."""
    optimizer, is_pretrained = spec.optimizer, spec.pretrained is not None
    if optimizer.params.get("lr") != "auto" or optimizer.name not in OPTIMIZERS:
        return config, spec, ""
    rate, why = learning_rate(
        optimizer.name, model.name, module, data.image_size, data.batch_size, is_pretrained=is_pretrained
    )
    optimizer = replace(optimizer, params=optimizer.params | {"lr": rate})
    config = replace(config, optimizer=config.optimizer | {"lr": rate})
    return config, replace(spec, optimizer=optimizer), why


def default_augment(node: Node, name: str) -> Component:
    """What augment=default means where the data set's own is ``name``, with the keys that were given beside it.

    Where it is none, every step is off but those that the keys turn on. Raises ConfigError.
    """
    keys = {key: value for key, value in node.items() if key != "name"}
    if not keys:
        return select(AUGMENTS, option_node("augment", name), "augment")
    off = {"padding": 0, "flip": 0.0} if name == "none" else {}
    return select(AUGMENTS, {**option_node("augment", "standard"), **off, **keys}, "augment")


def resolved_node(node: Node, group: str, name: str) -> Node:
    """The node of the option ``name``, chosen by auto or default, which have no parameters. Raises ConfigError."""
    if extra := [key for key in node if key != "name"]:
        others = listed(option for option in options(group) if option != node["name"])
        hint = f"; other choices: {others}"
        raise unknown_param(group, node["name"], extra[0], {}, hint, value=node[extra[0]])
    return option_node(group, name)
