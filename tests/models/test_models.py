"""Every model gives a logit for each class, at the sizes and channels that people have."""

from __future__ import annotations

import copy
import itertools
import sys
from typing import Any, get_args

import pytest
import torch
import torchvision
from torch import nn

from imgcls.cli.app import main
from imgcls.config.components import Component, select
from imgcls.config.options import option_node
from imgcls.config.torchvision_names import MODELS as TORCHVISION
from imgcls.errors import ConfigError
from imgcls.models import MODELS
from imgcls.models.build import MODEL_CONTEXT, is_random
from imgcls.models.layers import ACTIVATIONS, Activation
from imgcls.models.timm import timm_model


def build(name: str, channels: int, image_size: tuple[int, int], num_classes: int = 10, **params: object) -> nn.Module:
    """The model as the command line builds it from conf/model/NAME.yaml."""
    component: Component = select(MODELS, option_node("model", name) | params, "model", context=MODEL_CONTEXT)
    module: nn.Module = component(channels=channels, image_size=image_size, num_classes=num_classes)
    return module


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def logits_of(module: nn.Module, channels: int, image_size: tuple[int, int]) -> torch.Tensor:
    images = torch.randn(3, channels, *image_size, generator=torch.Generator().manual_seed(0))
    logits: torch.Tensor = module(images.to(memory_format=torch.channels_last))
    assert torch.isfinite(logits).all()
    return logits


SMALL = ("linear", "mlp", "lenet", "convnet")
SIZES = [(8, 8), (28, 28), (32, 32), (33, 17), (65, 70)]


@pytest.mark.parametrize(
    ("name", "channels", "image_size"),
    [(name, channels, size) for name in SMALL for channels in (1, 3, 4) for size in SIZES]
    + [("resnet18", channels, size) for channels, size in ((1, (8, 8)), (3, (33, 17)), (4, (65, 70)))],
)
def test_every_model_returns_a_logit_for_each_class(name: str, channels: int, image_size: tuple[int, int]) -> None:
    module = build(name, channels, image_size, 7)
    logits = logits_of(module, channels, image_size)
    assert logits.shape == (3, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in (*SMALL, *TORCHVISION, "resnet18")])
def test_the_deeper_resnets_do_too(name: str) -> None:
    module = build(name, 1, (32, 32), 100).eval()
    with torch.no_grad():
        assert logits_of(module, 1, (32, 32)).shape == (3, 100)


@pytest.mark.parametrize("height", range(4, 41))
def test_lenet_takes_any_size_from_4_pixels(height: int) -> None:
    for size in ((height, height), (height, 4), (height, 50)):
        assert logits_of(build("lenet", 1, size, 5), 1, size).shape == (3, 5)


@pytest.mark.parametrize(("channels", "side", "count"), [(3, 32, 62_006), (1, 28, 61_706), (1, 32, 61_706)])
def test_lenet_is_lecuns(channels: int, side: int, count: int) -> None:
    assert parameters(build("lenet", channels, (side, side))) == count


@pytest.mark.parametrize("size", [(3, 3), (3, 32), (32, 1)])
def test_images_too_small_for_lenet_are_refused_with_the_least_size(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"at least 4x4 pixels, got \d+x\d+; set dataset\.image_size=4"):
        build("lenet", 1, size)


@pytest.mark.parametrize("size", [(28, 28), (8, 8)])
def test_relu_after_pooling_is_relu_before_it(size: tuple[int, int]) -> None:
    """Same loss and gradients to the last bit, in LeNet and in the convnet."""
    for name in ("lenet", "convnet"):
        torch.manual_seed(0)
        module = build(name, 1, size)
        other = copy.deepcopy(module)
        for parent in other.modules():
            layers = list(parent.named_children())
            for (a, pool), (b, relu) in itertools.pairwise(layers):
                if isinstance(pool, nn.MaxPool2d) and isinstance(relu, nn.ReLU):
                    setattr(parent, a, relu), setattr(parent, b, pool)
        assert str(other) != str(module)
        for one in (module, other):
            logits_of(one, 1, size).square().sum().backward()
        for own, others in zip(module.parameters(), other.parameters(), strict=True):
            assert own.grad is not None
            assert others.grad is not None
            assert torch.equal(own.grad, others.grad)


def test_convnet_has_the_requested_layers() -> None:
    module = build("convnet", 1, (28, 28), 10, widths=[8, 32], hidden=[64])
    assert parameters(module) == (25 * 8 + 8) + (25 * 8 * 32 + 32) + (512 * 64 + 64) + (64 * 10 + 10)
    assert parameters(build("convnet", 3, (32, 32), 5, widths=[], hidden=[])) == 3 * 32 * 32 * 5 + 5
    with pytest.raises(ConfigError, match=r"convnet with 4 convolutions needs larger images than 8x8; shorten"):
        build("convnet", 1, (8, 8), widths=[2, 2, 2, 2])


def test_linear_is_softmax_regression() -> None:
    assert parameters(build("linear", 3, (8, 5), 4)) == 3 * 8 * 5 * 4 + 4


def test_mlp_has_the_requested_layers() -> None:
    module = build("mlp", 1, (4, 4), 3, hidden=[5, 6], dropout=0.5)
    assert parameters(module) == (16 * 5 + 5) + (5 * 6 + 6) + (6 * 3 + 3)
    assert sum(isinstance(layer, nn.Dropout) for layer in module.modules()) == 2
    assert parameters(build("mlp", 1, (4, 4), 3, hidden=[])) == 16 * 3 + 3


