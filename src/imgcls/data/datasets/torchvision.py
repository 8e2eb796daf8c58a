"""torchvision's data sets by name; it downloads them and checks their checksums.

https://docs.pytorch.org/vision/stable/datasets.html; torchvision is imported only when one of them is read.
"""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from imgcls.data.datasets.download import TIMEOUT, data_root
from imgcls.data.source import Images, Source
from imgcls.errors import DataError, RunError
from imgcls.files import DISK_FULL, locked

FILES = ("_image_files", "_images", "_samples", "samples")  # where torchvision keeps the paths, or (path, label)


@dataclass(frozen=True)
class Named:
    """One of torchvision's data sets: its class, and the arguments for each split.

    is_photo: images may be cropped and mirrored. is_transposed: they are stored with rows and columns swapped.
    """

    kind: str
    splits: dict[Literal["train", "val", "test"], dict[str, Any]]
    is_photo: bool = False
    is_transposed: bool = False


TRAIN_FLAG: dict[Any, Any] = {"train": {"train": True}, "test": {"train": False}}
TWO: dict[Any, Any] = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE: dict[Any, Any] = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
SMALLER: dict[str, Any] = {"size": "320px"}  # of Imagenette: enough for 224 pixels, and a fifth of the bytes
NAMED = {
    "kmnist": Named("KMNIST", TRAIN_FLAG),
    "emnist": Named(
        "EMNIST", {split: {**one, "split": "balanced"} for split, one in TRAIN_FLAG.items()}, is_transposed=True
    ),
    "qmnist": Named("QMNIST", {"train": {"what": "train"}, "test": {"what": "test"}}),
    "usps": Named("USPS", TRAIN_FLAG),
    "svhn": Named("SVHN", TWO),
    "stl10": Named("STL10", TWO, is_photo=True),
    "flowers102": Named("Flowers102", THREE, is_photo=True),
    "food101": Named("Food101", TWO, is_photo=True),
    "oxford_iiit_pet": Named("OxfordIIITPet", {**TWO, "train": {"split": "trainval"}}, is_photo=True),
    "eurosat": Named("EuroSAT", {"train": {}}, is_photo=True),
    "gtsrb": Named("GTSRB", TWO),
    "dtd": Named("DTD", THREE, is_photo=True),
    "fgvc_aircraft": Named("FGVCAircraft", THREE, is_photo=True),
    "imagenette": Named(
        "Imagenette", {"train": {"split": "train", **SMALLER}, "test": {"split": "val", **SMALLER}}, is_photo=True
    ),
    "rendered_sst2": Named("RenderedSST2", THREE),
    "semeion": Named("SEMEION", {"train": {}}),
    "country211": Named("Country211", {**THREE, "val": {"split": "valid"}}, is_photo=True),
}


def _load(name: str, *, root: str | None, download: bool) -> Source:
    """One of torchvision's data sets, in torchvision's layout under root."""
    import torchvision

    named, folder = NAMED[name], data_root(root)
    kind = getattr(torchvision.datasets, named.kind)
    with locked(folder, make=download):
        splits = {split: _read(kind, name, folder, given, download) for split, given in named.splits.items()}
    images = {split: _images(one, named, folder) for split, one in splits.items()}
    count = 1 + max(int(one.labels.max()) for one in images.values())
    names = getattr(splits["train"], "classes", None) or [str(i) for i in range(count)]
    classes = tuple(str(one[0] if isinstance(one, tuple) else one) for one in names)  # the first of several synonyms
    return Source(
        classes if len(set(classes)) == len(classes) >= count else tuple(str(i) for i in range(count)),
        images["train"],
        val=images.get("val"),
        test=images.get("test"),
        augment="standard" if named.is_photo else "none",
        mirror=named.is_photo,
    )


def _read(kind: Callable[..., Any], name: str, folder: Path, keywords: dict[str, Any], download: bool) -> Any:
    """torchvision's object; what it prints goes to stderr, what it raises becomes one line."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return kind(str(folder), download=download, **keywords)
    except MemoryError:
        raise
    except Exception as error:  # of urllib, tarfile, zipfile, scipy, torchvision: all of them about these files
        if isinstance(error, OSError) and error.errno in (*DISK_FULL, errno.EACCES, errno.EROFS):
            raise RunError(f"dataset={name}: {error.strerror}: {error.filename or folder}") from error
        hint = "" if download else " and dataset.download is false"
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"dataset={name}: cannot be read in {folder}{hint} ({first}); put it there in torchvision's layout, "
            "or use dataset=digits, which needs no download"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
        print(said.getvalue(), end="", file=sys.stderr)


def _images(read: Any, named: Named, folder: Path) -> Images:
    """The images as arrays or files, with their labels."""
    if (pixels := getattr(read, "data", None)) is not None:
        numbers = np.asarray(read.labels if hasattr(read, "labels") else read.targets)
        pixels = np.asarray(pixels)
        if pixels.ndim == 4 and pixels.shape[1] == 3:
            pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        if named.is_transposed:
            pixels = np.ascontiguousarray(pixels.swapaxes(1, 2))
        return Images(numbers if numbers.ndim == 1 else numbers[:, 0], pixels=pixels)
    files = next(getattr(read, attribute) for attribute in FILES if hasattr(read, attribute))
    labels = getattr(read, "_labels", None)
    paths = [str(one) if labels is not None else str(one[0]) for one in files]
    ids = [Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path for path in paths]
    return Images(labels if labels is not None else [one[1] for one in files], paths=paths, ids=ids)


TORCHVISION_DATASETS: dict[str, Callable[..., Source]] = {name: partial(_load, name) for name in NAMED}
