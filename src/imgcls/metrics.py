"""Classification metrics in numpy, equal to scikit-learn's with labels=range(C), zero_division=0.

METRICS: name -> function (probabilities, logits, labels) -> a number, or a list or dictionary of numbers, for (N, C)
float32 probabilities, (N, C) logits and (N,) labels. To add one to report.json: write the function, add a line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Metric = Callable[[Floats, Floats, Ints], Any]

ECE_BINS = 15  # Guo et al. 2017, https://arxiv.org/abs/1706.04599
WILSON_Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def softmax(logits: Floats) -> NDArray[np.float32]:
    """(N, C) logits -> (N, C) float32 probabilities."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: NDArray[np.float32] = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def cross_entropy(logits: Floats, labels: Ints) -> float:
    """Mean negative log-likelihood (nats) of (N,) labels under the softmax of (N, C) logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=1))
    return float((log_total - shifted[np.arange(len(labels)), labels]).mean())


def confusion_matrix(labels: Ints, predicted: Ints, num_classes: int) -> Ints:
    """(C, C) counts; rows are true classes, columns predicted ones."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def _ratio(part: Floats | Ints, whole: Floats | Ints) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole != 0, dtype=np.float64)


def per_class(matrix: Ints) -> dict[str, NDArray[np.float64]]:
    """(C, C) confusion matrix -> precision, recall and f1 of each class, (C,) in [0, 1]; 0 where undefined."""
    hits = np.diag(matrix)
    supports, predictions = matrix.sum(axis=1), matrix.sum(axis=0)
    return {
        "precision": _ratio(hits, predictions),
        "recall": _ratio(hits, supports),
        "f1": _ratio(2 * hits, supports + predictions),
    }


def averages(values: NDArray[np.float64], supports: Ints, micro: float) -> dict[str, float]:
    """(C,) values of the classes -> macro, micro and weighted mean; in single-label problems micro is the accuracy."""
    return {"macro": float(values.mean()), "micro": micro, "weighted": float(np.average(values, weights=supports))}


def wilson(accuracy: float, n: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion over n trials: Wilson 1927."""
    z2 = WILSON_Z**2 / n
    center = (accuracy + z2 / 2) / (1 + z2)
    half = WILSON_Z * math.sqrt(accuracy * (1 - accuracy) / n + z2 / (4 * n)) / (1 + z2)
    return max(0.0, center - half), min(1.0, center + half)


def expected_calibration_error(probabilities: Floats, is_correct: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over 15 equal-width bins of the top probability."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(bins, weights=is_correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def brier(probabilities: Floats, labels: Ints) -> float:
    """Squared distance to the one-hot label, summed over classes, mean over images; in [0, 2]: Brier 1950."""
    errors = probabilities.astype(np.float64)
    errors[np.arange(len(labels)), labels] -= 1
    return float((errors**2).sum(axis=1).mean())


def top_k_accuracy(probabilities: Floats, labels: Ints, k: int) -> float:
    """Share of images whose label is among the k most probable classes (ties count for the label)."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities > own[:, None]).sum(axis=1) < k).mean())


def _average(name: str) -> Metric:
    """The macro, micro and weighted mean of a metric of the classes."""

    def metric(probabilities: Floats, logits: Floats, labels: Ints) -> dict[str, float]:
        matrix = _matrix(probabilities, labels)
        return averages(per_class(matrix)[name], matrix.sum(axis=1), _accuracy(probabilities, labels))

    return metric


def _matrix(probabilities: Floats, labels: Ints) -> Ints:
    return confusion_matrix(labels, probabilities.argmax(axis=1), probabilities.shape[1])


def _accuracy(probabilities: Floats, labels: Ints) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


METRICS: dict[str, Metric] = {
    "accuracy": lambda p, logits, labels: _accuracy(p, labels),
    "accuracy_ci95": lambda p, logits, labels: list(wilson(_accuracy(p, labels), len(labels))),
    "top5_accuracy": lambda p, logits, labels: top_k_accuracy(p, labels, 5) if p.shape[1] > 5 else None,
    "loss": lambda p, logits, labels: cross_entropy(logits, labels),
    "ece": lambda p, logits, labels: expected_calibration_error(p, p.argmax(axis=1) == labels),
    "brier": lambda p, logits, labels: brier(p, labels),
    "precision": _average("precision"),
    "recall": _average("recall"),
    "f1": _average("f1"),
}  # in the order of report.json


def report(logits: Floats, labels: Ints, classes: tuple[str, ...]) -> dict[str, Any]:
    """All of report.json that follows from (N, C) logits and (N,) labels: METRICS, and the classes one by one.

    The predicted class is the one of the highest float32 probability, as in predictions.npz.
    """
    probabilities = softmax(logits)
    matrix = _matrix(probabilities, labels)
    values, supports = per_class(matrix), matrix.sum(axis=1)
    return {
        "n": len(labels),
        **{name: metric(probabilities, logits, labels) for name, metric in METRICS.items()},
        "per_class": [
            {"class": name, **{key: float(values[key][i]) for key in values}, "support": int(supports[i])}
            for i, name in enumerate(classes)
        ],
        "confusion_matrix": matrix.tolist(),
    }


def no_report() -> dict[str, Any]:
    """The same keys for no images at all."""
    return {"n": 0, **dict.fromkeys(METRICS), "per_class": [], "confusion_matrix": None}
