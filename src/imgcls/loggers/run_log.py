"""What a run says: the terminal, train.log, metrics.jsonl and TensorBoard, from one place and from rank 0 only."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from pathlib import Path
from typing import IO, Any

from torch import Tensor, nn

from imgcls.errors import RunError
from imgcls.loggers.progress import ProgressLine
from imgcls.loggers.tensorboard import TensorBoardLog
from imgcls.text import clock

INTERVAL = 50  # steps between two looks at the loss, which on a GPU means waiting for it
ADVICE = "the checkpoint before it is kept; start a new run with a smaller optimizer.lr"
Row = dict[str, Any]
ROW_KEYS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "seconds",
    "images_per_second",
)


class RunLog:
    """One log for a run; in every process but the main one it does nothing.

    holding: keep what is said until ``open``, so that the line that names the run folder comes first.
    """

    def __init__(self, *, is_main: bool, is_quiet: bool = False, holding: bool = False) -> None:
        self.is_main = is_main
        self.is_quiet = is_quiet  # --json: stdout bears nothing but the report
        self.folder: Path | None = None
        self.rows: list[Row] = []
        self._log: IO[str] | None = None
        self._held: list[str] | None = [] if holding else None
        self.board: TensorBoardLog | None = None
        self._live: ProgressLine | None = None
        self._started = time.monotonic()

    def open(self, folder: Path, words: str, *, keep_epochs: int = 0) -> None:
        """Write into the folder from here on; of an earlier part of the run the first ``keep_epochs`` rows stay."""
        if not self.is_main:
            return
        self.folder = folder
        self._keep_rows(folder / "metrics.jsonl", keep_epochs)
        self._log = (folder / "train.log").open("a", encoding="utf-8", errors="backslashreplace")
        held, self._held = self._held or [], None
        for text in (f"run      {folder}{words}", *held):
            self.info(text)

    def _keep_rows(self, path: Path, count: int) -> None:
        """The first ``count`` rows of an earlier part of the run; the file is replaced only if it holds others too."""
        self.rows = read_rows(path)[:count]
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            temporary = path.with_name(".metrics.jsonl.tmp")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        if len(self.rows) < count:
            self.warning(f"{path} has lost rows: {len(self.rows)} of {count} are there")

    def start_board(self, purge_step: int | None, module: nn.Module, images: Tensor) -> None:
        """TensorBoard's file, with the graph of the module on these images in a new run's (no ``purge_step``).

        Events of a killed run at and beyond ``purge_step`` are purged.
        """
        if self.is_main and self.folder is not None:
            drawn = None if purge_step else (module, images)
            self.board = TensorBoardLog(self.folder / "tensorboard", purge_step, drawn, self.warning)

    def drop_held(self) -> None:
        """Forget what was held: the run failed before it had a folder, and its one line of error is the answer."""
        self._held = None

    def close(self) -> None:
        """Take the live line off and close the files."""
        self.end_live()
        held, self._held = self._held or [], None
        for text in held:
            self.info(text)
        if self.board is not None:
            self.board.close()
        self._drop_log()

    def _drop_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            with contextlib.suppress(OSError):  # what could not be written cannot be written now
                log.close()

    # --- text ---

    def info(self, text: str) -> None:
        """Progress: stderr and train.log."""
        self._write(text, sys.stderr)

    def warning(self, text: str) -> None:
        """A line that deserves a look: stderr and train.log."""
        self.info(f"imgcls: warning: {text}")

    def output(self, text: str) -> None:
        """The result: stdout and train.log."""
        self._write(text, None if self.is_quiet else sys.stdout)

    def _write(self, text: str, stream: IO[str] | None) -> None:
        if not self.is_main:
            return
        if self._held is not None:
            self._held.append(text)
            return
        if self._log is not None:
            try:
                self._log.write(text + "\n")
                self._log.flush()
            except OSError as error:  # a full disk, say: what must be saved will say so
                self._drop_log()
                self.warning(f"train.log cannot be written ({error.strerror}); going on without it")
        if stream is not None:
            if self._live is not None:
                self._live.clear()
            try:
                print(text, file=stream, flush=True)
            except BrokenPipeError:
                if stream is not sys.stderr:
                    raise
            except OSError as error:
                if stream is not sys.stderr:  # nobody may be reading the progress any more
                    raise RunError(f"cannot write the result to stdout: {error.strerror}") from error

    # --- numbers ---

    def begin(self, *, step: int, total: int, epochs: int) -> None:
        """The loop starts at that step: header of the table, live line on a terminal."""
        self._started = time.monotonic()
        if self.is_main:
            self.info("\nepoch  train loss  val loss  val acc   images/s")
            if sys.stderr.isatty():
                self._live = ProgressLine(step, total, epochs)

    def end_live(self) -> None:
        """Take the live line off."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def log(self, step: int, total: Tensor, count: int, lr: float, epoch: int, images: int) -> None:
        """After each step, with the sum of ``count`` losses still on the device: it is read every INTERVAL steps.

        Raises RunError if it is not finite by then.
        """
        is_due = step % INTERVAL == 0
        if is_due:
            loss = float(total) / count  # waits for a GPU
            self.check_finite(loss, step, epoch, lr)
            if self.board is not None:
                self.board.scalars(step, {"train/loss_step": loss, "train/lr": lr})
        if self._live is not None:
            self._live.update(step, epoch, images, loss if is_due else None)

    @staticmethod
    def check_finite(loss: float, step: int, epoch: int, lr: float) -> None:
        """Raises RunError for a loss that is no number any more."""
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is not finite (step {step:,}, epoch {epoch + 1}, learning rate {lr:.3g}); {ADVICE}"
            )

    def epoch(self, row: Row, *, is_best: bool, is_last: bool) -> None:
        """An epoch is done: a line each in the table, metrics.jsonl and TensorBoard."""
        self.rows.append(row)
        if not self.is_main:
            return
        if self.folder is not None:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.board is not None:
            pairs = (
                ("train/loss", "train_loss"),
                ("train/accuracy", "train_accuracy"),
                ("val/loss", "val_loss"),
                ("val/accuracy", "val_accuracy"),
            )
            self.board.scalars(row["step"], {tag: row[key] for tag, key in pairs if row[key] is not None})
            self.board.begin()
        self.info(epoch_line(row, is_best, clock(time.monotonic() - self._started) if is_last else None))
        if self._live is not None and is_best:
            self._live.best = row["val_accuracy"]


def epoch_line(row: Row, is_best: bool, took: str | None) -> str:
    """A row of the table of epochs, under 80 columns."""
    val_loss = f"{row['val_loss']:8.3f}" if row["val_loss"] is not None else "       -"
    val_acc = f"{row['val_accuracy'] * 100:5.1f} %" if row["val_accuracy"] is not None else "      -"
    line = f"{row['epoch']:5d}  {row['train_loss']:10.3f}  {val_loss}  {val_acc}  {row['images_per_second']:9,.0f}"
    line += "  best" if is_best else ""
    return f"{line:<56}{took} in all" if took else line


def read_rows(path: Path) -> list[Row]:
    """metrics.jsonl as far as it is whole: a killed run can leave half a line."""
    rows: list[Row] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not isinstance(row, dict) or not row.keys() >= set(ROW_KEYS):
                break
            rows.append(row)
    return rows
