"""What auto means: model, image size and epochs by a stored table, never by a timing: the same command is the same run.

The table knows the kind of device, whether there are pretrained weights, how many training images there are and how
large they are. Images of up to 64 pixels are small, all others are photos.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from imgcls.config.options import Node, option_node
from imgcls.models.layers import is_small

SMALL_MODEL, SMALL_EPOCHS = "lenet", 20  # the epochs also of the user's own models, whose cost nobody knows
FLAT_MODELS = ("linear", "mlp", "lenet", "convnet", "airbench")
FLAT_SIZE = 32  # pixels per side: for photos and models with layers for every pixel
PHOTO_SIZE = 224  # pixels per side: what the other models are made for
ANY = math.inf
NARROWEST = 20  # pixels: the shorter side that four convolutions with pooling need
MEGAPIXELS = {"auto": 3.8, "resnet18": 0.8}  # a second on two cores: benchmarks/results/auto.md


@dataclass(frozen=True)
class Row:
    """The choice for photos on a kind of device.

    size: pixels per side for images that differ in size or are larger than 224 pixels. epochs: pairs of a number of
    images and the epochs for up to that many; images of another size count by their pixels, so that a run takes about
    as long with large images. params: the model's keys that differ from their defaults.
    """

    model: str
    size: int
    epochs: tuple[tuple[float, int], ...]
    params: dict[str, Any] = field(default_factory=dict)


GPU = Row("resnet50", PHOTO_SIZE, ((2_000, 60), (10_000, 40), (50_000, 30), (ANY, 20)))
GPU_PRETRAINED = Row("resnet50", PHOTO_SIZE, ((2_000, 20), (10_000, 12), (50_000, 8), (ANY, 5)))
CPU = Row(
    "convnet",
    96,
    ((1_000, 60), (1_500, 50), (2_000, 40), (2_600, 30), (4_000, 20), (8_000, 10), (16_000, 8), (32_000, 5), (ANY, 3)),
    {"widths": [16, 32, 64, 128], "hidden": [], "batch_norm": True},
)
CPU_PRETRAINED = Row("efficientnet_b0", 128, ((1_000, 15), (2_500, 8), (5_000, 5), (10_000, 3), (ANY, 2)))
CPU_NAMED = Row("", 128, ((1_000, 20), (2_500, 15), (5_000, 10), (10_000, 5), (ANY, 3)))  # of the cost of a ResNet


def pretrained_choice(device: str) -> tuple[str, int]:
    """The model that ``model=auto`` is for photos if its published weights are there, and its pixels per side."""
    row = _row(device, "auto", is_pretrained=True)
    return row.model, row.size


def model_node(device: str, image_size: tuple[int, int], *, is_pretrained: bool = False) -> Node:
    """The model that ``model=auto`` is, with its keys. device: cpu, cuda or mps. image_size: (height, width)."""
    if is_small(image_size):
        return option_node("model", SMALL_MODEL)
    row = _row(device, "auto", is_pretrained)
    if row is CPU and min(image_size) < NARROWEST:
        return option_node("model", "resnet18")
    return option_node("model", row.model) | row.params


def default_image_size(device: str, model: str) -> int:
    """Pixels per side that photos of several sizes, and those of more than 224 pixels, are scaled to for this model."""
    if model in FLAT_MODELS:
        return FLAT_SIZE
    has_own = ":" in model or "/" in model or model == "vit_h_14"  # the user's, another library's, patches of 14
    return PHOTO_SIZE if has_own else _row(device, model).size


def default_epochs(
    device: str, model: str, images: int, image_size: tuple[int, int], *, is_pretrained: bool = False
) -> int:
    """What ``epochs=auto`` is: the larger the training images and the more there are, the fewer."""
    if is_small(image_size) or ":" in model:
        return SMALL_EPOCHS
    row = _row(device, "auto" if model in FLAT_MODELS else model, is_pretrained)
    counted = images * math.prod(image_size) / row.size**2
    return next(epochs for most, epochs in row.epochs if counted <= most)


def cpu_minutes(model: str, images: int, image_size: tuple[int, int]) -> float:
    """Roughly how many minutes two cores need to train.

    model: auto or resnet18. images: training images times epochs. image_size: (height, width).
    """
    return images * math.prod(image_size) / (MEGAPIXELS[model] * 1e6) / 60


def _row(device: str, model: str, is_pretrained: bool = False) -> Row:
    if is_pretrained:
        return CPU_PRETRAINED if device == "cpu" else GPU_PRETRAINED
    if device != "cpu":
        return GPU
    return CPU if model == "auto" else CPU_NAMED
