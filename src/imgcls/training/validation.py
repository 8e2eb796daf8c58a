"""Validation: how good a state is, which epoch is the best, and when to stop early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from imgcls import decisions, metrics
from imgcls.checkpoints.state import State
from imgcls.config.schema import Monitor
from imgcls.data.fetchers import Fetcher
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.data.source import Images
from imgcls.errors import ConfigError
from imgcls.inference.infer import infer
from imgcls.loggers.run_log import Row
from imgcls.losses import Loss
from imgcls.runtime.session import Runtime
from imgcls.text import listing
from imgcls.training.checkpointer import check_finite

Quality = tuple[float, float, int]

FIGURES = ("val_loss", "val_accuracy", "val_balanced_accuracy", "val_f1", "val_auc")  # of each epoch
MOST_RANKED = 100  # classes: of more, val_auc is computed only if it is monitored


class Best(NamedTuple):
    """The best epoch so far: its quality, and its number from 1."""

    quality: Quality
    epoch: int


@dataclass(frozen=True)
class Validation:
    """The result: FIGURES, and the (N, C) logits that they are from."""

    figures: dict[str, float | None]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Validator:
    """The validation split, ready to be served again and again, and the loss that is trained.

    positive: see Decisions.
    """

    images: Images
    fetcher: Fetcher
    preprocessing: Preprocessing
    loss: Loss
    runtime: Runtime
    monitor: Monitor = "val_accuracy"
    positive: int | None = None

    def __call__(self, state: State, between: Callable[[], None]) -> Validation:
        """The figures of the state; all processes share the work and get the result.

        between: called after each batch; what it raises ends the validation. Raises RunError for a non-finite loss.
        """
        module, labels = state.eval_module, self.images.labels
        self.runtime.broadcast_buffers(module)
        logits = infer(module, self.fetcher, len(labels), self.preprocessing, self.runtime, between)
        on_device = [torch.from_numpy(one).to(self.runtime.device) for one in (logits, labels)]
        loss = float(self.loss(*on_device).mean())
        check_finite(loss, state, "validation loss")
        return Validation({"val_loss": loss, **self._figures(logits, labels)}, logits)

    def _figures(self, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float | None]:
        predicted, num_classes = logits.argmax(1), logits.shape[1]
        is_ranked = num_classes <= MOST_RANKED or self.monitor == "val_auc"
        return {
            "val_accuracy": float((predicted == labels).mean()),
            "val_balanced_accuracy": metrics.balanced_accuracy(labels, predicted, num_classes),
            "val_f1": float(metrics.per_class(labels, predicted, num_classes)[0]["f1"].mean()),
            "val_auc": metrics.roc_auc(metrics.softmax(logits), labels) if is_ranked else None,
        }

    def learned(self, validation: Validation) -> dict[str, float | None]:
        """What the best checkpoint keeps: see decisions.learned."""
        return decisions.learned(validation.logits, self.images.labels, self.positive)


def is_exhausted(best: Best | None, epochs: int, patience: int | None, rise: int = 0) -> bool:
    """Whether the best epoch was ``patience`` or more epochs ago, which are counted from the end of the rise.

    rise: the first epochs, in which the learning rate rises; a validation that gets worse in them says nothing.
    """
    return patience is not None and best is not None and epochs - max(best.epoch, rise) >= patience


def quality(row: Row, monitor: Monitor = "val_accuracy") -> Quality:
    """What "best" compares: the monitored figure, then the loss (or, if that is monitored, the accuracy).

    Without validation the latest epoch is the best.
    """
    if row["val_accuracy"] is None:
        return 0.0, 0.0, int(row["epoch"])
    if monitor == "val_loss":
        return -row["val_loss"], row["val_accuracy"], 0
    return row[monitor], -row["val_loss"], 0


def check_watched(monitor: Monitor, patience: int | None, val: Images | None, classes: Sequence[str]) -> None:
    """Raises ConfigError if there is nothing to watch: for patience no validation, for monitor no AUC."""
    if val is None:
        if patience is not None:
            raise ConfigError(
                "patience: there is no validation split to watch; set dataset.val_fraction or patience=null"
            )
        return
    if monitor != "val_auc":
        return
    if len(classes) < 2:
        raise ConfigError("monitor: val_auc needs two classes or more; leave it out")
    counts = np.bincount(val.labels, minlength=len(classes))
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise ConfigError(
            f"monitor: val_auc needs validation images of every class, and there are none of {listing(missing)}; "
            "use monitor=val_balanced_accuracy, or a larger dataset.val_fraction"
        )
