"""A run, put together: from its configuration to everything that the loop needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from imgcls import seeding
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints.state import State, check_storable
from imgcls.config.components import Component
from imgcls.config.schema import TrainConfig
from imgcls.data.datamodule import STATISTICS_SAMPLE, DataModule, SplitData, read_splits, set_up
from imgcls.data.geometry import Geometry
from imgcls.data.loader import BatchPlan, Loader
from imgcls.data.transforms.augment import Augment
from imgcls.decisions import positive_class
from imgcls.errors import ConfigError
from imgcls.losses import weighted
from imgcls.models.build import build_model, initialize, takes_images
from imgcls.models.finetune import freeze, keep_statistics
from imgcls.models.head_fit import fit_heads, linear_heads
from imgcls.models.pretrained import Pretrained
from imgcls.optim import fast_step
from imgcls.optim.param_groups import Groups, parameter_groups, scale_rates
from imgcls.runs.provenance import git_commit, versions
from imgcls.runtime.device import choose_compile
from imgcls.runtime.session import Runtime
from imgcls.training.auto_weights import choose_weights
from imgcls.training.earlier_run import EarlierRun
from imgcls.training.loop import Recipe
from imgcls.training.spec import RunSpec, class_weights, resolve_auto, resolve_rate
from imgcls.training.validation import check_watched

HEAD_SAMPLE, HEAD_BATCH = 10_000, 64  # training images that a new last layer is fitted to, and how many at once
SAMPLE_NUMBERS, SMALLEST_SAMPLE = 1 << 23, 64  # numbers in the images that a model sets its weights from; least images


@dataclass(frozen=True)
class Run:
    """A whole run: what stays the same (configuration, data, recipe) and what changes (state).

    config: with the number of its epochs and its learning rate; is_auto: whether ``epochs=auto`` chose it now.
    rate_why: if ``optimizer.lr=auto`` did, why this one. model, augment: what auto and default became. start: the
    weights that it began with, in words. frozen: a description of the layers that are not trained. compiled: whether
    the model is, and why. rules: see below.
    """

    config: TrainConfig
    spec: RunSpec
    runtime: Runtime
    data: DataModule
    model: Component
    augment: Augment
    state: State
    forward: nn.Module
    loader: Loader
    recipe: Recipe
    start: str
    frozen: str
    compiled: tuple[bool, str]
    rules: dict[str, bool]
    is_auto: bool
    rate_why: str

    @property
    def rise(self) -> int:
        """Epochs until the highest learning rate."""
        return self.spec.rise(self.config)

    @property
    def positive(self) -> str | None:
        """The class of two that is looked for."""
        return positive_class(self.data.source.classes, self.spec.data.options.positive)

    @property
    def chosen(self) -> dict[str, Any]:
        """What auto became, for the rest of the run."""
        source = self.spec.pretrained
        return {
            "model": self.model.name,
            "image_size": list(self.data.image_size),
            "epochs": self.config.passes,
            "batch_size": self.data.batch_size,
            "lr": self.config.optimizer.get("lr"),
            "device": self.runtime.device.type,
            "precision": self.runtime.precision,
            "threads": self.runtime.threads,
            "loader": "resident" if self.data.is_resident else "stream",
            "scaled_decoding": self.data.preprocessing.scaled_decoding,
            "crop_share": self.data.preprocessing.crop_share,
            "compile": self.compiled[0],
            **self.rules,
            "pretrained": source.weights.name if isinstance(source, Pretrained) and not source.file else bool(source),
        }


def _rules(stored: Mapping[str, Any], *, is_pretrained: bool) -> dict[str, bool]:
    """What runs of earlier versions, which did not store it, do otherwise.

    decays_all: whether tokens, position embeddings and scales decay. tokens_first: whether layer_decay counts tokens
    and embeddings to the first block. keeps_statistics: whether batch norm keeps the statistics of pretrained weights.
    """
    is_new = not stored
    rules = {"decays_all": not is_new, "tokens_first": is_new, "keeps_statistics": is_new and is_pretrained}
    return {name: bool(stored.get(name, rule)) for name, rule in rules.items()}


def build(config: TrainConfig, spec: RunSpec, runtime: Runtime, stored: Mapping[str, Any]) -> Run:
    """Read the data and make the model: everything but the folder.

    stored: what auto became when the run began, if it is resumed; empty for a new run.
    """
    device = runtime.device.type
    parts = read_splits(spec.data, spec.default_size(device), spec.preset)
    spec, parts = choose_weights(
        config, spec, parts, device, stored, lambda ask: runtime.broadcast_text(ask() if runtime.is_main else "")
    )
    if stored and stored["image_size"] != list(parts.image_size):
        height, width = stored["image_size"]
        parts = replace(parts, geometry=Geometry(height, width, parts.geometry.channels))
    is_auto = config.epochs == "auto"
    config, model, augment = resolve_auto(config, spec, parts, device, stored)
    options = spec.data.options
    data = set_up(parts, options, config, runtime, preset=spec.preset, crop=augment.crop, stored=stored)
    check_watched(config.monitor, config.patience, data.splits.val, data.source.classes)
    seeding.seed_default(config.seed, "weights")
    module, frozen = make_module(model, spec, data)
    config, spec, rate_why = resolve_rate(config, spec, model, module, data)
    rules = _rules(stored, is_pretrained=spec.pretrained is not None)
    if rules["keeps_statistics"] and keep_statistics(module) and spec.options.freeze is not True:
        frozen = "; ".join(filter(None, [frozen, "batch norm keeps its statistics"]))
    start = _start(spec, module, data, is_begun=bool(stored))
    module = runtime.place(module)
    groups = parameter_groups(
        module, config.layer_decay, decays_all=rules["decays_all"], tokens_first=rules["tokens_first"]
    )
    optimizer = _optimizer(spec.optimizer, groups)
    loader = _loader(config, data, augment)
    if takes_images(module) and not stored and spec.pretrained is None:
        seeding.seed_default(config.seed, "images")
        initialize(model.name, module, loader.sample(_sample_size(data)))
    rows = [] if stored else _new_rows(spec.pretrained, data.source.classes)
    if rows and linear_heads(module, data.num_classes):
        fit_heads(module, data.num_classes, loader.labeled_sample(HEAD_SAMPLE, HEAD_BATCH), rows)
    how = _compiled(config, runtime, model, config.passes * len(loader), stored)
    average = copy.deepcopy(module).requires_grad_(False) if config.ema is not None else None
    state = State(module, optimizer, runtime.scaler(), runtime.zeros(3), average=average)
    forward = runtime.wrap(module, is_compiled=how[0])
    recipe = _recipe(config, spec, data, optimizer, len(loader))
    words, auto = (start, frozen), (is_auto, rate_why)
    return Run(config, spec, runtime, data, model, augment, state, forward, loader, recipe, *words, how, rules, *auto)


def _new_rows(source: Pretrained | EarlierRun | None, classes: tuple[str, ...]) -> list[int]:
    """The classes for which the weights that a run begins with have no row in the last layer."""
    known = source.classes if isinstance(source, EarlierRun) else ()
    return [] if source is None else [row for row, name in enumerate(classes) if name not in known]


def make_module(model: Component, spec: RunSpec, data: SplitData) -> tuple[nn.Module, str]:
    """The model for these images, some layers frozen; and which, in words. Raises ConfigError."""
    module = build_model(model, data.geometry.channels, data.image_size, data.num_classes)
    check_storable(module, model.name)
    try:
        return module, freeze(module, spec.options.freeze, data.num_classes)
    except ValueError as error:
        raise ConfigError(f"model.{error}") from error


def _start(spec: RunSpec, module: nn.Module, data: SplitData, *, is_begun: bool) -> str:
    """Load the weights that the run begins with, unless it is resumed and has its own; which they are, in words."""
    source = spec.pretrained
    if isinstance(source, EarlierRun):
        return f"began from {source}" if is_begun else source.load(module, data.source.classes)
    if source is None:
        return spec.missing
    if not is_begun:
        source.load(module, data.num_classes)
    by_itself = " (auto; model.pretrained=false: from scratch)" if spec.options.pretrained == "auto" else ""
    fitted = ", fitted first" if linear_heads(module, data.num_classes) else ""
    return f"pretrained: {source.path.name}, new last layer{fitted}{by_itself}"


def _optimizer(component: Component, groups: Groups) -> torch.optim.Optimizer:
    if not groups:
        raise ConfigError("model: it has no parameters to train")
    fast_step.spare_compiler()
    optimizer = component(groups)
    if not isinstance(optimizer, torch.optim.Optimizer):
        given = type(optimizer).__name__
        raise ConfigError(f"optimizer.name={component.name}: expected a torch optimizer, got {given}")
    scale_rates(optimizer)
    return optimizer


def _loader(config: TrainConfig, data: DataModule, augment: Augment) -> Loader:
    runtime, labels = data.runtime, data.splits.train.labels
    plan = BatchPlan(len(labels), data.batch_size, config.seed, runtime.rank, runtime.world)
    if len(labels) // len(plan) < runtime.world:
        raise ConfigError(f"batch_size: {data.batch_size} is too small to split over {runtime.world} processes")
    return Loader(
        data.fetcher("train"),
        torch.from_numpy(labels).to(runtime.device),
        augment,
        data.preprocessing.normalizer(runtime.device),
        plan,
        is_balanced=config.sampler == "balanced",
        num_classes=data.num_classes,
    )


def _sample_size(data: DataModule) -> int:
    """How many images a model gets to set its weights from: as many as the statistics are from, fewer large ones."""
    height, width, channels = data.preprocessing.shape
    return min(STATISTICS_SAMPLE, max(SMALLEST_SAMPLE, SAMPLE_NUMBERS // (channels * height * width)))


def _compiled(
    config: TrainConfig, runtime: Runtime, model: Component, steps: int, stored: Mapping[str, Any]
) -> tuple[bool, str]:
    if "compile" in stored and config.compile == "auto":
        return bool(stored["compile"]), "auto, as when the run began"
    return choose_compile(config.compile, runtime.device, runtime.precision, model.name, steps)


def _recipe(
    config: TrainConfig, spec: RunSpec, data: DataModule, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> Recipe:
    """What the loop does to a batch."""
    loss, shape, runtime = spec.loss(), data.preprocessing, data.runtime
    weights = class_weights(config.class_weights, data.source.classes, data.splits.train.labels)
    if weights is not None:
        loss = weighted(loss, torch.tensor(weights, device=runtime.device))
    return Recipe(
        epochs=config.passes,
        seed=config.seed,
        schedule=spec.scheduler(steps_per_epoch, config.passes),
        base_lrs=tuple(float(group.get("lr", 0.0)) for group in optimizer.param_groups),
        loss=loss,
        autocast=runtime.autocast,
        accumulate=config.accumulate,
        clip_grad=config.clip_grad,
        ema=config.ema,
        attack=None if spec.attack is None else partial(spec.attack, mean=shape.mean, std=shape.std),
        rank=runtime.rank,
        world=runtime.world,
    )


def checkpoint_metadata(run: Run) -> dict[str, Any]:
    """What a checkpoint says besides its tensors: enough to use it without anything else."""
    return {
        "format_version": checkpoint_format.FORMAT,
        "imgcls": versions()["imgcls"],
        "config": vars(run.config) | {"run_dir": None},  # two equal runs are to have equal checkpoints
        "model": run.model.node,
        "classes": list(run.data.source.classes),
        "positive": run.positive,
        "preprocessing": run.data.preprocessing.as_dict(),
        "dataset": run.data.name,
        "cut_rule": run.spec.data.rule,
        "chosen": run.chosen,
        "versions": versions(),
        "git_commit": git_commit(),
    }
