"""Which part of a model is its head, which layers stand how deep, and which are not trained."""

from __future__ import annotations

import re
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from imgcls.config.types import Range

NUMBERED = re.compile(r"\d+|encoder_layer_\d+|denselayer\d+|transition\d+|inception\d\w|Mixed_\d\w|block\d+-\d+")
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The keys that every model has (conf/train.yaml gives the defaults).

    freeze: true is all but the head; a list names the layers, by the first parts of their names.
    """

    num_classes: Annotated[int, Range(low=1, high=100_000)] | None
    pretrained: bool | str
    freeze: bool | list[str]


def head_of(module: nn.Module, num_classes: int) -> str:
    """The name of the layer that gives the logits: the last one with parameters and that many outputs.

    Raises ValueError where there is none.
    """
    heads: list[str] = [
        name
        for name, one in module.named_modules()
        if num_classes in (getattr(one, "out_features", None), getattr(one, "out_channels", None))
    ]
    if not heads:
        raise ValueError("the model has no layer of its own for the classes")
    return heads[-1]


def freeze(module: nn.Module, wanted: bool | Sequence[str], num_classes: int) -> str:
    """Leave the wanted layers as they are: no gradients, no dropout, no new statistics. Returns words for the header.

    Raises ValueError for a name that no layer has, and where nothing is left to train.
    """
    if wanted is False or wanted == []:
        return ""
    names = [name for name, _ in module.named_parameters()]
    if wanted is True:
        try:
            head = head_of(module, num_classes)
        except ValueError as error:
            raise ValueError(f"freeze: {error}; name the layers, as in model.freeze=[conv1]") from error
        frozen = [name for name in names if not name.startswith(f"{head}.")]
        words = "all but the last layer frozen"
    else:
        for prefix in wanted:
            if not any(_is_under(name, prefix) for name in names):
                tops = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
                raise ValueError(f"freeze: no layer is called '{prefix}' (the first parts of their names: {tops})")
        frozen = [name for name in names if any(_is_under(name, prefix) for prefix in wanted)]
        words = f"{', '.join(wanted)} frozen"
    if len(frozen) == len(names):
        raise ValueError("freeze: nothing is left to train")
    parameters = dict(module.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
    for one in module.modules():
        own = list(one.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            one.train(False)
            one.train = types.MethodType(_stay, one)  # type: ignore[method-assign]
    return f"{words}, {sum(parameters[name].numel() for name in frozen):,} parameters"


def _is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _stay(self: nn.Module, mode: bool = True) -> nn.Module:
    """In place of ``train``: a frozen layer computes as in evaluation."""
    return self


def depths(module: nn.Module) -> dict[str, int]:
    """For each parameter by name: how many blocks of the model come before its own.

    A block is what shares a name up to its number: layer1.0 of a ResNet, encoder.layers.encoder_layer_3 of a vision
    transformer; a layer without a number is a block by itself, and a norm belongs to what stands before it.
    """
    order: dict[str, int] = {}
    found: dict[str, int] = {}
    last = 0
    for path, one in module.named_modules():
        for name, _ in one.named_parameters(path, recurse=False):
            block = _block(path) or name
            if block not in order and not (isinstance(one, NORMS) and block == path and order):
                order[block] = len(order)
            last = order.get(block, last)
            found[name] = last
    return {name: found[name] for name, _ in module.named_parameters()}


def _block(path: str) -> str:
    """The name of a layer up to the end of its first numbers."""
    parts = path.split(".")
    numbered = [NUMBERED.fullmatch(part) is not None for part in parts] + [False]
    if True not in numbered:
        return path
    return ".".join(parts[: numbered.index(False, numbered.index(True))])
