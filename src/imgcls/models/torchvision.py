"""torchvision's classification models; small images get a smaller stem.

https://docs.pytorch.org/vision/stable/models.html. torchvision is imported only when one of them is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from imgcls.config.torchvision_names import MODELS as TORCHVISION
from imgcls.config.types import Fraction
from imgcls.models.layers import Stem, has_small_stem, shown, stem_note

MOMENTUM = 0.1  # of batch norm, PyTorch's default
Adapt = Callable[[nn.Module, tuple[int, int]], str]


def _conv(
    old: nn.Conv2d,
    *,
    channels: int | None = None,
    kernel: int | None = None,
    stride: int | None = None,
    padding: int = 0,
) -> nn.Conv2d:
    """A first convolution like the old one except for what is given; its output has about the variance of its input."""
    new = nn.Conv2d(
        channels or old.in_channels,
        old.out_channels,
        kernel or old.kernel_size,  # type: ignore[arg-type]
        stride=stride or old.stride,  # type: ignore[arg-type]
        padding=padding if kernel else old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.normal_(new.weight, std=1 / math.sqrt(new.weight[0].numel()))
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new


def _replace(module: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)


def _first_conv(module: nn.Module) -> str:
    """The name of the convolution that is applied to the pixels."""
    names: list[str] = [name for name, one in module.named_modules() if isinstance(one, nn.Conv2d)]
    return names[0]


# --- stems for small images: each changes the module and describes how ------------------------------------------------


def _without_pool(module: nn.Module, size: tuple[int, int], *, pool: str | None, kernel: int = 3) -> str:
    """A small first convolution with stride 1, without the pooling after it, if that has a name."""
    path = _first_conv(module)
    old: Any = module.get_submodule(path)
    _replace(module, path, _conv(old, kernel=kernel, stride=1, padding=kernel // 2))
    if pool is None:
        return f"{kernel}x{kernel} stem with stride 1"
    _replace(module, pool, nn.Identity())
    return f"{kernel}x{kernel} stem without max-pool"


def _stride_one(module: nn.Module, size: tuple[int, int]) -> str:
    """The first convolution, with stride 1."""
    conv: Any = module.get_submodule(_first_conv(module))
    conv.stride = (1, 1)
    return "stem with stride 1"


def _small_patches(module: nn.Module, size: tuple[int, int]) -> str:
    """2x2 patches instead of 4x4."""
    path = _first_conv(module)
    old: Any = module.get_submodule(path)
    _replace(module, path, _conv(old, kernel=2, stride=2))
    return "2x2 patches"


def _fewer_pools(module: nn.Module, size: tuple[int, int]) -> str:
    """VGG halves the image five times: without the last poolings below 32 pixels."""
    features: Any = module.features
    pools = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    kept = int(math.log2(min(size)))
    for i in pools[kept:]:
        features[i] = nn.Identity()
    return f"{kept} of {len(pools)} poolings" if kept < len(pools) else ""


# --- builders: (name, image size, number of classes, whether the stem is small, torchvision's parameters) -> the model
# for RGB images, and a description of what was changed


def _net(
    name: str, size: tuple[int, int], num_classes: int, is_small: bool, params: dict[str, Any]
) -> tuple[nn.Module, str]:
    """The convolutional networks, and Swin transformers."""
    import torchvision

    family = family_of(name)
    least = family.least if is_small else LEAST_LARGE.get(name, 32)
    if min(size) < least:
        raise ValueError(
            f"{name} needs images of at least {least}x{least} pixels, got {shown(size)}; "
            f"set dataset.image_size={least} or more"
        )
    net = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **params, **dict(family.more))
    return net, family.small(net, size) if is_small and family.small is not None else ""


def _vit(
    name: str, size: tuple[int, int], num_classes: int, is_small: bool, params: dict[str, Any]
) -> tuple[nn.Module, str]:
    """The vision transformers, for square images; small ones have about 8 x 8 patches, others the published size."""
    import torchvision

    side, published = size[0], int(name.rpartition("_")[2])
    if size[1] != side:
        raise ValueError(f"{name} needs square images, got {shown(size)}; set dataset.image_size={side}")
    patch = _divisor(side, side / 8) if is_small else published
    if side % patch or side < patch:
        near = max(1, round(side / patch)) * patch
        raise ValueError(
            f"{name} needs images of a multiple of {patch} pixels, got {side}; set dataset.image_size={near}"
        )
    net: Any = torchvision.models.get_model(
        name, weights=None, num_classes=num_classes, image_size=published * (side // patch), **params
    )
    if patch == published:
        return net, ""
    net.conv_proj = _conv(net.conv_proj, kernel=patch, stride=patch)
    net.patch_size, net.image_size = patch, side
    return net, f"{patch}x{patch} patches"


def _divisor(number: int, near: float) -> int:
    """The divisor of the number that is nearest to ``near``; the larger one of a tie."""
    return min((i for i in range(1, number + 1) if number % i == 0), key=lambda i: (abs(i - near), -i))


def _maxvit(
    name: str, size: tuple[int, int], num_classes: int, is_small: bool, params: dict[str, Any]
) -> tuple[nn.Module, str]:
    """MaxViT.

    The windows (7x7 as published) must divide the feature maps after five halvings, or four for small images, whose
    stem has stride 1; if 7x7 do not, the largest ones up to 8x8 that do are used.
    """
    from torchvision.models.maxvit import MaxVit

    height, width = (2 * side if is_small else side for side in size)
    window = next((p for p in (7, 8, 6, 5, 4, 3, 2) if height % (32 * p) == 0 and width % (32 * p) == 0), None)
    if window is None:
        unit = 32 if is_small else 64
        near = max(unit, round(min(size) / unit) * unit)
        raise ValueError(
            f"{name} needs images whose sides are multiples of {unit} (or of 224) pixels, "
            f"got {shown(size)}; set dataset.image_size={near}"
        )
    net = MaxVit(
        input_size=(height, width),
        stem_channels=64,
        partition_size=window,
        block_channels=[64, 128, 256, 512],
        block_layers=[2, 2, 5, 2],
        head_dim=32,
        num_classes=num_classes,
        **{"stochastic_depth_prob": 0.2, **params},
    )
    windows = f"{window}x{window} windows" if window != 7 else ""
    return net, f"{_stride_one(net, size)}, {windows}" if is_small else windows


@dataclass(frozen=True)
class Family:
    """What the models of a family have in common.

    dropout, stochastic_depth: torchvision's keyword for each; None if the family has none, "" if its builder fixes it.
    small: the change that makes a stem for small images. least: the smallest side, in pixels, with that stem.
    """

    dropout: str | None = None
    stochastic_depth: str | None = None
    small: Adapt | None = None
    least: int = 4
    more: tuple[tuple[str, Any], ...] = ()  # further keywords
    build: Callable[..., tuple[nn.Module, str]] = _net


FAMILIES = {
    "alexnet": Family("dropout", small=partial(_without_pool, pool=None, kernel=5), least=15),
    "convnext": Family(None, "stochastic_depth_prob", small=_small_patches, least=16),
    "densenet": Family("drop_rate", small=partial(_without_pool, pool="features.pool0"), least=8),
    "efficientnet": Family("dropout", "stochastic_depth_prob", small=_stride_one),
    "googlenet": Family(
        "dropout",
        small=partial(_without_pool, pool="maxpool1"),
        more=(("aux_logits", False), ("init_weights", True)),
    ),
    "inception": Family("dropout", least=75, more=(("aux_logits", False), ("init_weights", True))),
    "maxvit": Family(None, "stochastic_depth_prob", build=_maxvit),
    "mnasnet": Family("dropout", small=_stride_one),
    "mobilenet": Family("dropout", small=_stride_one),
    "regnet": Family(small=_stride_one),
    "resnext": Family(small=partial(_without_pool, pool="maxpool")),
    "shufflenet": Family(small=partial(_without_pool, pool="maxpool")),
    "squeezenet": Family("dropout", small=partial(_without_pool, pool=None)),
    "swin": Family("dropout", "", small=_small_patches),
    "vgg": Family("dropout", small=_fewer_pools, least=2),
    "vit": Family("dropout", build=_vit),
    "wide_resnet": Family(small=partial(_without_pool, pool="maxpool")),
}
LEAST_LARGE = {"inception_v3": 75, "alexnet": 63}  # pixels: the smallest side with the published stem, if not 32


def family_of(name: str) -> Family:
    """The family of one of torchvision's models."""
    return next(family for prefix, family in FAMILIES.items() if name.startswith(prefix))


