"""The live progress line on a terminal."""

from __future__ import annotations

import math
import time
from typing import Any

from imgcls.text import clock

REDRAW = 0.2  # seconds between two updates of the line


class ProgressLine:
    """One line on stderr: epoch, progress, loss, speed, time left for the whole run, best accuracy so far."""

    def __init__(self, step: int, total: int, epochs: int) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.first, self.total, self.epochs = step, total, epochs
        self.best: float | None = None
        self.loss = math.nan
        self.images = 0
        self.started = self.drawn = time.monotonic()
        self.rich = RichLive(console=Console(stderr=True), auto_refresh=False, transient=True)
        self.rich.start()

    def update(self, step: int, epoch: int, images: int, loss: float | None) -> None:
        """After each step; draws a few times a second."""
        self.images += images
        self.loss = self.loss if loss is None else loss
        now = time.monotonic()
        if now - self.drawn >= REDRAW:
            self.drawn = now
            self.rich.update(self._line(step, epoch, now - self.started), refresh=True)

    def _line(self, step: int, epoch: int, seconds: float) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        share = step / self.total
        left = seconds / max(1, step - self.first) * (self.total - step)
        words = f"{share * 100:.0f} %"
        words += "" if math.isnan(self.loss) else f"  loss {self.loss:.3g}"
        words += f"  {self.images / max(seconds, 1e-9):,.0f} img/s  {clock(left)} left"
        words += "" if self.best is None else f"  best {self.best * 100:.1f} %"
        grid = Table.grid(padding=(0, 1))
        grid.add_row(f"{epoch + 1:>2}/{self.epochs}", ProgressBar(self.total, step, width=20), words)
        return grid

    def clear(self) -> None:
        """Make room for a line of text; the next update draws the line again."""
        self.rich.update("", refresh=True)

    def close(self) -> None:
        """Remove the line."""
        self.rich.update("")
        self.rich.stop()
