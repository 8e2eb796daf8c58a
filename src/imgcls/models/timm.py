"""timm's classification models, by model=timm/NAME.

https://huggingface.co/docs/timm. timm is imported only when one of them is named, and a name reaches its registry and
nothing else: no address, no file, no code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from torch import nn

from imgcls.config.options import TIMM
from imgcls.config.types import Fraction
from imgcls.errors import ConfigError
from imgcls.models.layers import shown
from imgcls.text import brief, closest

PREFIX = "timm/"
UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument.*?(img_size|drop_rate|drop_path_rate)")


class MissingTimm(ConfigError):
    """timm is not installed."""


def is_timm(name: str) -> bool:
    """Whether the name is that of a model of timm's: timm/NAME."""
    return name.startswith(PREFIX)


def library() -> Any:
    """timm. Raises MissingTimm if it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise MissingTimm(f"model=timm/NAME needs timm ({error}): pip install 'imgcls[timm]'") from error
    return timm


@cache
def timm_model(name: str) -> Callable[..., nn.Module]:
    """The function of model=timm/NAME, as in MODELS. Raises ConfigError for a name that timm does not have."""
    models = library().models
    word = brief(name.removeprefix(PREFIX))
    architecture, _, tag = word.partition(".")
    known = models.list_models()
    if architecture not in known or not TIMM.fullmatch(name):
        near = closest(architecture, known)
        hint = (
            f"; did you mean '{PREFIX}{near}'?" if near else f" ({len(known):,} models: timm.list_models() in Python)"
        )
        raise ConfigError(f"model: timm has no '{word}'{hint}")
    if tag and tag not in tags(architecture):
        raise ConfigError(f"model: timm has no weights '{tag}' of {architecture}{choices(architecture)}")
    return partial(_model, name)


def tags(name: str) -> list[str]:
    """The names of the weights that timm has for this model, its default ones first."""
    architecture = name.removeprefix(PREFIX).partition(".")[0]
    found = library().models.list_pretrained(f"{architecture}.*")
    default = library().models.get_pretrained_cfg(architecture).tag
    return sorted((one.partition(".")[2] for one in found), key=lambda tag: (tag != default, tag))


def choices(name: str) -> str:
    """The same for a message."""
    names = tags(name)
    return f" (choices: {', '.join(names)})" if names else ", which has none"


def _model(
    name: str,
    channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    *,
    dropout: Fraction | None,
    stochastic_depth: Fraction | None,
) -> nn.Module:
    """A model of timm's: (B, C, H, W) -> (B, num_classes); null keeps the architecture's own value."""
    given = {"drop_rate": dropout, "drop_path_rate": stochastic_depth}
    arguments = {"in_chans": channels, "img_size": image_size}
    arguments |= {key: value for key, value in given.items() if value is not None}
    net = create(name, arguments, num_classes)
    net.timm_arguments = {"in_chans": channels, "img_size": image_size}  # type: ignore[assignment]
    names = {one for one, _ in net.named_modules()}
    net.timm_heads = tuple(one for one in _classifiers(net) if one in names)  # type: ignore[assignment]
    return net


def _classifiers(net: Any) -> tuple[str, ...]:
    """The names of the layers that compute the logits, as timm has them."""
    given = net.pretrained_cfg.get("classifier") or ()
    return (given,) if isinstance(given, str) else tuple(given)


def create(name: str, arguments: Mapping[str, Any], num_classes: int, **weights: Any) -> nn.Module:
    """The model with those of timm's arguments that it has; img_size is dropped where it takes images of any size.

    Raises ValueError for a probability that it does not have, and for images that it cannot be built for.
    """
    arguments = dict(arguments)
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    make = library().models.model_entrypoint(architecture)
    while True:
        try:
            net: nn.Module = make(pretrained_cfg=tag or None, num_classes=num_classes, **weights, **arguments)
            return net
        except TypeError as error:
            unknown = UNKNOWN_ARGUMENT.search(str(error))
            if unknown is None or unknown[1] not in arguments:
                raise ValueError(f"{name} cannot be built as a classifier ({error})") from error
            if unknown[1] != "img_size":
                key = {"drop_rate": "dropout", "drop_path_rate": "stochastic_depth"}[unknown[1]]
                raise ValueError(f"{name} has no {key.replace('_', ' ')}; leave model.{key} null") from error
            del arguments["img_size"]
        except (AssertionError, ArithmeticError, LookupError) as error:
            size = shown(arguments["img_size"]) if "img_size" in arguments else "such"
            reason = f" ({error})" if str(error) else ""
            raise ValueError(f"{name} cannot be built for {size} images{reason}; {own_size(name)}") from error


def own_size(name: str) -> str:
    """What to type for the image size that the model is published with."""
    return f"its own size is dataset.image_size={config_of(name.removeprefix(PREFIX)).input_size[-1]}"


def config_of(word: str) -> Any:
    """timm's description of the weights NAME.TAG, or of the default ones of NAME."""
    return library().models.get_pretrained_cfg(word)
