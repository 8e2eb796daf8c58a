"""Forked processes: the signals they leave to the main one, and messages without pickle.

A message holds plain values, lists, tuples, sets, dicts, arrays, paths, functions (by name) and errors.
"""

from __future__ import annotations

import importlib
import marshal
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from imgcls import errors

ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        *(errors.DataError, errors.UnreadableImage, errors.RunError, errors.ReadingFailed),
        *(MemoryError, ValueError, TypeError),
    )
}


def leave_signals_to_parent() -> None:
    """In a new child process: Ctrl-C reaches the whole group, and the main process decides what to do."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def send(pipe: Connection, value: Any) -> None:
    """Send a value of the kinds above. Raises TypeError for others, OSError if the other end is gone."""
    pipe.send_bytes(marshal.dumps(_packed(value)))


def receive(pipe: Connection) -> Any:
    """The next value from the other end. Raises EOFError or OSError if it is gone."""
    return _unpacked(marshal.loads(pipe.recv_bytes()))


def _packed(value: Any) -> Any:
    """Plain values as they are, others as (kind, what is needed to rebuild them)."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [_packed(one) for one in value]
    if isinstance(value, dict):
        return {key: _packed(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return ("tuple", [_packed(one) for one in value])
    if isinstance(value, set):
        return ("set", [_packed(one) for one in value])
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, Path):
        return ("path", str(value))
    if isinstance(value, OSError) and value.errno is not None:
        return ("system error", value.errno, value.strerror, value.filename and str(value.filename))
    if isinstance(value, Exception):
        return ("error", type(value).__name__, str(value))
    if callable(value):
        return ("function", value.__module__, value.__qualname__)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(one) for one in value]
    if isinstance(value, dict):
        return {key: _unpacked(one) for key, one in value.items()}
    if not isinstance(value, tuple):
        return value
    kind, *rest = value
    return MAKERS[kind](*rest)


def _array(kind: str, shape: tuple[int, ...], data: bytes) -> Any:
    return np.frombuffer(data, dtype=np.dtype(kind)).reshape(shape).copy()  # writable


def _error(name: str, text: str) -> Exception:
    return ERRORS[name](text) if name in ERRORS else RuntimeError(f"{name}: {text}")


MAKERS: dict[str, Callable[..., Any]] = {
    "tuple": lambda values: tuple(map(_unpacked, values)),
    "set": lambda values: set(map(_unpacked, values)),
    "array": _array,
    "path": Path,
    "system error": OSError,
    "error": _error,
    "function": lambda module, name: getattr(importlib.import_module(module), name),
}
