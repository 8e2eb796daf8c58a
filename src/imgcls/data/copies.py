"""Copies of a picture, which a cut must not put into two parts."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from imgcls.data.findings import Finding
from imgcls.data.source import Images, Indices
from imgcls.text import listing

MOST_COMPARED = 20_000  # files of equal size that are opened
TAIL = 4096  # bytes at the end of a file: most files that differ, differ there
ALL_ONE = "all {:,} images are copies of one picture, byte for byte"
SHOWN = 3  # examples in a message


def groups_of(images: Images, classes: Sequence[str]) -> tuple[Indices | None, list[Finding]]:
    """For each image the row of the first one with the same bytes, (N,); None if no two are equal; and findings.

    classes: the names of the labels.

    Only files of equal size are opened, and only those with equal ends are read.
    """
    if images.paths is None:
        return None, []
    same_size = _grouped(range(len(images)), sizes_of(images.paths).__getitem__)
    count = sum(map(len, same_size))
    if count > MOST_COMPARED:
        text = f"{count:,} files are of equal size, too many to look for copies that the parts may share"
        return None, [Finding("duplicate", "note", text, count)]
    paths = images.paths
    same_end = [one for rows in same_size for one in _grouped(rows, lambda row: end(paths[row]))]
    groups = [one for rows in same_end for one in _grouped(rows, lambda row: digest(paths[row]))]
    if not groups:
        return None, []
    first = np.arange(len(images))
    for rows in groups:
        first[rows] = rows[0]
    return first, _findings(images, groups, classes)


def _findings(images: Images, groups: list[list[int]], classes: Sequence[str]) -> list[Finding]:
    """What to say about the copies: that they stay together, and which are all of a class or in two classes."""
    if len(groups[0]) == len(images):
        text = f"{ALL_ONE.format(len(images))}: there is nothing to learn"
        return [Finding("duplicate", "warning", text, len(images) - 1, _examples(images, groups), "add other images")]
    count = sum(map(len, groups)) - len(groups)
    verb = "image is a copy" if count == 1 else "images are copies"
    found = [
        Finding(
            "duplicate",
            "note",
            f"{count:,} {verb} of another one, byte for byte; copies are kept in one part",
            count,
            _examples(images, groups),
        )
    ]
    sizes = np.bincount(images.labels, minlength=len(classes))
    labels = [images.labels[rows] for rows in groups]
    whole = sorted(int(own[0]) for own in labels if (own == own[0]).all() and len(own) == sizes[own[0]])
    if whole:
        names = [f"{classes[label]} ({sizes[label]:,})" for label in whole]
        text = f"the images of {listing(names)} are copies of one picture{' each' * (len(whole) > 1)}, byte for byte"
        found.append(Finding("duplicate", "warning", text, len(whole), tuple(names[:10]), "add other images"))
    conflicts = [rows for rows in groups if len(set(images.labels[rows].tolist())) > 1]
    if conflicts:
        count = len(conflicts)
        examples = _examples(images, conflicts)
        verb = "image is" if count == 1 else "images are"
        text = f"{count:,} {verb} in two classes, byte for byte: {listing(examples, SHOWN, '; ')}"
        found.append(Finding("label_conflict", "warning", text, count, examples, "keep each in one class"))
    return found


def _examples(images: Images, groups: list[list[int]]) -> tuple[str, ...]:
    return tuple(" = ".join(images.take(np.array(rows[:SHOWN])).ids.tolist()) for rows in groups[:10])


def sizes_of(paths: Iterable[str]) -> list[int]:
    """The sizes of the files in bytes, 0 for what is missing or no regular file."""
    sizes = []
    for path in paths:
        try:
            about = os.stat(path)
        except OSError:
            about = None
        sizes.append(about.st_size if about is not None and stat.S_ISREG(about.st_mode) else 0)
    return sizes


def _grouped(rows: Iterable[int], key: Callable[[int], int | bytes]) -> list[list[int]]:
    """Groups of two or more rows with equal keys, in order; an empty key matches nothing."""
    found: dict[int | bytes, list[int]] = defaultdict(list)
    for row in rows:
        if one := key(row):
            found[one].append(row)
    return [group for group in found.values() if len(group) > 1]


def end(path: str) -> bytes:
    """The last bytes of the file, or nothing if it cannot be read or is no regular file (a pipe would block)."""
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return file.read(TAIL)
    except OSError:
        return b""


def digest(path: str) -> bytes:
    """The file's digest, or nothing if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return b""
