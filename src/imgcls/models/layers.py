"""Layers and rules that several models share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

Activation = Literal["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "tanh", "sigmoid", "softplus"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}
NOT_MONOTONE = ("gelu", "silu", "mish")


SMALL = 64  # pixels: up to here a stem made for 224, which strides and pools, would discard most of the image
Stem = Literal["auto", "small", "large"]


def is_small(image_size: tuple[int, int]) -> bool:
    """Whether images of (height, width) pixels need a stem that keeps their size."""
    return max(image_size) <= SMALL


def has_small_stem(stem: Stem, image_size: tuple[int, int]) -> bool:
    """What the parameter ``stem`` means for such images."""
    return stem == "small" or (stem == "auto" and is_small(image_size))


def stem_note(description: str, stem: Stem) -> str:
    """The note on a model's stem: '3x3 stem without max-pool (chosen for the image size)'."""
    return f"{description} ({'chosen for the image size' if stem == 'auto' else f'stem={stem}'})"


def shown(image_size: tuple[int, int]) -> str:
    """(height, width) as 'WIDTHxHEIGHT'."""
    return f"{image_size[1]}x{image_size[0]}"


def dense(
    inputs: int, widths: Sequence[int], num_classes: int, *, activation: Activation, batch_norm: bool, dropout: float
) -> dict[str, nn.Module]:
    """Fully connected layers by name, in order: (B, inputs) -> (B, num_classes)."""
    layers: dict[str, nn.Module] = {}
    for i, width in enumerate(widths, start=1):
        layers[f"fc{i}"] = nn.Linear(inputs, width, bias=not batch_norm)
        if batch_norm:
            layers[f"norm{i}"] = nn.BatchNorm1d(width)
        layers[f"act{i}"] = ACTIVATIONS[activation]()
        if dropout > 0:
            layers[f"drop{i}"] = nn.Dropout(dropout)
        inputs = width
    layers[f"fc{len(widths) + 1}"] = nn.Linear(inputs, num_classes)
    return layers


def convolution(
    number: int,
    inputs: int,
    outputs: int,
    *,
    padding: int,
    has_pool: bool = True,
    activation: Activation = "relu",
    batch_norm: bool = False,
) -> dict[str, nn.Module]:
    """A 5x5 convolution, optional batch norm, 2x2 max-pooling and the activation, by name.

    A monotone activation has the same values and gradients after pooling as before it, for a quarter of the work.
    """
    conv = nn.Conv2d(inputs, outputs, 5, padding=padding, bias=not batch_norm)
    norm = {f"norm{number}": nn.BatchNorm2d(outputs)} if batch_norm else {}
    pool: dict[str, nn.Module] = {f"pool{number}": nn.MaxPool2d(2) if has_pool else nn.Identity()}
    act = {f"act{number}": ACTIVATIONS[activation]()}
    ends = {**act, **pool} if activation in NOT_MONOTONE else {**pool, **act}
    return {f"conv{number}": conv, **norm, **ends}
