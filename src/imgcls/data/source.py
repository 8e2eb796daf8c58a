"""What a data set is: labeled images in memory or in files, in splits, with class names."""

from __future__ import annotations

import copy
import os
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imgcls.data.findings import Finding
from imgcls.errors import DataError
from imgcls.text import listing

Indices = NDArray[np.int64]


class Images:
    """Labeled images: pixels in memory, or the paths of files.

    **Arguments:**

    - labels: N integers from 0 to the number of classes - 1.
    - pixels: uint8 array, (N, H, W) gray or (N, H, W, C); C is 1 for gray, 3 for RGB.
    - paths: N image files of any size. Give either pixels or paths.
    - ids: N names for predictions.npz; by default the paths, or 0 to N - 1.
    - groups: for each image what it shows (a patient, a video), "" for nothing in common with others; images of one
      group are kept in one part where that is cut from others.

    **Attributes:**

    - whole: the array that holds the pixels, shared by all splits of a data set, (M, H, W, C); None for files.
    - rows: image i is ``whole[rows[i]]``; None if it is ``whole[i]``.
    - decoded: (rows, pixels) of the files decoded so far, for the next loader to reuse; or None.

    Raises DataError for pixels of another type or shape, and if the numbers of images and labels differ.
    """

    def __init__(
        self,
        labels: Sequence[int] | NDArray[Any],
        *,
        pixels: NDArray[np.uint8] | None = None,
        paths: Sequence[str | Path] | None = None,
        ids: Sequence[str] | NDArray[Any] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        self.labels: Indices = np.asarray(labels, dtype=np.int64)
        if (pixels is None) == (paths is None):
            raise DataError("a data set needs either pixels or paths, and not both")
        self.paths = None if paths is None else tuple(map(str, paths))
        self.whole = None if pixels is None else (pixels[..., None] if pixels.ndim == 3 else pixels)
        self.rows: Indices | None = None
        self.decoded: tuple[Indices, NDArray[np.uint8]] | None = None
        if self.whole is not None and (self.whole.dtype != np.uint8 or self.whole.ndim != 4):
            raise DataError(f"pixels must be uint8 (N, H, W) or (N, H, W, C), got {self.whole.dtype} {pixels.shape}")  # type: ignore[union-attr]
        count = len(self.paths if self.whole is None else self.whole)  # type: ignore[arg-type]
        if self.labels.shape != (count,):
            raise DataError(f"{count:,} images but labels of shape {self.labels.shape}; give one label for each image")
        if groups is not None and len(groups) != count:
            raise DataError(f"{count:,} images but {len(groups):,} groups; give one for each image, '' for none")
        self.groups = None if groups is None else tuple(map(str, groups))
        default = np.arange(count) if self.paths is None else self.paths
        self._ids = default if ids is None else ids

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def ids(self) -> NDArray[Any]:
        """The names of the images, (N,) text or integers; made on demand, since an array of text is large."""
        return np.asarray(self._ids) if isinstance(self._ids, np.ndarray) else np.array(self._ids, dtype=np.str_)

    def fingerprint(self) -> Indices:
        """Shows whether the images have changed: (N,) file sizes in bytes, 0 for a file that is missing; or, for
        pixels in memory, (1,) with a checksum of the labels and of up to 256 images."""
        if self.paths is not None:
            return np.array([_size(path) for path in self.paths], dtype=np.int64)
        assert self.whole is not None
        places = np.linspace(0, len(self) - 1, min(len(self), 256)).astype(np.int64)
        some = self.whole[places if self.rows is None else self.rows[places]]
        return np.array([zlib.crc32(some.tobytes(), zlib.crc32(self.labels.tobytes()))], dtype=np.int64)

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """(N, H, W, C) uint8: the whole array itself, or a copy of these rows; None for files."""
        return self.whole if self.whole is None or self.rows is None else self.whole[self.rows]

    def take(self, rows: Indices) -> Images:
        """The images of these rows, in this order; no pixels are copied."""
        part = copy.copy(self)
        part.labels = self.labels[rows]
        part._ids = _pick(self._ids, rows)
        part.groups = None if self.groups is None else _pick(self.groups, rows)
        part.decoded = None
        if self.paths is not None:
            part.paths = _pick(self.paths, rows)
        else:
            part.rows = np.asarray(rows, dtype=np.int64) if self.rows is None else self.rows[rows]
        return part

    def grouped(self, groups: Sequence[str]) -> Images:
        """The same images in these groups, (N,)."""
        other = copy.copy(self)
        other.groups = tuple(groups)
        return other

    def relabel(self, new: Sequence[int]) -> Images:
        """The same images with label new[i] in place of label i."""
        other = copy.copy(self)
        other.labels = np.asarray(new, dtype=np.int64)[self.labels]
        return other


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """The names of classes, sorted: as text, or by value if all of them are whole numbers."""
    if all(name.isdecimal() and name.isascii() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def names_of(part: str, images: Images) -> list[str]:
    """The names of a split's images: their paths in the data set, or ``test/17`` for pixels in memory."""
    ids = images.ids.tolist()
    return list(map(str, ids)) if images.paths is not None else [f"{part}/{one}" for one in ids]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _pick(names: Any, rows: Indices) -> Any:
    """These elements of an array or a sequence."""
    return names[rows] if isinstance(names, np.ndarray) else tuple(names[row] for row in rows.tolist())


@dataclass(frozen=True)
class Source:
    """A data set as it comes: what a function behind ``dataset=`` returns.

    **Arguments:**

    - classes: the class names; label i is classes[i].
    - train, val, test: the images of each split. A split that is None is taken from train (see splits.py).
    - augment: the option that ``augment=default`` means.
    - mirror: whether a mirrored image still belongs to its class.
    - notes: lines to print at the top of a run, such as the files that were ignored.
    - warnings: problems that the user should see.
    - skipped: how many files were left out because they are corrupt.
    - findings: the same kind of things as notes and warnings, each with its kind and examples; printed after them.
    - untrained: of a data set that brings no train part, so that all images are in ``train``: those of the parts that
      it does name. None if it brings one.
    - tables: {file name: content} of dataset.exclude and dataset.relabel, to be stored with a run.

    **Attributes:**

    - parts: the splits that are not None, by name.

    Raises DataError for an empty split, and for labels outside the classes.
    """

    classes: tuple[str, ...]
    train: Images
    val: Images | None = None
    test: Images | None = None
    augment: Literal["none", "standard"] = "none"
    mirror: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    skipped: int = 0
    findings: tuple[Finding, ...] = ()
    untrained: dict[str, Images] | None = None
    tables: Mapping[str, bytes] = field(default_factory=dict)
    parts: dict[str, Images] = field(init=False)

    def only(self, names: Sequence[str]) -> Source:
        """The data set with only the images of these classes; the classes keep their order.

        Raises ValueError for an unknown name, and if train or test has no image of them.
        """
        if unknown := [name for name in names if name not in self.classes]:
            shown = listing(self.classes, 12)
            raise ValueError(f"unknown class '{unknown[0]}' (classes: {shown})")
        kept = [name for name in self.classes if name in names]
        new = np.array([kept.index(name) if name in kept else -1 for name in self.classes])

        def chosen(part: Images) -> Images | None:
            rows = np.flatnonzero(new[part.labels] >= 0)
            return part.take(rows).relabel(new.tolist()) if len(rows) else None

        parts: dict[str, Any] = {"val": None, "test": None} | {name: chosen(one) for name, one in self.parts.items()}
        if parts["train"] is None or (self.test is not None and parts["test"] is None):
            raise ValueError(f"no images of {', '.join(kept)} in one of its splits")
        named = {name: chosen(part) for name, part in (self.untrained or {}).items()}
        untrained = None if self.untrained is None else {name: part for name, part in named.items() if part is not None}
        return replace(self, classes=tuple(kept), untrained=untrained, **parts)

    def all_notes(self) -> tuple[str, ...]:
        """The lines to print at the top of a run."""
        return (*self.notes, *(f"note     {one.line}" for one in self.findings if one.severity == "note"))

    def all_warnings(self) -> tuple[str, ...]:
        """The warnings to print there, without the word, each once."""
        found = (one.line for one in self.findings if one.severity == "warning")
        return tuple(dict.fromkeys([*self.warnings, *found]))

    def __post_init__(self) -> None:
        given = {"train": self.train, "val": self.val, "test": self.test}
        object.__setattr__(self, "parts", {name: part for name, part in given.items() if part is not None})
        for name, part in self.parts.items():
            if len(part) == 0:
                raise DataError(f"the {name} split of the data set has no images")
            low, high = int(part.labels.min()), int(part.labels.max())
            if low < 0 or high >= len(self.classes):
                count = len(self.classes)
                raise DataError(f"{name}: labels from {low} to {high}, but {count} classes (0 to {count - 1})")


def all_images(source: Source) -> Images:
    """The images of all splits together."""
    parts = list(source.parts.values())
    if len(parts) == 1:
        return parts[0]
    labels = np.concatenate([part.labels for part in parts])
    groups = [name for part in parts for name in part.groups or [""] * len(part)]
    own = groups if any(part.groups for part in parts) else None
    if parts[0].pixels is not None:
        pixels = np.concatenate([part.pixels for part in parts if part.pixels is not None])
        return Images(labels, pixels=pixels, groups=own)
    paths = [path for part in parts for path in part.paths or ()]
    return Images(labels, paths=paths, ids=np.concatenate([part.ids for part in parts]), groups=own)


def pooled(source: Source) -> Source:
    """The data set with all of its images in train, for folds; what was said about its parts is left out."""
    if len(source.parts) == 1:
        return source
    has_parts = ", ".join(f"{len(images):,} {name}" for name, images in source.parts.items())
    note = f"folds    cut from all images; the data set's own parts ({has_parts}) do not count"
    return replace(
        source,
        train=all_images(source),
        val=None,
        test=None,
        notes=(*source.notes, note),
        warnings=tuple(text for text in source.warnings if " in both " not in text),
        findings=tuple(one for one in source.findings if one.kind != "leak"),
        untrained=None,
    )


def describe_parts(parts: dict[str, Any]) -> str:
    """'45,000 train, 5,000 val, 10,000 test'"""
    return ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part is not None)
