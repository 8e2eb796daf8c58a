"""timm's classification models and their weights, by model=timm/NAME.

https://huggingface.co/docs/timm. timm is imported only when one of them is named, and a name reaches its registry and
nothing else: no address, no file, no code.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imgcls.config.options import TIMM
from imgcls.config.types import Fraction
from imgcls.errors import ConfigError, DataError
from imgcls.files import locked
from imgcls.models.layers import shown
from imgcls.text import brief, closest

PREFIX = "timm/"
TIMEOUT = 30.0  # seconds without a response
UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument.*?(img_size|drop_rate|drop_path_rate)")
NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")  # where training scripts put the weights in their files
HUB = "https://huggingface.co"


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
        raise ConfigError(f"model: timm has no weights '{tag}' of {architecture}{_choices(architecture)}")
    return partial(_model, name)


def tags(architecture: str) -> list[str]:
    """The names of the weights that timm has for this model, its default ones first."""
    found = library().models.list_pretrained(f"{architecture}.*")
    default = library().models.get_pretrained_cfg(architecture).tag
    return sorted((one.partition(".")[2] for one in found), key=lambda tag: (tag != default, tag))


def _choices(architecture: str) -> str:
    names = tags(architecture)
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
    net = _create(name, arguments, num_classes)
    net.timm_arguments = {"in_chans": channels, "img_size": image_size}  # type: ignore[assignment]
    names = {one for one, _ in net.named_modules()}
    net.timm_heads = tuple(one for one in _classifiers(net) if one in names)  # type: ignore[assignment]
    return net


def _classifiers(net: Any) -> tuple[str, ...]:
    """The names of the layers that compute the logits, as timm has them."""
    given = net.pretrained_cfg.get("classifier") or ()
    return (given,) if isinstance(given, str) else tuple(given)


def _create(name: str, arguments: Mapping[str, Any], num_classes: int, **weights: Any) -> nn.Module:
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
    return f"its own size is dataset.image_size={_config(name.removeprefix(PREFIX)).input_size[-1]}"


def _config(word: str) -> Any:
    """timm's description of the weights NAME.TAG, or of the default ones of NAME."""
    return library().models.get_pretrained_cfg(word)


@dataclass(frozen=True)
class TimmWeights:
    """Weights of a model of timm's, and the images that they were trained on.

    path: the file; url: where it is fetched from if it is missing, None for the user's own. size: pixels per side.
    mean, std: of the three channels, for pixels from 0 to 1. crop_share: the share of each side that is tested.
    """

    model: str
    path: Path
    url: str | None
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_share: float

    def load(self, module: nn.Module, num_classes: int) -> None:
        """Load the weights into the module, except for the last layer.

        The first convolution is summed over the colors for gray images, and position embeddings are resampled for other
        image sizes. Raises DataError if the file is missing or no weights, ConfigError if they do not fit the module.
        """
        self._fetch()
        state = read_tensors(self.path)
        given = self._as_model(module, state).state_dict()
        own, heads = module.state_dict(), tuple(f"{head}." for head in module.timm_heads)  # type: ignore[union-attr]
        body = {name: tensor for name, tensor in given.items() if not name.startswith(heads)}
        if wrong := next((name for name in body if name not in own or own[name].shape != body[name].shape), None):
            raise self._unfit(wrong)
        module.load_state_dict(body, strict=False)

    def check(self) -> None:
        """Raises ConfigError if the file that the user names does not exist."""
        if self.url is None and not self.path.is_file():
            raise ConfigError(f"model.pretrained: no such file: {self.path}")

    def _fetch(self) -> None:
        if self.path.is_file():
            return
        if self.url is None:
            raise DataError(f"{self.path}: no such file (model.pretrained)")
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            with locked(self.path.parent):
                if not self.path.is_file():
                    torch.hub.download_url_to_file(self.url, str(self.path), progress=False)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            raise DataError(
                f"cannot download {self.url} ({reason}); put the file at {self.path}, or set model.pretrained=false"
            ) from error
        finally:
            socket.setdefaulttimeout(before)

    def _as_model(self, module: Any, state: Mapping[str, Tensor]) -> nn.Module:
        """A model like the module, with the last layer of the file, so that timm can convert all of its names."""
        head = next((state[f"{name}.weight"] for name in module.timm_heads if f"{name}.weight" in state), None)
        published = _config(self.model.removeprefix(PREFIX)).num_classes
        counts = [len(head)] if head is not None else list(dict.fromkeys([published, 0]))
        for count in counts:
            overlay = {"state_dict": dict(state), "num_classes": count, "label_offset": 0, "custom_load": False}
            try:
                with torch.random.fork_rng(devices=[]):  # what is drawn here is replaced
                    return _create(
                        self.model, module.timm_arguments, count, pretrained=True, pretrained_cfg_overlay=overlay
                    )
            except (RuntimeError, ValueError) as error:
                problem = error
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        raise self._unfit(lines[min(1, len(lines) - 1)] if lines else type(problem).__name__) from problem

    def _unfit(self, problem: str) -> ConfigError:
        return ConfigError(f"model.pretrained: {self.path.name} does not fit this {self.model} ({problem[:150]})")


