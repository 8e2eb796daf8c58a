"""What happens around the loop: log, validate, save, stop."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor

from imgcls.checkpoints.state import State
from imgcls.config.schema import TrainConfig
from imgcls.errors import Stopped
from imgcls.loggers.run_log import Row, RunLog
from imgcls.runtime.session import Runtime
from imgcls.runtime.signals import Signals
from imgcls.training.checkpointer import Checkpointer, check_finite
from imgcls.training.loop import Callback
from imgcls.training.validation import FIGURES, Best, Validation, Validator, is_exhausted, quality

INTERVAL = 50  # steps between two reads of the loss, each of which waits for a GPU
SAVE, STOP = 1, 2  # what signals ask for, the stronger the higher; STOP plus the signal's number


class _Interrupted(Exception):
    """A signal came during validation."""


@dataclass
class TrainingCallback(Callback):
    """See Callback.

    validator: None if there is no validation split. resume_command: what is printed when the run is interrupted. best:
    of the epochs so far. rise: epochs until the highest learning rate, which early stopping does not count.
    """

    config: TrainConfig
    runtime: Runtime
    log: RunLog
    signals: Signals
    checkpointer: Checkpointer
    validator: Validator | None
    resume_command: str
    best: Best | None = None
    rise: int = 0

    def after_step(self, state: State, loss_sum: Tensor, count: int, images: int, lr: float) -> None:
        """See Callback: log, save when it is due or asked for, and stop when asked to."""
        self.checkpointer.epoch = state.epochs + 1
        loss = None
        if state.step % INTERVAL == 0:
            loss = float(loss_sum) / count  # waits for a GPU
            check_finite(loss, state)
        self.log.step(state.step, state.epochs, images, lr, loss)
        number = self.signals.received
        asked = self.runtime.max(STOP + number if number else SAVE if self.signals.wants_save else 0)
        if asked or self.checkpointer.is_due(state.step):
            self.save_last(state)
        if asked > STOP:
            self._stop(state, asked - STOP)
        if asked == SAVE:
            self.log.info(f"checkpoint saved at step {state.step:,} (SIGUSR1)")

    def after_epoch(self, state: State, images: int, started: float, lr: float) -> None:
        """See Callback: validate, log the epoch, save last and perhaps best, and stop when asked to."""
        loss_sum, hits, seen = self.runtime.sum(state.totals).tolist()  # waits for the device
        seconds = time.perf_counter() - started
        check_finite(loss_sum, state)
        validation = self._validate(state)
        row: Row = {
            "epoch": state.epochs + 1,
            "step": state.step,
            "lr": lr,
            "train_loss": loss_sum / seen,
            "train_accuracy": hits / seen,
            **(dict.fromkeys(FIGURES) if validation is None else validation.figures),
            "seconds": round(seconds, 4),
            "images_per_second": round(images / max(seconds, 1e-9), 1),
        }
        value, state.epochs = quality(row, self.config.monitor), state.epochs + 1
        is_best = self.best is None or value > self.best.quality
        self.best = Best(value, state.epochs) if is_best else self.best
        is_early = state.epochs < self.config.passes and self.should_stop(state)
        self.log.epoch(row, is_best=is_best, is_last=is_early or state.epochs == self.config.passes)
        if is_best:
            self.checkpointer.save_best(state, self._learned(validation))
        self.save_last(state)
        self.stop_if_asked(state, is_saved=True)
        if is_early:
            epochs = f"{self.config.patience} epoch{'s' if self.config.patience != 1 else ''}"
            self.log.info(f"early stopping: {self.config.monitor} has not improved for {epochs}")

    def should_stop(self, state: State) -> bool:
        """See Callback: early stopping."""
        return is_exhausted(self.best, state.epochs, self.config.patience, self.rise)

    def save_last(self, state: State) -> None:
        """Save the whole state."""
        self.checkpointer.save_last(state, self.best)
        self.signals.wants_save = False

    def stop_if_asked(self, state: State, *, is_saved: bool = False) -> None:
        """Save (unless that is done) and stop if any process has been asked to. Raises Stopped."""
        if number := self.runtime.max(self.signals.received):
            if not is_saved:
                self.save_last(state)
            self._stop(state, number)

    def save_and_stop(self, state: State) -> NoReturn:
        """End the run because of the signal that came, wherever the state is between two updates."""
        self.save_last(state)
        self._stop(state, self.signals.received)

    def _stop(self, state: State, number: int) -> NoReturn:
        self.runtime.max(0)  # all processes wait for the main one's save: the first to end takes the others with it
        name = signal.Signals(number).name
        raise Stopped(
            f"interrupted by {name}, saved at step {state.step:,}; resume with: {self.resume_command}", number
        )

    def _learned(self, validation: Validation | None) -> dict[str, float | None]:
        if self.validator is None or validation is None or not self.runtime.is_main:
            return {}
        return self.validator.learned(validation)

    def _validate(self, state: State) -> Validation | None:
        if self.validator is None:
            return None
        try:
            return self.validator(state, self._raise_if_asked)
        except _Interrupted:
            self.save_and_stop(state)

    def _raise_if_asked(self) -> None:
        if self.signals.received and self.runtime.world == 1:  # several processes must stop at the same place
            raise _Interrupted
