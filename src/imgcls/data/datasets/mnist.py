"""MNIST, Fashion-MNIST and any other data set stored as four IDX files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgcls.data.datasets.download import Archive, data_root, fetch, is_intact
from imgcls.data.source import Images, Source
from imgcls.errors import DataError
from imgcls.files import file_size, is_present, locked

FILES = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}


def _archives(urls: tuple[str, ...], *files: tuple[str, int]) -> dict[str, Archive]:
    """{role: archive}, from the MD5 and size of each."""
    return {role: Archive(f"{name}.gz", urls, *one) for (role, name), one in zip(FILES.items(), files, strict=True)}


ARCHIVES = {
    "MNIST": _archives(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
        ("d53e105ee54ea40749a09fcbcd1e9432", 28_881),
        ("9fb629c4189551a2d022fa330f9573f3", 1_648_877),
        ("ec29112dd5afa0611ce80d1b7f02629c", 4_542),
    ),
    "FashionMNIST": _archives(
        (
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
        ("25c81989df183df01b3e8a0aad5dffbe", 29_515),
        ("bef4ecab320f06d8554ea6380940ec79", 4_422_102),
        ("bb300cfdad3c16e7a12a480ee83cd310", 5_148),
    ),
}
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
Opened = BufferedReader | gzip.GzipFile
CHUNK = 1 << 20
SMALL = 64 << 20  # bytes to which any .gz may unpack
RATIO = 100  # by which a larger one may grow; photographs grow by 2, zeros by 1,000


class Truncated(DataError):
    """A .gz that ends too early or is not one, as an aborted download leaves it."""


def mnist(*, root: str | None, download: bool) -> Source:
    """Handwritten digits, 28x28 gray (LeCun et al. 1998), or any other four IDX files under ``root``."""
    return _source("dataset=mnist", "MNIST", root, download)


def fashion_mnist(*, root: str | None, download: bool) -> Source:
    """Articles of clothing, 28x28 gray: Xiao et al. 2017, https://arxiv.org/abs/1708.07747"""
    return _source("dataset=fashion_mnist", "FashionMNIST", root, download, FASHION_CLASSES, mirror=True)


def _source(
    dataset: str, folder: str, root: str | None, download: bool, names: tuple[str, ...] = (), *, mirror: bool = False
) -> Source:
    base = data_root(root)
    raw, archives = base / folder / "raw", ARCHIVES[folder]

    def fetched(role: str) -> Path:
        with locked(raw, make=download):
            return fetch(archives[role], raw, dataset, download)

    files = _find([base, base / "raw", raw] if root is not None else [raw])
    missing = [role for role in FILES if role not in files]
    if missing and files and (some := next(iter(files.values()))).parent != raw:
        raise DataError(f"{FILES[missing[0]]} (or .gz) is missing in {some.parent}, which has {some.name}")
    files |= {role: fetched(role) for role in missing}
    arrays, truncated = _read({role: files[role] for role in FILES})
    if truncated and not (download and _is_own_download(archives, raw, files, set(truncated))):
        raise next(iter(truncated.values()))
    arrays |= _read({role: fetched(role) for role in truncated})[0]
    count = _check_labels(arrays, files)
    classes = names if len(names) == count else tuple(str(i) for i in range(count))
    splits = {kind: Images(arrays[f"{kind} labels"], pixels=arrays[f"{kind} images"]) for kind in ("train", "test")}
    return Source(classes, splits["train"], test=splits["test"], mirror=mirror)


