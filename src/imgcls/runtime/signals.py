"""SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2: during a command, its imports, and training."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from imgcls.errors import Terminated

SWEEP_JOB = "IMGCLS_SWEEP_JOB"  # set in the environment of a sweep's jobs
SLURM_JOB = "SLURM_JOB_ID"
RELAYING = (SWEEP_JOB, "TORCHELASTIC_RUN_ID", SLURM_JOB, "RAY_JOB_ID")
RELAY = 1.0  # seconds
USR2_STOPS = "usr2"  # the value of SWEEP_JOB if SIGUSR2 stops the sweep

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
    return ["SIGINT", "SIGTERM", *(["SIGHUP"] if is_default else []), *(["SIGUSR2"] if handles_usr2() else [])]


def handles_usr2() -> bool:
    """Whether SIGUSR2, which SLURM and submitit send before the end of a job's time, stops this run.

    Not if it is ignored, as by a parent that deals with it; a sweep has its jobs ignore it only while they start.
    """
    if not hasattr(signal, "SIGUSR2"):
        return False
    return signal.getsignal(signal.SIGUSR2) != signal.SIG_IGN or os.environ.get(SWEEP_JOB) == USR2_STOPS


def pass_over(number: int, frame: FrameType | None) -> None:
    """A handler that does nothing. Unlike SIG_IGN it is not inherited by other programs."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises Terminated, much as SIGINT raises KeyboardInterrupt; SIGUSR1 and 2 do nothing before training."""

    def terminate(number: int, frame: FrameType | None) -> None:
        if not _is_relayed_again(number):
            _last.note(number)
            raise Terminated

    _last.clear()
    # SIGINT too: non-interactive shells start background jobs with it ignored
    usr2: dict[str, Handler] = {"SIGUSR2": pass_over} if handles_usr2() else {}
    with handlers(SIGTERM=terminate, SIGINT=signal.default_int_handler, SIGUSR1=signal.SIG_IGN, **usr2):
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


@dataclass
class _Last:
    """The last stop signal that was obeyed, and when."""

    number: int = 0
    time: float = -math.inf

    def note(self, number: int) -> None:
        self.number, self.time = number, time.monotonic()

    def clear(self) -> None:
        self.number, self.time = 0, -math.inf


_last = _Last()


def _is_relayed_again(number: int) -> bool:
    """Whether a stop signal is one that nobody typed: a launcher's copy of the last, or one of the several of SLURM.

    SLURM sends SIGUSR2 before the end of the time, SIGTERM twice at it, and again at the end of a grace; SIGKILL ends
    what takes too long.
    """
    if not _last.number:
        return False
    usr2 = getattr(signal, "SIGUSR2", None)
    if number == usr2 or (number == signal.SIGTERM and (SLURM_JOB in os.environ or _last.number == usr2)):
        return True
    is_relayed = any(name in os.environ for name in RELAYING)
    return number == _last.number and is_relayed and time.monotonic() - _last.time < RELAY


class Signals:
    """A context in which stop signals set ``received``, and SIGUSR1 ``wants_save``, for the run to check after a step.

    A second stop signal ends the process at once, unless a launcher may have sent it: see _is_relayed_again.
    """

    def __init__(self) -> None:
        self.received = 0
        self.wants_save = False

    def __enter__(self) -> Signals:
        _last.clear()
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
            if _is_relayed_again(number):
                return
            os._exit(128 + number)
        self.received = number
        _last.note(number)
