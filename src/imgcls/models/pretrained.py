"""Pretrained weights, torchvision's or from a file, for a model with a new last layer."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import safetensors.torch
import torch
from torch import Tensor, nn

from imgcls.errors import ConfigError, DataError
from imgcls.files import file_size, locked
from imgcls.models.finetune import head_of
from imgcls.models.online import is_online
from imgcls.models.resnet import RESNETS
from imgcls.models.timm import is_timm, tags
from imgcls.models.torchvision import TORCHVISION_MODELS

TIMEOUT = 30.0  # seconds without a response
# densenet's files have old parameter names: norm.1 is norm1 now
OLD_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")
STATE_KEYS = ("state_dict", "model_state_dict", "model")  # under which training scripts save the weights
BETWEEN_ONES = ("googlenet", "inception_v3")  # their weights expect pixels from -1 to 1


@dataclass(frozen=True)
class Pretrained:
    """Weights that are available for a model, and the images that they were trained on.

    weights: torchvision's enumeration (its url, its name); None if they are in a file of the user's. size: pixels per
    side, 0 if nothing is known of the images. mean, std: of the three channels, for pixels from 0 to 1.
    crop_share: the share of each side that is tested.
    """

    model: str
    weights: Any
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    file: str | None = None
    crop_share: float = 1.0

    @property
    def path(self) -> Path:
        """The user's file, or where torch stores the downloaded one, and where a user can put it."""
        if self.file is not None:
            return Path(self.file)
        return Path(torch.hub.get_dir(), "checkpoints", os.path.basename(self.weights.url))

    def obtain(self) -> str:
        """Make sure that the file is there, at the cost of a few seconds if it cannot be; returns why it is not."""
        if self.path.is_file():
            return ""
        if not is_online(self.weights.url):
            return "no network"
        print(f"download {self.weights.url}", file=sys.stderr)
        try:
            self._state()
        except DataError:
            return "the download failed"
        return ""

    def load(self, module: nn.Module, num_classes: int) -> None:
        """Load the weights into the module, except for the last layer.

        Raises DataError if they are unavailable, ConfigError if they do not fit the module.
        """
        state = self._state() if self.file is None else read_weights(self.path)
        for name in [name for name in state if OLD_NAME.match(name)]:
            state[OLD_NAME.sub(r"\1\2", name)] = state.pop(name)
        try:
            head, own = head_of(module, num_classes), module.state_dict()
        except ValueError as error:
            raise ConfigError(f"model.pretrained: {error}") from error
        unknown = [name for name in state if name not in own and "aux" not in name.lower()]
        for name in list(state):
            if name not in own or name.startswith(f"{head}."):
                del state[name]
        _fit_channels(module, state)
        _fit_positions(module, state)
        wrong = [name for name in state if state[name].shape != own[name].shape]
        missing = [
            name
            for name in own
            if name not in state and not name.startswith(f"{head}.") and not name.endswith("num_batches_tracked")
        ]
        if problems := [*unknown, *wrong, *missing]:
            same = "set the model's parameters to those that it is for"
            if self.size:
                same = "leave model.stem at auto or large and the model's other parameters at their defaults; if they "
                same += "are, it is another model's file: replace it, or set model.pretrained=false"
            raise ConfigError(
                f"model.pretrained: {self.path.name} does not fit this {self.model} ({problems[0]}); {same}"
            )
        module.load_state_dict(state, strict=False)

    @property
    def _instead(self) -> str:
        return f"put the weights of {self.model} there, or remove it, or set model.pretrained=false"

    def _state(self) -> MutableMapping[str, Tensor]:
        """The tensors of the file; it is downloaded if missing, and then verified by the SHA-256 digits in its name."""
        make_cache(self.path.parent)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            with locked(self.path.parent):
                state: MutableMapping[str, Tensor] = self.weights.get_state_dict(
                    check_hash=True, progress=False, weights_only=True, map_location="cpu"
                )
        except MemoryError:
            raise
        except OSError as error:
            raise DataError(
                f"cannot download {self.weights.url} ({getattr(error, 'reason', None) or error.strerror or error}); "
                f"put the file at {self.path}, or set model.pretrained=false"
            ) from error
        except Exception as error:
            what = (
                "empty" if self.path.is_file() and not self.path.stat().st_size else "not a file of weights, or damaged"
            )
            raise DataError(f"{self.path}: {what}; {self._instead}") from error
        finally:
            socket.setdefaulttimeout(before)
        if not isinstance(state, MutableMapping) or not all(isinstance(one, Tensor) for one in state.values()):
            raise DataError(f"{self.path}: expected a dictionary of tensors; {self._instead}")
        return state


