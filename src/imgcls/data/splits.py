"""train, val and test: val is for choosing, test is used once, at the end."""

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
    """The keys that every data set has (conf/train.yaml gives the defaults)."""

    image_size: Annotated[int, Range(low=1, high=4096)] | None
    channels: Annotated[int, Range(low=1, high=3)] | None
    val_fraction: Fraction
    test_fraction: Annotated[float, Range(above=0, below=1)]
    split_seed: Seed
    classes: list[str | int] | None
    limit: Annotated[int, Range(low=2)] | None
    test_limit: Annotated[int, Range(low=1)] | None

    def __post_init__(self) -> None:
        if self.channels == 2:
            raise ValueError("dataset.channels must be 1 (grey) or 3 (RGB), got 2")
        if self.classes == []:
            raise ValueError("dataset.classes: name at least one class, or leave it null")


@dataclass(frozen=True)
class Splits:
    """The three parts as used, and a phrase for each that did not come with the data set."""

    train: Images
    val: Images | None
    test: Images
    how: tuple[str, ...]

    @property
    def parts(self) -> dict[str, Images | None]:
        """By name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def stratified(labels: Indices, count: int, seed: int, *key: str, keep_one: bool = False) -> tuple[Indices, Indices]:
    """Rows (rest, sample), both sorted: a sample of ``count`` rows in which each class keeps its share.

    Quotas are rounded by largest remainder, so their sum is ``count``. With ``keep_one`` one image of each class stays
    in the rest, so that there is something to learn from; the sample is then smaller if the classes are too small.
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
    """The parts of the source, cut where it brings none; they depend on split_seed, not on the run's seed."""
    seed = options.split_seed
    train, val, test = source.train, source.val, source.test
    how: list[str] = []
    if test is None and val is not None:
        test, val = val, None
        how.append("test: its val part")
    if test is None:
        train, test = _cut(train, options.test_fraction, seed, "test")
        how.append(f"test: a stratified {options.test_fraction:.0%} of all")
    for name, part, limit in (("train", train, options.limit), ("test", test, options.test_limit)):
        if limit is not None and limit < len(part):
            how.append(f"{name}: a stratified {limit:,} of {len(part):,} (dataset.{'test_' * (name == 'test')}limit)")
    train = _sample(train, options.limit, seed, "train")
    test = _sample(test, options.test_limit, seed, "test")
    if val is None and options.val_fraction > 0:
        train, val = _cut(train, options.val_fraction, seed, "val")
        how.append(f"val: a stratified {options.val_fraction:.0%} of train")
    if len(train) == 0 or len(test) == 0:
        raise DataError(
            "too few images to split: train and test need at least one each; add images or lower the fractions"
        )
    if val is not None and len(val) == 0:
        val = None
        how.append("no val: too few images")
    return Splits(train, val, test, tuple(how))
