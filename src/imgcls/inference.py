"""A trained model and what it says of images: shared by the test at the end of train, by evaluate and by predict."""

from __future__ import annotations

import contextlib
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from imgcls import checkpoint as checkpoints
from imgcls.checkpoint import Checkpoint
from imgcls.config import Component, TestTime, select
from imgcls.data.loaders import Fetcher, evaluation_batch, in_order
from imgcls.data.pixels import Preprocessing
from imgcls.data.source import Indices
from imgcls.errors import CheckpointError, ConfigError, DataError, is_out_of_memory
from imgcls.models import MODELS
from imgcls.runtime import Runtime
from imgcls.stored import completed_node

SPARE = 1 << 22  # numbers: of published stems, which are replaced for small images
MODEL_FACTS = ("channels", "image_size", "num_classes")


@dataclass(frozen=True)
class Trained:
    """A model as its checkpoint describes it, on the runtime's device."""

    module: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    checkpoint: Checkpoint

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def build_model(component: Component, preprocessing: Preprocessing, num_classes: int) -> nn.Module:
    """The module for images of that kind; one forward pass shows that it gives a logit for each class."""
    size = (preprocessing.height, preprocessing.width)
    module = component(channels=preprocessing.channels, image_size=size, num_classes=num_classes)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"model.name={component.name}: expected a torch module, got {type(module).__name__}")
    if ":" in component.name:
        _try_out(component.name, module, preprocessing, num_classes)  # which makes lazy layers whole
    if wrong := checkpoints.unstorable(module):
        raise ConfigError(f"model.name={component.name}: a checkpoint cannot hold its {wrong}")
    return module


def _try_out(name: str, module: nn.Module, preprocessing: Preprocessing, num_classes: int) -> None:
    images = torch.zeros(2, preprocessing.channels, preprocessing.height, preprocessing.width)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            shape = tuple(module(images).shape)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"model.name={name}: fails on images of shape {tuple(images.shape)}: {error}") from error
    finally:
        module.train(was_training)
    if shape != (2, num_classes):
        raise ConfigError(f"model.name={name}: expected logits of shape (2, {num_classes}) for 2 images, got {shape}")


def restore(checkpoint: Checkpoint, runtime: Runtime, own_names: frozenset[str]) -> Trained:
    """The model in a checkpoint. Code of the user's own is imported only if its name is among ``own_names``."""
    meta = checkpoint.meta
    try:
        node, stored = completed_node("model", dict(meta["model"]), with_keys=False), dict(meta["preprocessing"])
        classes = tuple(str(name) for name in meta["classes"])
        preprocessing = Preprocessing(
            int(stored["channels"]),
            int(stored["height"]),
            int(stored["width"]),
            tuple(stored["mean"]),
            tuple(stored["std"]),
        )
        component = select(MODELS, node, "model", facts=MODEL_FACTS, trusted=node.get("name") in own_names)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path}: its description of the model is incomplete ({error})") from error
    except ConfigError as error:
        if ":" in str(node.get("name")):  # to be named again by the user
            raise
        raise CheckpointError(f"{checkpoint.path}: its description of the model is wrong ({error})") from error
    has_average = any(name.startswith(checkpoints.AVERAGE) for name in checkpoint.tensors)
    prefix = checkpoints.AVERAGE if has_average else checkpoints.MODEL
    # a packaged model registers what it keeps; a user's own may replace parts of it on the way
    guard = contextlib.nullcontext() if ":" in component.name else _no_larger_than(checkpoint, prefix)
    with torch.random.fork_rng(devices=[]), guard:  # the weights drawn here are replaced
        module = build_model(component, preprocessing, len(classes))
    checkpoints.load_module(module, checkpoint, prefix)
    return Trained(runtime.place(module).eval(), classes, preprocessing, checkpoint)


@contextlib.contextmanager
def _no_larger_than(checkpoint: Checkpoint, prefix: str) -> Iterator[None]:
    """Inside, a model of more numbers than the checkpoint holds is refused before they are drawn: memory is lazy."""
    room = SPARE + sum(tensor.numel() for tensor in checkpoint.part(prefix).values())
    refusal = CheckpointError(f"{checkpoint.path}: its tensors do not fit its model, which is larger than they are")

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal room
        room -= 0 if parameter is None else parameter.numel()
        if room < 0:
            raise refusal

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        asked = re.search(r"allocate (\d+) bytes", str(error))  # torch refuses at once what the system cannot have
        if is_out_of_memory(error) and asked is not None and int(asked[1]) > 8 * room:
            raise refusal from error
        raise
    finally:
        handle.remove()


def _look(images: Tensor, *, step: int, is_mirrored: bool) -> Tensor:
    """(B, C, H, W), mirrored if wanted and moved down and right by so many pixels, the edges repeated."""
    images = images.flip(3) if is_mirrored else images
    if step == 0:
        return images
    padded, room = F.pad(images, (1, 1, 1, 1), mode="replicate"), 1 - step
    return padded[:, :, room : room + images.shape[2], room : room + images.shape[3]]


LOOKS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "none": (partial(_look, step=0, is_mirrored=False),),
    "flip": tuple(partial(_look, step=0, is_mirrored=flip) for flip in (False, True)),
    "shift": tuple(partial(_look, step=step, is_mirrored=flip) for step in (0, 1, -1) for flip in (False, True)),
}


class Looking(nn.Module):
    """A module's mean answer over the looks at each image: (B, C, H, W) -> (B, number of classes)"""

    def __init__(self, module: nn.Module, tta: TestTime) -> None:
        super().__init__()
        self.module, self.tta = module, tta

    def forward(self, images: Tensor) -> Tensor:
        answers = [self.module(look(images)).float() for look in LOOKS[self.tta]]
        return answers[0] if len(answers) == 1 else torch.stack(answers).mean(0)


def infer(
    module: nn.Module,
    fetcher: Fetcher,
    count: int,
    preprocessing: Preprocessing,
    runtime: Runtime,
    between: Callable[[], None] = lambda: None,
    change: Callable[[Tensor, Indices], Tensor] | None = None,
    tta: TestTime = "none",
) -> NDArray[np.float32]:
    """Logits of ``count`` images in order, (N, C); the processes share the work, and each gets the whole.

    between: called after each batch; what it raises ends the work. change: what is done to each normalised batch
    before, given its rows too; it may compute gradients. tta: how each image is looked at; the logits are the mean.
    """
    normalise = preprocessing.normaliser(runtime.device)
    batch = evaluation_batch(preprocessing, runtime.device)
    mine = in_order(count, batch, runtime.rank, runtime.world)
    answer, was_training = Looking(module, tta), module.training
    module.eval()
    logits = []
    try:
        with torch.inference_mode() if change is None else torch.no_grad(), runtime.autocast():
            for rows, pixels in zip(mine, fetcher.batches(mine), strict=True):
                images = normalise(pixels)
                images = images if change is None else change(images, rows)
                logits.append(answer(images))
                between()
    finally:
        module.train(was_training)
    sizes = [len(rows) for rows in in_order(count, batch)]
    return runtime.gather_batches(logits, sizes)


def check_finite(logits: NDArray[np.float32], what: str) -> None:
    """Raises DataError if the model's answers are no numbers: nothing could be reported of them."""
    if not np.isfinite(logits).all():
        raise DataError(f"{what}: the model gives logits that are not finite")


def versions() -> dict[str, str]:
    """What computed it."""
    import imgcls

    return {
        "imgcls": imgcls.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def describe_parts(parts: dict[str, Any]) -> str:
    """'45,000 train, 5,000 val, 10,000 test'"""
    return ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part is not None)
