"""Data sets as they are published in layouts of their own. To know one more, add it to KNOWN."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imgcls.data.datasets.folders.description import class_folders, see
from imgcls.data.datasets.folders.folder_tables import Labeled, Options, combined, labeled, read_table
from imgcls.data.datasets.folders.places import typed
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.findings import Finding
from imgcls.data.source import Source
from imgcls.errors import DataError
from imgcls.text import listing, one_line


@dataclass(frozen=True)
class Folders:
    """A part that consists of class folders."""

    path: str


@dataclass(frozen=True)
class Table:
    """A part that a table lists: the table, the folder that its paths start from, the names of its columns."""

    path: str
    images: str
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lines:
    """A part that a text file lists: a line CLASS/NAME for each image, perhaps without its suffix."""

    path: str
    images: str


@dataclass(frozen=True)
class Numbered:
    """A part of images that have numbers: files of "NUMBER VALUE" for paths and flags; the folder is the class."""

    paths: str
    images: str
    flags: str
    value: str


Part = Folders | Table | Lines | Numbered


@dataclass(frozen=True)
class Known:
    """A layout: the paths that it is known by; and how its parts are read, or what to type if they cannot be."""

    name: str
    marks: tuple[str, ...]
    parts: Mapping[str, Part] = field(default_factory=dict)
    advice: str = ""


ONE_OF = "name the class folders or a table with a path and a label in each row"
KNOWN = (
    Known(
        "Food-101",
        ("images", "meta/train.txt", "meta/test.txt"),
        {"train": Lines("meta/train.txt", "images"), "test": Lines("meta/test.txt", "images")},
    ),
    Known(
        "Tiny ImageNet",
        ("train", "val/images", "val/val_annotations.txt"),
        {"train": Folders("train"), "val": Table("val/val_annotations.txt", "val/images", {"split": "none"})},
    ),
    Known(
        "GTSRB",
        ("Train", "Test", "Test.csv"),
        {"train": Folders("Train"), "test": Table("Test.csv", ".", {"path": "Path", "label": "ClassId"})},
    ),
    Known(
        "CUB-200",
        ("images", "images.txt", "train_test_split.txt"),
        {
            "train": Numbered("images.txt", "images", "train_test_split.txt", "1"),
            "test": Numbered("images.txt", "images", "train_test_split.txt", "0"),
        },
    ),
    Known("Oxford-IIIT Pet", ("images", "annotations/list.txt"), advice="dataset=oxford_iiit_pet reads it"),
    Known("Flowers-102", ("jpg", "imagelabels.mat"), advice="dataset=flowers102 reads it"),
    Known("FGVC-Aircraft", ("data/images", "data/images_variant_train.txt"), advice="dataset=fgvc_aircraft reads it"),
    Known("FGVC-Aircraft", ("images", "images_variant_train.txt"), advice="dataset=fgvc_aircraft reads it"),
    Known("Stanford Cars", ("cars_train", "cars_test"), advice=ONE_OF),
    Known("Pascal VOC (object detection)", ("JPEGImages", "Annotations"), advice=ONE_OF),
    Known("CycleGAN (image translation)", ("trainA", "trainB"), advice=ONE_OF),
    Known("Cityscapes (image segmentation)", ("leftImg8bit", "gtFine"), advice=ONE_OF),
    Known("MNIST (IDX files)", ("train-images-idx3-ubyte",), advice="dataset=mnist dataset.root={0} reads it"),
    Known("MNIST (IDX files)", ("train-images-idx3-ubyte.gz",), advice="dataset=mnist dataset.root={0} reads it"),
    Known("CIFAR-10", ("data_batch_1", "batches.meta"), advice="dataset=cifar10 dataset.root={0} reads it"),
    Known("CIFAR-100", ("train", "test", "meta", "file.txt~"), advice="dataset=cifar100 dataset.root={0} reads it"),
)


def known_source(base: Path, scan: Scan, options: Options) -> Source | None:
    """The data set, if the folder has one of the known layouts. Raises DataError if it is known but cannot be read."""
    known = next((one for one in KNOWN if all(os.path.exists(base / mark) for mark in one.marks)), None)
    if known is None:
        return None
    if not known.parts:
        advice = known.advice.format(typed(base))
        raise DataError(f"{one_line(str(base))} has the layout of {known.name}; {advice}")
    if any(isinstance(part, Folders) and not class_folders(base / part.path, scan) for part in known.parts.values()):
        return None
    parts = {name: _read(base, part, scan, options) for name, part in known.parts.items()}
    by = ", ".join(f"{name} by {_file(part)}" for name, part in known.parts.items())
    findings = [Finding("layout", "note", f"the layout of {known.name}: {by}")]
    used = {path.partition("/")[0] for path in (*known.marks, *(_images_of(part) for part in known.parts.values()))}
    if others := [name for name in see(base, scan).folders if name not in used]:
        text = f"not used: {listing([f'{name}/' for name in others])}"
        findings.append(Finding("not_used", "note", text, len(others), tuple(others[:5])))
    scan.unwrapped.pop(base / "images", None)
    return combined(base, parts, options, findings=findings, notes=scan.notes())


def _images_of(part: Part) -> str:
    return part.path if isinstance(part, Folders) else part.images


def _read(base: Path, part: Part, scan: Scan, options: Options) -> Labeled:
    if isinstance(part, Table):
        table, images = base / part.path, base / part.images
        return labeled(read_table(table, images, options, **{"split": "none", **part.columns}))
    if isinstance(part, Folders):
        folder = base / part.path
        return [(path, name) for name in class_folders(folder, scan) for path in scan.images(folder / name)]
    folder = base / part.images
    on_disk = {
        os.path.relpath(path, folder).replace(os.sep, "/"): path
        for name in class_folders(folder, scan)
        for path in scan.images(folder / name)
    }
    by_stem = {os.path.splitext(name)[0]: path for name, path in on_disk.items()}
    found = []
    for name in _listed(base, part):
        path = on_disk.get(name) or by_stem.get(name)
        if path is None:
            raise DataError(f"{one_line(str(base / _file(part)))}: no image {one_line(name)} in {part.images}/")
        found.append((path, name.partition("/")[0]))
    return found


def _file(part: Part) -> str:
    """The file or folder that says which images belong to the part."""
    return part.flags if isinstance(part, Numbered) else part.path


def _listed(base: Path, part: Lines | Numbered) -> list[str]:
    """The names of the part's images, relative to their folder."""
    if isinstance(part, Lines):
        return _lines(base / part.path)
    paths = dict(line.split(maxsplit=1) for line in _lines(base / part.paths))
    flags = dict(line.split(maxsplit=1) for line in _lines(base / part.flags))
    return [path for number, path in paths.items() if flags.get(number) == part.value]


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{one_line(str(file))}: not a list of images in UTF-8") from error
