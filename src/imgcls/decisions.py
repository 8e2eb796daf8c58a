"""From probabilities to decisions, learned from validation images: the threshold of two classes, and the temperature.

The temperature divides the logits, so that the probabilities are as sure as the model is right: Guo et al. 2017,
https://arxiv.org/abs/1706.04599
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgcls import metrics
from imgcls.errors import ConfigError
from imgcls.metrics import Floats, Ints
from imgcls.text import did_you_mean, listing

Flags = NDArray[np.bool_]

COLDEST, HOTTEST = 0.01, 100.0  # temperatures
MOST_LOGITS = 1 << 22  # that the temperature is fitted to: evenly spaced images of more


@dataclass(frozen=True)
class Decisions:
    """What a checkpoint knows besides its weights.

    positive: number of the positive class of two, None for more classes. threshold: the lowest probability, in [0, 1],
    at which an image counts as positive; None if there is none. temperature: divides the logits; None if unknown.
    """

    positive: int | None
    threshold: float | None
    temperature: float | None

    @classmethod
    def of(cls, meta: Mapping[str, Any], classes: Sequence[str]) -> Decisions:
        """Those in a checkpoint's metadata; earlier versions stored none."""
        name = meta.get("positive") or positive_class(classes)
        return cls(None if name is None else list(classes).index(name), meta.get("threshold"), meta.get("temperature"))

    def cooled(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C) logits divided by the temperature, if there is one."""
        return logits if self.temperature is None else logits / np.float32(self.temperature)

    def calibrated(self) -> Decisions:
        """With the threshold for calibrated probabilities, which takes the same images."""
        if self.threshold is None or self.temperature is None or not 0 < self.threshold < 1:
            return self
        logit = (math.log(self.threshold) - math.log1p(-self.threshold)) / self.temperature
        less = math.exp(-abs(logit))  # which cannot overflow
        return replace(self, threshold=(1 if logit > 0 else less) / (1 + less))


def positive_class(classes: Sequence[str], named: str | int | None = None) -> str | None:
    """The class of two that is looked for: the one that is named, else the second; None of more classes or of one.

    Raises ConfigError for a name that is none of two classes.
    """
    if named is not None and len(classes) != 2:
        raise ConfigError(f"dataset.positive: names one of two classes, but there are {len(classes):,}; leave it out")
    if named is not None and str(named) not in classes:
        hint = did_you_mean(str(named), classes)
        raise ConfigError(f"dataset.positive: unknown class '{named}'{hint} (classes: {listing(classes)})")
    return str(named) if named is not None else classes[1] if len(classes) == 2 else None


class Curve(NamedTuple):
    """What each threshold does, from the highest distinct score down: (K,) images at or above it, and positive ones."""

    scores: NDArray[np.float64]
    taken: Ints
    hits: Ints

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of positive images among those taken."""
        return np.divide(self.hits, self.taken, dtype=np.float64)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of the positive images that are taken."""
        return np.divide(self.hits, self.hits[-1:], dtype=np.float64)

    def threshold(self, i: int) -> float:
        """Halfway down to the next score, so that rounding changes nothing; 0 takes every image."""
        return float(self.scores[i] + self.scores[i + 1]) / 2 if i + 1 < len(self.scores) else 0.0


def curve(scores: Floats, is_positive: Flags) -> Curve:
    """Of (N,) scores, N > 0."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order].astype(np.float64), np.cumsum(is_positive[order], dtype=np.int64)
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return Curve(ordered[ends], ends + 1, hits[ends])


def best_threshold(scores: Floats, is_positive: Flags) -> float | None:
    """The threshold with the highest F1, of several the highest; None unless there are images of both classes."""
    if is_positive.all() or not is_positive.any():
        return None
    found = curve(scores, is_positive)
    return found.threshold(int(np.argmax(2 * found.hits / (found.taken + found.hits[-1]))))


