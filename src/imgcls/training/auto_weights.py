"""``model.pretrained=auto``: published weights for photos, if they are at hand or can be downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from imgcls.config.components import Component
from imgcls.config.schema import TrainConfig
from imgcls.data.datamodule import SplitData, resized
from imgcls.models import automatic
from imgcls.models.layers import is_small
from imgcls.models.pretrained import Pretrained, has_published
from imgcls.training.spec import RunSpec, weights


def choose_weights(
    config: TrainConfig,
    spec: RunSpec,
    data: SplitData,
    device: str,
    stored: Mapping[str, Any],
    in_main: Callable[[Callable[[], str]], str] = lambda ask: ask(),
) -> tuple[RunSpec, SplitData]:
    """The components with the weights that auto chooses, and the data at the size that they expect.

    The images that the model gets are photos if they have more than 64 pixels. device: its kind. stored: what auto
    became when the run began, if it is resumed. in_main: what the main process answers, in every one. Downloads the
    weights if they are not at hand.
    """
    if spec.options.pretrained != "auto" or (stored and not stored.get("pretrained")):
        return spec, data
    if not stored and is_small(data.image_size):
        return spec, data
    name, size = (spec.model.name, None) if spec.model else automatic.pretrained_choice(device)
    name = str(stored["model"]) if stored and stored.get("model") else name
    if not has_published(name) or (spec.model and not _is_as_published(spec.model, spec.data.options.image_size)):
        return spec, data
    found = weights(name, str(stored["pretrained"]) if stored else True)
    assert isinstance(found, Pretrained)
    found = replace(found, size=size or found.size)
    problem = "" if stored else in_main(found.obtain)
    if problem:
        note = f"from scratch: no pretrained weights ({problem}); put {found.weights.url} at {found.path}"
        return replace(spec, missing=note), data
    spec = replace(spec, pretrained=found)
    assert spec.preset is not None
    return spec, resized(data, spec.data.options, spec.preset)


def _is_as_published(model: Component, image_size: object) -> bool:
    """Whether the weights fit: not into a small stem, nor into the windows of another image size than theirs."""
    return model.params.get("stem") != "small" and (image_size is None or not model.name.startswith("maxvit"))