def weights(name: str, wanted: bool | str) -> TimmWeights:
    """What ``model.pretrained`` asks for: True is timm's default weights, text the name of others or a file.

    Raises ValueError if there are none.
    """
    timm_model(name)  # the name is checked
    word = name.removeprefix(PREFIX)
    architecture = word.partition(".")[0]
    if isinstance(wanted, str) and not any(mark in wanted for mark in "/\\."):
        if wanted not in tags(architecture):
            raise ValueError(f"unknown '{wanted}' for {name}{_choices(architecture)}, or a file: ./FILE.safetensors")
        word, wanted = f"{architecture}.{wanted}", True
    config = _config(word)
    preset = (int(config.input_size[-1]), tuple(config.mean), tuple(config.std), float(config.crop_pct))
    if wanted is not True:
        return TimmWeights(name, Path(os.path.expanduser(str(wanted))), None, *preset)
    found = _published(config)
    if not found:
        raise ValueError(f"timm has no weights of {word}{_choices(architecture)}")
    path, url = next(((path, url) for path, url in found if path.is_file()), found[0])
    return TimmWeights(f"{PREFIX}{word}", path, url, *preset)


def _published(config: Any) -> list[tuple[Path, str]]:
    """Where published weights may lie, and the address of each: the first is where they are fetched to."""
    folder = Path(torch.hub.get_dir(), "checkpoints")
    found = []
    if config.hf_hub_id:
        file = config.hf_hub_filename or "model.safetensors"
        url = f"{HUB}/{config.hf_hub_id}/resolve/main/{file}"
        found.append((folder / f"{config.hf_hub_id.rpartition('/')[2]}{Path(file).suffix}", url))
        cached = f"models--{config.hf_hub_id.replace('/', '--')}/snapshots/*/{file}"
        found += [(path, url) for path in sorted(_hub_cache().glob(cached))]
    if config.url:
        found.append((folder / os.path.basename(config.url), config.url))
    return [(path, url) for path, url in found if path.suffix != ".npz"]


def _hub_cache() -> Path:
    """Where Hugging Face's library keeps what it has downloaded."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or f"{home}/hub"))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: safetensors, or what torch.save wrote, read without running any code in it.

    Raises DataError for anything else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:100]
        raise DataError(f"{path}: not a file of weights ({first})") from error
    if isinstance(state, dict):
        state = next((state[key] for key in NESTED if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not state or not all(isinstance(one, Tensor) for one in state.values()):
        raise DataError(f"{path}: expected a dictionary of tensors")
    return {str(name).removeprefix("module."): one for name, one in state.items()}
