"""SIGINT, SIGTERM, SIGHUP and SIGUSR1: during a command, its imports, and training."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from imgcls.errors import Terminated

SWEEP_JOB = "IMGCLS_SWEEP_JOB"  # set in the environment of a sweep's jobs
RELAYING = (SWEEP_JOB, "TORCHELASTIC_RUN_ID")
RELAY = 1.0  # seconds

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


@contextlib.contextmanager
def handlers(**by_name: Handler) -> Iterator[None]:
    """Handle these signals inside (``SIGTERM=function``), then restore the previous handlers.

    Does nothing outside the main thread, and skips signals that the platform lacks.
    """
    is_main = threading.current_thread() is threading.main_thread()
    wanted = {getattr(signal, name): one for name, one in by_name.items() if is_main and hasattr(signal, name)}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_signals() -> list[str]:
    """The names of the signals that stop a run; SIGHUP, the end of the terminal, unless it is ignored (nohup)."""
    is_default = hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    return ["SIGINT", "SIGTERM", *(["SIGHUP"] if is_default else [])]


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises Terminated, much as SIGINT raises KeyboardInterrupt; SIGUSR1 is ignored before training."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    # SIGINT too: non-interactive shells start background jobs with it ignored
    with handlers(SIGTERM=terminate, SIGINT=signal.default_int_handler, SIGUSR1=signal.SIG_IGN):
        yield


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the imports inside are done, since torch aborts if a handler raises during its own.

    A second one ends the process at once.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    try:
        with handlers(SIGINT=note, SIGTERM=note):
            yield
    finally:
        for number in received:
            signal.raise_signal(number)


class Signals:
    """A context in which stop signals set ``received``, and SIGUSR1 ``wants_save``, for the run to check after a step.

    A second stop signal ends the process at once. A launcher may relay a signal that this process got as well: the
    same number within RELAY seconds counts once.
    """

    def __init__(self) -> None:
        self.received = 0
        self.since = 0.0
        self.is_relayed = any(name in os.environ for name in RELAYING)
        self.wants_save = False

    def __enter__(self) -> Signals:
        stopping = dict.fromkeys(stop_signals(), self._receive)
        self._handlers = handlers(SIGUSR1=self._ask_to_save, **stopping)
        self._handlers.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self._handlers.__exit__(*details)

    def _ask_to_save(self, number: int, frame: FrameType | None) -> None:
        self.wants_save = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if number == self.received and self.is_relayed and time.monotonic() - self.since < RELAY:
                return
            os._exit(128 + number)
        self.received, self.since = number, time.monotonic()