def make_cache(folder: Path) -> None:
    """Make torch's folder of weights. Raises DataError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot make the folder {folder} ({error.strerror or error})"
        raise DataError(f"{problem}; set TORCH_HOME to one that can be written, or model.pretrained=false") from error


def is_file(wanted: object) -> TypeGuard[str]:
    """Whether this value of model.pretrained is a file: the command line makes its path absolute."""
    return isinstance(wanted, str) and os.path.isabs(wanted)


def has_published(model: str) -> bool:
    """Whether torchvision or timm has weights for the model; needs no torchvision."""
    if is_timm(model):
        return bool(tags(model))
    return model in TORCHVISION_MODELS or model in RESNETS


def pretrained(model: str, wanted: bool | str) -> Pretrained | None:
    """The weights that ``model.pretrained`` asks for: True is torchvision's best, text their name or the path of a
    file, for images as torchvision's best ones are; None for False and auto.

    Raises ValueError if there are no such weights.
    """
    if wanted is False or wanted == "auto":  # which needs the images: see training/auto_weights.py
        return None
    if is_file(wanted) and not has_published(model):
        return Pretrained(model, None, 0, (), (), wanted)
    import torchvision

    try:
        known = torchvision.models.get_model_weights(model)
    except ValueError:
        raise ValueError(f"{model} has no pretrained weights; torchvision's models and the ResNets do") from None
    if not isinstance(wanted, bool) and not is_file(wanted) and wanted not in known.__members__:
        names = ", ".join(one.name for one in known)
        raise ValueError(f"unknown '{wanted}' for {model} (choices: true, false, {names}); or auto, a run or a file")
    weights = known.DEFAULT if wanted is True or is_file(wanted) else known[str(wanted)]
    preset = weights.transforms()
    mean, std = (tuple(map(float, one)) for one in (preset.mean, preset.std))
    if model in BETWEEN_ONES:  # torchvision does it inside the model
        mean = std = (0.5, 0.5, 0.5)
    size = int(preset.crop_size[0])
    crop_share = size / int(preset.resize_size[0])
    return Pretrained(model, weights, size, mean, std, wanted if is_file(wanted) else None, crop_share)


def read_weights(path: Path) -> MutableMapping[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth file that holds nothing else that could be code.

    Also of what training scripts save: the weights under a key of their own, their names after "module.".
    Raises DataError.
    """
    file_size(path)
    try:
        if path.suffix.lower() == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:100]
        raise DataError(f"{path}: not a file of weights, or it holds more than weights ({first})") from error
    for key in STATE_KEYS:
        inner = state.get(key) if isinstance(state, MutableMapping) else None
        state = inner if isinstance(inner, MutableMapping) else state
    if not isinstance(state, MutableMapping) or not state or not all(isinstance(one, Tensor) for one in state.values()):
        raise DataError(f"{path}: expected a dictionary of tensors")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _fit_channels(module: nn.Module, state: MutableMapping[str, Tensor]) -> None:
    """The first convolution of an RGB model for gray images: the sum over the channels."""
    convs = (f"{name}.weight" for name, one in module.named_modules() if isinstance(one, nn.Conv2d))
    name = next(convs, "")
    if name in state and module.state_dict()[name].shape[1] == 1 and state[name].shape[1:2] == (3,):
        state[name] = state[name].sum(1, keepdim=True)


def _fit_positions(module: nn.Module, state: MutableMapping[str, Tensor]) -> None:
    """A vision transformer's position embeddings, interpolated to another number of patches."""
    name = "encoder.pos_embedding"
    if name in state and state[name].shape != module.state_dict()[name].shape:
        from torchvision.models.vision_transformer import interpolate_embeddings

        patch, side = module.patch_size, module.image_size
        assert isinstance(patch, int)
        assert isinstance(side, int)
        state[name] = interpolate_embeddings(side, patch, {name: state[name]})[name]
