"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf)."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgcls.data.download import Archive, alone, data_root, fetch
from imgcls.data.source import Images, Source
from imgcls.errors import DataError

URLS = ("https://www.cs.toronto.edu/~kriz/",)
FILES = {"cifar10": ("data_batch_1", "test_batch", "batches.meta"), "cifar100": ("train", "test", "meta")}
SIDE = 32
LARGEST = 1 << 30  # bytes: no file of the two data sets comes near


def cifar10(*, root: str | None, download: bool) -> Source:
    """Ten kinds of things, 32x32 RGB, 50,000 + 10,000."""
    archive = Archive("cifar-10-python.tar.gz", URLS, "c58f30108f718f92721af3b95e74349a")
    folder = _folder(root, "cifar-10-batches-py", archive, "cifar10", download)
    train = [folder / f"data_batch_{i}" for i in range(1, 6)]
    return _source(train, folder / "test_batch", folder / "batches.meta", "labels", "label_names")


def cifar100(*, root: str | None, download: bool) -> Source:
    """A hundred kinds of things, 32x32 RGB, 50,000 + 10,000."""
    archive = Archive("cifar-100-python.tar.gz", URLS, "eb9058c3a382ffc7106e4002c42a8d85")
    folder = _folder(root, "cifar-100-python", archive, "cifar100", download)
    return _source([folder / "train"], folder / "test", folder / "meta", "fine_labels", "fine_label_names")


def _folder(root: str | None, name: str, archive: Archive, dataset: str, download: bool) -> Path:
    """The folder of batch files under root, unpacked from the archive if need be."""
    base = data_root(root)
    if (base / name).is_dir():
        return base / name
    if base.name == name or any((base / file).is_file() for file in FILES[dataset]):
        return base
    with alone(base) if download else contextlib.nullcontext():
        if not (base / name).is_dir():  # another process may just have been at it
            _unpack(fetch(archive, base, f"dataset={dataset}", download), base, name)
    return base / name


def _unpack(path: Path, base: Path, name: str) -> None:
    """The archive's folder ``name`` into base, as a whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=base) as scratch:
        try:
            with tarfile.open(path) as tar:
                tar.extractall(scratch, members=_plain(tar, path), filter="data")
            Path(scratch, name).rename(base / name)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, FileNotFoundError) as error:
            raise DataError(f"{path}: cannot be unpacked ({error}); remove it to download it again") from error


def _plain(tar: tarfile.TarFile, path: Path) -> list[tarfile.TarInfo]:
    """The archive's members, if they are folders and files of a credible size and nothing else."""
    members = tar.getmembers()
    for member in members:
        if not (member.isreg() or member.isdir()):
            raise DataError(f"{path}: refused, its member {member.name} is neither a file nor a folder")
    if sum(member.size for member in members) > LARGEST:
        raise DataError(f"{path}: refused, it would take more than {LARGEST >> 20:,} MB unpacked")
    return members


def _source(train: list[Path], test: Path, meta: Path, label_key: str, names_key: str) -> Source:
    names = _names(_read(meta, names_key)[names_key], meta)
    parts = [_images(paths, label_key, len(names)) for paths in (train, [test])]
    return Source(tuple(names), parts[0], test=parts[1], augment="standard", mirror=True)


def _names(given: Any, path: Path) -> list[str]:
    if not isinstance(given, list) or not given or not all(isinstance(name, str) for name in given):
        raise DataError(f"{path}: expected a list of class names")
    return given


def _images(paths: list[Path], label_key: str, num_classes: int) -> Images:
    pixels, labels = np.empty((0, SIDE, SIDE, 3), dtype=np.uint8), []
    for path in paths:
        batch = _read(path, "data", label_key)
        data, own = batch["data"], _labels(batch[label_key], num_classes, path)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (len(own), 3 * SIDE**2):
            raise DataError(
                f"{path}: expected uint8 data of shape ({len(own)}, {3 * SIDE**2}), one row for each label, "
                f"got {getattr(data, 'dtype', type(data).__name__)} {getattr(data, 'shape', '')}"
            )
        before = len(pixels)
        pixels.resize((before + len(own), SIDE, SIDE, 3), refcheck=False)  # pages are moved, not copied
        for channel in range(3):  # three times as fast as a transposed copy
            pixels[before:, :, :, channel] = data.reshape(-1, 3, SIDE, SIDE)[:, channel]
        labels.append(own)
    return Images(np.concatenate(labels), pixels=pixels)


def _labels(given: Any, num_classes: int, path: Path) -> NDArray[np.int64]:
    expected = f"{path}: expected a list of labels from 0 to {num_classes - 1}"
    labels = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(labels, list):
        raise DataError(f"{expected}, got {type(given).__name__}")
    for label in labels:
        if type(label) is not int or not 0 <= label < num_classes:
            raise DataError(f"{expected}, got {str(label)[:40]}")
    return np.array(labels, dtype=np.int64)


class _Reader(pickle.Unpickler):
    """CIFAR's batches are pickles: this one can rebuild arrays and nothing else."""

    ALLOWED = frozenset(
        (module, name)
        for module, name in (
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        )
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _read(path: Path, *keys: str) -> dict[str, Any]:
    """The dictionary in a batch file, which must hold these keys."""
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: larger than any CIFAR file")
        content = _Reader(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; put it there, or rename the folder to download all of it again") from error
    except (DataError, PermissionError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path}: not a CIFAR file ({error})") from error
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise DataError(f"{path}: expected a dictionary with {', '.join(keys)}")
    return content