def _find(places: list[Path]) -> dict[str, Path]:
    """The IDX files in the first place that has any; also test for t10k, and a dot in front of idx."""
    for place in places:
        found: dict[str, Path] = {}
        for role, name in FILES.items():
            spellings = [name, name.replace("-idx", ".idx")]
            spellings += [spelling.replace("t10k", "test") for spelling in spellings]
            paths = (place / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz"))
            if hit := next((path for path in paths if is_present(path)), None):
                found[role] = hit
        if found:
            return found
    return {}


def _read(files: dict[str, Path]) -> tuple[dict[str, NDArray[Any]], dict[str, Truncated]]:
    """The arrays by role, and the errors of truncated files."""
    arrays: dict[str, NDArray[Any]] = {}
    truncated: dict[str, Truncated] = {}
    for role, path in files.items():
        try:
            arrays[role] = read_idx(path, 3 if "images" in role else 1)
        except Truncated as error:
            truncated[role] = error
    return arrays, truncated


def _is_own_download(archives: dict[str, Archive], raw: Path, files: dict[str, Path], truncated: set[str]) -> bool:
    """Whether the truncated files come from a download and may be replaced, rather than being the user's.

    They must have the archives' names and be no larger; the other files must be the archives.
    """
    return all(
        files[role] == raw / archive.name and file_size(files[role]) <= archive.size
        if role in truncated
        else is_intact(archive, raw)
        for role, archive in archives.items()
    )


def _check_labels(arrays: dict[str, NDArray[Any]], files: dict[str, Path]) -> int:
    """The number of classes. Raises DataError if labels do not fit the images, or test labels the training labels."""
    for kind in ("train", "test"):
        images, labels = arrays[f"{kind} images"], arrays[f"{kind} labels"]
        if len(images) != len(labels):
            path = files[f"{kind} labels"]
            raise DataError(f"{path}: expected {len(images):,} labels, one per image, got {len(labels):,}")
    last, top = int(arrays["train labels"].max()), int(arrays["test labels"].max())
    if top > last:
        raise DataError(f"{files['test labels']}: label {top}, but the training labels end at {last}")
    return last + 1


def read_idx(path: Path, dimensions: int) -> NDArray[Any]:
    """An IDX file of unsigned bytes, plain or .gz: http://yann.lecun.com/exdb/mnist/

    Raises Truncated for a .gz that is cut off or is not one, DataError for anything else, both before the file takes
    more memory than it can fill.
    """
    size, is_packed = file_size(path), path.suffix == ".gz"
    try:
        with gzip.open(path) if is_packed else path.open("rb") as file:
            try:
                return _content(file, path, dimensions, size, is_packed)
            except DataError:
                if is_packed:
                    _drain(file)
                raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Truncated(f"{path}: cannot be read ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _content(file: Opened, path: Path, dimensions: int, size: int, is_packed: bool) -> NDArray[Any]:
    """The array in an open file of ``size`` bytes."""
    magic, start = bytes((0, 0, 8, dimensions)), 4 + 4 * dimensions
    header = file.read(start)
    if not header and is_packed:
        raise EOFError("it is empty")
    if header[:4] != magic:
        wanted = f"expected magic number {magic.hex()} (IDX, {dimensions}-d bytes)"
        raise DataError(f"{path}: {wanted}, got {header[:4].hex() or 'nothing'}")
    if len(header) < start:
        raise DataError(f"{path}: expected a header of {start} bytes, got {len(header)}")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    expected = start + math.prod(shape)
    wanted = f"expected {expected:,} bytes for shape {shape}"
    if is_packed and expected > max(SMALL, RATIO * size):
        raise DataError(f"{path}: refused, its {size:,} bytes would be {expected:,} unpacked, for shape {shape}")
    if not is_packed and size != expected:
        raise DataError(f"{path}: {wanted}, got {size:,}")
    array = np.empty(expected - start, np.uint8)
    found = start + _fill(file, array)
    if found != expected or file.read(1):
        raise DataError(f"{path}: {wanted}, got {f'{found:,}' if found != expected else 'more'}")
    if 0 in shape:
        raise DataError(f"{path}: no images in it (shape {shape})")
    return array.reshape(shape)


def _fill(file: Opened, array: NDArray[np.uint8]) -> int:
    """Read as many bytes as the array takes; returns how many there were."""
    view, done = array.data, 0
    while done < len(array) and (count := file.readinto(view[done : done + CHUNK])):
        done += count
    return done


def _drain(file: Opened) -> None:
    """Read on to the checksum at the end of a .gz, if it is near: a damaged file may begin with anything."""
    for _ in range(SMALL // CHUNK):
        if not file.read(CHUNK):
            return
