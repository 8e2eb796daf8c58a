"""A model restored from its checkpoint."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from imgcls.checkpoints import state as checkpoint_state
from imgcls.checkpoints.format import Checkpoint
from imgcls.config.components import select
from imgcls.config.migrations import completed_node
from imgcls.config.schema import ModelConfig
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.decisions import Decisions
from imgcls.errors import CheckpointError, ConfigError, is_out_of_memory
from imgcls.models import models_for
from imgcls.models.build import MODEL_CONTEXT, build_model
from imgcls.models.timm import MissingTimm, is_timm
from imgcls.runs.folder import best_checkpoint
from imgcls.runtime.device import choose_device, choose_precision
from imgcls.runtime.session import Runtime, session

SPARE = 1 << 22  # parameters: of published stems, which are replaced for small images
PRUNED = 4  # times as large as itself may a model of timm's be while it is built: some are built whole, then pruned


@dataclass(frozen=True)
class RestoredModel:
    """A model as its checkpoint describes it, on the runtime's device."""

    module: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    checkpoint: Checkpoint

    @property
    def decisions(self) -> Decisions:
        """What its validation taught."""
        return Decisions.of(self.checkpoint.meta, self.classes)

    @property
    def parameters(self) -> int:
        """How many parameters it has."""
        return sum(parameter.numel() for parameter in self.module.parameters())


@contextlib.contextmanager
def open_model(config: ModelConfig, own_names: frozenset[str]) -> Iterator[tuple[RestoredModel, Runtime]]:
    """The model of the checkpoint that the configuration names, on its device.

    precision=auto is fp32 here, so that two commands report the same; threads: as many as the run had, unless given.
    """
    choose_precision(config.precision, choose_device(config.device))  # refused before anything is read
    checkpoint = best_checkpoint(config.checkpoint)
    threads = config.threads or checkpoint.meta.get("chosen", {}).get("threads")
    with session(config.device, "fp32" if config.precision == "auto" else config.precision, threads) as runtime:
        yield restore(checkpoint, runtime, own_names), runtime


def restore(checkpoint: Checkpoint, runtime: Runtime, own_names: frozenset[str]) -> RestoredModel:
    """The model in a checkpoint. The user's own code is imported only if its name is among ``own_names``.

    Raises CheckpointError if the checkpoint does not describe a model, ConfigError for code that is not trusted.
    """
    meta = checkpoint.meta
    try:
        node, stored = completed_node("model", dict(meta["model"]), with_keys=False), dict(meta["preprocessing"])
        classes = tuple(str(name) for name in meta["classes"])
        preprocessing = Preprocessing.from_dict(stored)
        component = select(
            models_for(node.get("name")), node, "model", context=MODEL_CONTEXT, trusted=node.get("name") in own_names
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path}: incomplete description of the model ({error})") from error
    except ConfigError as error:
        is_own = ":" in str(node.get("name")) and not is_timm(str(node.get("name")))
        if is_own or isinstance(error, MissingTimm):  # to be named again by the user, or installed
            raise
        raise CheckpointError(f"{checkpoint.path}: invalid description of the model ({error})") from error
    has_average = any(name.startswith(checkpoint_state.AVERAGE) for name in checkpoint.tensors)
    prefix = checkpoint_state.AVERAGE if has_average else checkpoint_state.MODEL
    # a packaged model registers what it keeps; a user's own may replace parts of it on the way
    times = PRUNED if is_timm(component.name) else 1
    guard = contextlib.nullcontext() if ":" in component.name else _no_larger_than(checkpoint, prefix, times)
    with torch.random.fork_rng(devices=[]), guard:  # the weights drawn here are replaced
        module = build_model(component, preprocessing.channels, preprocessing.image_size, len(classes))
        checkpoint_state.check_storable(module, component.name)
    checkpoint_state.load_module(module, checkpoint, prefix)
    return RestoredModel(runtime.place(module).eval(), classes, preprocessing, checkpoint)


@contextlib.contextmanager
def _no_larger_than(checkpoint: Checkpoint, prefix: str, times: int) -> Iterator[None]:
    """Inside, a model with more parameters than (times) the checkpoint's is refused before they are initialized."""
    room = SPARE + times * sum(tensor.numel() for tensor in checkpoint.part(prefix).values())
    refusal = CheckpointError(f"{checkpoint.path}: its tensors do not fit its model, which is larger")

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal room
        room -= 0 if parameter is None else parameter.numel()
        if room < 0:
            raise refusal

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        asked = re.search(r"allocate (\d+) bytes", str(error))  # torch refuses at once what the system cannot have
        if is_out_of_memory(error) and asked is not None and int(asked[1]) > 8 * room:
            raise refusal from error
        raise
    finally:
        handle.remove()
