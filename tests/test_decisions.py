"""Thresholds equal the best of all that scikit-learn tries; the temperature is the one that scipy finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn import metrics as theirs

from imgcls import decisions, metrics
from imgcls.decisions import Decisions, best_threshold, fit_temperature, positive_class, wanted_threshold
from imgcls.errors import ConfigError


def scored(seed: int) -> tuple[Any, Any]:
    """Scores in [0, 1] and the positive ones; few images and ties, in every fourth case two images."""
    rng = np.random.default_rng(seed)
    count = 2 if seed % 4 == 0 else int(rng.integers(2, 60))
    is_positive = rng.random(count) < rng.uniform(0.1, 0.9)
    is_positive[:2] = True, False
    scores = (rng.integers(0, 8, count) / 7 + 0.3 * is_positive) / 1.3
    return scores.astype(np.float32), is_positive


def every_threshold(seed: int) -> tuple[Any, Any]:
    """Precision and recall of each distinct score as the threshold."""
    scores, is_positive = scored(seed)
    precision, recall, _ = theirs.precision_recall_curve(is_positive, scores)
    return precision[:-1], recall[:-1]  # the last point has no threshold


def at(seed: int, threshold: float) -> tuple[float, float]:
    scores, is_positive = scored(seed)
    taken = scores >= threshold
    hits = (taken & is_positive).sum()
    return hits / max(1, taken.sum()), hits / is_positive.sum()


def test_the_best_threshold_has_the_highest_f1() -> None:
    for seed in range(200):
        precision, recall = every_threshold(seed)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        found = best_threshold(*scored(seed))
        assert found is not None
        own, other = at(seed, found)
        assert 2 * own * other / max(own + other, 1e-12) == pytest.approx(f1.max(), abs=1e-9)


def test_a_wanted_recall_is_reached_at_the_highest_precision() -> None:
    for seed in range(200):
        precision, recall = every_threshold(seed)
        wanted = [0.5, 0.8, 0.95, 1.0][seed % 4]
        own, other = at(seed, wanted_threshold(*scored(seed), recall=wanted))
        assert other >= wanted
        assert own == pytest.approx(precision[recall >= wanted].max(), abs=1e-9)


def test_a_wanted_precision_is_reached_at_the_highest_recall_or_out_of_reach() -> None:
    missed = 0
    for seed in range(200):
        precision, recall = every_threshold(seed)
        wanted = [0.5, 0.8, 0.9, 1.0][seed % 4]
        if not (precision >= wanted).any():
            missed += 1
            with pytest.raises(ValueError, match="the most that a threshold reaches is"):
                wanted_threshold(*scored(seed), precision=wanted)
            continue
        own, other = at(seed, wanted_threshold(*scored(seed), precision=wanted))
        assert own >= wanted
        assert other == pytest.approx(recall[precision >= wanted].max(), abs=1e-9)
    assert 0 < missed < 150


def test_rounding_does_not_move_an_image_over_the_threshold() -> None:
    scores = np.array([0.9, 0.6, 0.2, 0.1], np.float32)
    threshold = best_threshold(scores, np.array([True, True, False, False]))
    assert threshold == pytest.approx(0.4)
    assert best_threshold(scores, np.zeros(4, bool)) is best_threshold(scores, np.ones(4, bool)) is None


def test_the_temperature_is_the_one_of_the_least_cross_entropy() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        count, num_classes = int(rng.integers(20, 400)), int(rng.integers(2, 12))
        logits = rng.normal(0, rng.uniform(0.5, 8), (count, num_classes)).astype(np.float32)
        labels = np.where(rng.random(count) < 0.6, logits.argmax(1), rng.integers(0, num_classes, count))
        found, logits = fit_temperature(logits, labels), logits.astype(np.float64)
        expected = minimize_scalar(
            lambda log, logits=logits, labels=labels: metrics.cross_entropy(logits / np.exp(log), labels),
            bounds=(np.log(decisions.COLDEST), np.log(decisions.HOTTEST)),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert metrics.cross_entropy(logits / found, labels) <= expected.fun + 1e-9
        assert found == pytest.approx(np.exp(expected.x), rel=1e-4)


def test_a_temperature_without_an_end_is_1_or_the_hottest() -> None:
    logits = np.array([[3, 0], [0, 1]], np.float32)
    assert fit_temperature(logits, np.array([0, 1])) == 1.0
    assert fit_temperature(np.zeros((3, 2), np.float32), np.array([0, 1, 1])) == 1.0
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(decisions.HOTTEST)


def test_an_overconfident_model_is_cooled_and_its_error_shrinks() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1.5, (4000, 3))
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(1)  # drawn with the softmax of truth
    logits = (3 * truth).astype(np.float32)
    own = Decisions(None, None, fit_temperature(logits[::2], labels[::2]))
    assert own.temperature == pytest.approx(3, rel=0.1)
    plain, cooled = (
        decisions.report(logits, labels, ("a", "b", "c"), own, is_calibrated=flag) for flag in (False, True)
    )
    assert plain["ece_calibrated"] < 0.03 < 0.1 < plain["ece"]
    assert (cooled["ece"], cooled["ece_calibrated"]) == (plain["ece"], plain["ece_calibrated"])
    assert cooled["loss"] < plain["loss"]
    assert cooled["accuracy"] == plain["accuracy"]


def test_the_threshold_for_calibrated_probabilities_takes_the_same_images() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        logits, labels = rng.normal(0, 3, (200, 2)).astype(np.float32), rng.integers(0, 2, 200)
        own = Decisions(1, float(rng.uniform(0.05, 0.95)), float(rng.uniform(0.3, 4)))
        plain, cooled = (
            decisions.report(logits, labels, ("no", "yes"), own, is_calibrated=flag) for flag in (False, True)
        )
        changing = ("average_precision",)
        for name, value in plain["positive"].items():
            assert name in changing or cooled["positive"][name] == value


def test_an_extreme_threshold_is_calibrated_without_overflow() -> None:
    for threshold in (1e-40, 1 - 1e-12):
        for temperature in (decisions.COLDEST, decisions.HOTTEST):
            made = Decisions(1, threshold, temperature).calibrated().threshold
            assert made is not None
            assert 0 <= made <= 1
            assert (made < 0.5) == (threshold < 0.5)


def test_the_figures_of_the_positive_class_are_scikit_learns() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        logits, labels = rng.normal(0, 3, (50, 2)).astype(np.float32), rng.integers(0, 2, 50)
        made = decisions.report(logits, labels, ("no", "yes"), Decisions(0, 0.3, None))
        own, taken = labels == 0, metrics.softmax(logits)[:, 0] >= 0.3
        scores = {"precision": theirs.precision_score, "recall": theirs.recall_score, "f1": theirs.f1_score}
        for name, score in scores.items():
            assert made["positive"][name] == pytest.approx(score(own, taken, zero_division=0), abs=1e-12)
        assert made["positive"]["specificity"] == pytest.approx(theirs.recall_score(~own, ~taken), abs=1e-12)
        average = theirs.average_precision_score(own, metrics.softmax(logits)[:, 0])
        assert made["positive"]["average_precision"] == pytest.approx(average, abs=1e-9)
        assert (made["threshold"], made["ece_calibrated"], made["positive"]["class"]) == (0.3, None, "no")


def test_no_report_has_the_keys_of_a_report() -> None:
    made = decisions.report(np.zeros((1, 2), np.float32), np.zeros(1, np.int64), ("a", "b"), Decisions(1, None, None))
    assert decisions.no_report().keys() == made.keys()


def test_which_class_is_the_positive_one() -> None:
    assert positive_class(("a", "b")) == "b"
    assert positive_class(("1", "2"), 1) == "1"
    assert positive_class(("a", "b", "c")) is positive_class(("a",)) is None
    with pytest.raises(ConfigError, match="there are 3"):
        positive_class(("a", "b", "c"), "a")
    with pytest.raises(ConfigError, match="unknown class 'sik'; did you mean 'sick'"):
        positive_class(("healthy", "sick"), "sik")
