"""Classes from the numbers of a column: a threshold ('prob > 0.5') or bins ('age > 20, 40, 60')."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
EXPRESSION = re.compile(rf"(.+?)\s*(>=|<=|>|<)\s*({NUMBER}(?:\s*,\s*{NUMBER})*)")
OPPOSITE = {">": "<=", ">=": "<", "<": ">=", "<=": ">"}
MOST_NUMBERS = 10  # different broken numbers that may each be a class


@dataclass(frozen=True)
class Expression:
    """A column, a comparison (>, >=, <, <=) and its numbers, as typed: one makes two classes, more make bins."""

    column: str
    sign: str
    bounds: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, from low to high; of two, the one that was typed is the last."""
        above, below = (self.sign, OPPOSITE[self.sign]) if ">" in self.sign else (OPPOSITE[self.sign], self.sign)
        name, bounds = self.column, self.bounds
        if len(bounds) == 1:
            return f"{name}{OPPOSITE[self.sign]}{bounds[0]}", f"{name}{self.sign}{bounds[0]}"
        left = {">": "<", ">=": "<="}[above]
        inner = [f"{low}{left}{name}{below}{high}" for low, high in itertools.pairwise(bounds)]
        return f"{name}{below}{bounds[0]}", *inner, f"{name}{above}{bounds[-1]}"

    def __call__(self, value: float) -> str:
        """The class of a number."""
        is_open = self.sign in (">", "<=")  # a bound itself belongs to the bin below it
        count = sum(value > float(one) if is_open else value >= float(one) for one in self.bounds)
        if len(self.bounds) == 1 and "<" in self.sign:
            count = 1 - count
        return self.classes[count]


def expression(text: str) -> Expression | None:
    """The text as an expression; None if it is none. Raises ValueError for bounds that do not rise."""
    found = EXPRESSION.fullmatch(text.strip())
    if found is None:
        return None
    bounds = tuple(one.strip() for one in found[3].split(","))
    numbers = [float(one) for one in bounds]
    if any(low >= high for low, high in itertools.pairwise(numbers)):
        raise ValueError(f"label: the numbers of '{text}' must rise, such as '{found[1]} > 0.3, 0.6'")
    return Expression(found[1].strip(), found[2], bounds)


def number(text: str) -> float | None:
    """The number that a cell holds, with a decimal point or comma; None if it holds none, NaN or infinity."""
    try:
        value = float(re.sub(r"^([+-]?\d*),(\d+)$", r"\1.\2", text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def broken_numbers(labels: Iterable[str]) -> list[float]:
    """The labels as numbers, sorted, if all of them are numbers and some are not whole; else nothing."""
    values = [number(label) for label in labels]
    known = sorted(value for value in values if value is not None)
    return known if len(known) == len(values) and any(value != int(value) for value in known) else []
