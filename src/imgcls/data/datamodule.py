"""The data of a run: read, split, sized and normalized, then served from memory or from files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from imgcls.config.components import Component, select
from imgcls.config.options import Node
from imgcls.config.parsing import parse
from imgcls.config.schema import TrainConfig
from imgcls.data import DATASETS
from imgcls.data.copies import groups_of
from imgcls.data.cut_findings import cut_findings
from imgcls.data.datasets.folders.image_folder import EmptyClasses
from imgcls.data.edits import STORED, edited
from imgcls.data.fetchers import Fetcher, decode_all, fits, make_fetcher, memory_bytes
from imgcls.data.findings import Finding
from imgcls.data.geometry import Geometry, InputPreset, geometry
from imgcls.data.picture_store import store_bytes
from imgcls.data.pixels.crops import CroppedView, RandomCrop
from imgcls.data.pixels.depth import rendering_for
from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.pixels.preprocessing import Preprocessing, statistics
from imgcls.data.pixels.rendering import background_of, depth_of
from imgcls.data.pixels.survey import decode_sample, findings_of, shown_of
from imgcls.data.renames import renames_of
from imgcls.data.source import Images, Source, pooled
from imgcls.data.splits import RULE, SplitOptions, Splits, split
from imgcls.data.transforms.ops import SMALL
from imgcls.decisions import positive_class
from imgcls.errors import ConfigError
from imgcls.runtime.session import Runtime
from imgcls.text import listing

AUTO_WORKERS = 8
AUTO_BATCH, LEAST_AUTO_BATCH = 128, 16
UPDATES_PER_EPOCH, UPDATES_OF_PHOTOS = 8, 64  # at least, if batch_size=auto
STATISTICS_BYTES = 1 << 30  # of decoded images for the statistics
STATISTICS_SAMPLE = 2000  # training images that mean and standard deviation are computed from
CROPPED_SAMPLE = 500  # the same where these images have to be decoded again, whole, for random crops
PRESET_SAMPLE = 128  # training images that are looked at where the weights bring mean and standard deviation


@dataclass(frozen=True)
class DataSpec:
    """The dataset's node, checked: which source, and the keys that every data set has; rule: how it is cut."""

    source: Component
    options: SplitOptions
    rule: int = RULE

    @property
    def name(self) -> str:
        """The name in headers, reports and folder names; for the user's images that of their folder or table."""
        root = self.source.params.get("root")
        if self.source.name in ("imagefolder", "imagelist") and root:
            path = Path(os.path.expanduser(root)).resolve()
            return (path.stem if self.source.name == "imagelist" else path.name) or "images"
        return self.source.name.rpartition(":")[2]

    @property
    def cut_keys(self) -> dict[str, Any]:
        """By what the images are kept together, and which fold of how many is the test, for report.json."""
        return {"group": self.source.params.get("group"), "fold": self.options.fold, "folds": self.options.folds}


@dataclass(frozen=True)
class SplitData:
    """A data set in its splits, read but not decoded: names, labels and the geometry of the model's input."""

    name: str
    source: Source
    splits: Splits
    geometry: Geometry

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the model's input."""
        return self.geometry.height, self.geometry.width

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.source.classes)


@dataclass(frozen=True)
class DataModule(SplitData):
    """A data set ready to be served.

    preprocessing: from pixels to the model's input. crop: the random crop of each training image, if there is one.
    batch_size: images per update, over all processes. loader: where the images of each split are kept, ``auto`` for
    whatever fits; is_resident: whether the training images are in memory; train_bytes: what they take there. workers:
    processes that decode those that are not.
    """

    runtime: Runtime
    preprocessing: Preprocessing
    crop: RandomCrop | None
    batch_size: int
    loader: str
    is_resident: bool
    train_bytes: int
    workers: int

    def fetcher(self, name: Literal["train", "val", "test"]) -> Fetcher:
        """The images of a split, which can be read again and again; for training decoded at reduced size."""
        images, shape, crops = self.splits.parts[name], self.preprocessing, None
        assert images is not None
        if name == "train":
            shape, crops = for_training(shape), cropped_view(shape, self.crop)
        resident = self.is_resident if name == "train" else is_resident(images, shape, self.runtime, self.loader)
        return fetcher_for(images, shape, self.runtime, resident=resident, workers=self.workers, crops=crops)


def for_training(preprocessing: Preprocessing) -> Preprocessing:
    """The same, with large JPEGs decoded at reduced size."""
    return dataclasses.replace(preprocessing, scaled_decoding=True)


