"""Optimizers: parameter groups and knobs -> a torch optimizer, fused where torch has a fused kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from imgcls.knobs import Fraction, LearningRate, NonNegative, Positive

Groups = list[dict[str, Any]]


def parameter_groups(module: nn.Module) -> Groups:
    """Two groups: weights, and (without weight decay) norms and biases, which are the parameters of one dimension."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trainable if parameter.ndim > 1]
    others = [parameter for parameter in trainable if parameter.ndim <= 1]
    groups: Groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def sgd(
    groups: Groups, *, lr: LearningRate, momentum: Fraction, nesterov: bool, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with (Nesterov's) momentum."""
    return torch.optim.SGD(
        groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay, fused=True
    )


def adam(
    groups: Groups, *, lr: LearningRate, beta1: Fraction, beta2: Fraction, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Adam; its weight decay is an L2 term: Kingma & Ba 2015, https://arxiv.org/abs/1412.6980"""
    return torch.optim.Adam(groups, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)


def adamw(
    groups: Groups, *, lr: LearningRate, beta1: Fraction, beta2: Fraction, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay: Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101"""
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)


def adagrad(
    groups: Groups, *, lr: LearningRate, lr_decay: NonNegative, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Duchi, Hazan & Singer 2011, https://jmlr.org/papers/v12/duchi11a.html"""
    on_cpu = all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
    fused = True if on_cpu else None  # not on every device, in every torch that we support
    return torch.optim.Adagrad(groups, lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay, fused=fused)


def rmsprop(
    groups: Groups, *, lr: LearningRate, alpha: Fraction, momentum: Fraction, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Tieleman & Hinton 2012, lecture 6.5 of Neural Networks for Machine Learning."""
    return torch.optim.RMSprop(groups, lr=lr, alpha=alpha, momentum=momentum, eps=eps, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
}
