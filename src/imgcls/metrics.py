"""Classification metrics in numpy, equal to scikit-learn's with labels=range(C), zero_division=0.

METRICS: name -> function (probabilities, logits, labels) -> a number, or a list or dictionary of numbers, for (N, C)
float32 probabilities, (N, C) logits and (N,) labels. To add one to report.json: write the function, add a line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Metric = Callable[[Floats, Floats, Ints], Any]

ECE_BINS = 15  # Guo et al. 2017, https://arxiv.org/abs/1706.04599
MOST_CLASSES = 1000  # whose confusion matrix is in the report; it grows with the square of their number
BLOCK = 1 << 22  # numbers that are worked on at once in double precision
WILSON_Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def blocks(array: Floats) -> Iterator[slice]:
    """The rows of (N, C) in parts, so that copies in double precision stay small."""
    size = max(1, BLOCK // max(1, array.shape[1]))
    return (slice(start, start + size) for start in range(0, len(array), size))


def softmax(logits: Floats) -> NDArray[np.float32]:
    """(N, C) logits -> (N, C) float32 probabilities."""
    probabilities = np.empty(logits.shape, np.float32)
    for rows in blocks(logits):
        work = logits[rows].astype(np.float64)  # in place: new memory costs more than the exponentials
        work -= logits[rows].max(axis=1, keepdims=True)
        np.exp(work, out=work)
        work /= work.sum(axis=1, keepdims=True)
        probabilities[rows] = work
    return probabilities


def cross_entropy(logits: Floats, labels: Ints) -> float:
    """Mean negative log-likelihood (nats) of (N,) labels under the softmax of (N, C) logits."""
    losses = np.empty(len(labels))
    for rows in blocks(logits):
        shifted = logits[rows].astype(np.float64) - logits[rows].max(axis=1, keepdims=True)
        log_total = np.log(np.exp(shifted).sum(axis=1))
        losses[rows] = log_total - shifted[np.arange(len(shifted)), labels[rows]]
    return float(losses.mean())


def confusion_matrix(labels: Ints, predicted: Ints, num_classes: int) -> Ints:
    """(C, C) counts; rows are true classes, columns predicted ones."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def confused_pairs(labels: Ints, predicted: Ints, num_classes: int) -> tuple[Ints, Ints, Ints]:
    """The cells of the confusion matrix that are not 0: true class, predicted class and count, each (K,), K <= N."""
    cells, counts = np.unique(labels.astype(np.int64) * num_classes + predicted, return_counts=True)
    return cells // num_classes, cells % num_classes, counts.astype(np.int64)


def _ratio(part: Floats | Ints, whole: Floats | Ints) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole != 0, dtype=np.float64)


def per_class(labels: Ints, predicted: Ints, num_classes: int) -> tuple[dict[str, NDArray[np.float64]], Ints]:
    """Precision, recall and f1 of each class, (C,) in [0, 1], 0 where undefined; and its number of images, (C,)."""
    hits = np.bincount(labels[labels == predicted], minlength=num_classes)
    supports, predictions = (np.bincount(one, minlength=num_classes) for one in (labels, predicted))
    values = {
        "precision": _ratio(hits, predictions),
        "recall": _ratio(hits, supports),
        "f1": _ratio(2 * hits, supports + predictions),
    }
    return values, supports


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
    squares = np.empty(len(labels))
    for rows in blocks(probabilities):
        errors = probabilities[rows].astype(np.float64)
        errors[np.arange(len(errors)), labels[rows]] -= 1
        squares[rows] = (errors**2).sum(axis=1)
    return float(squares.mean())