def cropped_view(preprocessing: Preprocessing, crop: RandomCrop | None) -> CroppedView | None:
    """How a training image is cropped at random, if it is."""
    return None if crop is None else CroppedView(for_training(preprocessing).view, crop)


def data_spec(node: Node, *, trusted: bool = True) -> DataSpec:
    """Check the dataset's node, touching no file."""
    common = {field.name for field in fields(SplitOptions)}
    options = parse(SplitOptions, {key: node[key] for key in node if key in common}, "dataset.")
    rest = {key: value for key, value in node.items() if key not in common}
    renames_of(rest.get("rename"))
    return DataSpec(select(DATASETS, rest, "dataset", trusted=trusted), options)


def with_stored_tables(spec: DataSpec, folder: Path, *, given: Container[str] = ()) -> DataSpec:
    """The same, with the tables of dataset.exclude and dataset.relabel that a run stored in its folder.

    given: keys that were typed now, whose own tables count.
    """
    options = spec.options
    for key, name in STORED.items():
        if getattr(options, key) is not None and key not in given and (folder / name).is_file():
            change: dict[str, Any] = {key: str(folder / name)}
            options = dataclasses.replace(options, **change)
    return dataclasses.replace(spec, options=options)


def load_source(spec: DataSpec, *, allow_empty: bool = False) -> Source:
    """Read the data set: names and headers of the user's own files, the arrays of the others.

    allow_empty: classes may lack images, as nothing is trained on them.
    """
    try:
        source = spec.source()
    except EmptyClasses as error:
        if not allow_empty:
            raise
        source = error.source
    if not isinstance(source, Source):
        raise ConfigError(
            f"dataset.name={spec.source.name}: expected an imgcls.data.Source, got {type(source).__name__}"
        )
    source = edited(source, spec.options.exclude, spec.options.relabel, renames_of(spec.source.params.get("rename")))
    if spec.options.classes is not None:
        try:
            source = source.only([str(name) for name in spec.options.classes])
        except ValueError as error:
            raise ConfigError(f"dataset.classes: {error}") from error
    return source if spec.options.folds is None else pooled(source)


def cut(source: Source, spec: DataSpec) -> tuple[Splits, list[Finding]]:
    """The splits of a data set, copies of a picture in one part if that part is cut from others; and findings."""
    is_test_cut = source.test is None and source.val is None
    is_val_cut = spec.options.val_fraction > 0 and (source.test is None or source.val is None)
    is_grouped = (is_test_cut or is_val_cut) and spec.rule > 1
    groups, findings = groups_of(source.train, source.classes) if is_grouped else (None, [])
    splits = split(source, spec.options, groups=groups, rule=spec.rule)
    return splits, [*findings, *cut_findings(source, splits)]


def _check_limit(source: Source, options: SplitOptions) -> None:
    """Raises ConfigError for a limit with which some class could not be learned at all."""
    sizes = np.bincount(source.train.labels, minlength=len(source.classes))
    count = int((sizes > 0).sum())
    if options.limit is not None and options.limit < count:
        raise ConfigError(
            f"dataset.limit={options.limit} is fewer than the {count:,} classes ({listing(source.classes)}), and none "
            f"is learned without an image; use dataset.limit={count} or more, or choose some: dataset.classes"
        )


def read_splits(spec: DataSpec, default_size: int, preset: InputPreset | None = None) -> SplitData:
    """The data set in its splits, and the geometry of the model's input; nothing is decoded.

    default_size: pixels per side for files of unequal size. preset: for pretrained weights.
    """
    source = load_source(spec)
    if spec.rule > 1:
        _check_limit(source, spec.options)
    positive_class(source.classes, spec.options.positive)  # refuses another name
    splits, findings = cut(source, spec)
    source = dataclasses.replace(source, findings=(*source.findings, *findings))
    return SplitData(spec.name, source, splits, geometry(splits.train, spec.options, default_size, preset))


def resized(data: SplitData, options: SplitOptions, preset: InputPreset) -> SplitData:
    """The same data at the size that pretrained weights expect, unless one is given."""
    return dataclasses.replace(data, geometry=geometry(data.splits.train, options, 0, preset))


