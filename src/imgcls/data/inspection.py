"""What is in a data set and what is wrong with it, before anything is trained on it (``imgcls data``)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls.data.datasets.checks import Place, reason, same_content
from imgcls.data.decoding import header, quiet_decoders
from imgcls.data.source import Images, Source
from imgcls.errors import DataError
from imgcls.files import file_digest
from imgcls.parallel.process_pool import each

Report = dict[str, Any]


class ImageFacts(NamedTuple):
    """An image: its size in pixels, a digest of its content; broken: why it cannot be read, empty if it can."""

    height: int = 0
    width: int = 0
    is_gray: bool = False
    digest: str = ""
    broken: str = ""


def inspect_source(source: Source) -> Report:
    """The report on a data set, as plain values for --json; reads every image once.

    images: counts by split. classes: counts by class and split. sizes: in pixels, the most frequent first. grey,
    colour: counts. broken: the images that cannot be read, with the reason. duplicates, leaks, conflicts: images with
    the same content within a split (surplus copies), in several splits, in several classes.
    """
    seen = {part: _image_facts(images) for part, images in source.parts.items()}
    fine = [one for part in seen.values() for one in part if not one.broken]
    sizes = Counter((one.height, one.width) for one in fine)
    gray = sum(one.is_gray for one in fine)
    broken = [
        {"part": part, "image": str(images.ids[row]), "reason": one.broken}
        for part, images in source.parts.items()
        for row, one in enumerate(seen[part])
        if one.broken
    ]
    counts = {part: np.bincount(one.labels, minlength=len(source.classes)) for part, one in source.parts.items()}
    return {
        "images": {part: len(one) for part, one in source.parts.items()},
        "classes": [
            {"class": name, **{part: int(count[i]) for part, count in counts.items()}}
            for i, name in enumerate(source.classes)
        ],
        "sizes": [{"width": w, "height": h, "images": count} for (h, w), count in sizes.most_common()],
        "grey": gray,
        "colour": len(fine) - gray,
        "broken": broken,
        **_duplicates(source, {part: [one.digest for one in rows] for part, rows in seen.items()}),
    }


def _image_facts(images: Images) -> list[ImageFacts]:
    """The facts on each image, in order; reads all of them."""

    def pixels(row: int) -> ImageFacts:
        assert images.whole is not None
        one = images.whole[row if images.rows is None else images.rows[row]]
        height, width, channels = one.shape
        return ImageFacts(height, width, channels == 1, hashlib.blake2b(one.tobytes()).hexdigest())

    def file(row: int) -> ImageFacts:
        assert images.paths is not None
        path = images.paths[row]
        if why := reason(path):
            return ImageFacts(broken=why.removeprefix(f"not a readable image: {path} ").strip("()"))
        try:
            return ImageFacts(*header(path), file_digest(Path(path), "blake2b"))
        except DataError as error:  # gone meanwhile
            return ImageFacts(broken=str(error))

    if images.paths is None:
        return [pixels(row) for row in range(len(images))]
    with quiet_decoders():
        return [ImageFacts(*found) for found in each(file, len(images))]


def _duplicates(source: Source, digests: Mapping[str, Sequence[str]]) -> Report:
    """Images with the same content: surplus copies within each split, those in several splits or several classes."""
    groups = same_content(digests)
    counts = [Counter(name for name, _ in group) for group in groups]
    conflicting = [group for group in groups if len({_label(source, place) for place in group}) > 1]
    return {
        "duplicates": {name: sum(max(0, count[name] - 1) for count in counts) for name in digests},
        "leaks": [
            [f"{name}: {_name(source, (name, row))}" for name, row in group]
            for group, count in zip(groups, counts, strict=True)
            if len(count) > 1
        ],
        "conflicts": [
            [f"{_name(source, place)} ({source.classes[_label(source, place)]})" for place in group]
            for group in conflicting
        ],
    }


def _label(source: Source, place: Place) -> int:
    return int(source.parts[place[0]].labels[place[1]])


def _name(source: Source, place: Place) -> str:
    return str(source.parts[place[0]].ids[place[1]])
