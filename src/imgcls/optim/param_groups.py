"""Parameter groups: which weights decay, and the learning rate of each block of the model."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from imgcls.models.finetune import depths

Groups = list[dict[str, Any]]

# names of tokens, position embeddings, bias tables, scales
NOT_A_WEIGHT = re.compile(
    r"(\w+_)?tokens?|(\w+_)?pos(ition|itional)?_?(emb|embed|embedding|encoding|enc|bias)s?(_\w+)?|"
    r"(\w+_)?relative_position_\w+|(\w+_)?(attention_)?bias_table|attention_biases|rel_pos_[hw]|"
    r"(\w+_)?layer_?scale_?\d*|ls_?\d*|(\w+_)?gammas?_?\d*|(\w+_)?logit_(scale|bias)|(\w+_)?temperature",
    re.IGNORECASE,
)
BIAS_NET = re.compile(r"(^|\.)cpb_mlp\.")  # Swin V2's net that makes the bias table, as in timm


def parameter_groups(
    module: nn.Module, layer_decay: float | None = None, *, decays_all: bool = False, tokens_first: bool = True
) -> Groups:
    """Two groups: weights, and what gets no weight decay, see ``undecayed``; decays_all: only what has one dimension.

    With layer_decay two for each block of the model, the last block first. ``scale`` in a group is the factor on its
    learning rate: 1 for the last block, layer_decay for the one before, its square for the next (BERT, BEiT).
    tokens_first: see ``depths``.
    """
    plain = set() if decays_all else undecayed(module)
    depth = depths(module, tokens_first=tokens_first) if layer_decay is not None else {}
    last = max(depth.values(), default=0)
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            found.setdefault((last - depth.get(name, last), parameter.ndim <= 1 or name in plain), []).append(parameter)
    groups: Groups = []
    for (distance, is_plain), parameters in sorted(found.items(), key=lambda item: item[0]):
        groups.append({"params": parameters, **({"weight_decay": 0.0} if is_plain else {})})
        if layer_decay is not None:
            groups[-1]["scale"] = layer_decay**distance
    return groups


def undecayed(module: nn.Module) -> set[str]:
    """The names of the parameters that are no weights, as timm has it: decay would pull them towards nothing useful.

    Norms and biases (one dimension), class tokens, position embeddings, tables of position biases, scales of layers,
    channels and logits; and what a module's method ``no_weight_decay()`` names.
    """
    names = {name for name, parameter in module.named_parameters() if _is_plain(name, parameter)}
    for prefix, one in module.named_modules():
        if isinstance(one, nn.Embedding) and NOT_A_WEIGHT.fullmatch(prefix.rpartition(".")[2]):
            names.add(f"{prefix}.weight")
        listed = getattr(one, "no_weight_decay", None)
        if callable(listed):
            names |= {f"{prefix}.{name}" if prefix else name for name in listed()}
    return names


def _is_plain(name: str, parameter: nn.Parameter) -> bool:
    own = name.rpartition(".")[2]
    is_weight = own.startswith(("weight", "original"))  # the latter: under a parametrization
    if parameter.ndim <= 1 or BIAS_NET.search(name):
        return True
    if not is_weight and parameter.numel() == max(parameter.shape):  # (C, 1, 1), (1, 1, D): a scale, a token
        return True
    return NOT_A_WEIGHT.fullmatch(own) is not None


def scale_rates(optimizer: torch.optim.Optimizer) -> None:
    """Multiply each group's learning rate by its ``scale``."""
    for group in optimizer.param_groups:
        if "lr" in group:
            group["lr"] *= group.get("scale", 1.0)
