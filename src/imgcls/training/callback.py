"""What happens around the loop: validating, saving, stopping."""

from __future__ import annotations

import math
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from imgcls import files
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints import state as checkpoint_state
from imgcls.checkpoints.state import State
from imgcls.config.schema import TrainConfig, every_of
from imgcls.data.fetchers import Fetcher
from imgcls.data.preprocessing import Preprocessing
from imgcls.data.source import Images
from imgcls.errors import RunError, Stopped
from imgcls.inference.infer import infer
from imgcls.loggers.run_log import ADVICE, Row, RunLog
from imgcls.losses import Loss
from imgcls.runtime.session import Runtime
from imgcls.runtime.signals import Signals
from imgcls.training.loop import Watch

SAVE, STOP = 1, 2  # what signals ask for, the stronger the higher; STOP and the signal's number
WEIGHTS = (checkpoint_state.MODEL, checkpoint_state.AVERAGE)

Quality = tuple[float, float, int]
Best = tuple[Quality, int]


class _Interrupted(Exception):
    """A signal came during validation."""


@dataclass(frozen=True)
class Validation:
    """The val part, ready to be served again and again, and the loss that is trained."""

    images: Images
    fetcher: Fetcher
    preprocessing: Preprocessing
    loss: Loss


class Keeper(Watch):
    """Validates, saves and stops a run.

    meta: what every checkpoint says beside its tensors. resume_command: what is printed when the run is stopped.
    best: quality and number of the best epoch so far.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        validation: Validation | None,
        meta: dict[str, Any],
        runtime: Runtime,
        log: RunLog,
        signals: Signals,
        resume_command: str,
        best: Best | None = None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.validation = validation
        self.every_steps, self.every_seconds = every_of(config.checkpoint_every)
        self.meta = meta
        self.runtime = runtime
        self.log = log
        self.signals = signals
        self.resume_command = resume_command
        self.best = best
        self.saved_at = time.monotonic()
        self.epoch = 1

    def after_step(self, state: State) -> None:
        """See Watch: save every so often and when asked to, and stop when asked to."""
        self.epoch = state.epochs + 1
        number = self.signals.received
        asked = self.runtime.max(STOP + number if number else SAVE if self.signals.wants_save else 0)
        if asked or self._is_due(state.step):
            self.save_last(state)
        if asked > STOP:
            self._stop(state, asked - STOP)
        if asked == SAVE:
            self.log.info(f"saved at step {state.step:,}, as SIGUSR1 asks")

    def _is_due(self, step: int) -> bool:
        if self.every_steps is not None:
            return step % self.every_steps == 0
        if self.every_seconds is None:
            return False
        return self.runtime.any(time.monotonic() - self.saved_at >= self.every_seconds)  # clocks differ

    def save_and_stop(self, state: State) -> NoReturn:
        """End the run because of the signal that came, wherever the state stands between two updates."""
        self.save_last(state)
        self._stop(state, self.signals.received)

    def look(self, state: State) -> None:
        """Save and stop if any process has been asked to."""
        if number := self.runtime.max(self.signals.received):
            self.save_last(state)
            self._stop(state, number)

    def _stop(self, state: State, number: int) -> NoReturn:
        self.runtime.max(0)  # all processes wait for the main one's save: the first to end takes the others with it
        raise Stopped(
            f"stopped by {signal.Signals(number).name} and saved at step {state.step:,}; "
            f"go on with: {self.resume_command}",
            number,
        )

    def after_epoch(self, state: State, images: int, started: float, lr: float) -> None:
        """See Watch: validate, write the epoch's row, save last and perhaps best, stop when asked to."""
        loss_sum, hits, seen = self.runtime.sum(state.totals).tolist()  # waits for the device
        seconds = time.perf_counter() - started
        self.log.check_finite(loss_sum, state.step, state.epochs, lr)
        val_loss, val_accuracy = self._validate(state)
        row: Row = {
            "epoch": state.epochs + 1,
            "step": state.step,
            "lr": lr,
            "train_loss": loss_sum / seen,
            "train_accuracy": hits / seen,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "seconds": round(seconds, 4),
            "images_per_second": round(images / max(seconds, 1e-9), 1),
        }
        value, state.epochs = quality(row, self.config.monitor), state.epochs + 1
        is_best = self.best is None or value > self.best[0]
        self.best = (value, state.epochs) if is_best else self.best
        is_last = state.epochs == self.config.epochs or self.is_enough(state)
        self.log.epoch(row, is_best=is_best, is_last=is_last)
        if is_best:
            self._save(checkpoint_format.BEST, checkpoint_state.model_tensors(state.eval_module), state, {})
        self.save_last(state)
        if number := self.runtime.max(self.signals.received):
            self._stop(state, number)
        if is_last and state.epochs < self.config.epochs:
            epochs = f"{self.config.patience} epoch{'s' if self.config.patience != 1 else ''}"
            self.log.info(f"stopped early: no better {self.config.monitor} for {epochs} (patience)")

    def is_enough(self, state: State) -> bool:
        """See Watch: whether the best epoch lies ``patience`` epochs back."""
        return is_exhausted(self.best, state.epochs, self.config.patience)

    def _validate(self, state: State) -> tuple[float | None, float | None]:
        if self.validation is None:
            return None, None
        images, module = self.validation.images, state.eval_module
        self.runtime.broadcast_buffers(module)
        shape, between = self.validation.preprocessing, self._raise_if_asked
        try:
            logits = infer(module, self.validation.fetcher, len(images), shape, self.runtime, between)
        except _Interrupted:
            self.save_and_stop(state)
        on_device = [torch.from_numpy(one).to(self.runtime.device) for one in (logits, images.labels)]
        loss = float(self.validation.loss(*on_device).mean())
        if not math.isfinite(loss):
            raise RunError(f"the validation loss is not finite ({self._where(state)}); {ADVICE}")
        return loss, float((logits.argmax(1) == images.labels).mean())

    def _raise_if_asked(self) -> None:
        if self.signals.received and self.runtime.world == 1:  # several processes must stop at the same place
            raise _Interrupted

    def _where(self, state: State) -> str:
        lr = float(state.optimizer.param_groups[0].get("lr", 0.0))
        return f"step {state.step:,}, epoch {self.epoch}, learning rate {lr:.3g}"

    def save_last(self, state: State) -> None:
        """The whole state, to go on from; never one whose loss has ceased to be a number."""
        totals = self.runtime.sum(state.totals)
        lr = float(state.optimizer.param_groups[0].get("lr", 0.0))
        self.log.check_finite(float(totals[0]), state.step, state.epochs, lr)
        if self.runtime.is_main:
            tensors, numbers = checkpoint_state.state_tensors(replace(state, totals=totals))
            self._save(checkpoint_format.LAST, tensors, state, {"optimizer_numbers": numbers, "best": self.best})
        self.saved_at, self.signals.wants_save = time.monotonic(), False

    def _save(self, name: str, tensors: dict[str, torch.Tensor], state: State, more: dict[str, Any]) -> None:
        if not self.runtime.is_main:
            return
        weights = {name.partition(".")[2]: one for name, one in tensors.items() if name.startswith(WEIGHTS)}
        if (bad := next((name for name, one in weights.items() if not torch.isfinite(one).all()), None)) is not None:
            where = f"({self._where(state)})"
            if bad in dict(state.module.named_buffers()) and all(map(_is_finite, state.module.parameters())):
                way = "register_buffer(..., persistent=False) leaves a constant out of it"
                raise RunError(f"a checkpoint cannot hold the buffer {bad}, which is not finite {where}; {way}")
            raise RunError(f"the weights are not finite {where}; {ADVICE}")
        meta = {**self.meta, "step": state.step, "epochs_done": state.epochs, **more}
        folder = self.folder / "checkpoints"
        keep_as = folder / checkpoint_format.PREV if name == checkpoint_format.LAST else None
        files.write_whole(folder / name, *checkpoint_format.encode(tensors, meta), keep_as=keep_as)


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def is_exhausted(best: Best | None, epochs: int, patience: int | None) -> bool:
    """Whether so many epochs are ``patience`` or more after the best one."""
    return patience is not None and best is not None and epochs - best[1] >= patience


def quality(row: Row, monitor: str = "val_accuracy") -> Quality:
    """What "best" compares: the monitored figure, then the other; without validation the latest is the best."""
    if row["val_accuracy"] is None:
        return 0.0, 0.0, int(row["epoch"])
    figures = row["val_accuracy"], -row["val_loss"]
    return (*figures, 0) if monitor == "val_accuracy" else (*figures[::-1], 0)
