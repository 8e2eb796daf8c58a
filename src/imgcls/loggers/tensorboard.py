"""TensorBoard's event file, opened late and never fatal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PATIENCE = 3.0  # seconds after which the file is opened even if the first epoch is not done


def _hush_writer() -> None:
    """Print no errors of TensorBoard's writing thread: the next call from here raises them again."""
    before = threading.excepthook

    def hook(what: threading.ExceptHookArgs) -> None:
        if type(what.thread).__name__ != "_AsyncWriterThread":
            before(what)

    threading.excepthook = hook


class TensorBoardLog:
    """TensorBoard's event file. A failing writer (a full disk) is reported once and never stops a run.

    The writer is imported and the graph traced after the first epoch, or PATIENCE seconds into it, so that the first
    steps need not wait for either; values logged before that are kept until then.

    graph: the module to draw and the images to trace it with, if it is to be drawn.
    """

    def __init__(
        self,
        folder: Path,
        purge_step: int | None,
        graph: tuple[nn.Module, Tensor] | None,
        warning: Callable[[str], None],
    ) -> None:
        self.folder, self.purge_step, self.graph, self.warning = folder, purge_step, graph, warning
        self.writer: Any = None
        self.kept: list[tuple[int, Mapping[str, float], float]] | None = []  # None: opened, or failed
        self.made = time.monotonic()

    def begin(self) -> None:
        """Open the file, unless that is done."""
        if self.kept is None:
            return
        kept, self.kept = self.kept, None

        def start() -> None:
            from torch.utils.tensorboard import SummaryWriter

            _hush_writer()
            self.writer = SummaryWriter(str(self.folder), purge_step=self.purge_step)

        self._safely(start)
        if self.graph is not None:
            self._draw_graph(*self.graph)
        for step, values, when in kept:
            self._write(step, values, when)

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the run is worth more than its log
            self.writer = None
            self.warning(f"TensorBoard logging is off ({type(error).__name__}: {error}); the run continues")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step."""
        if self.kept is not None:
            self.kept.append((step, values, time.time()))
            if time.monotonic() - self.made > PATIENCE:
                self.begin()
        else:
            self._write(step, values, time.time())

    def _write(self, step: int, values: Mapping[str, float], when: float) -> None:
        def write() -> None:
            for tag, value in values.items():
                self.writer.add_scalar(tag, value, step, walltime=when)

        if self.writer is not None:
            self._safely(write)

    def picture(self, tag: str, step: int, pixels: NDArray[Any]) -> None:
        """An image, (H, W, 3) uint8, at a step."""
        if self.writer is not None:
            self._safely(lambda: self.writer.add_image(tag, pixels, step, dataformats="HWC"))

    def _draw_graph(self, module: nn.Module, images: Tensor) -> None:
        """The module's graph, traced in evaluation mode; a module that cannot be traced is only a warning.

        It is traced here because add_graph checks its own trace by comparing outputs, which takes 0.9 s of imports.
        """
        if self.writer is None:
            return
        import warnings

        was_training = module.training
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # torch.jit.trace is deprecated, but TensorBoard needs it
                module.eval()
                traced = torch.jit.trace(module, images, check_trace=False)  # type: ignore[no-untyped-call]
                self.writer.add_graph(traced, images)
        except Exception as error:  # noqa: BLE001 - tracing runs the user's own code
            self.warning(f"no graph in TensorBoard: {type(error).__name__}: {str(error).splitlines()[0]}")
        finally:
            module.train(was_training)

    def hparams(self, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """The run's settings next to its results, in this same file (add_hparams would start another run)."""

        def write() -> None:
            from torch.utils.tensorboard.summary import hparams

            plain = {
                key: value if isinstance(value, bool | int | float | str) else str(value)
                for key, value in settings.items()
            }
            for summary in hparams(plain, dict(metrics)):  # type: ignore[no-untyped-call]
                self.writer.file_writer.add_summary(summary)
            for tag, value in metrics.items():
                self.writer.add_scalar(tag, value, 0)

        if self.writer is not None:
            self._safely(write)

    def flush(self) -> None:
        """Put it on disk."""
        if self.writer is not None:
            self._safely(lambda: self.writer.flush())

    def close(self) -> None:
        """Flush and close."""
        if self.kept:
            self.begin()
        if self.writer is not None:
            self._safely(lambda: self.writer.close())
