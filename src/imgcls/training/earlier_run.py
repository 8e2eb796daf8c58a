"""``model.pretrained=RUN``: a new run that goes on from an earlier one, with new pictures or new classes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints.format import Checkpoint
from imgcls.checkpoints.state import AVERAGE, MODEL
from imgcls.config.migrations import completed_node
from imgcls.config.options import Node
from imgcls.config.schema import TrainConfig
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.data.pixels.rendering import COLORS
from imgcls.data.source import Images
from imgcls.errors import CheckpointError, ConfigError, ImgclsError
from imgcls.models.finetune import ModelOptions, heads_of
from imgcls.models.pretrained import is_file
from imgcls.runs import fingerprint
from imgcls.runs import folder as run_folders
from imgcls.text import listing, show


@dataclass(frozen=True)
class EarlierRun:
    """A run's best checkpoint. path: of the run or the file. root: the folder or table of the images behind it."""

    path: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    root: str | None

    def load(self, module: nn.Module, classes: Sequence[str]) -> str:
        """Load the weights into a module of the same model, and of the head the rows of classes with the same name.

        Returns what was loaded, in words. Raises ConfigError if the weights do not fit.
        """
        stored, own = _weights(run_folders.best_checkpoint(self.path)), module.state_dict()
        rows: dict[str, tuple[list[int], list[int]]] = {}
        shared = [name for name in classes if name in self.classes]
        if tuple(classes) != self.classes:
            here, there = ([names.index(name) for name in shared] for names in (classes, self.classes))
            heads = tuple(f"{head}." for head in self._heads(module, len(classes)))
            rows = {name: (here, there) for name in own if name.startswith(heads)}
        for name in (*own, *stored):
            self._check(name, own.get(name), stored.get(name), name in rows)
        with torch.no_grad():
            for name, tensor in own.items():
                here, there = rows.get(name, ([], []))
                if name not in rows:
                    tensor.copy_(stored[name])
                elif here:
                    tensor[here] = stored[name][there].to(tensor.dtype)
        return self._words(classes, shared)

    def _heads(self, module: nn.Module, num_classes: int) -> tuple[str, ...]:
        try:
            return heads_of(module, num_classes)
        except ValueError as error:
            raise ConfigError(
                f"model.pretrained: {error}, so it can go on from {self.path} with the same classes only"
            ) from error

    def _check(self, name: str, own: Tensor | None, stored: Tensor | None, is_head: bool) -> None:
        """Raises ConfigError unless the stored tensor can take the place of this one, but for the number of classes."""
        here, there = ("missing" if one is None else list(one.shape) for one in (own, stored))
        wanted = [len(self.classes), *here[1:]] if is_head else here
        if own is None or stored is None or there != wanted:
            raise ConfigError(
                f"model.pretrained: the weights of {self.path} do not fit ({name} is {here} here, "
                f"{there} there); leave model, dataset.image_size and dataset.channels out to take them "
                "from that run"
            )
        if stored.is_floating_point() and not torch.isfinite(stored).all():
            raise CheckpointError(f"{self.path}: {name} holds numbers that are not finite")

    def _words(self, classes: Sequence[str], shared: Sequence[str]) -> str:
        new = [name for name in classes if name not in self.classes]
        rows = f"body and the head's rows of {listing(shared)}" if shared else "body, as no class has the same name"
        what = f"all weights, of the same {len(classes)} classes" if tuple(classes) == self.classes else rows
        return f"from {self}: {what}" + (f"; new: {listing(new)}" if new else "") + "; images seen as there"

    def __str__(self) -> str:
        """The path, short if it is below the current folder."""
        near = os.path.relpath(self.path)
        return self.path if near.startswith("..") else near

    def trained_on(self, images: Images, root: str | None) -> int:
        """How many of these images, of that folder or table, the run was trained on, as far as its own folder says."""
        path = Path(self.path)
        folder = path if path.is_dir() else run_folders.folder_of(path)
        if self.root is None or root is None:
            return 0
        with contextlib.suppress(ImgclsError):  # its list of images is damaged
            if os.path.realpath(root) == os.path.realpath(self.root):
                return fingerprint.count_trained(folder, images)
            start = self.root if os.path.isdir(self.root) else os.path.dirname(self.root)
            return fingerprint.count_copies(folder, images, start)
        return 0


def _weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights that the run was tested with: their moving average if there is one."""
    return checkpoint.part(AVERAGE) or checkpoint.part(MODEL)


def is_run(pretrained: object) -> TypeGuard[str]:
    """Whether this value of model.pretrained is a run or one of its checkpoints."""
    if not isinstance(pretrained, str):
        return False
    return pretrained == "latest" or os.path.isdir(pretrained) or checkpoint_format.is_checkpoint(Path(pretrained))


def earlier_run(path: str, meta: Mapping[str, Any]) -> EarlierRun:
    """The run of a checkpoint with this description. Raises CheckpointError for one that does not make sense."""
    try:
        shape, dataset = Preprocessing.from_dict(dict(meta["preprocessing"])), meta["config"]["dataset"]
        root = dataset.get("root")
        return EarlierRun(path, tuple(meta["classes"]), shape, root if isinstance(root, str) else None)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: incomplete description of the model ({error})") from error


def settled(config: TrainConfig) -> TrainConfig:
    """The configuration with what ``model.pretrained=RUN`` says about the model and how it sees images.

    The model, unless one is named; fit, crop_share and background, unless set. Raises ConfigError for another model,
    CheckpointError for a run that is missing or damaged.
    """
    path = config.model.get("pretrained")
    if not is_run(path):
        is_auto = is_file(path) and config.model.get("stem") == "auto"
        return replace(config, model={**config.model, "stem": "large"}) if is_auto else config  # as published
    path = str(run_folders.latest().absolute()) if path == "latest" else path
    checkpoint = run_folders.best_checkpoint(path)
    run = earlier_run(path, checkpoint.meta)
    shape, dataset = run.preprocessing, dict(config.dataset)
    background = list(shape.rendering.background)  # as YAML has it
    for key, unset, before in (
        ("fit", "crop", shape.fit),
        ("crop_share", None, shape.crop_share if shape.crop_share < 1 else None),
        ("background", "white", "white" if tuple(background) == COLORS["white"] else background),
    ):
        dataset[key] = before if dataset.get(key) == unset else dataset[key]
    node = completed_node("model", dict(checkpoint.meta["model"]), with_keys=False)
    common = {field.name for field in fields(ModelOptions)}
    own = {key: value for key, value in config.model.items() if key not in common}
    keys = {key: value for key, value in config.model.items() if key in common}
    model = {**_same_model(own, node, path), **keys, "pretrained": path}
    return replace(config, model=model, dataset=dataset)


def _same_model(own: Node, node: Node, path: str) -> Node:
    """The model of the run. own: the model that was asked for, which must be the same if it is named."""
    name, is_code = node["name"], ":" in node["name"]
    if own["name"] == "auto":
        if is_code:
            raise ConfigError(f"model: {path} is of your own code; if you trust it, add model.name={name}")
        return {**node, **own, "name": name}
    if own["name"] != name:
        raise ConfigError(f"model: {own['name']} cannot go on from {path}, whose model is {name}; leave model out")
    if is_code:
        return {**node, **own}
    for key, value in own.items():
        if value != node.get(key) and (key, value) != ("stem", "auto"):
            raise ConfigError(
                f"model.{key} is {show(value)} here, but {show(node.get(key))} in {path}; leave model={name} out "
                "to take its parameters from that run"
            )
    return node
