"""Runs whose configuration differs in the seed alone are one recipe; and what differs between recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgcls import metrics
from imgcls.compare.results import Result
from imgcls.compare.statistics import Verdict, compare_checkpoints, compare_recipes, mean_interval
from imgcls.text import one_line, show

LONGEST_NAME = 60  # letters of a recipe that is called by what it sets


@dataclass(frozen=True)
class Side:
    """What is compared: one checkpoint, or the runs of a recipe with different seeds, sorted by them."""

    name: str
    results: tuple[Result, ...]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of its runs, with the seed if there is one run."""
        first = self.results[0]
        return first.settings if len(self.results) > 1 else {**first.settings, "seed": first.seed}

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(runs, N)"""
        return np.stack([one.correct for one in self.results])

    @property
    def accuracy(self) -> float:
        """The mean over the runs."""
        return float(self.correct.mean())

    @property
    def ci95(self) -> tuple[float, float]:
        """Of the accuracy: Wilson's over the images; of a recipe over seeds and images."""
        correct = self.correct
        return mean_interval(correct) if len(correct) > 1 else metrics.wilson(self.accuracy, correct.shape[1])

    def versus(self, other: Side) -> Verdict:
        """This one compared with another of the same kind."""
        if len(self.results) == 1:
            return compare_checkpoints(self.correct[0], other.correct[0])
        mine, others = ([one.seed for one in side.results] for side in (self, other))
        is_paired = mine == others and len({*mine}) == len(mine)
        return compare_recipes(self.correct, other.correct, paired=is_paired)


def checkpoints(results: Sequence[Result]) -> list[Side]:
    """Each result for itself."""
    return [Side(one.name, (one,)) for one in results]


def recipes(results: Sequence[Result]) -> tuple[list[Side] | None, list[str]]:
    """The results by recipe, None unless there are several and each has several runs; and warnings about copies.

    Sweeps of one and the same recipe, perhaps with other code or data, are compared with one another. Of a run and its
    copy (same recipe, seed and predictions), which would count as two seeds, one is left out.
    """
    groups = _grouped(results, lambda one, other: one.settings == other.settings)
    names = _names([group[0] for group in groups])
    if len(groups) == 1:
        groups = _grouped(results, lambda one, other: one.place.origin == other.place.origin)
        names = [group[0].place.origin for group in groups]
    sides, copies = [], list[str]()
    for name, group in zip(names, groups, strict=True):
        alike = _grouped(group, _is_copy)
        copies += [f"{other.name} is a copy of {one.name} and is left out" for one, *more in alike for other in more]
        sides.append(Side(name, tuple(sorted((one for one, *_ in alike), key=lambda one: one.seed))))
    if len(sides) < 2 or min(len(side.results) for side in sides) < 2:
        return None, []
    return sides, copies


def _is_copy(one: Result, other: Result) -> bool:
    return one.seed == other.seed and np.array_equal(one.predicted, other.predicted)


def _grouped(results: Sequence[Result], is_same: Callable[[Result, Result], bool]) -> list[list[Result]]:
    groups: list[list[Result]] = []
    for one in results:
        group = next((group for group in groups if is_same(group[0], one)), [])
        group.append(one)
        if len(group) == 1:
            groups.append(group)
    return groups


def _names(firsts: Sequence[Result]) -> list[str]:
    """Recipes are called by the settings that differ, if all of them have these, else by their first run."""
    differs = config_differs({one.name: one.settings for one in firsts})
    shared = [key for key, values in differs.items() if len(values) == len(firsts)]
    names = [" ".join(_word(key, one.settings[key]) for key in shared) for one in firsts]
    is_good = len({*names}) == len(firsts) and max(map(len, names)) <= LONGEST_NAME
    return names if is_good else [one.name for one in firsts]


def _word(key: str, value: Any) -> str:
    """A setting as it would be typed."""
    return f"{key.removesuffix('.name')}={plain(value)}"


def plain(value: Any) -> str:
    """A value as it would be typed, text without quotes."""
    return one_line(value) if isinstance(value, str) else show(value)


def config_differs(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{key: {name: value}} of the keys that have several values in these tables, by name.

    A table without a key is left out: the name of its option, which differs then, says enough.
    """
    keys = dict.fromkeys(key for table in tables.values() for key in table)
    found = {key: {name: table[key] for name, table in tables.items() if key in table} for key in keys}
    return {
        key: values for key, values in found.items() if any(one != other for one, other in pairwise(values.values()))
    }
