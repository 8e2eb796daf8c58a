"""Dry run: can each job of a sweep be built? Checked before the first one starts."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace

import numpy as np
import torch

from imgcls.config.components import Component
from imgcls.config.schema import TrainConfig
from imgcls.data.datamodule import DataSpec, SplitData, read_splits
from imgcls.errors import DataError, RunError
from imgcls.models.pretrained import Pretrained
from imgcls.runtime.device import choose_device
from imgcls.training.auto_weights import choose_weights
from imgcls.training.builder import make_module
from imgcls.training.earlier_run import settled
from imgcls.training.spec import RunSpec, check, class_weights, resolve_auto

READ_ONLY = {"download": False, "verify": False, "on_error": "error"}  # parameters with which reading changes nothing


@dataclass
class DryRun:
    """Called with the configuration of each job; raises ConfigError for what can be refused before any job starts.

    Beyond ``check``: a model that cannot be built for the images, layers to freeze that do not exist, an augmentation
    that does not suit the images, classes that do not exist. Each data set that is already there is read once (names
    and headers of the user's own files; CIFAR's archive is unpacked); what is wrong with it is left to the job to
    report, and the others still run.

    weights: of each model for photos, whether model.pretrained=auto finds any, in words.
    """

    weights: dict[str, str] = field(default_factory=dict)
    read: dict[str, SplitData | None] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)

    def __call__(self, config: TrainConfig) -> None:
        """Check one job."""
        config = settled(config)
        spec = check(config)
        device = choose_device(config.device).type
        data = self._data(config, spec, spec.default_size(device))
        if data is not None:
            spec, data = choose_weights(config, spec, data, device, {})
            _, model, _ = resolve_auto(config, spec, data, device, {})
            if spec.options.pretrained == "auto" and isinstance(spec.pretrained, Pretrained):
                self.weights[model.name] = f"from {spec.pretrained.path.name}"
            elif spec.missing:
                self.weights[model.name] = spec.missing
            class_weights(config.class_weights, data.source.classes, np.arange(data.num_classes))
            self._make(model, spec, data)

    def _data(self, config: TrainConfig, spec: RunSpec, default_size: int) -> SplitData | None:
        if ":" in spec.data.source.name:  # the user's own code may do anything
            return None
        key = json.dumps([config.dataset, default_size, spec.preset and astuple(spec.preset)], default=str)
        if key not in self.read:
            self.read[key] = None
            with suppress(DataError, RunError, OSError):
                self.read[key] = read_splits(_read_only(spec.data), default_size, spec.preset)
        return self.read[key]

    def _make(self, model: Component, spec: RunSpec, data: SplitData) -> None:
        key = json.dumps([model.node, data.geometry, data.num_classes, spec.options.freeze], default=str)
        if ":" in model.name or key in self.made:  # a user's own model may not survive the meta device
            return
        # regnet computes its widths with tensors, which have no values here: it is left to its job
        with suppress(NotImplementedError), torch.random.fork_rng(devices=[]), torch.device("meta"):
            make_module(model, spec, data)  # no memory, no numbers drawn
        self.made.add(key)


def _read_only(spec: DataSpec) -> DataSpec:
    """The same data set, read only if it is already there, its files not decoded."""
    params = {key: READ_ONLY.get(key, value) for key, value in spec.source.params.items()}
    return replace(spec, source=replace(spec.source, params=params))
