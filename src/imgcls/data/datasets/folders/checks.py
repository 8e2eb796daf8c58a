"""Checks of the files before they are used: corrupt ones, and duplicates across splits."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from imgcls.data.pixels.decoding import load_image
from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.pixels.rendering import Rendering
from imgcls.data.pixels.view import View
from imgcls.data.source import Images
from imgcls.errors import DataError
from imgcls.parallel.process_pool import each
from imgcls.text import listing

SIDE = 32  # pixels: files are decoded to small images, which reads all of their content
MOST_NAMED = 10  # corrupt files in a message
MOST_COMPARED = 20_000  # files whose content is compared between two splits
# whether values have a range is not a matter of one file
ANY_VIEW = View(3, SIDE, SIDE, Rendering(depth=(0.0, 1.0)), scaled_decoding=True)
Place = tuple[str, int]  # of an image: its split, its row there


def reason(path: str) -> str:
    """Why the file cannot be decoded, after reading all of it; empty if it can."""
    try:
        load_image(path, ANY_VIEW)
    except DataError as error:
        return str(error)
    return ""


def broken(images: Images) -> dict[int, str]:
    """The files that cannot be decoded, {row: message}; tries all of them, on all cores."""
    paths = images.paths or ()
    with quiet_decoders():
        reasons = each(lambda row: reason(paths[row]), len(paths))
    return {row: text for row, text in enumerate(reasons) if text}


def without_broken(parts: dict[str, Images], *, skip: bool) -> tuple[dict[str, Images], list[str]]:
    """The splits without the files that cannot be decoded, and a message for each of those.

    Raises DataError that names them unless ``skip``.
    """
    found = {name: broken(part) for name, part in parts.items()}
    messages = [text for of_part in found.values() for text in of_part.values()]
    if messages and not skip:
        raise DataError(
            f"{len(messages)} corrupt file{'s' * (len(messages) > 1)}: {listing(messages, MOST_NAMED, '; ')}; "
            "fix or remove them, or leave them out with dataset.on_error=skip"
        )
    kept = {
        name: part if not found[name] else part.take(np.setdiff1d(np.arange(len(part)), sorted(found[name])))
        for name, part in parts.items()
    }
    return kept, messages


def same_content(digests: Mapping[str, Sequence[str]]) -> list[list[Place]]:
    """Groups of two or more images with equal digests, each image as (split, row).

    digests: of the images of each split, by the split's name; an empty digest matches nothing.
    """
    places: dict[str, list[Place]] = defaultdict(list)
    for name, own in digests.items():
        for row, digest in enumerate(own):
            if digest:
                places[digest].append((name, row))
    return [group for group in places.values() if len(group) > 1]


def leaks(parts: dict[str, Images]) -> list[str]:
    """A warning for each pair of splits that share files, byte for byte. Only files of equal size are read."""
    if len(parts) < 2:
        return []
    sizes = {name: _by_size(part.paths or ()) for name, part in parts.items()}
    warnings = []
    for pair in itertools.combinations(parts, 2):
        first, second = pair
        common = sizes[first].keys() & sizes[second].keys()
        candidates = {name: [path for size in common for path in sizes[name][size]] for name in pair}
        if sum(map(len, candidates.values())) > MOST_COMPARED:
            warnings.append(f"{first} and {second} are not checked for duplicates: too many files of equal size")
            continue
        groups = same_content({name: list(map(_digest, paths)) for name, paths in candidates.items()})
        shared = [place for group in groups if {name for name, _ in group} == {*pair} for place in group]
        if count := sum(name == second for name, _ in shared):
            verb = "file is" if count == 1 else "files are"
            warnings.append(f"{count:,} {verb} in both {first} and {second}: results on {second} are inflated")
    return warnings


def _by_size(paths: Iterable[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        try:
            about = os.stat(path)
            if stat.S_ISREG(about.st_mode) and about.st_size:
                found[about.st_size].append(path)
        except OSError:
            continue  # the decoder reports it
    return found


def _digest(path: str) -> str:
    """The file's digest, or nothing if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError:
        return ""
