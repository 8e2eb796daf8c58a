"""Train, val and test: val is for model selection, test is used once, at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from imgcls import seeding
from imgcls.config.types import Fraction, Range, Seed, Share
from imgcls.data.copies import ALL_ONE
from imgcls.data.grouped_cuts import folds_of, taken, units_of
from imgcls.data.pixels.rendering import background_of, depth_of
from imgcls.data.pixels.view import Fit, size_of
from imgcls.data.quotas import quotas
from imgcls.data.source import Images, Indices, Source
from imgcls.errors import ConfigError, DataError

RULE = 2  # how splits are cut; 1: ties went to the first class, a limit could leave classes out, copies were not seen


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """The keys that every data set has; their defaults are in conf/train.yaml."""

    image_size: Any  # see size_of
    channels: Annotated[int, Range(low=1, high=3)] | None
    val_fraction: Fraction
    test_fraction: Annotated[float, Range(above=0, below=1)]
    split_seed: Seed
    classes: list[str | int] | None
    limit: Annotated[int, Range(low=2)] | None
    test_limit: Annotated[int, Range(low=1)] | None
    fit: Fit
    crop_share: Share | None
    background: Any  # see background_of
    depth: Any  # see depth_of
    exclude: str | None
    relabel: str | None
    positive: str | Annotated[int, Range(low=-1_000_000)] | None  # a number names the class that is written so
    folds: Annotated[int, Range(low=2, high=1000)] | None
    fold: Annotated[int, Range(low=0, high=999)] | None

    def __post_init__(self) -> None:
        size_of(self.image_size)
        background_of(self.background)
        depth_of(self.depth)
        if self.channels == 2:
            raise ValueError("dataset.channels must be 1 (gray) or 3 (RGB), got 2")
        if self.classes == []:
            raise ValueError("dataset.classes: name at least one class, or leave it null")
        self._check_folds()

    def _check_folds(self) -> None:
        last = (self.folds or 5) - 1
        every = f"dataset.fold=0 to {last}, or -m 'dataset.fold=range(0,{last + 1})' for all of them"
        if self.folds is not None and self.fold is None:
            raise ValueError(f"dataset.folds={self.folds}: which of them is the test? {every}")
        if self.fold is not None and self.folds is None:
            raise ValueError(f"dataset.fold={self.fold}: of how many? Add dataset.folds=5, for example")
        if self.fold is not None and self.fold > last:
            raise ValueError(f"dataset.fold={self.fold}: the {self.folds} folds have the numbers 0 to {last}")


@dataclass(frozen=True)
class Cut:
    """How a split was made that the data set does not have, or of which only a sample is used.

    split: its name. origin: the split that the images are taken from, or "all". count, total: images taken,
    and images to take them from. fraction: as requested; None for a limit (``dataset.limit``, ``dataset.test_limit``).
    fold: its number and how many there are. groups: those taken, and those to take them from, if groups stay together.
    """

    split: str
    origin: str
    count: int
    total: int
    fraction: float | None = None
    fold: tuple[int, int] | None = None
    groups: tuple[int, int] | None = None

    def __str__(self) -> str:
        if self.count == 0:
            return f"no {self.split}: too few {'groups' if self.groups else 'images'}"
        if self.count == self.total:
            return f"{self.split}: its {self.origin} split"
        groups = "" if self.groups is None else f", {self.groups[0]:,} of {self.groups[1]:,} groups (dataset.group)"
        if self.fold is not None:
            return f"{self.split}: fold {self.fold[0]} of 0 to {self.fold[1] - 1}, stratified{groups}"
        if self.groups is not None:
            return f"{self.split}: a stratified {self.count / self.total:.0%} of {self.origin}{groups}"
        if self.fraction is not None:
            return f"{self.split}: a stratified {self.fraction:.0%} of {self.origin}"
        key = "dataset.test_limit" if self.split == "test" else "dataset.limit"
        return f"{self.split}: a stratified {self.count:,} of {self.total:,} ({key})"


@dataclass(frozen=True)
class Splits:
    """The three splits as used, and how those were made that the data set does not have."""

    train: Images
    val: Images | None
    test: Images
    cuts: tuple[Cut, ...] = ()

    @property
    def parts(self) -> dict[str, Images | None]:
        """By name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def how(self) -> tuple[str, ...]:
        """A phrase for each cut, such as 'val: a stratified 10% of train'."""
        return tuple(map(str, self.cuts))


