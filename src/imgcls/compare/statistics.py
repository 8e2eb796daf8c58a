"""Is one better than the other: McNemar's exact test, t-tests over seeds, bootstrap intervals over images.

An image counts as 1 where it is classified correctly, else as 0. Differences are of accuracies, in [-1, 1].
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Counts = NDArray[np.int64]
Correct = NDArray[np.bool_]
Interval = tuple[float, float]

RESAMPLES = 9999
LEVEL = 0.95


class Verdict(NamedTuple):
    """A difference in accuracy, its 95 % interval, the p-value that there is none, and the test that it is from.

    only_a, only_b: how many images a (or b) gets right more often than the other. p_seeds, p_images: of recipes, the
    p-values of the two tests.
    """

    difference: float
    ci95: Interval
    p_value: float
    test: str
    only_a: int
    only_b: int
    p_seeds: float | None = None
    p_images: float | None = None


def compare_checkpoints(a: Correct, b: Correct) -> Verdict:
    """Two checkpoints on the same images, (N,) each."""
    gain = a.astype(np.int64) - b
    only_a, only_b = int((gain > 0).sum()), int((gain < 0).sum())
    interval = bootstrap(gain, -1, 1)
    return Verdict(float(gain.mean()), interval, mcnemar(only_a, only_b), "McNemar, exact", only_a, only_b)


def compare_recipes(a: Correct, b: Correct, *, paired: bool) -> Verdict:
    """Two recipes by the runs of their seeds, (seeds, N) each; paired: row i of both has the same seed.

    Better means both over the seeds and over the images: p is the larger of two, that of a t-test over the seeds and
    that of a sign test over the images (McNemar's, of an image's mean over the seeds); the interval spans both.
    """
    gain = a.mean(axis=0) - b.mean(axis=0)
    wins = a.sum(axis=0) * len(b) - b.sum(axis=0) * len(a)  # as whole numbers: 1/3 - 1/3 may not be 0
    only_a, only_b = int((wins > 0).sum()), int((wins < 0).sum())
    over_seeds, seeds_p = t_test(a.sum(axis=1), b.sum(axis=1), paired=paired)
    by_seeds = (over_seeds[0] / a.shape[1], over_seeds[1] / a.shape[1])
    by_images, images_p = bootstrap(wins / (len(a) * len(b)), -1, 1), mcnemar(only_a, only_b)
    name = f"paired t-test over {len(a)} seeds" if paired else f"Welch's t-test over {len(a)} and {len(b)} seeds"
    return Verdict(
        float(gain.mean()),
        spanning(by_seeds, by_images),
        max(seeds_p, images_p),
        f"{name} and sign test over {a.shape[1]:,} images, the larger p",
        only_a,
        only_b,
        seeds_p,
        images_p,
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value for two proportions of the same images: McNemar 1947.

    only_a, only_b: how many images only one of the two gets right.
    """
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def t_test(a: Counts, b: Counts, *, paired: bool) -> tuple[Interval, float]:
    """95 % interval of the difference of the means, and its two-sided p-value: Student's paired or Welch's t-test.

    a, b: correct images of each seed, (seeds,), at least two. Without any variance the interval is a point.
    """
    parts = [a - b] if paired else [a, b]
    if all(np.ptp(part) == 0 for part in parts):
        difference = float(a.mean() - b.mean())
        return (difference, difference), float(difference == 0)
    with warnings.catch_warnings():  # one of the two may have no variance
        warnings.simplefilter("ignore", RuntimeWarning)
        found: Any = stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)
        low, high = found.confidence_interval(LEVEL)
    return (float(low), float(high)), float(found.pvalue)


def mean_interval(correct: Correct) -> Interval:
    """95 % interval of a recipe's accuracy, by the runs of its seeds, (seeds, N): over seeds and over images."""
    hits, count = correct.sum(axis=1), correct.shape[1]
    by_seeds = (float(hits.mean()),) * 2
    if np.ptp(hits):
        low, high = stats.t.interval(LEVEL, len(hits) - 1, loc=hits.mean(), scale=stats.sem(hits))
        by_seeds = (float(low), float(high))
    low, high = spanning((by_seeds[0] / count, by_seeds[1] / count), bootstrap(correct.mean(axis=0), 0, 1))
    return max(0.0, low), min(1.0, high)


def bootstrap(values: NDArray[Any], low: int, high: int) -> Interval:
    """95 % percentile interval of the mean of (N,) values, one for each image, over resampled images.

    low, high: the least and the largest value that there can be; an image of each is added. Resampling alone would
    see no doubt where no image differs, and call 4 images against none a difference, which chance does once in eight.
    """
    found, counts = np.unique(np.concatenate([values, [low, high]]), return_counts=True)
    total = len(values) + 2
    drawn = np.random.default_rng(0).multinomial(total, counts / total, RESAMPLES)
    ends = np.quantile(drawn @ found / total, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(ends[0]), float(ends[1])


def spanning(*intervals: Interval) -> Interval:
    """The smallest interval that holds all of these."""
    return min(low for low, _ in intervals), max(high for _, high in intervals)
