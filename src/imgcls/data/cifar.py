"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf)."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from imgcls.data.download import Archive, data_root, fetch
from imgcls.data.source import Images, Source
from imgcls.errors import DataError

URLS = ("https://www.cs.toronto.edu/~kriz/",)
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
    for folder in (base / name, base):
        if any((folder / marker).is_file() for marker in ("data_batch_1", "train", "test_batch")):
            return folder
    path = fetch(archive, base, f"dataset={dataset}", download)
    try:
        with tarfile.open(path) as tar:
            tar.extractall(base, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); remove it to download it again") from error
    return base / name


def _source(train: list[Path], test: Path, meta: Path, label_key: str, names_key: str) -> Source:
    names = [str(name) for name in _read(meta, names_key)[names_key]]
    parts = [_images([path for path in paths], label_key, len(names)) for paths in (train, [test])]
    return Source(tuple(names), parts[0], test=parts[1], augment="standard", mirror=True)


def _images(paths: list[Path], label_key: str, num_classes: int) -> Images:
    pixels, labels = [], []
    for path in paths:
        batch = _read(path, "data", label_key)
        data, own = batch["data"], np.asarray(batch[label_key])
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (len(own), 3 * SIDE**2):
            raise DataError(
                f"{path}: expected uint8 data of shape ({len(own)}, {3 * SIDE**2}), one row for each label, "
                f"got {getattr(data, 'dtype', type(data).__name__)} {getattr(data, 'shape', '')}"
            )
        if own.ndim != 1 or own.dtype.kind not in "iu" or own.min(initial=0) < 0 or own.max(initial=0) >= num_classes:
            raise DataError(f"{path}: expected labels from 0 to {num_classes - 1}")
        pixels.append(data)
        labels.append(own)
    whole = np.concatenate(pixels).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Images(np.concatenate(labels), pixels=np.ascontiguousarray(whole))


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
        raise DataError(f"{path} is missing; remove {path.parent} to download it again") from error
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path}: not a CIFAR file ({error})") from error
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise DataError(f"{path}: expected a dictionary with {', '.join(keys)}")
    return content
