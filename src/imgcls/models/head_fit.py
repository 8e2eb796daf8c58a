"""The new last layer of a pretrained model, fitted to its features before all layers are trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.models.finetune import heads_of

ITERATIONS = 60  # of L-BFGS
PENALTY = 1e-3  # on the squared weights, for features with a mean square of 1


def linear_heads(module: nn.Module, num_classes: int) -> list[nn.Linear]:
    """The layers that compute the logits if they are linear and to be trained, else none."""
    try:
        heads = [module.get_submodule(name) for name in heads_of(module, num_classes)]
    except ValueError:
        return []
    return [one for one in heads if isinstance(one, nn.Linear) and one.weight.requires_grad and one.bias is not None]


def fit_heads(
    module: nn.Module, num_classes: int, batches: Iterable[tuple[Tensor, Tensor]], rows: Sequence[int] | None = None
) -> None:
    """Fit the linear last layers as logistic regressions of the features that they get in evaluation mode.

    batches: (B, C, H, W) float32 images, normalized, and their (B,) int64 labels. rows: the classes whose weights are
    fitted, beside those of the others as they are; None: all. The last layer first, then all, as in Kumar et al. 2022,
    https://arxiv.org/abs/2202.10054: a random last layer would send noise into all others.
    """
    heads = linear_heads(module, num_classes)
    features, labels = _features(module, heads, batches)
    free = torch.tensor(range(num_classes) if rows is None else rows, device=labels.device)
    for head, given in zip(heads, features, strict=True):
        scale = given.square().mean().sqrt()
        if scale > 0 and scale.isfinite():
            with torch.no_grad():
                before = torch.column_stack([head.weight * scale, head.bias])
                fitted = _logistic_regression(given / scale, labels, before.index_fill(0, free, 0.0), free)
                head.weight[free], head.bias[free] = fitted[:, :-1] / scale, fitted[:, -1]


def _features(
    module: nn.Module, heads: Sequence[nn.Linear], batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[list[Tensor], Tensor]:
    """What each head gets, (N, features) each, and the (N,) labels."""
    found: list[list[Tensor]] = [[] for _ in heads]
    labels: list[Tensor] = []

    def keep(into: list[Tensor]) -> Any:
        return lambda _, given: into.append(given[0].detach().float().flatten(1))

    hooks = [head.register_forward_pre_hook(keep(into)) for head, into in zip(heads, found, strict=True)]
    module.eval()
    try:
        with torch.no_grad():
            for images, own in batches:
                module(images)
                labels.append(own)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(one) for one in found], torch.cat(labels)


@torch.enable_grad()
def _logistic_regression(features: Tensor, labels: Tensor, table: Tensor, free: Tensor) -> Tensor:
    """The free rows of a table of weights and biases, (classes, features + 1), that predict the labels best."""
    rows = torch.zeros_like(table[free]).requires_grad_()
    optimizer = torch.optim.LBFGS([rows], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        whole = table.index_copy(0, free, rows)
        value = F.cross_entropy(F.linear(features, whole[:, :-1], whole[:, -1]), labels)
        value = value + PENALTY * rows[:, :-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return rows.detach()
