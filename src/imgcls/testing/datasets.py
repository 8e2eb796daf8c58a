"""check_dataset: does a data set behave as imgcls expects?"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from itertools import combinations
from typing import Any

import numpy as np

from imgcls import text
from imgcls.config.components import Component, own_component
from imgcls.config.options import option_node
from imgcls.config.parsing import parse
from imgcls.data.pixels.decoding import header
from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.source import Images, Source
from imgcls.data.splits import SplitOptions, split
from imgcls.testing.require import require


def check_dataset(function: Callable[..., Any], **params: Any) -> None:
    """Check a data set: a function (...) -> imgcls.data.Source, as behind ``dataset=``.

    Class names must be distinct, printable text; labels within the classes; pixels uint8, or files that exist and are
    images; the splits of one kind and shape, with no image in two of them. Two calls must return the same data, and
    imgcls must be able to split it.
    """
    part = own_component(function, "dataset", params)
    source = part()
    require(isinstance(source, Source), part, f"expected an imgcls.data.Source, got {type(source).__name__}")
    _check_classes(part, source)
    for name, images in source.parts.items():
        _check_images(part, name, images, len(source.classes))
    kinds = {None if images.whole is None else images.whole.shape[1:] for images in source.parts.values()}
    require(len(kinds) == 1, part, "expected all splits as files, or all as pixels of one shape")
    for (first, one), (second, other) in combinations(source.parts.items(), 2):
        require(not _overlap(one, other), part, f"{first} and {second} share images; expected each in one split")
    _check_equal(part, source, part())
    defaults = option_node("", "train")["dataset"]
    options = parse(SplitOptions, {field.name: defaults[field.name] for field in fields(SplitOptions)}, "dataset.")
    split(source, options)


def _check_classes(part: Component, source: Source) -> None:
    names = source.classes
    is_text = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
    require(is_text, part, f"classes: expected a tuple of text, got {names!r}")
    unprintable = [name for name in names if not name or not all(map(text.is_text, name))]
    require(not unprintable, part, f"classes: expected printable text, got {unprintable[:3]!r}")
    twice = sorted({name for name in names if names.count(name) > 1}) if len({*names}) < len(names) else []
    require(not twice, part, f"classes: expected distinct names, got {twice[:3]} more than once")


def _check_images(part: Component, name: str, images: Images, num_classes: int) -> None:
    count = len(images)
    require(count > 0, part, f"{name}: expected at least one image")
    require(len(images.ids) == count, part, f"{name}: {count} images but {len(images.ids)} ids")
    low, high = int(images.labels.min()), int(images.labels.max())
    is_within = low >= 0 and high < num_classes
    require(is_within, part, f"{name}: labels from {low} to {high}; expected 0 to {num_classes - 1}")
    if images.paths is None:
        return
    missing = [path for path in images.paths if not os.path.isfile(path)]
    require(not missing, part, f"{name}: expected existing files, got {missing[:1]}")
    with quiet_decoders():
        header(images.paths[0])


def _overlap(one: Images, other: Images) -> bool:
    """Whether the two have a file, or the memory of an image, in common."""
    if one.paths is not None and other.paths is not None:
        return not {*map(os.path.realpath, one.paths)}.isdisjoint(map(os.path.realpath, other.paths))
    if one.whole is None or other.whole is None:
        return False
    if one.whole is not other.whole:
        return np.shares_memory(one.whole, other.whole)
    mine, theirs = (np.arange(len(images)) if images.rows is None else images.rows for images in (one, other))
    return len(np.intersect1d(mine, theirs)) > 0


def _check_equal(part: Component, source: Source, again: Source) -> None:
    """Two calls return the same data."""
    is_same = (source.classes, [*source.parts]) == (again.classes, [*again.parts])
    for one, other in zip(source.parts.values(), again.parts.values(), strict=False):
        is_same = is_same and np.array_equal(one.labels, other.labels) and np.array_equal(one.ids, other.ids)
        is_same = is_same and one.paths == other.paths and np.array_equal(one.fingerprint(), other.fingerprint())
    require(is_same, part, "two calls return different data; expected the same images in the same order")
