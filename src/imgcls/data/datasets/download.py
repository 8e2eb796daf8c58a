"""The data folder, and downloads into it: mirrors, checksum, timeout, resumption, never a half-written file."""

from __future__ import annotations

import http
import http.client
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgcls.errors import DataError, RunError
from imgcls.files import DISK_FULL, file_digest, file_size

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A file that each of the folders ``urls`` has; its MD5 is the one that torchvision pins.

    size: in bytes; no more is accepted.
    """

    name: str
    urls: tuple[str, ...]
    md5: str
    size: int = 1 << 30


def data_root(root: str | None) -> Path:
    """dataset.root, else $IMGCLS_DATA, else ./data."""
    return Path(os.path.expanduser(root or os.environ.get("IMGCLS_DATA") or "data"))


def fetch(archive: Archive, folder: Path, dataset: str, download: bool) -> Path:
    """The archive in the folder, downloaded if missing or damaged.

    Raises DataError that says what to put where, RunError if the disk is full. The caller holds the folder's lock
    (``files.locked``).
    """
    path = folder / archive.name
    advice = f"put it into {folder}, or use dataset=digits, which needs no download"
    what = f"{path} is missing"
    if os.path.exists(path):
        found = file_digest(path, "md5")
        if found == archive.md5:
            return path
        what = f"{path} is damaged ({_mismatch(archive.md5, found)})"
    if not download:
        raise DataError(f"{dataset}: {what} and dataset.download is false; {advice}")
    reason = "no mirror"
    for url in archive.urls:
        try:
            return _download(url + archive.name, path, archive)
        except (OSError, http.client.HTTPException) as error:  # URLError, time-outs and disk errors are OSErrors
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise RunError(
                    f"cannot download {path}: {error.strerror}; the part downloaded so far is kept"
                ) from error
            reason = str(getattr(error, "reason", error))
    raise DataError(f"{dataset}: {what} and could not be downloaded ({reason}); {advice}")


def is_intact(archive: Archive, folder: Path) -> bool:
    """Whether the folder has the archive, undamaged."""
    path = folder / archive.name
    return os.path.isfile(path) and file_digest(path, "md5") == archive.md5


def _mismatch(expected: str, found: str) -> str:
    return f"checksum mismatch: expected MD5 {expected}, got {found}"


def _open(request: urllib.request.Request) -> Any:
    return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)


def _download(url: str, path: Path, archive: Archive) -> Path:
    """Download the file, resuming NAME.part if a broken connection has left one; a wrong checksum removes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    start = file_size(part) if os.path.exists(part) else 0
    try:
        answer = _open(urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {}))
    except urllib.error.HTTPError as error:
        if not start or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()  # as long as the file or longer, and not the file
        return _download(url, path, archive)
    with answer:
        is_resumed = start > 0 and getattr(answer, "status", None) == http.HTTPStatus.PARTIAL_CONTENT
        print(f"download {url}{f' (resuming at {start:,} bytes)' if is_resumed else ''}", file=sys.stderr)
        room = archive.size - (start if is_resumed else 0)
        with part.open("ab" if is_resumed else "wb") as file:
            while room >= 0 and (chunk := answer.read(CHUNK)):
                file.write(chunk[:room])
                room -= len(chunk)
    if room < 0 and not is_resumed:
        part.unlink()
        raise OSError(f"received more than the expected {archive.size:,} bytes")
    if room >= 0 and (missing := getattr(answer, "length", None)):  # the connection broke: NAME.part is kept
        raise http.client.IncompleteRead(b"", missing)
    found = file_digest(part, "md5")
    if found != archive.md5:
        part.unlink()
        if is_resumed:  # the part was of a different file
            return _download(url, path, archive)
        raise OSError(_mismatch(archive.md5, found))
    part.replace(path)
    return path


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything less secure."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if req.type == "https" and scheme != "https":
            fp.close()
            raise urllib.error.URLError(f"refused: {req.host} redirects from https to {scheme[:10]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
