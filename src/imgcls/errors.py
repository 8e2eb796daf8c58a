"""The errors that end a command with one line instead of a traceback, each with its exit code."""

from __future__ import annotations

import errno
from typing import Any


class ImgclsError(Exception):
    """An error that the user can act on; its text is the whole message."""

    exit_code = 1


class RunError(ImgclsError):
    """The run failed: non-finite loss, full disk, a folder that cannot be written."""


class ReadingFailed(RunError):
    """A file that the disk or the network does not deliver: nothing is known about what is in it."""


class Mismatch(RunError):
    """A result that did not come out as it should; ``result`` says in what it differs."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class ConfigError(ImgclsError):
    """A key, value or flag that cannot be used as given."""

    exit_code = 2


class DeviceError(ConfigError):
    """The requested device is not available; under torchrun each rank that lacks one reports it."""


class DataError(ImgclsError):
    """Data that is missing, damaged or not of the expected kind.

    kind: its word among the findings of ``imgcls data``; empty if there is none that fits.
    """

    exit_code = 3
    kind = ""


class UnreadableImage(DataError):
    """A file that cannot be decoded as an image."""


class PartialFailure(DataError):
    """Some of the inputs could not be used; ``result`` is what was computed for the others."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class CheckpointError(ImgclsError):
    """A checkpoint that is missing, damaged or not from imgcls."""

    exit_code = 3


class Terminated(KeyboardInterrupt):
    """SIGTERM outside training: the process ends as it would by Ctrl-C, but with exit code 143."""

    signal_number = 15


class Stopped(ImgclsError):
    """The run was stopped by a signal and has saved its state."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def error_line(text: object, who: str = "") -> str:
    """An error as it is printed; who: the process that it happened in, if not the main one."""
    return f"imgcls: error{who}: {text}"


def is_lost_peer(error: BaseException) -> bool:
    """Whether this means that another rank has ended: gloo's messages, torch's classes for NCCL."""
    text = str(error)
    is_gloo = "gloo" in text and any(word in text for word in ("closed by peer", "reset by peer", "Broken pipe"))
    return is_gloo or type(error).__name__ in ("DistNetworkError", "DistBackendError")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is an out-of-memory error: torch has a class for it only on GPUs."""
    is_named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    is_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return is_named or is_system or any(words in str(error) for words in ("can't allocate memory", "bad_alloc"))
