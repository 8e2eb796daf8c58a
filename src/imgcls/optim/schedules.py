"""Learning-rate schedules: pure functions of the step, as a factor on ``optimizer.lr``.

SCHEDULERS: name -> function (steps_per_epoch, epochs, *, parameters) -> schedule, which maps the step, from 0 to
steps_per_epoch * epochs - 1, to a factor. Times are in epochs (fractions allowed): independent of the batch size.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from imgcls.config.types import NonNegative, Positive, Probability

Schedule = Callable[[int], float]
ONE_CYCLE_START = 1 / 25  # the first learning rate, as a fraction of the highest: fastai's div


def _with_warmup(rest: Schedule, steps_per_epoch: int, epochs: int, warmup_epochs: float) -> Schedule:
    """Rise linearly to 1 over the warm-up, then follow ``rest``, whose steps count from the end of the warm-up."""
    if warmup_epochs >= epochs > 0 and warmup_epochs > 0:
        raise ValueError(f"warmup_epochs must be less than epochs ({epochs}), got {warmup_epochs:g}")
    warmup = round(warmup_epochs * steps_per_epoch)
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else rest(step - warmup)


def constant(steps_per_epoch: int, epochs: int, *, warmup_epochs: NonNegative) -> Schedule:
    """A constant learning rate, after the warm-up."""
    return _with_warmup(lambda step: 1.0, steps_per_epoch, epochs, warmup_epochs)


def step(
    steps_per_epoch: int,
    epochs: int,
    *,
    milestones: list[Positive] | None,
    gamma: Probability,
    warmup_epochs: NonNegative,
) -> Schedule:
    """Multiply by gamma at each milestone, in epochs; null is half and three quarters of the run.

    Raises ValueError for milestones that do not increase, or are not before the last epoch.
    """
    marks = [epochs / 2, epochs * 3 / 4] if milestones is None else milestones
    for before, after in pairwise(marks):
        if after <= before:
            raise ValueError(f"milestones must increase, got {after:g} after {before:g}")
    if milestones is not None and marks and marks[-1] >= epochs:
        raise ValueError(f"milestones must be less than epochs ({epochs}), got {marks[-1]:g}")
    warmup = round(warmup_epochs * steps_per_epoch)
    edges = [math.ceil(mark * steps_per_epoch - 1e-6) - warmup for mark in marks]  # the first step at or after it
    return _with_warmup(lambda step: gamma ** bisect_right(edges, step), steps_per_epoch, epochs, warmup_epochs)


def linear(steps_per_epoch: int, epochs: int, *, warmup_epochs: NonNegative, final_factor: Probability) -> Schedule:
    """A line from 1 to final_factor."""
    length = max(1, steps_per_epoch * epochs - round(warmup_epochs * steps_per_epoch))
    slope = (1 - final_factor) / length
    return _with_warmup(lambda step: 1 - slope * min(step, length), steps_per_epoch, epochs, warmup_epochs)


def cosine(steps_per_epoch: int, epochs: int, *, warmup_epochs: NonNegative, final_factor: Probability) -> Schedule:
    """Half a cosine from 1 to final_factor: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983"""
    length = max(1, steps_per_epoch * epochs - round(warmup_epochs * steps_per_epoch))

    def fall(step: int) -> float:
        return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * min(step / length, 1.0))) / 2

    return _with_warmup(fall, steps_per_epoch, epochs, warmup_epochs)


def onecycle(
    steps_per_epoch: int, epochs: int, *, warmup_epochs: NonNegative | None, final_factor: Probability
) -> Schedule:
    """Rise linearly from 1/25 over warmup_epochs (null: a quarter of the run), then fall by half a cosine.

    Smith & Topin 2018, https://arxiv.org/abs/1708.07120, without the opposite cycle of the momentum.
    """
    rise_epochs = epochs / 4 if warmup_epochs is None else warmup_epochs
    fall = cosine(steps_per_epoch, epochs, warmup_epochs=rise_epochs, final_factor=final_factor)
    rise = round(rise_epochs * steps_per_epoch)

    def cycle(step: int) -> float:
        return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * step / rise if step < rise else fall(step)

    return cycle


POINTS = 20  # of an epoch at which ``rise_of`` looks


def rise_of(scheduler: Callable[[int, int], Schedule], epochs: int) -> int:
    """Epochs until the highest learning rate, rounded up; 0 if it only falls. scheduler: one with its parameters."""
    schedule = scheduler(POINTS, epochs)
    factors = [schedule(step) for step in range(POINTS * epochs)]
    return math.ceil(factors.index(max(factors)) / POINTS)


SCHEDULERS: dict[str, Callable[..., Any]] = {
    "constant": constant,
    "step": step,
    "linear": linear,
    "cosine": cosine,
    "onecycle": onecycle,
}
