"""``model.pretrained=auto``: published weights for photos, if they are at hand or can be downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from imgcls.config.components import Component
from imgcls.config.schema import TrainConfig
from imgcls.data.datamodule import SplitData, resized
from imgcls.models.layers import is_small
from imgcls.models.pretrained import Pretrained, has_published
from imgcls.training.spec import RunSpec, resolve_auto, weights


def choose_weights(
    config: TrainConfig,
    spec: RunSpec,
    data: SplitData,
    stored: Mapping[str, Any],
    in_main: Callable[[Callable[[], str]], str] = lambda ask: ask(),
) -> tuple[RunSpec, SplitData]:
    """The components with the weights that auto chooses, and the data at the size that they expect.

    The images that the model gets are photos if they have more than 64 pixels. stored: what auto became when the run
    began, if it is resumed. in_main: what the main process answers, in every one. Downloads the weights if they are
    not at hand, unless the model is auto's choice, too.
    """
    if spec.options.pretrained != "auto" or (stored and not stored.get("pretrained")):
        return spec, data
    if is_small(data.image_size):
        return spec, data
    model, _ = resolve_auto(config, spec, data)
    if not has_published(model.name) or not _is_as_published(model, spec.data.options.image_size):
        return spec, data
    found = weights(model.name, str(stored["pretrained"]) if stored else True)
    assert isinstance(found, Pretrained)
    may_download = spec.model is not None
    problem = "" if stored else in_main(lambda: found.obtain(may_download=may_download))
    if problem:
        note = f"from scratch: no pretrained weights ({problem}); put {found.weights.url} at {found.path}"
        return (replace(spec, missing=note) if spec.model else spec), data
    spec = replace(spec, pretrained=found)
    assert spec.preset is not None
    return spec, resized(data, spec.data.options, spec.preset)


def _is_as_published(model: Component, image_size: object) -> bool:
    """Whether the weights fit: not into a small stem, nor into the windows of another image size than theirs."""
    return model.params.get("stem") != "small" and (image_size is None or not model.name.startswith("maxvit"))
