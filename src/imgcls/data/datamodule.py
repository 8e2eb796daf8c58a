"""From the dataset's node to images that a loader can serve: source, splits, image size, normalisation."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from imgcls.config.components import Component, select
from imgcls.config.options import Node
from imgcls.config.parsing import parse
from imgcls.data import DATASETS
from imgcls.data.decoding import header, quiet_decoders
from imgcls.data.fetchers import Fetcher, decode_all, fits, make_fetcher, memory_bytes
from imgcls.data.preprocessing import Preprocessing, statistics
from imgcls.data.source import Images, Source
from imgcls.data.splits import SplitOptions, Splits, split
from imgcls.errors import ConfigError
from imgcls.parallel.process_pool import helpers, spread
from imgcls.runtime.session import Runtime

LARGEST_NATIVE = 512  # pixels: equal sizes beyond this are a camera's, not a data set's
AUTO_WORKERS = 8
AUTO_BATCH, LEAST_AUTO_BATCH, UPDATES_AN_EPOCH = 128, 16, 8  # so that a hundred photos are more than one update
FIRST_HEADERS = 16  # of files, read before others are asked to help
STATISTICS_BYTES = 1 << 30  # of decoded images for the statistics
STATISTICS_SAMPLE = 2000  # training images that mean and deviation are computed from


@dataclass(frozen=True)
class DataSpec:
    """The dataset's node, checked: which source, and the keys that every data set has."""

    source: Component
    options: SplitOptions

    @property
    def name(self) -> str:
        """As it stands in headers, reports and folder names: for the user's images the folder's or table's own name."""
        root = self.source.params.get("root")
        if self.source.name in ("imagefolder", "imagelist") and root:
            path = Path(os.path.expanduser(root)).resolve()
            return (path.stem if self.source.name == "imagelist" else path.name) or "images"
        return self.source.name.rpartition(":")[2]


@dataclass(frozen=True)
class InputPreset:
    """What pretrained weights want of their images: pixels a side; mean and deviation of the three colors in [0, 1]."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def for_channels(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation for images of so many channels: of gray ones the mean over the colors."""
        if channels != 1:
            return self.mean, self.std
        return (sum(self.mean) / len(self.mean),), (sum(self.std) / len(self.std),)


@dataclass(frozen=True)
class Data:
    """A data set ready to be served."""

    name: str
    source: Source
    splits: Splits
    preprocessing: Preprocessing
    words: str  # on the image size, where it was chosen


def data_spec(node: Node, *, trusted: bool = True) -> DataSpec:
    """Check the dataset's node, touching no file."""
    common = {field.name for field in fields(SplitOptions)}
    options = parse(SplitOptions, {key: node[key] for key in node if key in common}, "dataset.")
    rest = {key: value for key, value in node.items() if key not in common}
    return DataSpec(select(DATASETS, rest, "dataset", trusted=trusted), options)


def load_source(choice: DataSpec) -> Source:
    """Read the data set (file names and headers of the user's own images, the arrays of the others)."""
    source = choice.source()
    if not isinstance(source, Source):
        raise ConfigError(
            f"dataset.name={choice.source.name}: expected an imgcls.data.Source, got {type(source).__name__}"
        )
    if choice.options.classes is None:
        return source
    try:
        return source.only([str(name) for name in choice.options.classes])
    except ValueError as error:
        raise ConfigError(f"dataset.classes: {error}") from error


def load_data(choice: DataSpec, default_size: int, preset: InputPreset | None = None) -> Data:
    """The data set in its splits, and the size and channels that its images will have; statistics come later.

    default_size: pixels a side for files of unequal size. preset: of weights that want images of their own size, in
    color.
    """
    source = load_source(choice)
    splits = split(source, choice.options)
    options, chosen = choice.options, ""
    if preset is not None:
        if options.image_size is None:
            chosen = f"images scaled to {preset.size}x{preset.size}, as for the weights (dataset.image_size)"
        size, channels = options.image_size or preset.size, options.channels or 3
        options = dataclasses.replace(options, image_size=size, channels=channels)
    height, width, channels, words = geometry(splits.train, options, default_size)
    blank = Preprocessing(channels, height, width, (0.0,) * channels, (1.0,) * channels)
    return Data(choice.name, source, splits, blank, chosen or words)