def top_k_accuracy(probabilities: Floats, labels: Ints, k: int) -> float:
    """Share of images whose label is among the k most probable classes (ties count for the label)."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities > own[:, None]).sum(axis=1) < k).mean())


def balanced_accuracy(labels: Ints, predicted: Ints, num_classes: int) -> float:
    """Mean recall of the classes that have images."""
    values, supports = per_class(labels, predicted, num_classes)
    return float(values["recall"][supports > 0].mean())


def matthews(labels: Ints, predicted: Ints, num_classes: int) -> float:
    """Correlation of predicted and true classes, in [-1, 1], 0 where undefined: Gorodkin 2004."""
    true, taken = (np.bincount(one, minlength=num_classes).astype(np.float64) for one in (labels, predicted))
    n, hits = float(len(labels)), float((labels == predicted).sum())
    spreads = math.sqrt(n * n - taken @ taken) * math.sqrt(n * n - true @ true)
    return float((hits * n - true @ taken) / spreads) if spreads else 0.0


def ranking(scores: Floats, is_own: NDArray[np.bool_]) -> tuple[float, float]:
    """ROC AUC and average precision of (N,) scores, which are to be high where ``is_own``.

    The AUC counts, of all pairs of an own image and another, those in which the own one scores higher, and half of the
    ties. The average precision is the mean over the own images, with the score of each as the threshold. There must be
    own images and others.
    """
    everyone, own = np.sort(scores), np.sort(scores[is_own])
    below, up_to = (np.searchsorted(everyone, own, side) for side in ("left", "right"))
    own_below, own_up_to = (np.searchsorted(own, own, side) for side in ("left", "right"))
    beaten = (below - own_below + up_to - own_up_to).sum() / 2
    precisions = (len(own) - own_below) / (len(everyone) - below)
    return float(beaten / (len(own) * (len(everyone) - len(own)))), float(precisions.mean())


def roc_auc(probabilities: Floats, labels: Ints) -> float | None:
    """Mean ROC AUC of each class against the rest; None if a class has no images."""
    return _mean_ranking(probabilities, labels, 0)


def average_precision(probabilities: Floats, labels: Ints) -> float | None:
    """Mean average precision of each class against the rest; None if a class has no images."""
    return _mean_ranking(probabilities, labels, 1)


def _mean_ranking(probabilities: Floats, labels: Ints, which: int) -> float | None:
    num_classes = probabilities.shape[1]
    if num_classes < 2 or not np.bincount(labels, minlength=num_classes).all():
        return None
    return float(np.mean([ranking(probabilities[:, i], labels == i)[which] for i in range(num_classes)]))


def _average(name: str) -> Metric:
    """The macro, micro and weighted mean of a metric of the classes."""

    def metric(probabilities: Floats, logits: Floats, labels: Ints) -> dict[str, float]:
        values, supports = per_class(labels, probabilities.argmax(axis=1), probabilities.shape[1])
        return averages(values[name], supports, _accuracy(probabilities, labels))

    return metric


def _accuracy(probabilities: Floats, labels: Ints) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


METRICS: dict[str, Metric] = {
    "accuracy": lambda p, logits, labels: _accuracy(p, labels),
    "accuracy_ci95": lambda p, logits, labels: list(wilson(_accuracy(p, labels), len(labels))),
    "balanced_accuracy": lambda p, logits, labels: balanced_accuracy(labels, p.argmax(axis=1), p.shape[1]),
    "mcc": lambda p, logits, labels: matthews(labels, p.argmax(axis=1), p.shape[1]),
    "roc_auc": lambda p, logits, labels: roc_auc(p, labels),
    "average_precision": lambda p, logits, labels: average_precision(p, labels),
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

    The predicted class is the one of the highest float32 probability, as in predictions.npz. The confusion matrix of
    more than MOST_CLASSES classes is None.
    """
    probabilities = softmax(logits)
    predicted = probabilities.argmax(axis=1)
    values, supports = per_class(labels, predicted, len(classes))
    is_small = len(classes) <= MOST_CLASSES
    return {
        "n": len(labels),
        **{name: metric(probabilities, logits, labels) for name, metric in METRICS.items()},
        "per_class": [
            {"class": name, **{key: float(values[key][i]) for key in values}, "support": int(supports[i])}
            for i, name in enumerate(classes)
        ],
        "confusion_matrix": confusion_matrix(labels, predicted, len(classes)).tolist() if is_small else None,
    }


def no_report() -> dict[str, Any]:
    """The same keys for no images at all."""
    return {"n": 0, **dict.fromkeys(METRICS), "per_class": [], "confusion_matrix": None}
