"""Files and folders: atomic writes, digests, folder locks, numbered folders."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Literal

from imgcls.errors import DataError, RunError

LOCK = ".lock"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, *parts: bytes | memoryview, keep_as: Path | None = None) -> None:
    """Replace the file by these bytes, all at once or not at all; the previous version is renamed to ``keep_as``.

    The folder has a single writer (see runs/folder.py), so a temporary file left by a kill is overwritten.
    Raises RunError if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _fsync_folder(path.parent.parent)
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        if keep_as is not None and path.exists():
            path.replace(keep_as)
        temporary.replace(path)
        _fsync_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot save {path}: {error.strerror or error}; the previous version is kept") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    with contextlib.suppress(PermissionError):  # Windows cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_size(path: Path) -> int:
    """The size of a regular file in bytes. Raises DataError for anything else: opening a FIFO would wait forever."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: not a regular file")
    return status.st_size


def file_digest(path: Path, algorithm: str) -> str:
    """The hexadecimal digest of a regular file, by one of hashlib's algorithms. Raises DataError if unreadable."""
    file_size(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def is_present(path: Path) -> bool:
    """Whether there is anything but a folder at that path; a FIFO counts, and is refused when it is read."""
    return os.path.exists(path) and not os.path.isdir(path)


def new_numbered_folder(parent: Path, name: str) -> Path:
    """Create PARENT/NAME-1, -2, ...: the number after the highest, or the next that no other process takes first.

    Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(rf"{re.escape(name)}-(\d+)")
    number = max((int(match[1]) for path in parent.iterdir() if (match := pattern.fullmatch(path.name))), default=0)
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            folder = parent / f"{name}-{number}"
            folder.mkdir()
            return folder


# --- locks -----------------------------------------------------------------------------------------------------------
# If there are none (Windows, some file systems), work continues without them.


@contextlib.contextmanager
def locked(folder: Path, *, make: bool = True) -> Iterator[bool]:
    """One process at a time uses the folder: runs started together download and unpack once.

    Yields whether the lock is held: it is not without locks, or if the folder is missing and ``make`` is false.
    """
    is_locked: bool | None = None
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            if make:
                folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)  # the folder itself: no lock file is left, and read-only will do
            stack.callback(os.close, descriptor)
            is_locked = _lock("flock", descriptor)
            if is_locked is False:
                print(f"waiting for another process that downloads or unpacks into {folder}", file=sys.stderr)
                is_locked = _lock("flock", descriptor, wait=True)
        yield is_locked is True


def hold(folder: Path) -> IO[str]:
    """Lock the folder for this process until the returned file is closed or the process ends, however it ends.

    Raises RunError that names the process that holds it, OSError if the folder cannot be written to.
    """
    file = (folder / LOCK).open("a+")
    if _lock("lockf", file) is False:
        with file:
            raise RunError(f"{folder} is in use by process {_holder(file)}")
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def holder_of(folder: Path) -> str | None:
    """The number of the process that holds the folder, None if no other does."""
    with contextlib.suppress(OSError), (folder / LOCK).open("r+") as file:
        return _holder(file) if _lock("lockf", file) is False else None
    return None


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "?"


def _lock(kind: Literal["flock", "lockf"], file: IO[str] | int, *, wait: bool = False) -> bool | None:
    """Whether the lock was acquired, None if there are no locks.

    flock works on folders; lockf is not inherited by forked workers, which may outlive a killed run.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        getattr(fcntl, kind)(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True
