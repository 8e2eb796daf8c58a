"""split.npz: the images of a run's splits, and whether they are still the same."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgcls.data.source import Images
from imgcls.errors import CheckpointError, DataError
from imgcls.files import write_whole

LARGEST_SPLIT = 1 << 31  # bytes of split.npz, unpacked


def write_split(folder: Path, parts: Mapping[str, Images | None]) -> None:
    """split.npz: names and fingerprints of the images of each split."""
    arrays: dict[str, Any] = {}
    for name, part in parts.items():
        if part is not None:
            arrays[name] = part.ids
    for name, part in parts.items():
        if part is not None:
            arrays[f"{name}.fingerprint"] = part.fingerprint()
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_whole(folder / "split.npz", file.getbuffer())


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
