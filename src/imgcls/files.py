"""Files that are written atomically, folders that one process uses at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from imgcls.errors import DataError, RunError


def write_whole(path: Path, *parts: bytes | memoryview, keep_as: Path | None = None) -> None:
    """Replace path by these bytes at once or not at all; what stood there becomes ``keep_as``.

    The folder has one writer (see runs/folder.py), so a temporary file that a kill left behind is overwritten.
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
        raise RunError(f"cannot save {path}: {error.strerror or error}; what stood there before is kept") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    with contextlib.suppress(PermissionError):  # Windows has no such thing
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def file_size(path: Path) -> int:
    """The size in bytes of what must be a regular file: opening a FIFO would wait forever. Raises DataError."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: not a regular file")
    return status.st_size


def is_present(path: Path) -> bool:
    """Whether there is something of that name that is no folder. A FIFO counts, and is refused when it is read."""
    return os.path.exists(path) and not os.path.isdir(path)


@contextlib.contextmanager
def locked(folder: Path, *, make: bool = True) -> Iterator[bool]:
    """One process at a time in there: runs that start together download and unpack once.

    Gives whether that is so: it is not where the file system has no locks, nor where there is no folder and none is
    to be made.
    """
    descriptor = _open_folder(folder, make)
    try:
        yield descriptor is not None and _acquire(descriptor, folder)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open_folder(folder: Path, make: bool) -> int | None:
    with contextlib.suppress(OSError):
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY)
    return None


def _acquire(descriptor: int, folder: Path) -> bool:
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that downloads or unpacks into {folder}", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    return False
