"""What a run reports: terminal, train.log, metrics.jsonl and TensorBoard, from one place and from rank 0 only."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from imgcls.errors import RunError
from imgcls.files import write_whole
from imgcls.loggers.progress import ProgressLine
from imgcls.loggers.tensorboard import TensorBoardLog
from imgcls.text import clock

OUTPUT = logging.INFO + 5  # the level of the result, which belongs on stdout
WARNING_PREFIX = "imgcls: warning: "
Row = dict[str, Any]
SHOWN = {"val_balanced_accuracy": "val bal", "val_f1": "val F1", "val_auc": "val AUC"}  # a column if it is monitored
ROW_KEYS = (  # that every version wrote
    *("epoch", "step", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    *("seconds", "images_per_second"),
)


class RunLog:
    """One log for a run; in every process but the main one it does nothing.

    is_quiet: with --json, stdout holds the report and nothing else.
    """

    def __init__(self, *, is_main: bool = True, is_quiet: bool = False) -> None:
        self.is_main = is_main
        self.folder: Path | None = None
        self.rows: list[Row] = []
        self.board: TensorBoardLog | None = None
        self.progress: ProgressLine | None = None
        self._logger = logging.Logger("imgcls", logging.INFO if is_main else logging.CRITICAL + 1)
        self._logger.addHandler(_Terminal(self, is_quiet))
        self._train_log: _TrainLog | None = None
        self._started = time.monotonic()
        self._monitor = ""

    def open(self, folder: Path, *, keep_epochs: int = 0) -> None:
        """Write into the folder from here on; the first ``keep_epochs`` rows of metrics.jsonl stay."""
        if not self.is_main:
            return
        self.folder = folder
        self._train_log = _TrainLog(self, folder / "train.log")
        self._logger.addHandler(self._train_log)
        self._keep_rows(folder / "metrics.jsonl", keep_epochs)

    def _keep_rows(self, path: Path, count: int) -> None:
        """The first ``count`` rows of the run so far; the file is replaced only if it holds others too."""
        self.rows = read_rows(path)[:count]
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_whole(path, text.encode())
        if len(self.rows) < count:
            self.warning(f"{path} has lost rows: {len(self.rows)} of {count} are left")

    def start_board(self, purge_step: int | None, module: nn.Module, images: Tensor) -> None:
        """Start TensorBoard's file; a new run's (no ``purge_step``) gets the graph of the module on these images.

        Events of a killed run at ``purge_step`` and later are purged.
        """
        if self.is_main and self.folder is not None:
            graph = None if purge_step else (module, images)
            self.board = TensorBoardLog(self.folder / "tensorboard", purge_step, graph, self.warning)

    def close(self) -> None:
        """Remove the progress line and close the files."""
        self.end_progress()
        if self.board is not None:
            self.board.close()
        if self._train_log is not None:
            self.drop_train_log()

    def drop_train_log(self) -> None:
        """Write no more to train.log."""
        handler, self._train_log = self._train_log, None
        if handler is not None:
            self._logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # what could not be written cannot be written now
                handler.close()

    # --- text ---

    def info(self, text: str) -> None:
        """Progress: stderr and train.log."""
        self._logger.info("%s", text)

    def warning(self, text: str) -> None:
        """A warning: stderr and train.log."""
        self._logger.warning("%s%s", WARNING_PREFIX, text)

    def output(self, text: str) -> None:
        """The result: stdout and train.log."""
        self._logger.log(OUTPUT, "%s", text)

    # --- numbers ---

    def begin(self, *, step: int, total: int, epochs: int, monitor: str = "val_accuracy") -> None:
        """The loop starts at that step: the table's header, and the progress line on a terminal."""
        self._started, self._monitor = time.monotonic(), monitor
        if self.is_main:
            more = f"  {SHOWN[monitor]}" if monitor in SHOWN else ""
            self.info(f"\nepoch  train loss  val loss  val acc{more}   images/s")
            if sys.stderr.isatty():
                self.progress = ProgressLine(step, total, epochs)

    def end_progress(self) -> None:
        """Remove the progress line."""
        if self.progress is not None:
            self.progress.close()
            self.progress = None

    def step(self, step: int, epoch: int, images: int, lr: float, loss: float | None) -> None:
        """An update is done; ``loss`` is given every now and then, when it is read from the device."""
        if loss is not None and self.board is not None:
            self.board.scalars(step, {"train/loss_step": loss, "train/lr": lr})
        if self.progress is not None:
            self.progress.update(step, epoch, images, loss)

    def epoch(self, row: Row, *, is_best: bool, is_last: bool) -> None:
        """An epoch is done: a line each in the table, metrics.jsonl and TensorBoard."""
        self.rows.append(row)
        if not self.is_main:
            return
        if self.folder is not None:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.board is not None:
            keys = [key for key in row if key.startswith(("train_", "val_")) and row[key] is not None]
            self.board.scalars(row["step"], {key.replace("_", "/", 1): row[key] for key in keys})
            self.board.begin()
        took = clock(time.monotonic() - self._started) if is_last else None
        self.info(epoch_line(row, is_best, took, self._monitor))
        if self.progress is not None and is_best:
            self.progress.best = row["val_accuracy"]


class _Terminal(logging.Handler):
    """Results to stdout, everything else to stderr; the run survives if stderr is closed."""

    def __init__(self, log: RunLog, is_quiet: bool) -> None:
        super().__init__()
        self.log, self.is_quiet = log, is_quiet

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record. Raises RunError if the result cannot be written."""
        is_result = record.levelno == OUTPUT
        if is_result and self.is_quiet:
            return
        if self.log.progress is not None:
            self.log.progress.clear()
        try:
            print(record.getMessage(), file=sys.stdout if is_result else sys.stderr, flush=True)
        except OSError as error:
            if is_result and not isinstance(error, BrokenPipeError):
                raise RunError(f"cannot write the result to stdout: {error.strerror}") from error
            if is_result:
                raise


class _TrainLog(logging.FileHandler):
    """train.log; if it cannot be written (a full disk) the run continues without it."""

    def __init__(self, log: RunLog, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.log = log

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Called within the handling of the error."""
        error = sys.exc_info()[1]
        self.log.drop_train_log()
        if not isinstance(error, OSError):
            raise
        self.log.warning(f"train.log cannot be written ({error.strerror}); continuing without it")


def epoch_line(row: Row, is_best: bool, took: str | None, monitor: str = "val_accuracy") -> str:
    """A row of the table of epochs, under 80 columns."""
    val_loss = f"{row['val_loss']:8.3f}" if row["val_loss"] is not None else "       -"
    val_acc = f"{row['val_accuracy'] * 100:5.1f} %" if row["val_accuracy"] is not None else "      -"
    if monitor in SHOWN:
        val_acc += f"  {row[monitor]:{len(SHOWN[monitor])}.3f}" if row[monitor] is not None else "        -"
    line = f"{row['epoch']:5d}  {row['train_loss']:10.3f}  {val_loss}  {val_acc}  {row['images_per_second']:9,.0f}"
    line += "  best" if is_best else ""
    return f"{line:<{65 if monitor in SHOWN else 56}}{took} in all" if took else line


def read_rows(path: Path) -> list[Row]:
    """The whole lines of metrics.jsonl: a killed run can leave half a line at the end."""
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
