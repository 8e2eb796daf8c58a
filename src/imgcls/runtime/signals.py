"""SIGINT, SIGTERM and SIGUSR1: within a command, within its imports, within training."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from imgcls.errors import Terminated

SWEEP_JOB = "IMGCLS_SWEEP_JOB"  # set in the environment of a sweep's jobs
RELAYING = (SWEEP_JOB, "TORCHELASTIC_RUN_ID")
RELAY = 1.0  # seconds


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises, as SIGINT does: files are closed, and the message is said. SIGUSR1 has nothing to save yet."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    # a shell that is no terminal starts what stands before & deaf to it
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGUSR1"):
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM wait for the end of the imports inside, since torch's aborts when a handler raises.

    A second one ends the process at once.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {int(number): signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in received:
            signal.raise_signal(number)


class Signals:
    """SIGINT and SIGTERM set a number that the run looks at after each step; a second one ends the process at once.

    So does SIGHUP, the end of the terminal, unless it is ignored (nohup). SIGUSR1 asks to save and go on. What started
    this process may pass on a signal that it has got itself: one of the same number within RELAY seconds is the same.
    """

    def __init__(self) -> None:
        self.received = 0
        self.since = 0.0
        self.is_relayed = any(name in os.environ for name in RELAYING)
        self.wants_save = False
        self._before: dict[int, Any] = {}

    def _ask_to_save(self, number: int, frame: FrameType | None) -> None:
        self.wants_save = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if number == self.received and self.is_relayed and time.monotonic() - self.since < RELAY:
                return
            os._exit(128 + number)
        self.received, self.since = number, time.monotonic()

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
                self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._receive)
            if hasattr(signal, "SIGUSR1"):
                self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._ask_to_save)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
