"""Size and channels of a model's input: as given, as pretrained weights expect, or as the images have them."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch

from imgcls.data.pixels.decoding import header
from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.pixels.rendering import Rendering
from imgcls.data.pixels.view import size_of
from imgcls.data.source import Images
from imgcls.data.splits import SplitOptions
from imgcls.errors import ConfigError
from imgcls.parallel.process_pool import helpers, spread

LARGEST_NATIVE = 224  # pixels: images of one size keep it up to here; larger ones are resized
FIRST_HEADERS = 16  # files whose headers are read before other processes are asked to help


@dataclass(frozen=True)
class InputPreset:
    """What pretrained weights expect of images.

    size: (height, width) in pixels. mean, std: of each channel, in [0, 1]. rendering: how stored pixels become 8 bits,
    if the weights are those of an earlier run. crop_share: the share of each side that is tested.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rendering: Rendering | None = None
    crop_share: float = 1.0

    def for_channels(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation for images of that many channels; for gray ones averaged over the colors."""
        if channels == len(self.mean):
            return self.mean, self.std
        return (sum(self.mean) / len(self.mean),) * channels, (sum(self.std) / len(self.std),) * channels


class Geometry(NamedTuple):
    """Size and channels of the model's input.

    resized_from: why it is not the images' own size if no size was given: their common ``WxH``, "several sizes",
    or "pretrained" for the size that the weights expect; empty otherwise.
    """

    height: int
    width: int
    channels: int
    resized_from: str = ""


def geometry(train: Images, options: SplitOptions, default_size: int, preset: InputPreset | None = None) -> Geometry:
    """The size and channels given, else those of the pretrained weights, else the images' own if they all agree."""
    own = None if train.whole is None else train.whole.shape[1:]
    given = size_of(options.image_size)
    wanted = None if preset is None else (*(given or preset.size), options.channels or len(preset.mean))
    if own is not None and own[2] not in (1, 3) and (given or options.channels or wanted not in (None, own)):
        raise ConfigError(
            f"dataset: images with {own[2]} channels cannot be resized or converted; leave image_size and channels null"
        )
    if wanted is not None:
        return Geometry(*wanted, "" if given or wanted == own else "pretrained")
    if own is not None:
        height, width, own_channels = own
        is_uniform = True
        if own_channels not in (1, 3):
            return Geometry(height, width, own_channels)
    else:
        with quiet_decoders():
            height, width, is_uniform, is_gray = _survey(train.paths or (), options)
        own_channels = 1 if is_gray else 3
    channels = options.channels or own_channels
    if given is not None:
        return Geometry(*given, channels)
    if is_uniform and max(height, width) <= LARGEST_NATIVE:
        return Geometry(height, width, channels)
    return Geometry(default_size, default_size, channels, f"{width}x{height}" if is_uniform else "several sizes")


def _survey(paths: tuple[str, ...], options: SplitOptions) -> tuple[int, int, bool, bool]:
    """Height and width of the first file, whether all have that size, whether all are gray; reads few headers."""

    def headers(share: range) -> set[tuple[int, int, bool]]:
        return {header(paths[row]) for row in share}

    height, width, is_gray = first = header(paths[0])
    is_uniform = True
    few = map(headers, [range(1, min(FIRST_HEADERS, len(paths)))])
    many = spread(headers, len(paths), helpers(len(paths), torch.get_num_threads()))  # starts when it is read
    with contextlib.closing(many):
        for found in itertools.chain([{first}], few, many):
            is_uniform = is_uniform and {seen[:2] for seen in found} <= {(height, width)}
            is_gray = is_gray and all(seen[2] for seen in found)
            needs_size = options.image_size is None and is_uniform
            needs_color = options.channels is None and is_gray
            if not (needs_size or needs_color):
                break
    return height, width, is_uniform, is_gray