def stratified(
    labels: Indices,
    count: int,
    seed: int,
    *key: str,
    keep_one: bool = False,
    take_one: bool = False,
    rule: int = RULE,
) -> tuple[Indices, Indices]:
    """Rows (rest, sample), both sorted: a sample of ``count`` rows in which each class keeps its share.

    Quotas are rounded by largest remainder, so their sum is ``count``; among equal remainders the seed decides.
    keep_one: leave one image of each class in the rest, to train on; the sample is then smaller if the classes are too
    small. take_one: at least one image of each class in the sample, if ``count`` allows.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    count = min(count, len(labels))
    lots = seeding.rng(seed, "ties", *key).permutation(len(classes))
    counts = quotas(sizes, count, sizes - 1 if keep_one else sizes, lots, rule)
    if take_one and rule > 1 and count >= len(classes):
        counts = _at_least_one(counts, np.asarray(sizes * (count / len(labels)), np.float64))
    draws = seeding.rng(seed, "split", *key).random(len(labels))
    chosen = np.zeros(len(labels), dtype=bool)
    for name, quota in zip(classes, counts, strict=True):
        rows = np.flatnonzero(labels == name)
        chosen[rows[np.argsort(draws[rows], kind="stable")[:quota]]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _at_least_one(counts: Indices, exact: NDArray[np.float64]) -> Indices:
    """The same sum, no class left out: taken from the classes that are furthest above their share."""
    raised: Indices = np.maximum(counts, 1)
    while raised.sum() > counts.sum():
        raised[np.argmax(np.where(raised > 1, raised - exact, -np.inf))] -= 1
    return raised


def _cut(
    images: Images, groups: Indices | None, fraction: float, seed: int, key: str, rule: int
) -> tuple[Indices, Indices]:
    """Rows (rest, part). groups: for each image the row of the first in its group; a group stays together."""
    if images.groups is not None:
        units = units_of(images.groups, groups, len(images))
        return _apart(taken(images.labels, units, fraction, seed, key), len(images))
    if groups is None:
        return stratified(images.labels, round(len(images) * fraction), seed, key, keep_one=True, rule=rule)
    first, sizes = np.unique(groups, return_index=True, return_counts=True)[1:]
    _, part = stratified(images.labels[first], round(len(first) * fraction), seed, key, keep_one=True, rule=rule)
    chosen = np.isin(groups, groups[first[part]])
    lost = np.setdiff1d(images.labels, images.labels[~chosen])  # classes of nothing but copies of another's images
    chosen &= ~np.isin(groups, groups[np.isin(images.labels, lost)])
    short = round(len(images) * fraction) - int(chosen.sum())  # made up for by images that have no copy
    alone = np.zeros(len(images), dtype=bool)
    alone[first[sizes == 1]] = True
    pool = np.flatnonzero(alone & (chosen if short < 0 else ~chosen))
    if short and len(pool):
        chosen[pool[stratified(images.labels[pool], abs(short), seed, key, "rest", keep_one=True)[1]]] = short > 0
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _apart(rows: Indices, count: int) -> tuple[Indices, Indices]:
    """The other rows, and these."""
    return np.setdiff1d(np.arange(count), rows), rows


def _fold(images: Images, copies: Indices | None, options: SplitOptions) -> tuple[Indices, Indices]:
    """Rows (rest, the fold that is the test). Raises ConfigError for more folds than there are images or groups."""
    assert options.folds is not None
    units = units_of(images.groups, copies, len(images))
    count, folds = int(units.max()) + 1, options.folds
    if count < folds:
        what = "different images" if images.groups is None else "groups (dataset.group)"
        way = f"dataset.folds={count} is the most" if count > 1 else "nothing can be cut"
        raise ConfigError(f"dataset.folds={folds}: there are only {count:,} {what}; {way}")
    found = folds_of(images.labels, units, folds, options.split_seed)
    return _apart(np.flatnonzero(found == options.fold), len(images))


def _groups(images: Images, rows: Indices) -> tuple[int, int] | None:
    """How many groups these rows hold, and how many there are, an image in none counting as one; None without any."""
    if images.groups is None:
        return None
    units = units_of(images.groups, None, len(images))
    return len(np.unique(units[rows])), int(units.max()) + 1


def origin_of(source: Source, name: str) -> str:
    """The part of the data set that this split is taken from: itself, train, or val where that is the test."""
    if name == "test" and source.test is None:
        return "train" if source.val is None else "val"
    is_own = name == "test" or (name == "val" and source.val is not None and source.test is not None)
    return name if is_own else "train"


def split(source: Source, options: SplitOptions, *, groups: Indices | None = None, rule: int = RULE) -> Splits:
    """The data set's train, val and test; those that it lacks are drawn with split_seed, not with the run's seed.

    groups: for each image of ``source.train`` a number; those of one group stay in one part, as do those of
    ``Images.groups``. rule: 1 cuts as imgcls did before ties were drawn, for the runs of that time. Raises DataError if
    test would be empty, ConfigError for too many folds.
    """
    seed, cuts = options.split_seed, list[Cut]()
    train, val, test = source.train, source.val, source.test
    if test is None and val is not None:
        test, val = val, None
        cuts.append(Cut("test", "val", len(test), len(test)))
    if test is None:
        fold = None if options.folds is None or options.fold is None else (options.fold, options.folds)
        fraction = options.test_fraction if fold is None else 1 / fold[1]
        rest, part = _fold(train, groups, options) if fold else _cut(train, groups, fraction, seed, "test", rule)
        if len(part) == 0:
            raise _too_few(train, groups, fraction)
        cuts.append(Cut("test", "all", len(part), len(train), fraction, fold, _groups(train, part)))
        train, test, groups = train.take(rest), train.take(part), None if groups is None else groups[rest]
    if options.limit is not None and options.limit < len(train):
        cuts.append(Cut("train", "train", options.limit, len(train)))
        rows = stratified(train.labels, options.limit, seed, "limit", "train", take_one=True, rule=rule)[1]
        train, groups = train.take(rows), None if groups is None else groups[rows]
    if options.test_limit is not None and options.test_limit < len(test):
        cuts.append(Cut("test", "test", options.test_limit, len(test)))
        rows = stratified(test.labels, options.test_limit, seed, "limit", "test", take_one=True, rule=rule)[1]
        test = test.take(rows)
    if val is None and options.val_fraction > 0:
        fraction = options.val_fraction
        rest, part = _cut(train, groups, fraction, seed, "val", rule)
        cuts.append(Cut("val", "train", len(part), len(train), fraction, groups=_groups(train, part)))
        train, val = train.take(rest), train.take(part)
        val = val if len(val) else None
    return Splits(train, val, test, tuple(cuts))


def _too_few(images: Images, groups: Indices | None, fraction: float) -> DataError:
    """The error for images of which nothing can be cut for the test. groups: for each image that of its copies."""
    total, copies = len(images), ""
    if images.groups is not None:
        count = int(units_of(images.groups, groups, total).max()) + 1
        why = "it would be all of them" if count == 1 else "without any of them a class would have no image to train on"
        return DataError(
            f"too few groups to split: the test needs one of the {count:,} (dataset.group), and {why}; add images of "
            "others, or a test set of your own"
        )
    if groups is not None:
        images = images.take(np.unique(groups, return_index=True)[1])
        copies = f"the {total:,} images are copies of {len(images):,} different ones, byte for byte"
    if copies and len(images) == 1:
        return DataError(f"{ALL_ONE.format(total)}: there is nothing to learn; add other images")
    if int(np.bincount(images.labels).max()) == 1:
        what = f"each of the {len(images):,} classes has one, which it needs to train on"
        what = f"{copies}, and each class needs one to train on" if copies else what
        return DataError(f"too few images to split: {what}; add images, or a test set of your own")
    what = f"{fraction:.0%} of {len(images):,} different ones is not one image for the test"
    what = f"{copies}, and {what}" if copies else what
    way = f"dataset.test_fraction={max(0.5, fraction):g}"
    return DataError(f"too few images to split: {what}; add images, or take more of them with {way}")
