"""MNIST, Fashion-MNIST and whatever else comes as four IDX files."""

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
MNIST_URLS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
MNIST_MD5 = {
    "train images": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train labels": "d53e105ee54ea40749a09fcbcd1e9432",
    "test images": "9fb629c4189551a2d022fa330f9573f3",
    "test labels": "ec29112dd5afa0611ce80d1b7f02629c",
}
MNIST_SIZES = {"train images": 9_912_422, "train labels": 28_881, "test images": 1_648_877, "test labels": 4_542}
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
FASHION_SIZES = {"train images": 26_421_880, "train labels": 29_515, "test images": 4_422_102, "test labels": 5_148}
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
Opened = BufferedReader | gzip.GzipFile
CHUNK = 1 << 20
SMALL = 64 << 20  # bytes: what any .gz may unpack to
RATIO = 100  # and what a larger one may grow by; photographs grow by 2, zeros by 1,000


def mnist(*, root: str | None, download: bool) -> Source:
    """Handwritten digits, 28x28 grey (LeCun et al. 1998), or any other four IDX files under ``root``."""
    archives = _archives(MNIST_URLS, MNIST_MD5, MNIST_SIZES)
    return _source("mnist", root, "MNIST", archives, download, names=(), mirror=False)


def fashion_mnist(*, root: str | None, download: bool) -> Source:
    """Articles of clothing, 28x28 grey: Xiao et al. 2017, https://arxiv.org/abs/1708.07747"""
    archives = _archives(FASHION_URLS, FASHION_MD5, FASHION_SIZES)
    return _source("fashion_mnist", root, "FashionMNIST", archives, download, names=FASHION_CLASSES, mirror=True)


def _archives(urls: tuple[str, ...], md5: dict[str, str], sizes: dict[str, int]) -> dict[str, Archive]:
    return {part: Archive(f"{name}.gz", urls, md5[part], sizes[part]) for part, name in FILES.items()}


def _source(
    dataset: str,
    root: str | None,
    folder: str,
    archives: dict[str, Archive],
    download: bool,
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
        with locked(raw, make=download):
            files[part] = fetch(archives[part], raw, f"dataset={dataset}", download)
    arrays, truncated = _read_all(files)
    if truncated and not (download and _is_own_download(archives, raw, files, set(truncated))):
        raise next(iter(truncated.values()))
    for part in truncated:
        with locked(raw):
            files[part] = fetch(archives[part], raw, f"dataset={dataset}", download)
        arrays[part] = _read(files, part)
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
            if hit := next((path for path in paths if is_present(path)), None):
                found[part] = hit
        if found:
            return found
    return {}


def _read_all(files: dict[str, Path]) -> tuple[dict[str, NDArray[Any]], dict[str, Truncated]]:
    """The arrays by part, and those that are torn."""
    arrays: dict[str, NDArray[Any]] = {}
    truncated: dict[str, Truncated] = {}
    for part in FILES:
        try:
            arrays[part] = _read(files, part)
        except Truncated as error:
            truncated[part] = error
    return arrays, truncated


def _read(files: dict[str, Path], part: str) -> NDArray[Any]:
    return read_idx(files[part], 3 if "images" in part else 1)


def _is_own_download(archives: dict[str, Archive], raw: Path, files: dict[str, Path], truncated: set[str]) -> bool:
    """Whether the torn files are what is left of a download, which may be replaced, and not somebody's own.

    They must have the archives' names, and those of the others that are whole must be the archives.
    """
    return all(
        files[part] == raw / archive.name and file_size(files[part]) <= archive.size
        if part in truncated
        else is_intact(archive, raw)
        for part, archive in archives.items()
    )


def read_idx(path: Path, dimensions: int) -> NDArray[Any]:
    """An IDX file of unsigned bytes, plain or .gz: http://yann.lecun.com/exdb/mnist/

    Raises Torn for a .gz that is cut off or none, DataError for all else; both before more memory is taken than such
    a file can fill.
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
    """The array in an open file of so many bytes."""
    magic = bytes((0, 0, 8, dimensions))
    start = 4 + 4 * dimensions
    header = file.read(start)
    if not header and is_packed:
        raise EOFError("it is empty")
    if header[:4] != magic:
        raise DataError(
            f"{path}: expected magic number {magic.hex()} (IDX, {dimensions}-d bytes), "
            f"got {header[:4].hex() or 'nothing'}"
        )
    if len(header) < start:
        raise DataError(f"{path}: expected a header of {start} bytes, got {len(header)}")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    expected = start + math.prod(shape)
    if is_packed and expected > max(SMALL, RATIO * size):
        raise DataError(f"{path}: refused, its {size:,} bytes would be {expected:,} unpacked, for shape {shape}")
    if not is_packed and size != expected:
        raise DataError(f"{path}: expected {expected:,} bytes for shape {shape}, got {size:,}")
    array = np.empty(expected - start, np.uint8)
    found = start + _fill(file, array)
    if found != expected or file.read(1):
        got = f"{found:,}" if found != expected else "more"
        raise DataError(f"{path}: expected {expected:,} bytes for shape {shape}, got {got}")
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
    """Go on to the checksum at the end of a .gz, if it is near: a damaged one may begin with anything."""
    for _ in range(SMALL // CHUNK):
        if not file.read(CHUNK):
            return


class Truncated(DataError):
    """A .gz that ends too early or is none: what an aborted download leaves."""
