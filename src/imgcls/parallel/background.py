"""Draws plots in a background process, which imports matplotlib while the run imports torch."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from imgcls.parallel import ipc

PATIENCE = 60.0  # seconds for a plot; then the run draws it itself


class BackgroundWorker:
    """Draws plots in the order of the calls.

    apart: in a process forked now, if this one has a single thread (so that a fork is safe) and there is a second core.
    Otherwise, or if that process has died, this one draws them in ``finish``.
    """

    def __init__(self, *, apart: bool = False) -> None:
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._pipe: Connection | None = None
        if apart and sys.platform == "linux" and threading.active_count() == 1 and len(os.sched_getaffinity(0)) > 1:
            context = multiprocessing.get_context("fork")
            self._pipe, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs, self._pipe), daemon=True).start()
            theirs.close()

    def draw(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Start ``function(*arguments)``, one of reports/plots.py's; ``finish`` returns its value or raises."""
        self._calls.append((function, arguments))
        if self._pipe is not None:
            try:
                ipc.send(self._pipe, (function, arguments))
            except OSError:
                self.close()

    def finish(self) -> list[Any]:
        """Wait for all plots since the last call; returns the values in order, raises the first error."""
        calls, self._calls = self._calls, []
        return [self._value(function, arguments) for function, arguments in calls]

    def _value(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        answer = self._answer()
        if answer is None:
            return function(*arguments)
        value, error = answer
        if error is not None:
            raise error
        return value

    def _answer(self) -> tuple[Any, Exception | None] | None:
        """(value, error) of the next call from the other process, None if it has no answer."""
        if self._pipe is None:
            return None
        with contextlib.suppress(EOFError, OSError):
            if self._pipe.poll(PATIENCE):
                answer: tuple[Any, Exception | None] = ipc.receive(self._pipe)
                return answer
        self.close()
        return None

    def close(self) -> None:
        """End the other process."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


def _serve(pipe: Connection, others: Connection) -> None:
    """The main loop of the other process, which ends when the pipe is closed or the run has ended."""
    others.close()
    ipc.leave_signals_to_parent()
    with contextlib.suppress(EOFError, OSError):
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401

        while True:
            function, arguments = ipc.receive(pipe)
            try:
                ipc.send(pipe, (function(*arguments), None))
            except Exception as error:  # noqa: BLE001 - the run handles it
                ipc.send(pipe, (None, error))
