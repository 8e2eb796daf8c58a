"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from imgcls.config.components import select
from imgcls.config.options import option_node
from imgcls.errors import ConfigError
from imgcls.optim.schedules import SCHEDULERS, constant, cosine, linear, onecycle, step

STEPS, EPOCHS = 10, 8
TOTAL = STEPS * EPOCHS


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (1, 2), (3, 1), (10, 8), (469, 3)])
def test_every_schedule_gives_a_factor_between_0_and_1_at_every_step(name: str, steps: int, epochs: int) -> None:
    schedule = select(SCHEDULERS, option_node("scheduler", name), "scheduler")(steps, epochs)
    factors = [schedule(i) for i in range(steps * epochs)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == pytest.approx(1, abs=0.05)
    assert [schedule(i) for i in reversed(range(len(factors)))] == factors[::-1]  # no memory


def test_constant_is_1() -> None:
    assert {constant(STEPS, EPOCHS, warmup_epochs=0)(i) for i in range(TOTAL)} == {1.0}


@pytest.mark.parametrize("warmup_epochs", [0.5, 2])
def test_the_warm_up_rises_in_a_line_and_ends_where_the_rest_begins(warmup_epochs: float) -> None:
    warmup = round(warmup_epochs * STEPS)
    for schedule in (
        constant(STEPS, EPOCHS, warmup_epochs=warmup_epochs),
        linear(STEPS, EPOCHS, warmup_epochs=warmup_epochs, final_factor=0.0),
        cosine(STEPS, EPOCHS, warmup_epochs=warmup_epochs, final_factor=0.0),
    ):
        assert [schedule(i) for i in range(warmup + 1)] == pytest.approx(
            [(i + 1) / (warmup + 1) for i in range(warmup + 1)]
        )


@pytest.mark.parametrize(("warmup_epochs", "final_factor"), [(0, 0.0), (2, 0.1)])
def test_linear_falls_in_a_line_to_its_end(warmup_epochs: float, final_factor: float) -> None:
    schedule = linear(STEPS, EPOCHS, warmup_epochs=warmup_epochs, final_factor=final_factor)
    start = round(warmup_epochs * STEPS)
    assert schedule(start) == 1
    assert schedule((start + TOTAL) // 2) == pytest.approx((1 + final_factor) / 2)
    assert schedule(TOTAL) == pytest.approx(final_factor)
    changes = [schedule(i) - schedule(i + 1) for i in range(start, TOTAL)]
    assert changes == pytest.approx([(1 - final_factor) / (TOTAL - start)] * len(changes))


def test_cosine_falls_to_its_end() -> None:
    schedule = cosine(STEPS, EPOCHS, warmup_epochs=0, final_factor=0.1)
    assert schedule(0) == 1
    assert schedule(TOTAL // 2) == pytest.approx(0.55)
    assert schedule(TOTAL) == pytest.approx(0.1)
    for i in range(TOTAL):
        assert schedule(i) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * i / TOTAL)) / 2)
        assert schedule(i + 1) < schedule(i)


@pytest.mark.parametrize(("warmup_epochs", "peak"), [(None, 20), (3, 30), (0, 0)])
def test_onecycle_rises_from_a_25th_and_falls_to_nothing(warmup_epochs: float | None, peak: int) -> None:
    schedule = onecycle(STEPS, EPOCHS, warmup_epochs=warmup_epochs, final_factor=0.0)
    factors = [schedule(i) for i in range(TOTAL + 1)]
    assert factors.index(max(factors)) == peak
    assert factors[peak] == 1
    assert factors[0] == pytest.approx(1 / 25 if peak else 1)
    assert factors[-1] == pytest.approx(0)
    rises = [after - before for before, after in pairwise(factors[: peak + 1])]
    assert rises == pytest.approx([(1 - 1 / 25) / peak] * peak if peak else [])
    assert all(after < before for before, after in pairwise(factors[peak:]))


def test_step_falls_at_its_milestones() -> None:
    schedule = step(STEPS, EPOCHS, milestones=[2, 5.5], gamma=0.1, warmup_epochs=0)
    assert [schedule(i) for i in (0, 19, 20, 54, 55, 79)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    halves = step(STEPS, EPOCHS, milestones=None, gamma=0.5, warmup_epochs=0)
    assert [halves(i) for i in (39, 40, 59, 60)] == [1, 0.5, 0.5, 0.25]


def test_milestones_count_from_the_start_also_after_a_warm_up() -> None:
    schedule = step(STEPS, EPOCHS, milestones=[4], gamma=0.1, warmup_epochs=1)
    assert [schedule(i) for i in (10, 39, 40)] == pytest.approx([1, 1, 0.1])


@pytest.mark.parametrize(
    ("milestones", "message"),
    [
        ([3, 3], "milestones must increase, got 3 after 3"),
        ([5, 2], "milestones must increase, got 2 after 5"),
        ([2, 8], r"milestones must be less than epochs \(8\), got 8"),
    ],
)
def test_impossible_milestones_are_named(milestones: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step(STEPS, EPOCHS, milestones=milestones, gamma=0.1, warmup_epochs=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_warm_up_as_long_as_the_run_is_refused(name: str) -> None:
    component = select(SCHEDULERS, option_node("scheduler", name) | {"warmup_epochs": 8}, "scheduler")
    with pytest.raises(ConfigError, match=r"warmup_epochs must be less than epochs \(8\), got 8"):
        component(STEPS, EPOCHS)
