"""Where data lies, and how it gets there: several mirrors, a checksum, a time-out, never a half-written file."""

from __future__ import annotations

import contextlib
import hashlib
import http
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgcls.errors import DataError

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A file to be had at each of the folders ``urls``; its MD5 is the one that torchvision pins."""

    name: str
    urls: tuple[str, ...]
    md5: str


def data_root(root: str | None) -> Path:
    """dataset.root, else the variable IMGCLS_DATA, else data/ here."""
    return Path(os.path.expanduser(root or os.environ.get("IMGCLS_DATA") or "data"))


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time in there (where the file system has locks): runs that start together download once."""
    try:
        import fcntl

        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process that downloads into {folder}", file=sys.stderr)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fetch(archive: Archive, folder: Path, dataset: str, download: bool) -> Path:
    """The archive in the folder, downloaded if missing or damaged. Raises DataError that says what to put where.

    Whoever may download at the same time is kept out by ``alone``.
    """
    path = folder / archive.name
    advice = f"put it into {folder}, or try dataset=digits, which needs no download"
    what = f"{path} is missing"
    if path.is_file():
        found = _md5(path)
        if found == archive.md5:
            return path
        what = f"{path} is damaged ({_mismatch(archive.md5, found)})"
    if not download:
        raise DataError(f"{dataset}: {what} and dataset.download is false; {advice}")
    reason = "no mirror"
    for url in archive.urls:
        try:
            return _download(url + archive.name, path, archive.md5)
        except (OSError, http.client.HTTPException) as error:  # URLError, time-outs and disk errors are OSErrors
            reason = str(getattr(error, "reason", error))
    raise DataError(f"{dataset}: {what} and could not be downloaded ({reason}); {advice}")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _mismatch(expected: str, found: str) -> str:
    return f"checksum mismatch: expected MD5 {expected}, got {found}"


def _download(url: str, path: Path, md5: str) -> Path:
    """The file at that address. What a broken connection left in NAME.part is gone on with; a wrong sum removes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    there = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"}) if there else url
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if not there or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()  # it is as long as the file or longer, and was not it
        return _download(url, path, md5)
    with answer:
        goes_on = there > 0 and getattr(answer, "status", None) == http.HTTPStatus.PARTIAL_CONTENT
        print(f"download {url}{f' (going on at {there:,} bytes)' if goes_on else ''}", file=sys.stderr)
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
    if missing := getattr(answer, "length", None):  # the connection broke off: what has come is kept
        raise http.client.IncompleteRead(b"", missing)
    found = _md5(part)
    if found != md5:
        part.unlink()
        if goes_on:  # the part was of something else
            return _download(url, path, md5)
        raise OSError(_mismatch(md5, found))
    part.replace(path)
    return path
