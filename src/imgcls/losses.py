"""Loss functions: (B, C) float logits and (B,) int64 labels -> (B,) float, one loss for each image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from imgcls.knobs import Fraction

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(*, label_smoothing: Fraction) -> Loss:
    """Softmax cross entropy; label smoothing as in Szegedy et al. 2016, https://arxiv.org/abs/1512.00567"""
    return partial(F.cross_entropy, reduction="none", label_smoothing=label_smoothing)


LOSSES: dict[str, Callable[..., Any]] = {"cross_entropy": cross_entropy}
