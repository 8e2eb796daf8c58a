"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf)."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgcls.data.datasets.download import Archive, data_root, fetch
from imgcls.data.datasets.safe_pickle import SafeUnpickler, StoredArray, to_numpy
from imgcls.data.source import Images, Source
from imgcls.errors import DataError, RunError
from imgcls.files import DISK_FULL, file_size, is_present, locked

URLS = ("https://www.cs.toronto.edu/~kriz/",)
FILES = {"cifar10": ("data_batch_1", "test_batch", "batches.meta"), "cifar100": ("train", "test", "meta")}
SIDE = 32
LARGEST = 1 << 28  # bytes of a file, and of all files in an archive; CIFAR-100's train takes 155 MB, or 230 as text


def cifar10(*, root: str | None, download: bool) -> Source:
    """Ten kinds of things, 32x32 RGB, 50,000 + 10,000."""
    archive = Archive("cifar-10-python.tar.gz", URLS, "c58f30108f718f92721af3b95e74349a", 170_498_071)
    folder = _folder(root, "cifar-10-batches-py", archive, "cifar10", download)
    train = [folder / f"data_batch_{i}" for i in range(1, 6)]
    return _source(train, folder / "test_batch", folder / "batches.meta", "labels", "label_names")


def cifar100(*, root: str | None, download: bool) -> Source:
    """A hundred kinds of things, 32x32 RGB, 50,000 + 10,000."""
    archive = Archive("cifar-100-python.tar.gz", URLS, "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437)
    folder = _folder(root, "cifar-100-python", archive, "cifar100", download)
    return _source([folder / "train"], folder / "test", folder / "meta", "fine_labels", "fine_label_names")


def _folder(root: str | None, name: str, archive: Archive, dataset: str, download: bool) -> Path:
    """The folder of batch files under root, downloaded and unpacked if necessary."""
    base = data_root(root)
    if os.path.isdir(base / name):
        return base / name
    if base.name == name or any(is_present(base / file) for file in FILES[dataset]):
        return base
    with locked(base, make=download) as is_locked:
        if not os.path.isdir(base / name):  # another process may have unpacked it meanwhile
            path = fetch(archive, base, f"dataset={dataset}", download)
            if is_locked:
                _tidy(base, name)
            _unpack(path, base, name)
    return base / name


def _tidy(base: Path, name: str) -> None:
    """Remove what a process that was killed while unpacking has left."""
    for left in base.glob(f".{name}-????????"):  # tempfile's names
        shutil.rmtree(left, ignore_errors=True)


def _unpack(path: Path, base: Path, name: str) -> None:
    """Extract the archive's folder ``name`` into base, completely or not at all."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=base) as scratch:
            with tarfile.open(path) as tar:
                tar.extractall(scratch, members=_plain(tar, path), filter="data")
            Path(scratch, name).rename(base / name)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, FileNotFoundError) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); remove it to download it again") from error
    except OSError as error:
        kind = RunError if error.errno in DISK_FULL else DataError
        raise kind(f"{path}: cannot be unpacked into {base} ({error.strerror or error})") from error


def _plain(tar: tarfile.TarFile, path: Path) -> list[tarfile.TarInfo]:
    """The archive's members. Raises DataError unless they are folders and files of a credible size."""
    members = tar.getmembers()
    for member in members:
        if not (member.isreg() or member.isdir()):
            raise DataError(f"{path}: refused, its member {member.name} is neither a file nor a folder")
    if sum(member.size for member in members) > LARGEST:
        raise DataError(f"{path}: refused, it would unpack to more than {LARGEST >> 20:,} MB")
    return members


def _source(train: list[Path], test: Path, meta: Path, label_key: str, names_key: str) -> Source:
    names = _names(_read(meta, names_key)[names_key], meta)
    splits = [_images(paths, label_key, len(names)) for paths in (train, [test])]
    return Source(tuple(names), splits[0], test=splits[1], augment="standard", mirror=True)


def _names(given: Any, path: Path) -> list[str]:
    if not isinstance(given, list) or not given or not all(isinstance(name, str) for name in given):
        raise DataError(f"{path}: expected a list of class names")
    return given


def _images(paths: list[Path], label_key: str, num_classes: int) -> Images:
    pixels, labels = np.empty((0, SIDE, SIDE, 3), dtype=np.uint8), []
    for path in paths:
        batch = _read(path, "data", label_key)
        data, count = batch["data"], _count(batch[label_key], num_classes, path)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (count, 3 * SIDE**2):
            raise DataError(
                f"{path}: expected uint8 data of shape ({count}, {3 * SIDE**2}), one row per label, "
                f"got {getattr(data, 'dtype', type(data).__name__)} {getattr(data, 'shape', '')}"
            )
        labels.append(_labels(batch[label_key], num_classes, path))
        before = len(pixels)
        pixels.resize((before + count, SIDE, SIDE, 3), refcheck=False)  # pages are moved, not copied
        for channel in range(3):  # three times as fast as a transposed copy
            pixels[before:, :, :, channel] = data.reshape(-1, 3, SIDE, SIDE)[:, channel]
    return Images(np.concatenate(labels), pixels=pixels)


def _expected(num_classes: int, path: Path) -> str:
    return f"{path}: expected a list of labels from 0 to {num_classes - 1}"


def _count(given: Any, num_classes: int, path: Path) -> int:
    """The number of labels, compared to the pixels before each label is unpacked to eight bytes."""
    if isinstance(given, list) or (isinstance(given, np.ndarray) and given.ndim == 1):
        return len(given)
    raise DataError(f"{_expected(num_classes, path)}, got {type(given).__name__}")


def _labels(given: list[Any] | NDArray[Any], num_classes: int, path: Path) -> NDArray[np.int64]:
    labels = given.tolist() if isinstance(given, np.ndarray) else given
    for label in labels:
        if type(label) is not int or not 0 <= label < num_classes:
            shown = str(label) if isinstance(label, int) else ascii(label[:40]) if isinstance(label, str) else ""
            raise DataError(f"{_expected(num_classes, path)}, got {shown[:42] or type(label).__name__}")
    return np.array(labels, dtype=np.int64)


def _read(path: Path, *keys: str) -> dict[str, Any]:
    """The values of these keys in a batch file's dictionary, which must have them."""
    if not os.path.exists(path):
        raise DataError(f"{path} is missing; put it there, or rename the folder to download all of it again")
    size = file_size(path)
    if size > LARGEST:
        raise DataError(f"{path}: larger than any CIFAR file")
    try:
        with path.open("rb") as file:
            content = SafeUnpickler(file, size).load()
        if not isinstance(content, dict) or any(key not in content for key in keys):
            raise DataError(f"{path}: expected a dictionary with {', '.join(keys)}")
        return {key: to_numpy(content[key]) if isinstance(content[key], StoredArray) else content[key] for key in keys}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except LookupError as error:
        raise DataError(f"{path}: not a CIFAR file (damaged)") from error
    except (ValueError, TypeError, AttributeError, struct.error) as error:  # what a damaged pickle can raise
        raise DataError(f"{path}: not a CIFAR file ({error})") from error