def wanted_threshold(
    scores: Floats, is_positive: Flags, recall: float | None = None, precision: float | None = None
) -> float:
    """The threshold with the highest precision at the wanted recall or more, or with the highest recall at the wanted
    precision or more.

    Raises ValueError if no threshold reaches it.
    """
    if not is_positive.any():
        raise ValueError("none of them is of that class")
    found = curve(scores, is_positive)
    own, other = (found.recall, found.precision) if precision is None else (found.precision, found.recall)
    rows = np.flatnonzero(own >= ((recall if precision is None else precision) or 0) - 1e-12)
    if not len(rows):
        raise ValueError(f"the most that a threshold reaches is {own.max():.3g}")
    return found.threshold(int(rows[np.lexsort((own[rows], other[rows]))[-1]]))


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """The temperature that gives (N,) labels the least cross entropy under (N, C) logits divided by it.

    In [COLDEST, HOTTEST]; 1 if every image is right, as only 0 would be best then. Newton's method on its inverse,
    in which the cross entropy is convex.
    """
    step = -(-logits.size // MOST_LOGITS)
    scores = logits[::step].astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    own = scores[np.arange(len(scores)), labels[::step]]
    if not own.any():
        return 1.0
    low, high, inverse = 1 / HOTTEST, 1 / COLDEST, 1.0
    work = np.empty_like(scores)
    for _ in range(60):
        slope, bend = _derivatives(scores, own, inverse, work)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        before, inverse = inverse, inverse - slope / bend if bend > 0 else low
        if not low <= inverse <= high:
            inverse = (low * high) ** 0.5
        if abs(inverse - before) <= 1e-6 * before:  # the next step would be its square
            break
    return 1 / inverse


def _derivatives(
    scores: NDArray[np.float64], own: NDArray[np.float64], inverse: float, work: NDArray[np.float64]
) -> tuple[float, float]:
    """The first two of the mean cross entropy under ``inverse * scores``; own: the labels' scores, work: memory."""
    np.multiply(scores, inverse, out=work)
    np.exp(work, out=work)
    totals = work.sum(axis=1)
    work *= scores
    means = work.sum(axis=1) / totals
    work *= scores
    squares = work.sum(axis=1) / totals
    return float((means - own).mean()), float((squares - means**2).mean())


def learned(logits: Floats, labels: Ints, positive: int | None) -> dict[str, float | None]:
    """threshold and temperature from the validation images, for the metadata of a checkpoint."""
    threshold = None if positive is None else best_threshold(metrics.softmax(logits)[:, positive], labels == positive)
    return {"threshold": threshold, "temperature": fit_temperature(logits, labels)}


def report(
    logits: Floats, labels: Ints, classes: tuple[str, ...], decisions: Decisions, *, is_calibrated: bool = False
) -> dict[str, Any]:
    """All of report.json that follows from (N, C) logits, (N,) labels and what was learned from validation.

    is_calibrated: all figures are of the calibrated probabilities, but for ``ece``, the error before. positive: the
    figures of that class with the threshold (for such probabilities), 0 where undefined.
    """
    used, own = (decisions.cooled(logits), decisions.calibrated()) if is_calibrated else (logits, decisions)
    return {
        **metrics.report(used, labels, classes),
        "ece": _ece(logits, labels),
        "ece_calibrated": None if decisions.temperature is None else _ece(logits, labels, decisions.temperature),
        "temperature": decisions.temperature,
        "threshold": own.threshold,
        "positive": _of_positive(used, labels, classes, own),
    }


def no_report() -> dict[str, Any]:
    """The same keys for no images at all."""
    return {**metrics.no_report(), **dict.fromkeys(("ece_calibrated", "temperature", "threshold", "positive"))}


def _ece(logits: Floats, labels: Ints, temperature: float = 1.0) -> float:
    """The calibration error of logits divided by the temperature, without a copy of all of them."""
    top, is_correct = np.empty(len(labels), np.float32), np.empty(len(labels), np.bool_)
    for rows in metrics.blocks(logits):
        shares = metrics.softmax(logits[rows] / np.float32(temperature))
        top[rows], is_correct[rows] = shares.max(axis=1), shares.argmax(axis=1) == labels[rows]
    return metrics.expected_calibration_error(top[:, None], is_correct)


def _of_positive(logits: Floats, labels: Ints, classes: Sequence[str], decisions: Decisions) -> dict[str, Any] | None:
    if decisions.positive is None or decisions.threshold is None:
        return None
    scores = metrics.softmax(logits)[:, decisions.positive].astype(np.float64)
    is_own = labels == decisions.positive
    taken = scores >= decisions.threshold
    values, supports = metrics.per_class(is_own.astype(np.int64), taken.astype(np.int64), 2)
    return {
        "class": classes[decisions.positive],
        **{name: float(values[name][1]) for name in values},
        "specificity": float(values["recall"][0]),
        "accuracy": float((taken == is_own).mean()),
        "average_precision": metrics.ranking(scores, is_own)[1] if supports.all() else None,
    }