def check(name: str, *, stem: Stem, dropout: float | None, stochastic_depth: float | None) -> None:
    """Raises ValueError for a parameter that the model does not have; needs no torchvision."""
    family = family_of(name)
    if stem == "small" and family.small is None and family.build is _net:
        raise ValueError(f"{name} has no small stem; leave model.stem at auto")
    for key, value, keyword in (
        ("dropout", dropout, family.dropout),
        ("stochastic_depth", stochastic_depth, family.stochastic_depth),
    ):
        if value is not None and keyword is None:
            raise ValueError(f"{name} has no {key.replace('_', ' ')}; leave model.{key} null")


def _model(
    name: str,
    channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    *,
    stem: Stem,
    dropout: Fraction | None,
    stochastic_depth: Fraction | None,
) -> nn.Module:
    """A torchvision model: (B, C, H, W) -> (B, num_classes); null keeps the architecture's own value."""
    check(name, stem=stem, dropout=dropout, stochastic_depth=stochastic_depth)
    family = family_of(name)
    is_small = has_small_stem(stem, image_size)
    given = ((family.dropout, dropout), (family.stochastic_depth, stochastic_depth))
    params = {keyword: value for keyword, value in given if keyword and value is not None}
    net, changes = family.build(name, image_size, num_classes, is_small, params)
    if stochastic_depth is not None and family.stochastic_depth == "":
        _set_depth(net, stochastic_depth)
    path = _first_conv(net)
    old: Any = net.get_submodule(path)
    if old.in_channels != channels:
        _replace(net, path, _conv(old, channels=channels))
    notes = [stem_note(changes, stem) if changes else "", _speed_up_batch_norm(net)]
    net.note = "; ".join(filter(None, notes))  # type: ignore[assignment]
    return net


def _speed_up_batch_norm(net: nn.Module) -> str:
    """Give batch norm at least PyTorch's default momentum; returns a note if the published one is lower.

    MNASNet's (0.0003) and MobileNetV3's (0.01) are made for hundreds of thousands of updates: after a few hundred their
    running statistics are still close to the initial ones, and predictions no better than chance.
    """
    slow = [one for one in net.modules() if isinstance(one, nn.BatchNorm2d) and (one.momentum or 1) < MOMENTUM]
    published = slow[0].momentum if slow else None
    for one in slow:
        one.momentum = MOMENTUM
    return f"batch-norm momentum {MOMENTUM:g} instead of {published:.2g}" if published is not None else ""


def _set_depth(net: nn.Module, probability: float) -> None:
    """Stochastic depth that rises linearly from 0 in the first block to ``probability`` in the last."""
    from torchvision.ops import StochasticDepth

    drops: list[Any] = [one for one in net.modules() if isinstance(one, StochasticDepth)]
    for i, drop in enumerate(drops):
        drop.p = probability * i / max(1, len(drops) - 1)


TORCHVISION_MODELS: dict[str, Callable[..., nn.Module]] = {name: partial(_model, name) for name in TORCHVISION}
