"""Fine-tuning: which layer is a model's head, which layers are frozen, how deep each block is."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from imgcls.config.types import Range

NUMBERED = re.compile(r"\d+|encoder_layer_\d+|denselayer\d+|transition\d+|inception\d\w|Mixed_\d\w|block\d+-\d+")
TOKEN = re.compile(r"(\w+_)?tokens?_?\d*|(\w+_)?pos(ition|itional)?_?(emb|embd|embed|embedding)s?(_\w+)?")
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The keys that every model has; their defaults are in conf/train.yaml.

    freeze: true freezes all but the head; a list names layers, by the beginnings of their names.
    """

    num_classes: Annotated[int, Range(low=1, high=100_000)] | None
    pretrained: bool | str
    freeze: bool | list[str]


def head_of(module: nn.Module, num_classes: int) -> str:
    """The name of the layer that computes the logits: the last one with parameters and num_classes outputs.

    Raises ValueError if there is none.
    """
    heads: list[str] = [
        name
        for name, one in module.named_modules()
        if num_classes in (getattr(one, "out_features", None), getattr(one, "out_channels", None))
    ]
    if not heads:
        raise ValueError("the model has no layer with an output for each class")
    return heads[-1]


def heads_of(module: nn.Module, num_classes: int) -> tuple[str, ...]:
    """The names of the layers that compute the logits: what timm calls so (several where it distills), else head_of.

    Raises ValueError if there is none.
    """
    named: tuple[str, ...] = getattr(module, "timm_heads", ())
    return named or (head_of(module, num_classes),)


def frozen_parameters(module: nn.Module, wanted: bool | Sequence[str], num_classes: int) -> list[str]:
    """The names of the parameters that ``model.freeze`` freezes: True is all but the head, a list names layers.

    Raises ValueError for an unknown layer, and if nothing would be left to train.
    """
    names = [name for name, _ in module.named_parameters()]
    if wanted is True:
        try:
            heads = heads_of(module, num_classes)
        except ValueError as error:
            raise ValueError(f"freeze: {error}; name the layers, as in model.freeze=[conv1]") from error
        frozen = [name for name in names if not any(_is_under(name, head) for head in heads)]
    else:
        layers = wanted or []
        for layer in layers:
            if not any(_is_under(name, layer) for name in names):
                tops = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
                raise ValueError(f"freeze: no layer is called '{layer}' (layers: {tops})")
        frozen = [name for name in names if any(_is_under(name, layer) for layer in layers)]
    if frozen and len(frozen) == len(names):
        raise ValueError("freeze: nothing is left to train")
    return frozen


def freeze(module: nn.Module, wanted: bool | Sequence[str], num_classes: int) -> str:
    """Freeze these layers: no gradients, no dropout, no new statistics. See frozen_parameters for the errors.

    Returns a description, such as 'conv1 frozen, 9,408 parameters'; empty if nothing is frozen.
    """
    parameters = dict(module.named_parameters())
    frozen = frozen_parameters(module, wanted, num_classes)
    if not frozen:
        return ""
    for name in frozen:
        parameters[name].requires_grad_(False)
    for one in module.modules():
        own = list(one.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            one.train(False)
            one.train = types.MethodType(_stay, one)  # type: ignore[method-assign]
    layers = "all but the last layer" if isinstance(wanted, bool) else ", ".join(wanted)
    return f"{layers} frozen, {sum(parameters[name].numel() for name in frozen):,} parameters"


def keep_statistics(module: nn.Module) -> bool:
    """Have batch norm use the stored statistics in training, too, and leave them as they are; whether there is any."""
    norms = [one for one in module.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for one in norms:
        one.train(False)
        one.train = types.MethodType(_stay, one)  # type: ignore[method-assign]
    return bool(norms)


def _is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _stay(self: nn.Module, mode: bool = True) -> nn.Module:
    """Replaces ``train``: a frozen layer stays in evaluation mode."""
    return self


def depths(module: nn.Module, *, tokens_first: bool = True) -> dict[str, int]:
    """How many blocks of the model come before the block of each parameter, by the parameter's name.

    A block is all layers whose names agree up to their number: layer1.0 of a ResNet, encoder.layers.encoder_layer_3 of
    a vision transformer. A layer without a number is a block of one; a norm belongs to the block before it. A model of
    timm's says itself what its blocks are. Class tokens and embeddings outside of the numbered layers are part of the
    first block; tokens_first=False: they are blocks of their own, as in earlier versions.
    """
    is_timm = "timm" in sys.modules and hasattr(module, "group_matcher")
    found = _timm_depths(module) if is_timm and tokens_first else _own_depths(module, tokens_first)
    ranks = {depth: rank for rank, depth in enumerate(sorted({*found.values()}))}
    return {name: ranks[found[name]] for name, _ in module.named_parameters()}


def _timm_depths(module: nn.Module) -> dict[str, int]:
    from timm.models import group_parameters

    found: dict[str, int] = group_parameters(module, module.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    return {name: 0 if _is_token(module, name) else depth for name, depth in found.items()}


def _own_depths(module: nn.Module, tokens_first: bool) -> dict[str, int]:
    order: dict[str, int] = {}
    found: dict[str, int] = {}
    last = 0
    for path, one in module.named_modules():
        for name, _ in one.named_parameters(path, recurse=False):
            if tokens_first and _is_token(module, name):
                found[name] = 0
                continue
            block = _block(path) or name
            if block not in order and not (isinstance(one, NORMS) and block == path and order):
                order[block] = len(order)
            last = order.get(block, last)
            found[name] = last
    return found


def _is_token(module: nn.Module, name: str) -> bool:
    """Whether a parameter is a token or an embedding, such as a class token, outside of the numbered layers."""
    path, _, own = name.rpartition(".")
    is_embedding = isinstance(module.get_submodule(path), nn.Embedding)
    return (is_embedding or TOKEN.fullmatch(own) is not None) and not any(map(NUMBERED.fullmatch, path.split(".")))


def _block(path: str) -> str:
    """The name of a layer up to its first numbers."""
    parts = path.split(".")
    numbered = [NUMBERED.fullmatch(part) is not None for part in parts] + [False]
    if True not in numbered:
        return path
    return ".".join(parts[: numbered.index(False, numbered.index(True))])
