"""MNIST, Fashion-MNIST and whatever else comes as four IDX files."""

from __future__ import annotations

import contextlib
import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgcls.data.download import Archive, alone, data_root, fetch
from imgcls.data.source import Images, Source
from imgcls.errors import DataError

FILES = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}
MNIST_URLS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
MNIST_MD5 = {
    "train images": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train labels": "d53e105ee54ea40749a09fcbcd1e9432",
    "test images": "9fb629c4189551a2d022fa330f9573f3",
    "test labels": "ec29112dd5afa0611ce80d1b7f02629c",
}
FASHION_URLS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
FASHION_MD5 = {
    "train images": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train labels": "25c81989df183df01b3e8a0aad5dffbe",
    "test images": "bef4ecab320f06d8554ea6380940ec79",
    "test labels": "bb300cfdad3c16e7a12a480ee83cd310",
}
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def mnist(*, root: str | None, download: bool) -> Source:
    """Handwritten digits, 28x28 grey (LeCun et al. 1998), or any other four IDX files under ``root``."""
    return _source(root, "MNIST", download, MNIST_URLS, MNIST_MD5, names=(), mirror=False)


def fashion_mnist(*, root: str | None, download: bool) -> Source:
    """Articles of clothing, 28x28 grey: Xiao et al. 2017, https://arxiv.org/abs/1708.07747"""
    return _source(root, "FashionMNIST", download, FASHION_URLS, FASHION_MD5, names=FASHION_CLASSES, mirror=True)


def _source(
    root: str | None,
    folder: str,
    download: bool,
    urls: tuple[str, ...],
    md5: dict[str, str],
    *,
    names: tuple[str, ...],
    mirror: bool,
) -> Source:
    base = data_root(root)
    raw = base / folder / "raw"
    places = [base, base / "raw", raw] if root is not None else [raw]
    files = _find(places)
    missing = [part for part in FILES if part not in files]
    if missing and files and next(iter(files.values())).parent != raw:
        some = next(iter(files.values())).parent
        raise DataError(f"{FILES[missing[0]]} (or .gz) is missing beside {next(iter(files.values())).name} in {some}")
    for part in missing:
        archive = Archive(f"{FILES[part]}.gz", urls, md5[part])
        with alone(raw) if download else contextlib.nullcontext():
            files[part] = fetch(archive, raw, f"dataset={'fashion_mnist' if names else 'mnist'}", download)
    arrays = {part: read_idx(path, 3 if "images" in part else 1) for part, path in files.items()}
    for kind in ("train", "test"):
        images, labels = arrays[f"{kind} images"], arrays[f"{kind} labels"]
        if len(images) != len(labels):
            raise DataError(
                f"{files[f'{kind} labels']}: expected {len(images):,} labels, one for each image, got {len(labels):,}"
            )
    count = int(arrays["train labels"].max(initial=0)) + 1
    top = int(arrays["test labels"].max(initial=0))
    if top >= count:
        raise DataError(f"{files['test labels']}: label {top}, but the training labels end at {count - 1}")
    classes = names if len(names) == count else tuple(str(i) for i in range(count))
    parts = {kind: Images(arrays[f"{kind} labels"], pixels=arrays[f"{kind} images"]) for kind in ("train", "test")}
    return Source(classes, parts["train"], test=parts["test"], mirror=mirror)


def _find(places: list[Path]) -> dict[str, Path]:
    """The IDX files in the first place that holds any; t10k may be called test, and a dot may stand before idx."""
    for place in places:
        found: dict[str, Path] = {}
        for part, name in FILES.items():
            spellings = [name, name.replace("-idx", ".idx")]
            spellings += [spelling.replace("t10k", "test") for spelling in spellings]
            paths = (place / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz"))
            if hit := next((path for path in paths if path.is_file()), None):
                found[part] = hit
        if found:
            return found
    return {}


def read_idx(path: Path, dimensions: int) -> NDArray[Any]:
    """An IDX file of unsigned bytes, plain or .gz: http://yann.lecun.com/exdb/mnist/"""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    magic = bytes((0, 0, 8, dimensions))
    if raw[:4] != magic:
        raise DataError(
            f"{path}: expected magic number {magic.hex()} (IDX, {dimensions}-d bytes), got {raw[:4].hex() or 'nothing'}"
        )
    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise DataError(f"{path}: expected a header of {start} bytes, got {len(raw)}")
    shape = struct.unpack(f">{dimensions}I", raw[4:start])
    expected = start + math.prod(shape)
    if len(raw) != expected:
        raise DataError(f"{path}: expected {expected:,} bytes for shape {shape}, got {len(raw):,}")
    if 0 in shape:
        raise DataError(f"{path}: no images in it (shape {shape})")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)
