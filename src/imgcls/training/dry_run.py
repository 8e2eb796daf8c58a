"""Whether the jobs of a sweep can be put together: asked before the first of them begins."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from imgcls.checkpoints.state import check_storable
from imgcls.config.components import Component
from imgcls.config.schema import TrainConfig
from imgcls.data.datamodule import Data, DataSpec, load_data
from imgcls.errors import ConfigError, DataError, RunError
from imgcls.models.build import build_model, default_image_size
from imgcls.models.finetune import freeze
from imgcls.training.spec import RunSpec, check, class_weights, input_preset, resolve_auto, run_spec

GENTLE = {"download": False, "verify": False, "on_error": "error"}  # knobs with which reading data changes nothing


def _gently(choice: DataSpec) -> DataSpec:
    """The choice of data, to be read only if it is there already, its files not decoded."""
    source = choice.source
    params = {key: GENTLE.get(key, value) for key, value in source.params.items()}
    return replace(choice, source=replace(source, params=params))


@dataclass
class DryRun:
    """Called with the configuration of each job; raises ConfigError for what can be refused before any job begins.

    Beyond ``check``: a model that cannot be made for the images, layers to freeze that it has not, an augmentation that
    does not suit them, classes that are not there. Each data set that is there is read once (names and headers of the
    user's own files; CIFAR's archive is unpacked); what is wrong with it is left to the job to say, and the others
    still run.
    """

    read: dict[str, Data | None] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)

    def __call__(self, config: TrainConfig) -> None:
        check(config)
        parts = run_spec(config)
        data = self._data(config, parts)
        if data is not None:
            model, _ = resolve_auto(parts, data)
            class_weights(config.class_weights, data.source.classes, np.arange(len(data.source.classes)))
            self._make(model, parts, data)

    def _data(self, config: TrainConfig, parts: RunSpec) -> Data | None:
        name = parts.model.name if parts.model else "auto"
        if ":" in parts.data.source.name:  # the user's own code may do anything
            return None
        size = parts.pretrained and parts.pretrained.size
        key = json.dumps([config.dataset, default_image_size(name), size], default=str)
        if key not in self.read:
            self.read[key] = None
            with suppress(DataError, RunError, OSError):
                self.read[key] = load_data(
                    _gently(parts.data), default_image_size(name), input_preset(parts.pretrained)
                )
        return self.read[key]

    def _make(self, model: Component, parts: RunSpec, data: Data) -> None:
        shape, count = data.preprocessing, len(data.source.classes)
        key = json.dumps([model.node, shape.as_dict(), count, parts.options.freeze], default=str)
        if ":" in model.name or key in self.made:  # a user's own model may not stand what follows
            return
        # regnet computes its widths with tensors, which have no values here: it is left to its job
        with suppress(NotImplementedError), torch.random.fork_rng(devices=[]), torch.device("meta"):
            module = build_model(model, shape.channels, shape.image_size, count)  # no memory, no numbers drawn
            check_storable(module, model.name)
            try:
                freeze(module, parts.options.freeze, count)
            except ValueError as error:
                raise ConfigError(f"model.{error}") from error
        self.made.add(key)