def set_up(
    data: SplitData,
    options: SplitOptions,
    config: TrainConfig,
    runtime: Runtime,
    *,
    preset: InputPreset | None = None,
    crop: RandomCrop | None = None,
    stored: Mapping[str, Any] | None = None,
) -> DataModule:
    """Decide how the data set is served.

    options: the dataset's keys. preset: for pretrained weights. crop: the random crop of each training image. stored:
    what auto became when the run began, if it is resumed.
    """
    stored = stored or {}
    train = data.splits.train
    share = stored.get("crop_share", 1.0) if stored else preset.crop_share if preset else 1.0
    preprocessing, findings = _preprocessing(data, options, preset, crop, share)  # earlier versions did not store it
    as_before = bool(stored.get("scaled_decoding", bool(stored)))  # earlier versions did not store it
    preprocessing = dataclasses.replace(preprocessing, scaled_decoding=as_before)
    data = dataclasses.replace(
        data, source=dataclasses.replace(data.source, findings=(*data.source.findings, *findings))
    )
    is_photo = preset is not None or max(data.image_size) > SMALL
    updates = UPDATES_OF_PHOTOS if is_photo and not stored else UPDATES_PER_EPOCH  # earlier versions did not store it
    loader = stored.get("loader", config.loader) if config.loader == "auto" else config.loader
    crops = cropped_view(preprocessing, crop)
    size = memory_bytes(len(train), preprocessing) if crops is None else store_bytes(train, crops)
    return DataModule(
        **{field.name: getattr(data, field.name) for field in fields(data)},
        runtime=runtime,
        preprocessing=preprocessing,
        crop=crop,
        batch_size=stored.get("batch_size", fitting_batch(config.batch_size, len(train), updates)),
        loader=config.loader,
        is_resident=fits(size, runtime.free_memory()) if loader == "auto" else loader == "resident",
        train_bytes=size,
        workers=auto_workers(runtime) if config.workers == "auto" else int(config.workers),
    )


def is_resident(images: Images, preprocessing: Preprocessing, runtime: Runtime, loader: str) -> bool:
    """Whether these images, in their view for testing, are all kept in memory: as ``loader`` says, auto if they fit."""
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
    crops: CroppedView | None = None,
) -> Fetcher:
    """The images, served on the runtime's device."""
    return make_fetcher(
        images,
        preprocessing,
        runtime.device,
        is_resident=resident,
        workers=workers,
        threads=runtime.threads,
        crops=crops,
    )


def auto_workers(runtime: Runtime) -> int:
    """How many processes decode streamed images with workers=auto."""
    return min(AUTO_WORKERS, runtime.threads)


def fitting_batch(asked: int | str, count: int, updates: int = UPDATES_PER_EPOCH) -> int:
    """As asked, at most ``count`` images; auto is 128, or less if an epoch would have fewer updates than that."""
    if isinstance(asked, int):
        return min(count, asked)
    return min(count, AUTO_BATCH, max(LEAST_AUTO_BATCH, count // updates))


def _preprocessing(
    data: SplitData, options: SplitOptions, preset: InputPreset | None, crop: RandomCrop | None, share: float = 1.0
) -> tuple[Preprocessing, tuple[Finding, ...]]:
    """With the mean and standard deviation of the weights, else of at most 2,000 evenly spaced training images; and
    what these images say about all of them.

    The files that were decoded for it are kept with the training images until a fetcher takes them over, unless that
    crops them at random. share: crop_share, unless the options have one; what it costs is not worth a note.
    """
    train, (height, width, channels, _) = data.splits.train, data.geometry
    threads = torch.get_num_threads()
    background = background_of(options.background)
    findings: tuple[Finding, ...] = ()
    if preset is not None and preset.rendering is not None and options.depth == "auto":
        rendering = dataclasses.replace(preset.rendering, background=background)
    else:
        with quiet_decoders():
            rendering, findings = rendering_for(train.paths or (), background, depth_of(options.depth), threads)
    normal = ((0.0,) * channels, (1.0,) * channels) if preset is None else preset.for_channels(channels)
    made = Preprocessing(
        channels, height, width, *normal, rendering, options.fit, options.crop_share or share, scaled_decoding=True
    )
    view = dataclasses.replace(made.view, crop_share=options.crop_share or 1.0)
    if train.paths is None and preset is not None:
        return made, findings
    most = PRESET_SAMPLE if preset is not None else STATISTICS_SAMPLE if crop is None else CROPPED_SAMPLE
    count = min(len(train), most, max(1, STATISTICS_BYTES // (channels * height * width)))
    rows = np.linspace(0, len(train) - 1, count).astype(np.int64)
    sample = train.take(rows)
    if sample.paths is None:
        assert sample.whole is not None
        pixels = decode_all(sample, made, threads=threads)
        findings += shown_of(sample.whole.shape[1:3], view)
    else:
        pixels, seen = decode_sample(sample.paths, made, threads)
        train.decoded = (rows, pixels) if crop is None else None
        findings += findings_of(sample.paths, pixels, seen, view, total=len(train))
    if preset is None:
        mean, std = statistics(pixels)
        made = dataclasses.replace(made, mean=mean, std=std)
    return made, findings
