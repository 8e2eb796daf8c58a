"""When a run is saved, and what must never be saved."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imgcls import files
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints import state as checkpoint_state
from imgcls.checkpoints.state import State
from imgcls.errors import RunError
from imgcls.runtime.session import Runtime

ADVICE = "the checkpoint before it is kept; start a new run with a smaller optimizer.lr"
WEIGHTS = (checkpoint_state.MODEL, checkpoint_state.AVERAGE)


@dataclass
class Checkpointer:
    """Saves the last and the best state of a run; the main process writes.

    folder: the run's. meta: what every checkpoint has besides its tensors. every_steps, every_seconds: how often to
    save within an epoch, None for never.
    """

    folder: Path
    meta: dict[str, Any]
    runtime: Runtime
    every_steps: int | None = None
    every_seconds: float | None = None
    saved_at: float = field(default_factory=time.monotonic)
    epoch: int = 1  # the running one, for messages

    def is_due(self, step: int) -> bool:
        """Whether to save after this step. All processes must ask: their clocks differ."""
        if self.every_steps is not None:
            return step % self.every_steps == 0
        if self.every_seconds is None:
            return False
        return self.runtime.any(time.monotonic() - self.saved_at >= self.every_seconds)

    def save_last(self, state: State, best: Any) -> None:
        """The whole state, to resume from; never one with a non-finite loss. best: of the epochs so far."""
        totals = self.runtime.sum(state.totals)
        check_finite(float(totals[0]), state)
        if self.runtime.is_main:
            tensors, numbers = checkpoint_state.state_tensors(replace(state, totals=totals))
            self._save(checkpoint_format.LAST, tensors, state, {"optimizer_numbers": numbers, "best": best})
        self.saved_at = time.monotonic()

    def save_best(self, state: State, learned: Mapping[str, float | None]) -> None:
        """The weights alone, those that were validated, with what their validation taught: see Decisions."""
        if self.runtime.is_main:
            self._save(checkpoint_format.BEST, checkpoint_state.model_tensors(state.eval_module), state, learned)

    def _save(self, name: str, tensors: dict[str, Tensor], state: State, more: Mapping[str, Any]) -> None:
        _check_weights(tensors, state, self.epoch)
        meta = {**self.meta, "step": state.step, "epochs_done": state.epochs, **more}
        folder = self.folder / "checkpoints"
        keep_as = folder / checkpoint_format.PREV if name == checkpoint_format.LAST else None
        files.write_whole(folder / name, *checkpoint_format.encode(tensors, meta), keep_as=keep_as)


def check_finite(loss: float, state: State, what: str = "loss") -> None:
    """Raises RunError for a loss that is not finite."""
    if not math.isfinite(loss):
        raise RunError(f"the {what} is not finite ({_position(state, state.epochs + 1)}); {ADVICE}")


def _position(state: State, epoch: int) -> str:
    """'step 1,200, epoch 4, learning rate 0.01'"""
    lr = float(state.optimizer.param_groups[0].get("lr", 0.0))
    return f"step {state.step:,}, epoch {epoch}, learning rate {lr:.3g}"


def _check_weights(tensors: dict[str, Tensor], state: State, epoch: int) -> None:
    """Raises RunError for weights that are not finite."""
    where = _position(state, epoch)
    weights = {name.partition(".")[2]: one for name, one in tensors.items() if name.startswith(WEIGHTS)}
    bad = next((name for name, one in weights.items() if not torch.isfinite(one).all()), None)
    if bad is None:
        return
    if bad in dict(state.module.named_buffers()) and all(map(_is_finite, state.module.parameters())):
        way = "register_buffer(..., persistent=False) leaves a constant out of it"
        raise RunError(f"a checkpoint cannot hold the buffer {bad}, which is not finite ({where}); {way}")
    raise RunError(f"the weights are not finite ({where}); {ADVICE}")


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
