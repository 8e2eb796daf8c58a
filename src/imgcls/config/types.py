"""Annotated types for the values of keys: a type together with its range.

Used by the dataclasses in schema.py and by the functions in the tables (models, optimizers, ...), whose keyword-only
arguments are the schema: ``def sgd(groups, *, lr: LearningRate, momentum: Fraction)``.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """An interval of numbers: low and high are included, above and below are not."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """'at least 1 and at most 10', for an error message."""
        bounds = {"above": self.above, "at least": self.low, "below": self.below, "at most": self.high}
        shown = {word: bound for word, bound in bounds.items() if bound is not None}
        return " and ".join(
            f"{word} {bound:,}" if isinstance(bound, int) else f"{word} {bound:,g}" for word, bound in shown.items()
        )


@dataclass(frozen=True)
class Length:
    """How many elements a list has."""

    count: int

    def __contains__(self, value: Sized) -> bool:
        return len(value) == self.count

    def __str__(self) -> str:
        return f"a list of {self.count}"


@dataclass(frozen=True)
class Word:
    """A word in place of a number, until the run knows the number: auto."""

    text: str


Probability = Annotated[float, Range(low=0, high=1)]
Fraction = Annotated[float, Range(low=0, below=1)]
Share = Annotated[float, Range(above=0, high=1)]
Positive = Annotated[float, Range(above=0, high=1_000_000)]
NonNegative = Annotated[float, Range(low=0, high=1_000_000)]
LearningRate = Annotated[float, Range(above=0, high=1000)]
AutoRate = Annotated[LearningRate, Word("auto")]
Count = Annotated[int, Range(low=1, high=1_000_000)]
Width = Annotated[int, Range(low=1, high=65_536)]
Seed = Annotated[int, Range(low=0, high=2**63 - 1)]
