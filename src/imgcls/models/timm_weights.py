"""The weights of timm's models: published ones, or a file of the user's."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from imgcls.errors import ConfigError, DataError
from imgcls.files import locked
from imgcls.models.pretrained import TIMEOUT, Pretrained, is_file, make_cache, read_weights
from imgcls.models.timm import PREFIX, choices, config_of, create, tags, timm_model

HUB = "https://huggingface.co"


class Published(NamedTuple):
    """Weights by their name (timm's tag), the address that they are fetched from, and where they lie or will."""

    name: str
    url: str
    path: Path


@dataclass(frozen=True)
class TimmWeights(Pretrained):
    """Weights of a model of timm's, and the images that they were trained on."""

    @property
    def path(self) -> Path:
        """The user's file, or where the published one lies or can be put."""
        return Path(self.file) if self.file is not None else self.weights.path

    def load(self, module: nn.Module, num_classes: int) -> None:
        """Load the weights into the module, except for the last layer.

        The first convolution is summed over the colors for gray images, and position embeddings are resampled for other
        image sizes. Raises DataError if the file is missing or no weights, ConfigError if they do not fit the module.
        """
        given = self._as_model(module, self._state()).state_dict()
        own, heads = module.state_dict(), tuple(f"{head}." for head in module.timm_heads)  # type: ignore[union-attr]
        body = {name: tensor for name, tensor in given.items() if not name.startswith(heads)}
        if wrong := next((name for name in body if name not in own or own[name].shape != body[name].shape), None):
            raise self._unfit(wrong)
        module.load_state_dict(body, strict=False)

    def _state(self) -> MutableMapping[str, Tensor]:
        """The tensors of the file; a published one is downloaded if it is missing."""
        if self.file is None and not self.path.is_file():
            self._download()
        return read_weights(self.path)

    def _download(self) -> None:
        make_cache(self.path.parent)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            with locked(self.path.parent):
                if not self.path.is_file():
                    torch.hub.download_url_to_file(self.weights.url, str(self.path), progress=False)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            url, path = self.weights.url, self.path
            raise DataError(
                f"cannot download {url} ({reason}); put the file at {path}, or set model.pretrained=false"
            ) from error
        finally:
            socket.setdefaulttimeout(before)

    def _as_model(self, module: Any, state: Mapping[str, Tensor]) -> nn.Module:
        """A model like the module, with the last layer of the file, so that timm can convert all of its names."""
        head = next((state[f"{name}.weight"] for name in module.timm_heads if f"{name}.weight" in state), None)
        published = config_of(self.model.removeprefix(PREFIX)).num_classes
        for count in [len(head)] if head is not None else dict.fromkeys([published, 0]):
            overlay = {"state_dict": dict(state), "num_classes": count, "label_offset": 0, "custom_load": False}
            weights = {"pretrained": True, "pretrained_cfg_overlay": overlay}
            try:
                with torch.random.fork_rng(devices=[]):  # what is drawn here is replaced
                    return create(self.model, module.timm_arguments, count, **weights)
            except (RuntimeError, ValueError) as error:
                problem = error
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        raise self._unfit(lines[min(1, len(lines) - 1)] if lines else type(problem).__name__) from problem

    def _unfit(self, problem: str) -> ConfigError:
        return ConfigError(f"model.pretrained: {self.path.name} does not fit this {self.model} ({problem[:150]})")


def timm_weights(name: str, wanted: bool | str) -> TimmWeights | None:
    """What ``model.pretrained`` asks for: True is timm's default weights, text the name of others or the path of a
    file; None for False and auto.

    Raises ValueError if there are none.
    """
    if wanted is False or wanted == "auto":
        return None
    timm_model(name)  # the name is checked
    word = name.removeprefix(PREFIX)
    if isinstance(wanted, str) and not is_file(wanted):
        if wanted not in tags(name):
            raise ValueError(f"unknown '{wanted}' for {name}{choices(name)}; or auto, a run or a file")
        word = f"{word.partition('.')[0]}.{wanted}"
    config = config_of(word)
    found = [] if is_file(wanted) else _published(config)
    if not found and not is_file(wanted):
        raise ValueError(f"timm has no weights of {word}{choices(name)}")
    weights = next((one for one in found if one.path.is_file()), found[0]) if found else None
    size, file = int(config.input_size[-1]), wanted if is_file(wanted) else None
    return TimmWeights(
        f"{PREFIX}{word}", weights, size, tuple(config.mean), tuple(config.std), file, float(config.crop_pct)
    )


def _published(config: Any) -> list[Published]:
    """Where published weights may lie, and the address of each: the first is where they are fetched to."""
    folder = Path(torch.hub.get_dir(), "checkpoints")
    found = []
    if config.hf_hub_id:
        file = config.hf_hub_filename or "model.safetensors"
        url = f"{HUB}/{config.hf_hub_id}/resolve/main/{file}"
        name = f"{config.hf_hub_id.rpartition('/')[2]}{Path(file).suffix}"
        found.append(Published(config.tag, url, folder / name))
        cached = f"models--{config.hf_hub_id.replace('/', '--')}/snapshots/*/{file}"
        found += [Published(config.tag, url, path) for path in sorted(_hub_cache().glob(cached))]
    if config.url:
        found.append(Published(config.tag, config.url, folder / os.path.basename(config.url)))
    return [one for one in found if one.path.suffix != ".npz"]


def _hub_cache() -> Path:
    """Where Hugging Face's library keeps what it has downloaded."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or f"{home}/hub"))