@pytest.mark.parametrize("name", ["mlp", "lenet", "convnet"])
@pytest.mark.parametrize("activation", get_args(Activation))
def test_the_activation_is_the_requested_one(name: str, activation: str) -> None:
    module = build(name, 1, (28, 28), activation=activation)
    kinds = [type(layer) for layer in module.modules() if type(layer).__module__ == "torch.nn.modules.activation"]
    assert set(kinds) == {type(ACTIVATIONS[activation]())}
    logits_of(module, 1, (28, 28))


def test_every_activation_has_a_name() -> None:
    assert list(ACTIVATIONS) == list(get_args(Activation))


@pytest.mark.parametrize("activation", ["tanh", "gelu", "mish"])
def test_any_activation_computes_the_same_as_before_pooling(activation: str) -> None:
    """Those that only rise stand behind the pooling, the others before it."""
    torch.manual_seed(0)
    module = build("lenet", 1, (28, 28), activation=activation)
    features: Any = module.features
    images = torch.randn(2, 1, 28, 28)
    act = ACTIVATIONS[activation]()
    expected = features.pool2(act(features.conv2(features.pool1(act(features.conv1(images)))))).flatten(1)
    assert torch.equal(features(images), expected)


@pytest.mark.parametrize("name", ["mlp", "lenet", "convnet"])
def test_batch_norm_and_dropout_follow_each_layer(name: str) -> None:
    plain, module = build(name, 1, (28, 28)), build(name, 1, (28, 28), batch_norm=True, dropout=0.3)
    linear = [layer for layer in plain.modules() if isinstance(layer, nn.Linear)]
    convs = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    drops = [layer.p for layer in module.modules() if isinstance(layer, nn.Dropout)]
    assert [norm.num_features for norm in norms] == [conv.out_channels for conv in convs] + [
        layer.out_features for layer in linear[:-1]
    ]
    assert drops == [0.3] * (len(linear) - 1)
    logits_of(module, 1, (28, 28)).sum().backward()


def test_lenet_has_the_requested_layers() -> None:
    module = build("lenet", 1, (28, 28), 10, widths=[4, 8], hidden=[20])
    assert parameters(module) == (25 * 4 + 4) + (25 * 4 * 8 + 8) + (8 * 25 * 20 + 20) + (20 * 10 + 10)
    with pytest.raises(ConfigError, match=r"model\.widths: must be a list of 2, got \[4, 8, 16\]"):
        build("lenet", 1, (28, 28), widths=[4, 8, 16])


@pytest.mark.parametrize(
    ("image_size", "stem", "kernel", "has_pool"),
    [
        ((64, 64), "auto", 3, False),
        ((65, 65), "auto", 7, True),
        ((64, 65), "auto", 7, True),
        ((65, 65), "small", 3, False),
        ((32, 32), "large", 7, True),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_resnet_stem_fits_the_image(
    image_size: tuple[int, int], stem: str, kernel: int, has_pool: bool, channels: int
) -> None:
    net = build("resnet18", channels, image_size, stem=stem)
    assert isinstance(net.conv1, nn.Conv2d)
    assert net.conv1.kernel_size == (kernel, kernel)
    assert net.conv1.in_channels == channels
    assert isinstance(net.maxpool, nn.MaxPool2d) is has_pool
    assert f"{kernel}x{kernel} stem" in str(net.note)
    assert ("chosen for the image size" in str(net.note)) is (stem == "auto")


@pytest.mark.parametrize("depth", [18, 34, 50, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (101, 152))])
def test_the_resnets_are_torchvisions(depth: int) -> None:
    """The same layers under the same names, which compute the same with the same weights."""
    ours = build(f"resnet{depth}", 3, (224, 224)).eval()
    theirs: nn.Module = getattr(torchvision.models, f"resnet{depth}")(num_classes=10).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_the_resnets_are_initialized_as_torchvisions() -> None:
    """Convolutions at He's standard deviation over the fan-out; batch norms at one and zero."""
    ours, theirs = (
        build("resnet18", 3, (224, 224)).state_dict(),
        torchvision.models.resnet18(num_classes=10).state_dict(),
    )
    for name, value in theirs.items():
        if name == "fc.bias":  # ten numbers drawn at random
            continue
        assert float(ours[name].float().std(correction=0)) == pytest.approx(
            float(value.float().std(correction=0)), rel=0.1
        )
        assert float(ours[name].float().mean()) == pytest.approx(float(value.float().mean()), abs=0.02)


@pytest.mark.parametrize("name", ["linear", "mlp", "lenet", "convnet", "resnet18", "resnet50"])
def test_models_known_to_draw_no_random_numbers_draw_none(name: str) -> None:
    module = build(name, 1, (16, 16))
    assert not is_random(module)
    before = torch.default_generator.get_state()
    logits_of(module, 1, (16, 16)).sum().backward()
    assert torch.equal(torch.default_generator.get_state(), before)


def test_models_that_may_draw_random_numbers_are_known() -> None:
    assert is_random(build("mlp", 1, (4, 4), dropout=0.5))
    assert is_random(nn.Sequential(nn.Linear(2, 2), type("Own", (nn.Linear,), {})(2, 2)))


def test_without_timm_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    timm_model.cache_clear()
    assert main(["train", "model=timm/resnet10t"]) == 2
    assert capsys.readouterr().err.endswith("pip install 'imgcls[timm]'\n")
