"""What ``optimizer.lr=auto`` means: the peak learning rate, by a stored table of nets and optimizers, and the batch.

Small nets and images of up to 64 pixels have one rate for each optimizer, at any batch size. adamw and sgd have a rate
for every other kind of net; the other optimizers take adamw's, times what they take of it for small nets.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from torch import nn

from imgcls.models.automatic import FLAT_MODELS
from imgcls.models.layers import SMALL, is_small

# fmt: off
SMALL_NETS = {  # optimizer -> rate: found with LeNet on digits; model=auto's net for photos was chosen with adamw's
    "sgd": 0.05, "adam": 0.003, "adamw": 0.005, "adagrad": 0.01, "rmsprop": 0.001, "adadelta": 1.0, "adamax": 0.005,
    "nadam": 0.003, "radam": 0.01, "adafactor": 0.02, "muon": 0.02,
}
# fmt: on
BATCH = 32  # that the rows are for: sgd's grow with the batch size, the others with its square root


@dataclass(frozen=True)
class Row:
    """The rates for a kind of net at a batch of 32. net: which, in words."""

    net: str
    adamw: float
    sgd: float


# benchmarks/results/finetune.md and auto.md; sgd from scratch and transformers from weights are conventions
SCRATCH = Row("a net from scratch", adamw=1e-3, sgd=0.02)
WEIGHTS = Row("a net from weights", adamw=3e-4, sgd=3e-4)
TRANSFORMER = Row("a transformer from scratch", adamw=5e-4, sgd=0.01)
TRANSFORMER_WEIGHTS = Row("a transformer from weights", adamw=1e-4, sgd=0.001)
# adamw: 3e-4 at batch 128, with which squeezenet1_1 learns digits; sgd: torchvision's reference for AlexNet and VGG
UNNORMALIZED = Row("a deep net without normalization", adamw=1.5e-4, sgd=0.00125)

ATTENTION = re.compile("attention|attn|mhsa", re.IGNORECASE)  # names of classes of layers
TOKEN_NORM = re.compile("layernorm|rmsnorm", re.IGNORECASE)  # convolutional nets with some attention have batch norm
NORM = re.compile("norm|stdconv", re.IGNORECASE)


def learning_rate(
    optimizer: str, model: str, module: nn.Module, image_size: tuple[int, int], batch_size: int, *, is_pretrained: bool
) -> tuple[float, str]:
    """The peak learning rate, to two digits, and why it is that one, in words.

    optimizer, model: their names. image_size: (height, width). batch_size: images per update, over all processes.
    is_pretrained: whether the module starts from weights.
    """
    row = _row(model, module, image_size, is_pretrained=is_pretrained)
    if row is None:
        what = f"images of up to {SMALL} pixels" if is_small(image_size) else "a small net"
        return SMALL_NETS[optimizer], f"{optimizer}, {what}"
    times = batch_size / BATCH
    if optimizer == "sgd":
        return _rounded(row.sgd * times), f"sgd, {row.net}: {row.sgd:g} at batch {BATCH}"
    share = SMALL_NETS[optimizer] / SMALL_NETS["adamw"]
    rate = _rounded(share * row.adamw * math.sqrt(times))
    name = "adamw" if optimizer == "adamw" else f"{optimizer} takes {share:g} times adamw's"
    return rate, f"{name}, {row.net}: {row.adamw:g} at batch {BATCH}"


def _row(model: str, module: nn.Module, image_size: tuple[int, int], *, is_pretrained: bool) -> Row | None:
    """The row of this net, None for small nets and small images. The user's own code is not looked into."""
    is_flat = model in FLAT_MODELS
    if ":" not in model and not is_flat:
        layers = {type(one).__name__ for one in module.modules()}
        if any(map(ATTENTION.search, layers)) and any(map(TOKEN_NORM.search, layers)):
            return TRANSFORMER_WEIGHTS if is_pretrained else TRANSFORMER
        if not any(map(NORM.search, layers)):
            return UNNORMALIZED
    if is_pretrained:
        return WEIGHTS
    return None if is_flat or is_small(image_size) else SCRATCH


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")
