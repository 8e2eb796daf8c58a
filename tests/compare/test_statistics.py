"""The tests and intervals of imgcls compare: scipy's figures, and what noise alone looks like."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from imgcls.compare.statistics import (
    bootstrap,
    compare_checkpoints,
    compare_recipes,
    mcnemar,
    mean_interval,
    t_test,
)

EXACT = 1e-9
Correct = NDArray[np.bool_]


def test_mcnemar_is_twice_the_smaller_tail_of_the_binomial() -> None:
    rng = np.random.default_rng(0)
    pairs = [(0, 0), (1, 0), (0, 1), (4, 0), (5, 5), *rng.integers(0, 300, (195, 2)).tolist()]
    for one, other in pairs:
        expected = min(1.0, 2 * stats.binom.cdf(min(one, other), one + other, 0.5))
        assert mcnemar(one, other) == pytest.approx(expected, abs=EXACT)


def test_t_tests_are_scipys_on_the_accuracies() -> None:
    rng = np.random.default_rng(1)
    for i in range(200):
        images, seeds = int(rng.integers(2, 500)), int(rng.integers(2, 8))
        more = seeds if i % 2 else seeds + 1
        a, b = rng.integers(0, images + 1, seeds), rng.integers(0, images + 1, more)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected: Any = stats.ttest_rel(a / images, b / images) if i % 2 else stats.ttest_ind(a, b, equal_var=False)
        (low, high), p = t_test(a, b, paired=bool(i % 2))
        scale = images if i % 2 else 1
        if np.isnan(expected.pvalue) or np.ptp(a) + np.ptp(b) == 0 or (i % 2 and np.ptp(a - b) == 0):
            assert (low, high) == pytest.approx((np.mean(a) - np.mean(b),) * 2)
            continue
        assert p == pytest.approx(expected.pvalue, abs=EXACT)
        ends = expected.confidence_interval(0.95)
        assert (low, high) == pytest.approx((ends.low * scale, ends.high * scale), rel=1e-6)


@pytest.mark.parametrize(("gains", "losses"), [(12, 5), (30, 28), (90, 10), (3, 60)])
def test_the_bootstrap_is_scipys_but_for_the_image_on_each_side(gains: int, losses: int) -> None:
    values = np.repeat([1, -1, 0], [gains, losses, 400 - gains - losses])
    found: Any = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", random_state=np.random.default_rng(0)
    )
    ends = found.confidence_interval
    assert bootstrap(values, -1, 1) == pytest.approx((ends.low, ends.high), abs=0.005)


def test_interval_and_test_agree_on_few_differences() -> None:
    for gains in range(12):
        for losses in range(3):
            values = np.repeat([1, -1, 0], [gains, losses, 300])
            low, high = bootstrap(values, -1, 1)
            assert (low > 0 or high < 0) == (mcnemar(gains, losses) < 0.05) or min(gains, losses) > 0
            assert low < values.mean() < high or gains + losses == 0


@pytest.mark.parametrize("count", [2, 50, 1000])
def test_equal_predictions_are_no_difference_but_no_certainty_either(count: int) -> None:
    same = np.random.default_rng(0).random(count) < 0.8
    verdict = compare_checkpoints(same, same)
    assert (verdict.difference, verdict.p_value, verdict.only_a, verdict.only_b) == (0, 1, 0, 0)
    assert verdict.ci95[0] < 0 < verdict.ci95[1]
    seeds = np.stack([same, same, same])
    for is_paired in (True, False):
        verdict = compare_recipes(seeds, seeds, paired=is_paired)
        assert (verdict.difference, verdict.p_value) == (0, 1)
        assert verdict.ci95[0] < 0 < verdict.ci95[1]


def test_two_images_prove_nothing() -> None:
    right, wrong = np.ones(2, bool), np.zeros(2, bool)
    assert compare_checkpoints(right, wrong).p_value == 0.5
    verdict = compare_recipes(np.stack([right] * 5), np.stack([wrong] * 5), paired=True)
    assert (verdict.difference, verdict.p_value, verdict.p_seeds) == (1, 0.5, 0)


def test_one_image_that_every_seed_gets_right_is_no_better_recipe() -> None:
    b = np.zeros((5, 300), bool)
    a = b.copy()
    a[:, 7] = True
    verdict = compare_recipes(a, b, paired=True)
    assert verdict.p_seeds == 0  # the same in all of them
    assert verdict.p_value == verdict.p_images == 1
    assert verdict.ci95[0] < 0 < verdict.ci95[1]


def _runs(rng: np.random.Generator, count: int, shift: float = 0.0, spread: float = 0.2) -> Correct:
    """Runs of one recipe on 400 images, each with a level of its own, (count, 400)."""
    ease = np.random.default_rng(5).normal(3, 3, 400)
    logits: NDArray[np.float64] = ease + shift + rng.normal(0, spread, (count, 1))
    return rng.random((count, 400)) < 1 / (1 + np.exp(-logits))


def test_checkpoints_that_differ_by_noise_alone_are_different_in_at_most_10_of_100_pairs() -> None:
    rng = np.random.default_rng(0)
    different = excluded = 0
    for _ in range(100):
        verdict = compare_checkpoints(_runs(rng, 1, spread=0.0)[0], _runs(rng, 1, spread=0.0)[0])
        different += verdict.p_value < 0.05
        excluded += not verdict.ci95[0] <= 0 <= verdict.ci95[1]
    assert max(different, excluded) <= 10
    found = [compare_checkpoints(_runs(rng, 1, 2.0)[0], _runs(rng, 1)[0]).p_value < 0.05 for _ in range(20)]
    assert sum(found) >= 18


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("is_paired", [True, False])
def test_recipes_that_differ_by_noise_alone_are_different_in_at_most_10_of_100_pairs(
    seeds: int, is_paired: bool
) -> None:
    rng = np.random.default_rng(seeds)
    different = excluded = found = 0
    for _ in range(100):
        a, b, better = (_runs(rng, seeds, shift) for shift in (0.0, 0.0, 2.0))
        verdict = compare_recipes(a, b, paired=is_paired)
        different += verdict.p_value < 0.05
        excluded += not verdict.ci95[0] <= 0 <= verdict.ci95[1]
        found += compare_recipes(better, b, paired=is_paired).p_value < 0.05
    assert max(different, excluded) <= 10
    assert found >= 90 or seeds == 2


def test_the_interval_of_a_recipe_holds_its_seeds_and_its_images() -> None:
    runs = _runs(np.random.default_rng(0), 5)
    low, high = mean_interval(runs)
    accuracies = runs.mean(axis=1)
    t_low, t_high = stats.t.interval(0.95, 4, loc=accuracies.mean(), scale=stats.sem(accuracies))
    images = bootstrap(runs.mean(axis=0), 0, 1)
    assert (low, high) == pytest.approx((min(t_low, images[0]), max(t_high, images[1])), abs=EXACT)
    assert mean_interval(np.ones((3, 50), bool)) == (pytest.approx(50 / 52, abs=0.05), 1.0)
