"""check_loss: does a loss behave as imgcls expects?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.config.components import Component, own_component
from imgcls.testing.require import require


def check_loss(function: Callable[..., Any], **params: Any) -> None:
    """Check a loss: a function (...) -> loss, as behind ``loss=``; the loss maps (B, C) logits and targets to (B,).

    Targets are (B,) int64 labels or (B, C) float class shares. The values must be finite float32 (for huge logits and
    those computed in bfloat16, too), one for each image and of that image alone, the same for a label and its one-hot
    shares, lower for the right answer than for a wrong one; the gradient finite.
    """
    part = own_component(function, "loss", params)
    loss = part()
    labels = torch.arange(12) % 5
    logits = 3 * torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    for scale in (1.0, 100.0):
        _losses(part, loss, scale * logits, labels)
    _losses(part, loss, logits.bfloat16().float(), labels)
    values = _losses(part, loss, logits, labels)
    shares = F.one_hot(labels, 5).float()
    from_shares = _losses(part, loss, logits, shares)
    require(
        torch.allclose(values, from_shares, atol=1e-4), part, "one-hot shares give a different loss from their labels"
    )
    _losses(part, loss, logits, 0.7 * shares + 0.3 * shares.flip(0))
    few = _losses(part, loss, logits[:4], labels[:4])
    require(torch.allclose(values[:4], few, atol=1e-5), part, "an image's loss depends on the others in its batch")
    right = _losses(part, loss, 4 * shares, labels)
    wrong = _losses(part, loss, 4 * shares, (labels + 1) % 5)
    require(bool((right < wrong).all()), part, "expected a lower loss for the right answer than for a wrong one")


def _losses(part: Component, loss: Any, logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) values, checked, and their gradient too."""
    logits = logits.detach().requires_grad_()
    values = loss(logits, targets)
    expected = f"expected a float32 loss for each image, shape ({len(logits)},), for {targets.ndim}-dimensional targets"
    require(isinstance(values, Tensor), part, f"{expected}, got {type(values).__name__}")
    given = f"{values.dtype} {tuple(values.shape)}".replace("torch.", "")
    is_right = (tuple(values.shape), values.dtype) == ((len(logits),), torch.float32)
    require(is_right, part, f"{expected}, got {given}")
    most = float(logits.detach().abs().max())
    require(bool(values.isfinite().all()), part, f"the loss is not finite for logits of up to {most:.3g}")
    require(values.requires_grad, part, "the loss has no gradient; compute it from the logits with torch alone")
    gradient = torch.autograd.grad(values.sum(), logits)[0]
    require(bool(gradient.isfinite().all()), part, f"its gradient is not finite for logits of up to {most:.3g}")
    return values.detach()  # type: ignore[no-any-return]
