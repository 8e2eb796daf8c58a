"""split.npz: which images a run's splits hold, and whether they are still the same."""

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
    """Raises DataError if these parts of the data set are no longer those of the run, as its split.npz has them.

    By the names of the images, and what Images.fingerprint tells of them.

    What a data set without a test set of its own has gained since would move trained images into the test part.
    """
    if not (run / "split.npz").is_file():
        return
    stored = _split(run / "split.npz")
    for name, part in parts.items():
        before = stored.get(name, np.array([]))
        now = np.array([]) if part is None else part.ids
        if not np.array_equal(before, now):
            new, gone = len(np.setdiff1d(now, before)), len(np.setdiff1d(before, now))
            raise DataError(
                f"the data set has changed since {run} was trained: of the {name} images {new:,} are new and "
                f"{gone:,} are gone; train anew, or evaluate it as another data set by dataset=..."
            )
        tells = stored.get(f"{name}.fingerprint")
        if part is not None and tells is not None and not np.array_equal(tells, found := part.fingerprint()):
            count = int((tells != found).sum()) if len(tells) == len(found) == len(part) else "some"
            raise DataError(
                f"the data set has changed since {run} was trained: of the {name} images {count} are not what they "
                "were; train anew, or evaluate it as another data set by dataset=..."
            )


def count_trained(run: Path, images: Images) -> int:
    """How many of these files the run was trained on: of the same names within the data folder, and the same sizes."""
    stored = _split(run / "split.npz") if images.paths is not None and (run / "split.npz").is_file() else {}
    known = {*zip(stored.get("train", ()), stored.get("train.fingerprint", ()), strict=False)}
    return sum(one in known for one in zip(images.ids, images.fingerprint(), strict=True)) if known else 0


def _split(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a run's split.npz."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_SPLIT:
                raise ValueError("it is too large")
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile and numpy raise nearly anything
        raise CheckpointError(f"{path}: damaged ({error})") from error
