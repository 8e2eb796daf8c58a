"""The handwritten digits that ship with scikit-learn: 1,797 real 8x8 images (UCI, Alpaydin & Kaynak 1998)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from imgcls.data.source import Images, Source

LEVELS = 16  # the values run from 0 to 16


def digits() -> Source:
    """8x8 gray images, ten classes, no separate test set."""
    table = _table()
    pixels = np.rint(table[:, :64] * (255 / LEVELS)).astype(np.uint8).reshape(-1, 8, 8)
    return Source(tuple("0123456789"), Images(table[:, 64].astype(np.int64), pixels=pixels))


def _table() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(1797, 65): 64 pixel values and the label. From the package's file: importing scikit-learn takes a second."""
    spec = importlib.util.find_spec("sklearn")
    for folder in spec.submodule_search_locations or () if spec else ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",", ndmin=2)
    from sklearn.datasets import load_digits  # if the file is somewhere else

    bunch = load_digits()
    return np.hstack([bunch.data, bunch.target[:, None]])
