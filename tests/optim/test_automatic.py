"""The table behind optimizer.lr=auto: which row a net has, and the rate for a batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from imgcls.config.options import options
from imgcls.models.torchvision import TORCHVISION_MODELS
from imgcls.optim import automatic
from imgcls.optim.automatic import SMALL_NETS, learning_rate

PHOTO, TINY = (96, 80), (64, 64)
BATCH_NORM = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
PLAIN = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
TRANSFORMER = nn.TransformerEncoderLayer(4, 2)


def row(model: str, module: nn.Module, size: tuple[int, int] = PHOTO, *, is_pretrained: bool = False) -> str:
    """The name of the net's row; small for small images."""
    found = automatic._row(model, module, size, is_pretrained=is_pretrained)
    return next((key for key, value in vars(automatic).items() if value is found), "") if found else "small"


def test_every_optimizer_has_a_rate_for_small_nets() -> None:
    assert set(SMALL_NETS) == set(options("optimizer"))


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        *(("sgd", 0.05), ("adam", 0.003), ("adamw", 0.005), ("adagrad", 0.01), ("rmsprop", 0.001), ("adadelta", 1.0)),
        *(("adamax", 0.005), ("nadam", 0.003), ("radam", 0.01), ("adafactor", 0.02), ("muon", 0.02)),
    ],
)
def test_small_nets_keep_the_rates_of_earlier_versions_at_any_batch_size(optimizer: str, rate: float) -> None:
    for batch in (1, 128, 4096):
        found, why = learning_rate(optimizer, "lenet", PLAIN, TINY, batch, is_pretrained=False)
        assert (found, why) == (rate, f"{optimizer}, images of up to 64 pixels")
        found, why = learning_rate(optimizer, "convnet", PLAIN, PHOTO, batch, is_pretrained=False)
        assert (found, why) == (rate, f"{optimizer}, a small net")


@pytest.mark.parametrize(
    ("model", "module", "name"),
    [
        ("resnet18", BATCH_NORM, "SCRATCH"),
        ("own:Net", TRANSFORMER, "SCRATCH"),
        ("vit_b_16", TRANSFORMER, "TRANSFORMER"),
        ("timm/x", TRANSFORMER, "TRANSFORMER"),
        ("vgg11", PLAIN, "UNNORMALIZED"),
    ],
)
def test_the_row_of_a_net(model: str, module: nn.Module, name: str) -> None:
    assert row(model, module) == name
    assert row(model, module, TINY) == ("small" if name == "SCRATCH" else name)
    with_weights = {"SCRATCH": "WEIGHTS", "TRANSFORMER": "TRANSFORMER_WEIGHTS", "UNNORMALIZED": "UNNORMALIZED"}[name]
    assert row(model, module, is_pretrained=True) == row(model, module, TINY, is_pretrained=True) == with_weights


@pytest.mark.parametrize("module", [nn.Sequential(nn.LayerNorm(4)), nn.Sequential(BATCH_NORM, TRANSFORMER.self_attn)])
def test_layer_norm_or_attention_alone_makes_no_transformer(module: nn.Module) -> None:
    assert row("resnet18", module) == "SCRATCH"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("swin_t", "TRANSFORMER"),
        ("maxvit_t", "TRANSFORMER"),
        ("vit_b_16", "TRANSFORMER"),
        ("convnext_tiny", "SCRATCH"),
        ("efficientnet_b0", "SCRATCH"),
        ("squeezenet1_1", "UNNORMALIZED"),
        ("vgg11", "UNNORMALIZED"),
    ],
)
def test_the_rows_of_torchvisions_models(model: str, name: str) -> None:
    with torch.device("meta"):
        module = TORCHVISION_MODELS[model](3, (224, 224), 10, dropout=None, stochastic_depth=None, stem="large")
    assert row(model, module, (224, 224)) == name


@pytest.mark.parametrize(
    ("optimizer", "batch", "rate"),
    [
        *(("adamw", 32, 0.001), ("adamw", 128, 0.002), ("adamw", 16, 0.00071), ("sgd", 32, 0.02), ("sgd", 128, 0.08)),
        *(("adam", 128, 0.0012), ("adadelta", 32, 0.2), ("muon", 32, 0.004)),
    ],
)
def test_the_rate_follows_the_batch_size(optimizer: str, batch: int, rate: float) -> None:
    """adamw's and its relatives' by the square root, sgd's in proportion."""
    row = automatic.Row("a net", adamw=0.001, sgd=0.02)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automatic, "SCRATCH", row)
        found, why = learning_rate(optimizer, "resnet18", BATCH_NORM, PHOTO, batch, is_pretrained=False)
    assert found == pytest.approx(rate, rel=1e-12)
    words = f"{optimizer}, a net" if optimizer in ("adamw", "sgd") else f"{optimizer} takes "
    assert why.startswith(words)
    assert why.endswith(f", a net: {0.02 if optimizer == 'sgd' else 0.001} at batch 32")
