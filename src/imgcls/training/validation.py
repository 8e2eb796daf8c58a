"""Validation: how good a state is, which epoch is the best, and when to stop early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from imgcls.checkpoints.state import State
from imgcls.data.fetchers import Fetcher
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.data.source import Images
from imgcls.inference.infer import infer
from imgcls.loggers.run_log import Row
from imgcls.losses import Loss
from imgcls.runtime.session import Runtime
from imgcls.training.checkpointer import check_finite

Quality = tuple[float, float, int]


class Best(NamedTuple):
    """The best epoch so far: its quality, and its number from 1."""

    quality: Quality
    epoch: int


@dataclass(frozen=True)
class Validator:
    """The validation split, ready to be served again and again, and the loss that is trained."""

    images: Images
    fetcher: Fetcher
    preprocessing: Preprocessing
    loss: Loss
    runtime: Runtime

    def __call__(self, state: State, between: Callable[[], None]) -> tuple[float, float]:
        """Loss and accuracy of the state; all processes share the work and get the result.

        between: called after each batch; what it raises ends the validation. Raises RunError for a non-finite loss.
        """
        module, labels = state.eval_module, self.images.labels
        self.runtime.broadcast_buffers(module)
        logits = infer(module, self.fetcher, len(labels), self.preprocessing, self.runtime, between)
        on_device = [torch.from_numpy(one).to(self.runtime.device) for one in (logits, labels)]
        loss = float(self.loss(*on_device).mean())
        check_finite(loss, state, "validation loss")
        return loss, float((logits.argmax(1) == labels).mean())


def is_exhausted(best: Best | None, epochs: int, patience: int | None, rise: int = 0) -> bool:
    """Whether the best epoch was ``patience`` or more epochs ago, which are counted from the end of the rise.

    rise: the first epochs, in which the learning rate rises; a validation that gets worse in them says nothing.
    """
    return patience is not None and best is not None and epochs - max(best.epoch, rise) >= patience


def quality(row: Row, monitor: str = "val_accuracy") -> Quality:
    """What "best" compares: the monitored figure, then the other; without validation the latest epoch is the best."""
    if row["val_accuracy"] is None:
        return 0.0, 0.0, int(row["epoch"])
    figures = row["val_accuracy"], -row["val_loss"]
    return (*figures, 0) if monitor == "val_accuracy" else (*figures[::-1], 0)
