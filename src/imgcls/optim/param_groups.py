"""Parameter groups: which weights decay, and the learning rate of each block of the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from imgcls.models.finetune import depths

Groups = list[dict[str, Any]]


def parameter_groups(module: nn.Module, layer_decay: float | None = None) -> Groups:
    """Two groups: weights, and norms and biases (the parameters of one dimension), which get no weight decay.

    With layer_decay two for each block of the model, the last block first. ``scale`` in a group is the factor on its
    learning rate: 1 for the last block, layer_decay for the one before, its square for the next (BERT, BEiT).
    """
    depth = depths(module) if layer_decay is not None else {}
    last = max(depth.values(), default=0)
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            found.setdefault((last - depth.get(name, last), parameter.ndim <= 1), []).append(parameter)
    groups: Groups = []
    for (distance, is_plain), parameters in sorted(found.items(), key=lambda item: item[0]):
        groups.append({"params": parameters, **({"weight_decay": 0.0} if is_plain else {})})
        if layer_decay is not None:
            groups[-1]["scale"] = layer_decay**distance
    return groups


def scale_rates(optimizer: torch.optim.Optimizer) -> None:
    """Multiply each group's learning rate by its ``scale``."""
    for group in optimizer.param_groups:
        if "lr" in group:
            group["lr"] *= group.get("scale", 1.0)
