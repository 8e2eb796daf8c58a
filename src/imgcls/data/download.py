"""Where data lies, and how it gets there: several mirrors, a checksum, a time-out, never a half-written file."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.request
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


def fetch(archive: Archive, folder: Path, dataset: str, download: bool) -> Path:
    """The archive in the folder, downloaded if missing or damaged. Raises DataError that says what to put where."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, part.open("wb") as file:
            print(f"download {url}", file=sys.stderr)
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
        if digest.hexdigest() != md5:
            raise OSError(_mismatch(md5, digest.hexdigest()))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
