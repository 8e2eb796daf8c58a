"""Train, val and test: val is for model selection, test is used once, at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from imgcls import seeding
from imgcls.config.types import Fraction, Range, Seed
from imgcls.data.source import Images, Indices, Source
from imgcls.errors import DataError


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """The keys that every data set has; their defaults are in conf/train.yaml."""

    image_size: Annotated[int, Range(low=1, high=4096)] | None
    channels: Annotated[int, Range(low=1, high=3)] | None
    val_fraction: Fraction
    test_fraction: Annotated[float, Range(above=0, below=1)]
    split_seed: Seed
    classes: list[str | int] | None
    limit: Annotated[int, Range(low=2)] | None
    test_limit: Annotated[int, Range(low=1)] | None
    exclude: str | None
    relabel: str | None

    def __post_init__(self) -> None:
        if self.channels == 2:
            raise ValueError("dataset.channels must be 1 (gray) or 3 (RGB), got 2")
        if self.classes == []:
            raise ValueError("dataset.classes: name at least one class, or leave it null")


@dataclass(frozen=True)
class Cut:
    """How a split was made that the data set does not have, or of which only a sample is used.

    split: its name. origin: the split that the images are taken from, or "all". count, total: images taken,
    and images to take them from. fraction: as requested; None for a limit (``dataset.limit``, ``dataset.test_limit``).
    """

    split: str
    origin: str
    count: int
    total: int
    fraction: float | None = None

    def __str__(self) -> str:
        if self.count == 0:
            return f"no {self.split}: too few images"
        if self.count == self.total:
            return f"{self.split}: its {self.origin} split"
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


def stratified(labels: Indices, count: int, seed: int, *key: str, keep_one: bool = False) -> tuple[Indices, Indices]:
    """Rows (rest, sample), both sorted: a sample of ``count`` rows in which each class keeps its share.

    Quotas are rounded by largest remainder, so their sum is ``count``. keep_one: leave one image of each class in the
    rest, to train on; the sample is then smaller if the classes are too small.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    count = min(count, len(labels))
    exact = sizes * (count / len(labels))
    ceiling = sizes - 1 if keep_one else sizes
    quotas = np.minimum(np.floor(exact).astype(np.int64), ceiling)
    by_remainder = np.argsort(-(exact - np.floor(exact)), kind="stable")
    while quotas.sum() < count and (quotas < ceiling).any():
        for i in by_remainder:
            if quotas.sum() < count and quotas[i] < ceiling[i]:
                quotas[i] += 1
    draws = seeding.rng(seed, "split", *key).random(len(labels))
    chosen = np.zeros(len(labels), dtype=bool)
    for name, quota in zip(classes, quotas, strict=True):
        rows = np.flatnonzero(labels == name)
        chosen[rows[np.argsort(draws[rows], kind="stable")[:quota]]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _sample(images: Images, limit: int | None, seed: int, key: str) -> Images:
    if limit is None or limit >= len(images):
        return images
    return images.take(stratified(images.labels, limit, seed, "limit", key)[1])


def _cut(images: Images, fraction: float, seed: int, key: str) -> tuple[Images, Images]:
    rest, part = stratified(images.labels, round(len(images) * fraction), seed, key, keep_one=True)
    return images.take(rest), images.take(part)


def split(source: Source, options: SplitOptions) -> Splits:
    """The data set's train, val and test; those that it lacks are drawn with split_seed, not with the run's seed.

    Raises DataError if train or test would be empty.
    """
    seed, cuts = options.split_seed, list[Cut]()
    train, val, test = source.train, source.val, source.test
    if test is None and val is not None:
        test, val = val, None
        cuts.append(Cut("test", "val", len(test), len(test)))
    if test is None:
        total, fraction = len(train), options.test_fraction
        train, test = _cut(train, fraction, seed, "test")
        cuts.append(Cut("test", "all", len(test), total, fraction))
    for name, part, limit in (("train", train, options.limit), ("test", test, options.test_limit)):
        if limit is not None and limit < len(part):
            cuts.append(Cut(name, name, limit, len(part)))
    train = _sample(train, options.limit, seed, "train")
    test = _sample(test, options.test_limit, seed, "test")
    if val is None and options.val_fraction > 0:
        total, fraction = len(train), options.val_fraction
        train, val = _cut(train, fraction, seed, "val")
        cuts.append(Cut("val", "train", len(val), total, fraction))
        val = val if len(val) else None
    if len(train) == 0 or len(test) == 0:
        raise DataError(
            "too few images to split: train and test need at least one each; add images or lower the fractions"
        )
    return Splits(train, val, test, tuple(cuts))
