"""Synthetic data for when there are no real files: MNIST and CIFAR-10 in their formats, folders of JPEGs.

Every image is its class's pattern plus noise, so that any model learns it; only the speed is of interest.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
QUALITY = 85  # of the JPEGs
SIDES = (64, 96)  # pixels: smallest and largest side of the JPEGs


@contextlib.contextmanager
def data_folder(datasets: set[str]) -> Iterator[tuple[str, bool]]:
    """(a folder with these data sets, whether they are real): IMGCLS_DATA, else a temporary one with synthetic data."""
    given = os.environ.get("IMGCLS_DATA")
    if given:
        yield given, True
        return
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-") as folder:
        if "mnist" in datasets:
            write_mnist(Path(folder))
        if "cifar10" in datasets:
            write_cifar10(Path(folder))
        yield folder, False


def _images(count: int, shape: tuple[int, ...], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(count, *shape) uint8 images of ten classes and their labels."""
    patterns = np.random.default_rng(0).integers(0, 120, (10, *shape), dtype=np.uint8)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count).astype(np.uint8)
    noise = rng.integers(0, 136, (count, *shape), dtype=np.uint8)
    return patterns[labels] + noise, labels


def write_mnist(root: Path, train: int = 60_000, test: int = 10_000) -> None:
    """Four IDX files in root/MNIST/raw, where torchvision and imgcls expect them."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count, seed in (("train", train, 1), ("t10k", test, 2)):
        images, labels = _images(count, (28, 28), seed)
        for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / name).write_bytes(header + array.tobytes())


def write_cifar10(root: Path, each: int = 10_000) -> None:
    """Five training batches, the test batch and the class names in root/cifar-10-batches-py."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        images, labels = _images(each, (3, 32, 32), seed)
        _pickle(folder / name, {"data": images.reshape(each, -1), "labels": labels.tolist()})
    _pickle(folder / "batches.meta", {"label_names": NAMES})


def _pickle(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


# --- class folders ---------------------------------------------------------------------------------------------------


def write_folders(
    root: Path, files: int, classes: int = 100, processes: int = 2, sides: tuple[int, int] = SIDES
) -> None:
    """Smooth JPEG images, 64 to 96 pixels per side, about 2.5 kB each, in one folder per class."""
    names = [f"class_{i:03d}" for i in range(min(classes, max(2, files // 10)))]
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
    paths = [str(root / names[i % len(names)] / f"{i:06d}.jpg") for i in range(files)]
    size = -(-files // (processes * 4))
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(_write_some, [(paths[start : start + size], start, sides) for start in range(0, files, size)]))


def _write_some(job: tuple[list[str], int, tuple[int, int]]) -> None:
    from PIL import Image

    paths, seed, sides = job
    rng = np.random.default_rng(seed)
    for path in paths:
        width, height = (int(side) for side in rng.integers(sides[0], sides[1] + 1, 2))
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=QUALITY)
