"""The mistakes and mishaps that end a command with one line instead of a traceback, each with its exit code."""

from __future__ import annotations

import errno
from typing import Any


class ImgclsError(Exception):
    """Something a person can act on; its text is the whole message."""

    exit_code = 1


class RunError(ImgclsError):
    """The run itself failed: non-finite loss, disk full, a folder that cannot be written."""


class ConfigError(ImgclsError):
    """A key, a value or a flag that cannot be used as given."""

    exit_code = 2


class DeviceError(ConfigError):
    """The device asked for is not there; under torchrun each rank that lacks one says so itself."""


class DataError(ImgclsError):
    """Data that is missing, damaged or of another kind than expected."""

    exit_code = 3


class UnreadableImage(DataError):
    """A file that is no image that can be decoded."""


class PartialFailure(DataError):
    """Some of the inputs could not be used; ``result`` is what was computed of the others."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class CheckpointError(ImgclsError):
    """A checkpoint that is missing, damaged or not ours."""

    exit_code = 3


class Terminated(KeyboardInterrupt):
    """SIGTERM where nobody waits for it: the process ends as it would by Ctrl-C, with a code of its own."""

    signal_number = 15


class Stopped(ImgclsError):
    """The run was asked to stop (SIGINT or SIGTERM) and has saved what it had."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def is_lost_peer(error: BaseException) -> bool:
    """Whether one of several processes has found that another has ended (gloo's words, torch's classes for NCCL)."""
    text = str(error)
    is_gloo = "gloo" in text and any(word in text for word in ("closed by peer", "reset by peer", "Broken pipe"))
    return is_gloo or type(error).__name__ in ("DistNetworkError", "DistBackendError")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what it says: torch has an error of its own for GPUs only."""
    is_named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    is_systems = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return is_named or is_systems or any(words in str(error) for words in ("can't allocate memory", "bad_alloc"))
