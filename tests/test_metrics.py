"""The metrics equal scikit-learn's, or their slow definition."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as theirs

from imgcls import metrics
from imgcls.metrics import report

Case = tuple[Any, Any, tuple[str, ...]]


def case(seed: int) -> Case:
    """Random (logits, labels, classes), in every third case with a class never predicted and one without images."""
    rng = np.random.default_rng(seed)
    num_classes, count = int(rng.integers(2, 14)), int(rng.integers(1, 300))
    logits = rng.normal(0, 3, (count, num_classes)).astype(np.float32)
    labels = rng.integers(0, num_classes, count)
    logits[np.arange(count), labels] += rng.uniform(0, 5)
    if seed % 3 == 0:
        logits[:, 0] = -12
        labels[labels == num_classes - 1] = 0
    return logits, labels, tuple(f"class {i}" for i in range(num_classes))


CASES = range(40)


@pytest.mark.parametrize("seed", CASES)
def test_precision_recall_and_f1_are_scikit_learns(seed: int) -> None:
    logits, labels, classes = case(seed)
    made, predicted, names = report(logits, labels, classes), logits.argmax(1), range(len(classes))
    for average in ("macro", "micro", "weighted"):
        expected = theirs.precision_recall_fscore_support(
            labels, predicted, labels=names, average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert made[name][average] == pytest.approx(value, abs=1e-12)
    expected = theirs.precision_recall_fscore_support(labels, predicted, labels=names, zero_division=0)
    rows = [[row[name] for row in made["per_class"]] for name in ("precision", "recall", "f1", "support")]
    assert np.allclose(rows, expected, atol=1e-12)
    assert [row["class"] for row in made["per_class"]] == list(classes)


@pytest.mark.parametrize("seed", CASES)
def test_confusion_matrix_and_accuracy_are_scikit_learns(seed: int) -> None:
    logits, labels, classes = case(seed)
    made = report(logits, labels, classes)
    matrix = theirs.confusion_matrix(labels, logits.argmax(1), labels=range(len(classes)))
    assert np.array_equal(made["confusion_matrix"], matrix)
    assert made["accuracy"] == theirs.accuracy_score(labels, logits.argmax(1))
    assert made["n"] == len(labels)


@pytest.mark.parametrize("seed", CASES)
def test_loss_and_top_5_are_scikit_learns(seed: int) -> None:
    logits, labels, classes = case(seed)
    made, names = report(logits, labels, classes), list(range(len(classes)))
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(1, keepdims=True)
    assert made["loss"] == pytest.approx(theirs.log_loss(labels, shares, labels=names), rel=1e-9)
    if len(classes) > 5:
        assert made["top5_accuracy"] == theirs.top_k_accuracy_score(labels, logits, k=5, labels=names)
    else:
        assert made["top5_accuracy"] is None


@pytest.mark.parametrize("seed", CASES)
def test_brier_and_calibration_are_their_definitions(seed: int) -> None:
    logits, labels, classes = case(seed)
    made, shares = report(logits, labels, classes), metrics.softmax(logits)
    squares = [
        sum((p - (i == label)) ** 2 for i, p in enumerate(row)) for row, label in zip(shares, labels, strict=True)
    ]
    assert made["brier"] == pytest.approx(float(np.mean(squares)), abs=1e-6)
    total = 0.0
    for low in range(15):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(shares.astype(np.float64), labels, strict=True)
            if low / 15 < row.max() <= (low + 1) / 15
        ]
        if inside:
            total += abs(sum(p for p, _ in inside) - sum(hit for _, hit in inside))
    assert made["ece"] == pytest.approx(total / len(labels), abs=1e-9)


def degenerate(seed: int) -> Case:
    """Two to five classes and few images: classes are missing, there is only one, or all scores are tied."""
    rng = np.random.default_rng(seed)
    num_classes, count = int(rng.integers(2, 6)), int(rng.integers(1, 12)) if seed % 2 else 2
    logits = rng.integers(-2, 3, (count, num_classes)).astype(np.float32) * (seed % 5)
    labels = rng.integers(0, 1 + int(rng.integers(0, num_classes)), count)
    return logits, labels, tuple(f"class {i}" for i in range(num_classes))


@pytest.mark.parametrize("is_degenerate", [False, True])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@pytest.mark.filterwarnings("ignore:Number of classes in .* not equal", "ignore:The number of unique classes")
def test_figures_for_unequal_classes_are_scikit_learns(is_degenerate: bool) -> None:
    undefined = 0
    for seed in range(100):
        logits, labels, classes = (degenerate if is_degenerate else case)(seed)
        made, shares = report(logits, labels, classes), metrics.softmax(logits)
        predicted, one_hot = shares.argmax(1), np.eye(len(classes), dtype=int)[labels]
        assert made["balanced_accuracy"] == pytest.approx(theirs.balanced_accuracy_score(labels, predicted), abs=1e-9)
        assert made["mcc"] == pytest.approx(theirs.matthews_corrcoef(labels, predicted), abs=1e-9)
        if not one_hot.any(0).all():
            undefined += 1
            assert made["roc_auc"] is made["average_precision"] is None
            continue
        assert made["roc_auc"] == pytest.approx(theirs.roc_auc_score(one_hot, shares, average="macro"), abs=1e-9)
        expected = theirs.average_precision_score(one_hot, shares, average="macro")
        assert made["average_precision"] == pytest.approx(expected, abs=1e-9)
    assert 10 < undefined < 90


def test_the_auc_of_a_thousand_classes_takes_no_time() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random((10_000, 1000), np.float32), np.arange(10_000) % 1000
    started = time.process_time()
    assert metrics.roc_auc(scores, labels) == pytest.approx(0.5, abs=0.01)
    assert time.process_time() - started < 2


def test_brier_of_two_classes_is_twice_scikit_learns() -> None:
    logits, labels = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2
    shares = metrics.softmax(logits)
    assert metrics.brier(shares, labels) == pytest.approx(2 * theirs.brier_score_loss(labels, shares[:, 1]), abs=1e-6)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),  # Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(hits: int, n: int, low: float, high: float) -> None:
    assert metrics.wilson(hits / n, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert metrics.wilson(1 - hits / n, n) == (pytest.approx(1 - high, abs=5e-5), pytest.approx(1 - low, abs=5e-5))


def test_the_interval_stays_within_0_and_1() -> None:
    for n in (1, 10, 10_000):
        assert metrics.wilson(0.0, n)[0] == 0.0
        assert 1 - 1e-12 < metrics.wilson(1.0, n)[1] <= 1.0


def test_logits_of_any_size_give_finite_numbers() -> None:
    logits = np.array([[1e30, -1e30, 0], [3e38, 3e38, -3e38]], np.float32)
    assert metrics.softmax(logits).tolist() == [[1, 0, 0], [0.5, 0.5, 0]]
    assert metrics.cross_entropy(logits, np.array([0, 1])) == pytest.approx(math.log(2) / 2)


def test_a_confident_mistake_counts_in_the_last_bin() -> None:
    shares = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    assert metrics.expected_calibration_error(shares, np.array([True, False])) == pytest.approx(0.5)


def test_ties_count_for_the_label() -> None:
    shares = np.full((1, 8), 0.125, np.float32)
    assert metrics.top_k_accuracy(shares, np.array([7]), 5) == 1.0


def test_the_report_of_one_image_holds_no_nan() -> None:
    def numbers(value: Any) -> list[float]:
        if isinstance(value, dict | list):
            return [n for one in (value.values() if isinstance(value, dict) else value) for n in numbers(one)]
        return [value] if isinstance(value, int | float) else []

    made = report(np.array([[0.0, 1.0, 2.0]], np.float32), np.array([0]), ("a", "b", "c"))
    assert all(math.isfinite(number) for number in numbers(made))
    assert made["accuracy"] == 0.0
