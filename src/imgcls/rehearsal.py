"""Whether the jobs of a sweep can be put together: asked before the first of them begins."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from imgcls.assembly import Parts, check, choose_parts, class_weights
from imgcls.config import TrainConfig, select
from imgcls.data.augment import AUGMENTS
from imgcls.data.pixels import Preprocessing
from imgcls.errors import ConfigError, DataError, RunError
from imgcls.inference import build_model
from imgcls.models import MODELS, automatic
from imgcls.models.finetune import freeze
from imgcls.prepare import FLAT_MODELS, DataChoice, load_data, resolved


@dataclass(frozen=True)
class Facts:
    """What the jobs of one data set need to know of it."""

    name: str
    classes: tuple[str, ...]
    shape: Preprocessing
    mirror: bool
    augment: str


GENTLE = {"download": False, "verify": False, "on_error": "error"}  # knobs with which reading data changes nothing


def _gently(choice: DataChoice) -> DataChoice:
    """The choice of data, to be read only if it is there already, its files not decoded."""
    source = choice.source
    knobs = {key: GENTLE.get(key, value) for key, value in source.knobs.items()}
    return replace(choice, source=replace(source, knobs=knobs))


@dataclass
class Rehearsal:
    """Called with the configuration of each job; raises ConfigError for what can be refused before any job begins.

    Beyond ``check``: a model that cannot be made for the images, layers to freeze that it has not, an augmentation that
    does not suit them, classes that are not there. Each data set that is there is read once (names and headers of the
    user's own files; CIFAR's archive is unpacked); what is wrong with it is left to the job to say, and the others
    still run.
    """

    facts: dict[str, Facts | None] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)

    def __call__(self, config: TrainConfig) -> None:
        check(config)
        parts = choose_parts(config)
        facts = self._facts(config, parts)
        if facts is None:
            return
        size = (facts.shape.height, facts.shape.width)
        augment = parts.augment or select(AUGMENTS, resolved({"name": "default"}, "augment", facts.augment), "augment")
        augment(size, facts.mirror)
        class_weights(config.class_weights, facts.classes, np.arange(len(facts.classes)))
        wanted, count = parts.options.num_classes, len(facts.classes)
        if wanted not in (None, count):
            raise ConfigError(f"model.num_classes: {wanted} does not fit, dataset {facts.name} has {count} classes")
        self._make(parts, facts, size)

    def _facts(self, config: TrainConfig, parts: Parts) -> Facts | None:
        name = parts.model.name if parts.model else "auto"
        if ":" in parts.data.source.name:  # the user's own code may do anything
            return None
        size = parts.pretrained and parts.pretrained.size
        key = json.dumps([config.dataset, name in FLAT_MODELS, size], default=str)
        if key not in self.facts:
            self.facts[key] = None
            with suppress(DataError, RunError, OSError):
                data = load_data(_gently(parts.data), name, parts.pretrained)
                source = data.source
                self.facts[key] = Facts(data.name, source.classes, data.preprocessing, source.mirror, source.augment)
        return self.facts[key]

    def _make(self, parts: Parts, facts: Facts, size: tuple[int, int]) -> None:
        model = parts.model or select(MODELS, resolved({"name": "auto"}, "model", automatic(size)), "model")
        key = json.dumps([model.node, facts.shape.channels, size, parts.options.freeze], default=str)
        if ":" in model.name or key in self.made:  # a user's own model may not stand what follows
            return
        with suppress(NotImplementedError), torch.random.fork_rng(devices=[]), torch.device("meta"):
            module = build_model(model, facts.shape, len(facts.classes))  # no memory, no numbers drawn
            try:
                freeze(module, parts.options.freeze, len(facts.classes))
            except ValueError as error:
                raise ConfigError(f"model.{error}") from error
        self.made.add(key)
