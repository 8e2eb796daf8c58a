"""Cuts that keep groups whole (patients, videos, copies of a file), and folds for cross-validation.

All of it is done in whole numbers and with draws of our own, so that a cut is the same on every machine and with every
version of a library.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imgcls import seeding
from imgcls.data.quotas import quotas
from imgcls.data.source import Indices

UNIT = 1 << 20  # the weight of a class with one image; others have less, so that each class counts the same
MOST_SWAPPED, MOST_MOVED = 1000, 5000  # groups whose exchange is tried; more of them are even enough by themselves
PASSES = 10


def units_of(names: Sequence[str] | None, copies: Indices | None, count: int) -> Indices:
    """For each of ``count`` images a number from 0, equal for those that must stay together, (N,).

    names: of the groups, "" for an image in none. copies: a number that copies of a file share; two groups that share
    a file become one. Either may be None.
    """
    if names is None:
        return np.unique(np.arange(count) if copies is None else copies, return_inverse=True)[1].astype(np.int64)
    known: dict[str | int, int] = {}
    codes = np.array([known.setdefault(name or row, len(known)) for row, name in enumerate(names)], dtype=np.int64)
    if copies is None:
        return codes
    parent = list(range(len(known)))

    def root(code: int) -> int:
        while parent[code] != code:
            parent[code] = code = parent[parent[code]]
        return code

    _, first, inverse = np.unique(copies, return_index=True, return_inverse=True)
    for row, other in enumerate(first[inverse].tolist()):
        if row != other:
            parent[root(int(codes[row]))] = root(int(codes[other]))
    return np.unique([root(code) for code in codes.tolist()], return_inverse=True)[1].astype(np.int64)


def taken(labels: Indices, units: Indices, fraction: float, seed: int, key: str) -> Indices:
    """The rows of a part, sorted: about that fraction of each class, in whole units; none if it cannot be.

    labels, units: of each image, (N,). Each class keeps an image outside of the part. If every unit is larger than the
    part, it is the smallest of them.
    """
    rng = seeding.rng(seed, "groups", key)
    sizes = np.bincount(labels)
    lots = rng.permutation(len(sizes))
    is_single = np.bincount(units)[units] == 1
    chosen = np.zeros(len(labels), dtype=bool)
    several = np.bincount(labels[~is_single], minlength=len(sizes))
    if several.any():
        part = quotas(several, round(int(several.sum()) * fraction), several, lots, 2)
        own = np.unique(units[~is_single], return_inverse=True)[1]
        table = _Table(labels[~is_single], own, np.stack([several - part, part]), 1)
        table.take(rng.permutation(table.count))
        chosen[~is_single] = table.part[own] == 1
    part = quotas(sizes, round(len(labels) * fraction), np.maximum(sizes - 1, 0), lots, 2)
    there = np.bincount(labels[chosen], minlength=len(sizes))
    excess = np.stack([several - there - (sizes - part), there - part])
    chosen[is_single] = _filled(excess, labels[is_single], 1, rng.random(int(is_single.sum()))) == 1
    lost = np.setdiff1d(labels, labels[~chosen])
    chosen &= ~np.isin(units, units[np.isin(labels, lost)])
    return np.flatnonzero(chosen if chosen.any() else units == _smallest(labels, units, sizes))


def folds_of(labels: Indices, units: Indices, folds: int, seed: int) -> Indices:
    """The fold of each image, (N,), from 0: each with the same share of each class as far as the units allow.

    labels, units: of each image, (N,); there are at least as many units as folds.
    """
    rng = seeding.rng(seed, "folds", folds)
    sizes = np.bincount(labels)
    is_single = np.bincount(units)[units] == 1
    found = np.empty(len(labels), dtype=np.int64)
    excess = np.tile(-sizes, (folds, 1))
    if not is_single.all():
        own = np.unique(units[~is_single], return_inverse=True)[1]
        several = np.bincount(labels[~is_single], minlength=len(sizes))
        table = _Table(labels[~is_single], own, np.tile(several, (folds, 1)), folds)
        table.deal(rng.permutation(table.count))
        found[~is_single] = table.part[own]
        excess = table.excess + several - sizes
    found[is_single] = _filled(excess, labels[is_single], folds, rng.random(int(is_single.sum())))
    return found


class _Table:
    """Units in parts, and how far each part is from the images of each class that it should have.

    The cost is the sum over parts and classes of the squared distance, divided by the size of the class: what
    scikit-learn's StratifiedGroupKFold makes small, here by moves and swaps too.

    **Attributes:** part: of each unit, (U,). excess: (P, C), the images in excess of the goal, times scale.
    """

    def __init__(self, labels: Indices, units: Indices, goal: Indices, scale: int) -> None:
        classes = goal.shape[1]
        cells, self.counts = np.unique(units * classes + labels, return_counts=True)
        self.unit, self.label = np.divmod(cells, classes)
        self.sizes = np.bincount(units)
        self.count = len(self.sizes)
        self.starts = np.searchsorted(self.unit, np.arange(self.count + 1))
        self.weights = np.maximum(1, UNIT // np.maximum(1, np.bincount(labels, minlength=classes)))
        self.part = np.zeros(self.count, dtype=np.int64)
        self.excess, self.scale = -goal, scale

    def take(self, order: Indices) -> None:
        """Start with all units in part 0; in this order take for part 1 those that bring it nearer to its goal."""
        for unit in range(self.count):
            self._put(unit, 0)
        for unit in order.tolist():
            self._move(unit, is_first=True)
        self._improve(order)

    def deal(self, order: Indices) -> None:
        """Put the units, large ones first, where they are needed most."""
        for unit in order[np.argsort(-self.sizes[order], kind="stable")].tolist():
            cost, total = self._cost(unit), self.excess.sum(axis=1)
            self._put(unit, int(np.lexsort((total, cost))[0]))
        self._improve(order)

    def _improve(self, order: Indices) -> None:
        is_small = self.count <= MOST_SWAPPED
        for _ in range(PASSES if self.count <= MOST_MOVED else 0):
            better = [self._move(unit) or (is_small and self._swap(unit)) for unit in order.tolist()]
            if not any(better):
                return

    def _cost(self, unit: int, sign: int = 1) -> Indices:
        """What it costs each part, (P,), to get the unit; sign -1: to lose it."""
        own = slice(self.starts[unit], self.starts[unit + 1])
        label, count = self.label[own], self.counts[own]
        cost: Indices = (sign * 2 * self.excess[:, label] + self.scale * count) @ (self.weights[label] * count)
        return cost

    def _put(self, unit: int, part: int, sign: int = 1) -> None:
        own = slice(self.starts[unit], self.starts[unit + 1])
        self.excess[part, self.label[own]] += sign * self.scale * self.counts[own]
        self.part[unit] = part

    def _move(self, unit: int, *, is_first: bool = False) -> bool:
        """Move the unit to the part where it costs least, unless it is the last one of its part."""
        here = int(self.part[unit])
        if not is_first and (self.part == here).sum() == 1:
            return False
        cost = self._cost(unit)
        cost[here] = -self._cost(unit, -1)[here]
        best = int(cost.argmin())
        if cost[best] >= cost[here]:
            return False
        self._put(unit, here, -1)
        self._put(unit, best)
        return True

    def _swap(self, unit: int) -> bool:
        """Exchange the unit for the one of another part that makes the cost least, if that is less than now."""
        here = int(self.part[unit])
        own = slice(self.starts[unit], self.starts[unit + 1])
        counts = np.zeros(self.excess.shape[1], dtype=np.int64)
        counts[self.label[own]] = self.counts[own]
        gap = self.excess[here] - self.excess  # (P, C)
        cells = self.counts * (
            gap[self.part[self.unit], self.label] + self.scale * (self.counts - 2 * counts[self.label])
        )
        cost = np.add.reduceat(self.weights[self.label] * cells, self.starts[:-1])
        cost += ((self.scale * counts - gap) @ (self.weights * counts))[self.part]
        cost[self.part == here] = 0
        other = int(cost.argmin())
        if cost[other] >= 0:
            return False
        there = int(self.part[other])
        for one, source, target in ((unit, here, there), (other, there, here)):
            self._put(one, source, -1)
            self._put(one, target)
        return True


def _filled(excess: Indices, labels: Indices, scale: int, draws: NDArray[np.float64]) -> Indices:
    """The part of each single image, (N,): the one that lacks its class most, then the one that lacks images most.

    excess: (P, C) as in _Table, brought up to date. draws: random numbers that say which image goes where.
    """
    found = np.zeros(len(labels), dtype=np.int64)
    order = np.lexsort((draws, labels))
    bounds = np.searchsorted(labels[order], np.arange(excess.shape[1] + 1))
    for label in np.unique(labels).tolist():
        rows = order[bounds[label] : bounds[label + 1]]
        levels = excess[:, label]
        most = min(len(rows), int(np.ptp(levels)) // scale + len(rows) // len(excess) + 2)  # that a part can get
        steps = scale * np.arange(most)
        totals = excess.sum(axis=1)
        by_need = np.lexsort(((totals[:, None] + steps).ravel(), (levels[:, None] + steps).ravel()))
        counts = np.bincount(by_need[: len(rows)] // most, minlength=len(excess))
        found[rows] = np.repeat(np.arange(len(excess)), counts)
        excess[:, label] += scale * counts
    return found


def _smallest(labels: Indices, units: Indices, sizes: Indices) -> int:
    """The smallest unit without which each class still has an image, -1 if there is none."""
    cells, counts = np.unique(units * len(sizes) + labels, return_counts=True)
    whole = cells[counts == sizes[cells % len(sizes)]] // len(sizes)  # units that hold all of a class
    size = np.bincount(units)
    size[whole] = len(labels) + 1
    return int(size.argmin()) if size.min() <= len(labels) else -1
