"""LOSSES: name -> function (*, parameters) -> loss; a loss maps (B, C) float logits and targets to (B,) float values.

Targets are (B,) int64 labels, or (B, C) float class shares (of mixed images), which sum to 1. Whatever the loss, the
probabilities in reports are the softmax of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.config.types import Fraction, NonNegative

Loss = Callable[[Tensor, Tensor], Tensor]


def _shares(targets: Tensor, logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """The targets as (B, C) shares, smoothed: (1 - smoothing) of them and smoothing / C of each class."""
    shares = targets if targets.ndim == 2 else F.one_hot(targets, logits.shape[1])
    return shares.to(logits.dtype) * (1 - smoothing) + smoothing / logits.shape[1]


def cross_entropy(*, label_smoothing: Fraction) -> Loss:
    """Softmax cross entropy; label smoothing as in Szegedy et al. 2016, https://arxiv.org/abs/1512.00567"""
    return partial(F.cross_entropy, reduction="none", label_smoothing=label_smoothing)


def nll() -> Loss:
    """Negative log-likelihood, for models that return log-probabilities; the same as cross entropy for logits."""
    return partial(F.cross_entropy, reduction="none")


def binary_cross_entropy(*, label_smoothing: Fraction) -> Loss:
    """A sigmoid cross entropy for each class, summed: Wightman et al. 2021, https://arxiv.org/abs/2110.00476"""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        shares = _shares(targets, logits, label_smoothing)
        return F.binary_cross_entropy_with_logits(logits, shares, reduction="none").sum(1)

    return loss


def focal(*, gamma: NonNegative) -> Loss:
    """Cross entropy times (1 - p)^gamma, p of the true class: Lin et al. 2017, https://arxiv.org/abs/1708.02002"""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        logs = logits.log_softmax(1)
        others = (1 - logs.exp()).clamp_min(torch.finfo(logs.dtype).eps)  # 0 has no gradient for small gamma
        return -(_shares(targets, logits) * others**gamma * logs).sum(1)

    return loss


def mse() -> Loss:
    """Squared distance between probabilities and one-hot label, from 0 to 2: Brier 1950."""
    return lambda logits, targets: (logits.softmax(1) - _shares(targets, logits)).square().sum(1)


def weighted(loss: Loss, weights: Tensor) -> Loss:
    """The loss times the weight of the image's class; weights: (C,)."""

    def product(logits: Tensor, targets: Tensor) -> Tensor:
        factors = weights[targets] if targets.ndim == 1 else (targets * weights).sum(1)
        return loss(logits, targets) * factors

    return product


LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": cross_entropy,
    "nll": nll,
    "binary_cross_entropy": binary_cross_entropy,
    "focal": focal,
    "mse": mse,
}
