"""Where the pictures are drawn: beside the run, by a process that imports matplotlib while the run imports torch."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from imgcls.parallel import ipc

PATIENCE = 60.0  # seconds for a picture; the run draws it itself then


class BackgroundWorker:
    """Draws pictures, in the order in which they are ordered.

    apart: by a process of its own, forked now, where this process has one thread only (nothing that a fork could break)
    and there is a second core. Otherwise, and where that process has died, they are drawn by this one.
    """

    def __init__(self, *, apart: bool = False) -> None:
        self._orders: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._pipe: Connection | None = None
        if apart and sys.platform == "linux" and threading.active_count() == 1 and len(os.sched_getaffinity(0)) > 1:
            context = multiprocessing.get_context("fork")
            self._pipe, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs, self._pipe), daemon=True).start()
            theirs.close()

    def draw(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Order ``function(*arguments)``, one of report.py's; its value, or error, comes from ``finish``."""
        self._orders.append((function, arguments))
        if self._pipe is not None:
            try:
                ipc.send(self._pipe, (function, arguments))
            except OSError:
                self.close()

    def finish(self) -> list[Any]:
        """Wait for what was ordered since the last time; returns the values in order, raises the first error."""
        orders, self._orders = self._orders, []
        return [self._value(function, arguments) for function, arguments in orders]

    def _value(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        answer = self._answer()
        if answer is None:
            return function(*arguments)
        value, error = answer
        if error is not None:
            raise error
        return value

    def _answer(self) -> tuple[Any, Exception | None] | None:
        """(value, error) of the next order from the other process; None if it has none to give."""
        if self._pipe is None:
            return None
        with contextlib.suppress(EOFError, OSError):
            if self._pipe.poll(PATIENCE):
                answer: tuple[Any, Exception | None] = ipc.receive(self._pipe)
                return answer
        self.close()
        return None

    def close(self) -> None:
        """Let the other process end."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


def _serve(pipe: Connection, others: Connection) -> None:
    """The life of the other process: until the pipe is closed, or the run has ended without closing it."""
    others.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both: the run decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401

        while True:
            function, arguments = ipc.receive(pipe)
            try:
                ipc.send(pipe, (function(*arguments), None))
            except Exception as error:  # noqa: BLE001 - it is the run's to handle
                ipc.send(pipe, (None, error))
