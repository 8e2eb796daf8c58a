"""OPTIMIZERS: name -> function (groups, *, parameters) -> torch optimizer, fused if torch has a fused kernel.

groups: parameter groups as param_groups.py makes them. To add an optimizer: write the function, add a line to the
table, and conf/optimizer/NAME.yaml with its parameters.

Missing from torch.optim's: LBFGS (evaluates the model several times per step), SparseAdam (for sparse gradients), Rprop
(for full batches) and ASGD (its averaged weights would have to be tested; ema does that).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import nn

from imgcls.config.types import AutoRate, Fraction, LearningRate, NonNegative, Positive, Range
from imgcls.optim.muon import Muon
from imgcls.optim.param_groups import Groups


def sgd(
    groups: Groups, *, lr: AutoRate, momentum: Fraction, nesterov: bool, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum: Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html"""
    return torch.optim.SGD(
        groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay, fused=True
    )


def adam(
    groups: Groups, *, lr: AutoRate, beta1: Fraction, beta2: Fraction, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Adam, with weight decay as an L2 penalty: Kingma & Ba 2015, https://arxiv.org/abs/1412.6980"""
    return torch.optim.Adam(groups, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)


def adamw(
    groups: Groups, *, lr: AutoRate, beta1: Fraction, beta2: Fraction, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay: Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101"""
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)


def adagrad(
    groups: Groups, *, lr: AutoRate, lr_decay: NonNegative, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Adagrad: Duchi, Hazan & Singer 2011, https://jmlr.org/papers/v12/duchi11a.html"""
    on_cpu = all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
    fused = True if on_cpu else None  # not on every device with every supported torch
    return torch.optim.Adagrad(groups, lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay, fused=fused)


def rmsprop(
    groups: Groups, *, lr: AutoRate, alpha: Fraction, momentum: Fraction, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """RMSprop: Tieleman & Hinton 2012, lecture 6.5 of Neural Networks for Machine Learning."""
    return torch.optim.RMSprop(groups, lr=lr, alpha=alpha, momentum=momentum, eps=eps, weight_decay=weight_decay)


def adadelta(
    groups: Groups, *, lr: AutoRate, rho: Fraction, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Adadelta: Zeiler 2012, https://arxiv.org/abs/1212.5701"""
    return torch.optim.Adadelta(groups, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)


def adamax(
    groups: Groups, *, lr: AutoRate, beta1: Fraction, beta2: Fraction, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Adamax: Kingma & Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980"""
    return torch.optim.Adamax(groups, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)


def nadam(
    groups: Groups, *, lr: AutoRate, beta1: Fraction, beta2: Fraction, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """NAdam: Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ; decoupled weight decay."""
    betas = (beta1, beta2)
    return torch.optim.NAdam(
        groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled_weight_decay=True
    )


def radam(
    groups: Groups, *, lr: AutoRate, beta1: Fraction, beta2: Fraction, eps: Positive, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """RAdam: Liu et al. 2020, https://arxiv.org/abs/1908.03265; decoupled weight decay."""
    betas = (beta1, beta2)
    return torch.optim.RAdam(
        groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled_weight_decay=True
    )


def adafactor(
    groups: Groups,
    *,
    lr: AutoRate,
    beta2_decay: Annotated[float, Range(low=-10, below=0)],
    clip: Positive,
    weight_decay: NonNegative,
) -> torch.optim.Optimizer:
    """Adafactor: Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235; decoupled weight decay."""
    return torch.optim.Adafactor(groups, lr=lr, beta2_decay=beta2_decay, d=clip, weight_decay=weight_decay)


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Whether it has several rows and columns: scales of channels and tokens do not."""
    return parameter.ndim > 1 and 1 < len(parameter) < parameter.numel()


def muon(
    groups: Groups,
    *,
    lr: AutoRate,
    momentum: Fraction,
    nesterov: bool,
    adamw_lr: LearningRate,
    weight_decay: NonNegative,
) -> torch.optim.Optimizer:
    """Muon for weights of two or more dimensions, AdamW for the last layer and all other parameters."""
    last = next((group["params"][-1] for group in groups if group["params"][-1].ndim > 1), None)
    parted: Groups = []
    params = {"momentum": momentum, "nesterov": nesterov}
    for group in groups:
        is_matrix = [_is_matrix(parameter) and parameter is not last for parameter in group["params"]]
        for kind, rate in ((True, lr), (False, adamw_lr)):
            parameters = [one for one, own in zip(group["params"], is_matrix, strict=True) if own is kind]
            if parameters:
                parted.append({**group, **params, "params": parameters, "is_matrix": kind, "lr": rate})
    return Muon(parted, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adadelta": adadelta,
    "adamax": adamax,
    "nadam": nadam,
    "radam": radam,
    "adafactor": adafactor,
    "muon": muon,
}
