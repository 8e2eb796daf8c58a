"""CIFAR-10 in two parts of 43 and 60 MB, for machines that take no larger files: lossless WebP mosaics and labels.

python benchmarks/pack_cifar.py DATA PARTS            # DATA/cifar-10-batches-py -> PARTS/cifar10-1.npz, -2.npz
python benchmarks/pack_cifar.py --unpack PARTS DATA   # and back; from the first part alone, a sixth is the test set
"""

from __future__ import annotations

import argparse
import io
import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthetic import NAMES

BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
PARTS = (slice(0, 25_000), slice(25_000, 60_000))
ROWS, COLUMNS = 100, 50  # images of a mosaic: WebP has at most 16,383 pixels per side


def mosaic(images: NDArray[np.uint8]) -> bytes:
    """(ROWS * COLUMNS, 32, 32, 3) uint8 -> WebP"""
    grid = images.reshape(ROWS, COLUMNS, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(ROWS * 32, COLUMNS * 32, 3)
    file = io.BytesIO()
    Image.fromarray(grid).save(file, "WEBP", lossless=True, quality=50, method=4)
    return file.getvalue()


def images_of(content: bytes) -> NDArray[np.uint8]:
    """The reverse of ``mosaic``."""
    grid = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    return grid.reshape(ROWS, 32, COLUMNS, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)


def pack(data: Path, parts: Path) -> None:
    """Write both parts."""
    parts.mkdir(parents=True, exist_ok=True)
    batches = [pickle.loads((data / "cifar-10-batches-py" / name).read_bytes(), encoding="latin1") for name in BATCHES]
    pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.array([label for batch in batches for label in batch["labels"]], dtype=np.uint8)
    size = ROWS * COLUMNS
    for i, part in enumerate(PARTS, start=1):
        own = np.ascontiguousarray(pixels[part])
        mosaics = [np.frombuffer(mosaic(own[at : at + size]), np.uint8) for at in range(0, len(own), size)]
        named = {f"mosaic_{number}": one for number, one in enumerate(mosaics)}
        np.savez(parts / f"cifar10-{i}.npz", labels=labels[part], **named)


def unpack(parts: Path, data: Path) -> None:
    """Write the batches as torchvision expects them."""
    pixels, labels = [], []
    for path in sorted(parts.glob("cifar10-*.npz")):
        with np.load(path) as file:
            pixels += [images_of(file[name].tobytes()) for name in file.files if name != "labels"]
            labels += file["labels"].tolist()
    flat = np.concatenate(pixels).transpose(0, 3, 1, 2).reshape(len(labels), -1)
    each = len(labels) // len(BATCHES)
    folder = data / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(BATCHES):
        some = slice(i * each, (i + 1) * each)
        (folder / name).write_bytes(pickle.dumps({"data": flat[some], "labels": labels[some]}, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}, protocol=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpack", action="store_true")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    (unpack if args.unpack else pack)(args.source, args.target)


if __name__ == "__main__":
    main()
