"""split.npz: the images of a run's splits, and whether they are still the same."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgcls.data.copies import MOST_COMPARED, digest, end
from imgcls.data.source import Images
from imgcls.data.splits import RULE
from imgcls.errors import CheckpointError, DataError
from imgcls.files import write_whole

MOST_READ = 256  # test files whose ends are read
LARGEST_SPLIT = 1 << 31  # bytes of split.npz, unpacked


def write_split(folder: Path, parts: Mapping[str, Images | None], rule: int = RULE) -> str:
    """split.npz: names and fingerprints of the images of each split, the rule by which they were cut, and a
    checksum of the ends of some test files, which tells other data of the same names and sizes.

    Returns the SHA-256 of all that, the fingerprint of the data.
    """
    arrays: dict[str, Any] = {} if rule == 1 else {"rule": np.array(rule)}  # which earlier versions did not store
    for name, part in parts.items():
        if part is not None:
            arrays[name] = part.ids
    for name, part in parts.items():
        if part is not None:
            arrays[f"{name}.fingerprint"] = part.fingerprint()
    if (test := parts.get("test")) is not None and test.paths is not None:
        some = np.linspace(0, len(test) - 1, min(len(test), MOST_READ)).astype(np.int64)
        arrays["test.content"] = np.array(zlib.crc32(b"".join(end(test.paths[row]) for row in some)))
    file, sha = io.BytesIO(), hashlib.sha256()
    np.savez_compressed(file, **arrays)
    write_whole(folder / "split.npz", file.getbuffer())
    for name, array in arrays.items():
        sha.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return sha.hexdigest()


def cut_rule(run: Path, meta: Mapping[str, Any]) -> int:
    """By which rule (see splits.RULE) the run's splits were cut. meta: its checkpoint's, for one that left its run."""
    if (run / "split.npz").is_file():
        return RULE if "rule" in _split(run / "split.npz") else 1
    return 1 if meta.get("cut_rule", 1) == 1 else RULE


def check_same_images(run: Path, parts: Mapping[str, Images | None]) -> None:
    """Raises DataError if these splits differ from those in the run's split.npz in names or Images.fingerprint.

    New images in a data set without a test set, for example, would move trained images into the test split.
    """
    if not (run / "split.npz").is_file():
        return
    stored = _split(run / "split.npz")
    for name, part in parts.items():
        before = stored.get(name, np.array([]))
        now = np.array([]) if part is None else part.ids
        prints, found = stored.get(f"{name}.fingerprint"), None if part is None else part.fingerprint()
        if not np.array_equal(before, now):
            changes = f"{len(np.setdiff1d(now, before)):,} were added and {len(np.setdiff1d(before, now)):,} removed"
        elif prints is not None and found is not None and not np.array_equal(prints, found):
            count = int((prints != found).sum()) if len(prints) == len(found) == len(now) else "some"
            changes = f"{count} are different"
        else:
            continue
        raise DataError(
            f"the data set has changed since {run} was trained: of the {name} images, {changes}; "
            "start a new run, or evaluate it as a different data set with dataset=..."
        )


def count_trained(run: Path, images: Images) -> int:
    """How many of these files the run was trained on, by their names within the data folder and their sizes."""
    stored = _split(run / "split.npz") if images.paths is not None and (run / "split.npz").is_file() else {}
    known = {*zip(stored.get("train", ()), stored.get("train.fingerprint", ()), strict=False)}
    return sum(one in known for one in zip(images.ids, images.fingerprint(), strict=True)) if known else 0


def count_copies(run: Path, images: Images, start: str) -> int:
    """How many of these files are copies of some that the run was trained on, byte for byte.

    start: the folder that the names of the run's files begin at, or one that holds nothing but that folder. Only files
    of equal size are read. Of a run whose files are gone, names and sizes must do: all of them must be there.
    """
    stored = _split(run / "split.npz") if images.paths is not None and (run / "split.npz").is_file() else {}
    names, sizes = stored.get("train", np.array([])), stored.get("train.fingerprint", np.array([]))
    own = images.fingerprint()
    if images.paths is None or names.dtype.kind != "U" or len(names) != len(sizes):
        return 0
    theirs, ours = np.flatnonzero(np.isin(sizes, own)), np.flatnonzero(np.isin(own, sizes))
    if len(theirs) == 0 or len(theirs) + len(ours) > MOST_COMPARED:
        return 0
    base = _base(os.path.expanduser(start), str(names[theirs[0]]))
    if base is None:
        known = {*zip(images.ids.tolist(), own.tolist(), strict=True)}
        return len(names) if known.issuperset(zip(names.tolist(), sizes.tolist(), strict=True)) else 0
    trained = {digest(os.path.join(base, name)) for name in names[theirs].tolist()} - {b""}
    return sum(digest(images.paths[row]) in trained for row in ours)


def _base(folder: str, name: str) -> str | None:
    """The folder that the file's name begins at: this one, or below folders that hold nothing else."""
    for _ in range(4):
        if os.path.isfile(os.path.join(folder, name)):
            return folder
        try:
            inner = [entry.path for entry in os.scandir(folder) if not entry.name.startswith((".", "_"))]
        except OSError:
            return None
        if len(inner) != 1:
            return None
        folder = inner[0]
    return None


def _split(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays in a run's split.npz."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_SPLIT:
                raise ValueError("it is too large")
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile and numpy raise nearly anything
        raise CheckpointError(f"{path}: damaged ({error})") from error
