"""How often the test images of a run were used before: the best of many tested runs flatters."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

SECONDS, MOST_ENTRIES = 0.1, 2000  # of looking into other folders
HEAD = 256  # bytes of report.json: its first key is the split
MARKS = ("test", "test.fingerprint", "test.content")  # of split.npz: which images a run was or would be tested on
Mark = tuple[int, int] | None  # checksum and size of a stored array


def tested_before(folder: Path) -> str:
    """How many other runs beside this one, and in the sweeps there, were tested on the same images, as a phrase.

    It is empty if none was. Of very many folders only some are looked at.
    """
    own = marks(folder / "split.npz", *MARKS)
    here = folder.absolute().parent
    here = here.parent if (here / "sweep.json").is_file() else here  # a job of a sweep
    count, stop, is_whole = 0, time.monotonic() + SECONDS, True
    for place in _folders(here):
        if place is None or time.monotonic() > stop:
            is_whole = False
            break
        if not os.path.samefile(place, folder):
            count += _was_tested(place, own)
    more = "" if is_whole else " or more"
    return f"tested by {count:,} run{'s' if count > 1 else ''}{more} here before" if count else ""


def _folders(here: Path) -> Iterator[Path | None]:
    """The run folders there and in its sweeps; None at the end if there are too many entries to see all."""
    for number, path in enumerate(_inner(here)):
        if number == MOST_ENTRIES:
            yield None
        if (path / "split.npz").is_file():
            yield path
        elif (path / "sweep.json").is_file():
            yield from (job for job in _inner(path) if (job / "split.npz").is_file())


def _inner(folder: Path) -> Iterator[Path]:
    """The folders in it."""
    try:
        with os.scandir(folder) as found:
            yield from (Path(one.path) for one in found if one.is_dir())
    except OSError:
        return


def _was_tested(run: Path, own: list[Mark]) -> bool:
    """Whether the run, or an evaluation of it, was tested on the images with these marks."""
    *must, content = marks(run / "split.npz", *MARKS)
    # earlier versions did not store the content
    if must != own[:2] or None in must or (None not in (content, own[2]) and content != own[2]):
        return False
    return _is_of_test(run) or any(
        _is_of_test(one) and must[0] in marks(one / "predictions.npz", "path", "index")
        for one in _inner(run / "evaluations")
    )


def _is_of_test(folder: Path) -> bool:
    """Whether the report there is about test images."""
    try:
        with (folder / "report.json").open("rb") as file:
            return b'"split": "test"' in file.read(HEAD)
    except OSError:
        return False


def marks(path: Path, *names: str) -> list[Mark]:
    """Checksum and size of arrays in a .npz file, which the file's directory knows; None for one that is not there."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {info.filename: (info.CRC, info.file_size) for info in archive.infolist()}
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):  # zipfile: of a newer format than it knows
        found = {}
    return [found.get(f"{name}.npy") for name in names]