def geometry(train: Images, options: SplitOptions, default_size: int) -> tuple[int, int, int, str]:
    """(height, width, channels, words): as given, else the images' own where all agree."""
    if train.whole is not None:
        _, height, width, channels = train.whole.shape
        is_uniform, is_gray = True, channels == 1
        if channels not in (1, 3) and (options.image_size, options.channels) != (None, None):
            raise ConfigError(
                f"dataset: images of {channels} channels cannot be resized or converted; "
                "leave image_size and channels null"
            )
    else:
        with quiet_decoders():
            height, width, is_uniform, is_gray = _survey(train.paths or (), options)
        channels = 1 if is_gray else 3
    channels = channels if options.channels is None else options.channels
    if options.image_size is not None:
        return options.image_size, options.image_size, channels, ""
    if is_uniform and max(height, width) <= LARGEST_NATIVE:
        return height, width, channels, ""
    side = default_size
    why = f"all {width}x{height}" if is_uniform else "of several sizes"
    return side, side, channels, f"images {why}, scaled to {side}x{side} (dataset.image_size)"


def _survey(paths: tuple[str, ...], options: SplitOptions) -> tuple[int, int, bool, bool]:
    """Height and width of the first file, whether all have that size, whether all are grey; reads few headers."""

    def headers(share: range) -> set[tuple[int, int, bool]]:
        return {header(paths[row]) for row in share}

    height, width, is_gray = first = header(paths[0])
    is_uniform = True
    few = map(headers, [range(1, min(FIRST_HEADERS, len(paths)))])
    many = spread(headers, len(paths), helpers(len(paths), torch.get_num_threads()))  # does nothing yet
    with contextlib.closing(many):
        for found in itertools.chain([{first}], few, many):
            is_uniform = is_uniform and {seen[:2] for seen in found} <= {(height, width)}
            is_gray = is_gray and all(seen[2] for seen in found)
            needs_size = options.image_size is None and is_uniform
            needs_colour = options.channels is None and is_gray
            if not (needs_size or needs_colour):
                break
    return height, width, is_uniform, is_gray


def is_resident(images: Images, preprocessing: Preprocessing, runtime: Runtime, loader: str) -> bool:
    """Whether these images lie in memory as a whole: as the key ``loader`` says, or (auto) if they fit."""
    if loader == "auto":
        return fits(memory_bytes(len(images), preprocessing), runtime.free_memory())
    return loader == "resident"


def fetcher_for(
    images: Images,
    preprocessing: Preprocessing,
    runtime: Runtime,
    *,
    resident: bool,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> Fetcher:
    """The images served as the runtime wants them."""
    return make_fetcher(
        images,
        preprocessing,
        runtime.device,
        is_resident=resident,
        workers=workers,
        threads=runtime.threads,
        progress=progress,
    )


def auto_workers(runtime: Runtime) -> int:
    """How many processes decode what is streamed, where nobody says."""
    return min(AUTO_WORKERS, runtime.threads)


def fitting_batch(asked: int | str, count: int) -> int:
    """As asked, at most all images there are; auto is 128, less where an epoch would be a mere handful of updates."""
    if isinstance(asked, int):
        return min(count, asked)
    return min(count, AUTO_BATCH, max(LEAST_AUTO_BATCH, count // UPDATES_AN_EPOCH))


def with_statistics(data: Data, preset: InputPreset | None = None) -> Data:
    """The data, its preprocessing with the mean and deviation of (at most 2,000 evenly spaced) training images.

    Those that were decoded for it stay with the training images until a loader is made of them.
    preset: of weights that want the mean and deviation of the images that they were trained on.
    """
    train, preprocessing = data.splits.train, data.preprocessing
    if preset is not None:
        mean, std = preset.for_channels(preprocessing.channels)
        return dataclasses.replace(data, preprocessing=dataclasses.replace(preprocessing, mean=mean, std=std))
    image = preprocessing.channels * preprocessing.height * preprocessing.width
    count = min(len(train), STATISTICS_SAMPLE, max(1, STATISTICS_BYTES // image))
    rows = np.linspace(0, len(train) - 1, count).astype(np.int64)
    pixels = decode_all(train.take(rows), preprocessing, threads=torch.get_num_threads())
    mean, std = statistics(pixels)
    if train.paths is not None:
        train.decoded = rows, pixels
    return dataclasses.replace(data, preprocessing=dataclasses.replace(preprocessing, mean=mean, std=std))
