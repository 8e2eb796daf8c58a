"""``imgcls evaluate``: a checkpoint on a split of a data set -> report.json and predictions.npz."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from imgcls.checkpoints.format import Checkpoint
from imgcls.config.components import NO_CHOICE, Choice
from imgcls.config.migrations import completed_node
from imgcls.config.parsing import unknown_key
from imgcls.config.schema import EvaluateConfig
from imgcls.data.datamodule import DataSpec, auto_workers, data_spec, load_source, with_stored_tables
from imgcls.data.source import Images, Source, all_images, describe_parts
from imgcls.data.splits import split
from imgcls.errors import CheckpointError, ConfigError, DataError
from imgcls.inference.assess import assess, assess_attacked, choose_attack, fetcher_of
from imgcls.inference.restore import open_model
from imgcls.loggers.run_log import RunLog
from imgcls.reports.report import Report, complete, empty_classes, write_predictions, write_report
from imgcls.reports.tables import result_lines
from imgcls.runs import fingerprint
from imgcls.runs import folder as run_folders
from imgcls.text import listing


class Selection(NamedTuple):
    """The images of one split, labeled with the model's classes.

    how: in words, how the split was made; trained: how many of them the model was trained on.
    """

    source: Source
    images: Images
    how: str
    trained: int


def evaluate(
    config: EvaluateConfig,
    *,
    dataset: Choice = NO_CHOICE,
    attack: Choice = NO_CHOICE,
    own_names: frozenset[str] = frozenset(),
    is_quiet: bool = False,
) -> Report:
    """Run the command.

    dataset: a different data set from the run's, or keys changed in the run's own; attack: the same for the attack
    that the robust accuracy is measured under. own_names: names of the user's own code that were typed for this
    command.
    """
    _check_output(config.output)
    log = RunLog(is_quiet=is_quiet)
    with open_model(config, own_names) as (model, runtime):
        checkpoint = model.checkpoint
        spec = _data_spec(checkpoint.meta, dataset, own_names)
        if dataset.node is None:
            spec = with_stored_tables(spec, run_folders.folder_of(checkpoint.path), given=dataset.changes)
        component = choose_attack(checkpoint.meta, attack)
        selection = _select(config, spec, dataset, checkpoint, model.classes)
        source, images = selection.source, selection.images
        _print_header(log, config, spec, checkpoint, selection)
        log.info(f"device   {runtime.describe()}\n")
        fetcher = fetcher_of(model, images, runtime, loader="auto", workers=auto_workers(runtime))
        report, logits = assess(model, images, fetcher, runtime, tta=config.tta)
        if (made := component()) is not None:
            report |= assess_attacked(model, images, fetcher, runtime, made, component.node, tta=config.tta)
    report = complete(report, checkpoint, model.parameters, config.split, spec.name, source.skipped)
    report |= {} if config.tta == "none" else {"tta": config.tta}
    default = _default_output(checkpoint.path, spec.name, config.split)
    folder = Path(os.path.expanduser(config.output)) if config.output else default
    write_predictions(folder, report, logits, images)
    write_report(folder, report)
    if warning := empty_classes(report):
        log.warning(warning)
    for line in result_lines(report, f"the {config.split} split of {spec.name}"):
        log.output(line)
    log.output(f"\nreport   {folder / 'report.json'}")
    return report


def _check_output(output: str | None) -> None:
    """Raises ConfigError for a folder that the results cannot be written to."""
    if output is None:
        return
    if (Path(os.path.expanduser(output)) / "config.yaml").exists():
        raise ConfigError(f"output: {output} is a run folder, which evaluate never changes; name another folder")
    if os.path.isfile(os.path.expanduser(output)):
        raise ConfigError(f"output: {output} is a file; name a folder")


def _data_spec(meta: Mapping[str, Any], dataset: Choice, own_names: frozenset[str]) -> DataSpec:
    """The data set that is named, else the run's own with the changed keys."""
    node = dataset.node
    if node is None:
        try:
            own = completed_node("dataset", meta["config"]["dataset"], with_keys=True)
        except (KeyError, TypeError) as error:
            raise CheckpointError("the checkpoint does not say which data set it is from; add dataset=...") from error
        known = {f"dataset.{key}": value for key, value in own.items()}
        if unknown := [key for key in dataset.changes if key not in own]:
            raise unknown_key(f"dataset.{unknown[0]}", known)
        node = completed_node("dataset", {**meta["config"]["dataset"], **dataset.changes}, with_keys=True)
    return data_spec(node, trusted=dataset.node is not None or str(node.get("name")) in own_names)


def _select(
    config: EvaluateConfig, spec: DataSpec, dataset: Choice, checkpoint: Checkpoint, classes: tuple[str, ...]
) -> Selection:
    """The images of the split. Raises DataError if they are no longer those of the run."""
    source = load_source(spec)
    images, how = _split(source, spec, config.split, classes)
    is_sample = config.split == "test" and set(dataset.changes) == {"test_limit"}  # of the same test images
    if dataset.node is None and config.split != "all" and not is_sample:
        fingerprint.check_same_images(run_folders.folder_of(checkpoint.path), {config.split: images})
    trained = 0 if config.split == "train" else _count_trained(checkpoint, spec, images)
    return Selection(source, images, how, trained)


def _print_header(
    log: RunLog, config: EvaluateConfig, spec: DataSpec, checkpoint: Checkpoint, selection: Selection
) -> None:
    """What is evaluated on which images, with warnings."""
    source, images = selection.source, selection.images
    for note in source.all_notes():
        log.info(note)
    for warning in source.all_warnings():
        log.warning(warning)
    if selection.trained:
        log.warning(f"{selection.trained:,} of these {len(images):,} images were used in training")
    log.info(f"data     {spec.name}: {describe_parts({config.split: images})}{selection.how}")
    log.info(f"model    {checkpoint.meta['model']['name']} from {checkpoint.path}")
    if config.tta != "none" and not source.mirror:
        log.warning(f"tta={config.tta} also averages mirrored images, which may not be valid for {spec.name}")


def _count_trained(checkpoint: Checkpoint, spec: DataSpec, images: Images) -> int:
    """How many of the images the model was trained on, if they are from the run's own folder or table."""
    config = checkpoint.meta.get("config")
    own = config.get("dataset") if isinstance(config, Mapping) else None
    is_own = _root(spec.source.node) == _root(own)
    return fingerprint.count_trained(run_folders.folder_of(checkpoint.path), images) if is_own else 0


def _root(node: object) -> str | None:
    """The folder or table of the user's own images, if the data set's node names one."""
    root = node.get("root") if isinstance(node, Mapping) else None
    return os.path.realpath(os.path.expanduser(root)) if isinstance(root, str) else None


def _split(source: Source, spec: DataSpec, name: str, classes: tuple[str, ...]) -> tuple[Images, str]:
    """The images of the split, labeled with the model's classes, and a phrase on how the split was made."""
    if set(source.classes) - set(classes):
        both = f"the data set has {listing(source.classes, 10)}; the model has {listing(classes, 10)}"
        raise DataError(f"the classes of {spec.name} are not the model's: {both}")
    if name == "all":
        images, how = all_images(source), "; every image it has"
    else:
        splits = split(source, spec.options)
        found = splits.parts[name]
        if found is None:
            raise ConfigError(f"split: {spec.name} has no {name} split")
        images, how = found, "".join(f"; {text}" for text in splits.how if text.startswith(name))
    return images.relabel([classes.index(each) for each in source.classes]), how


def _default_output(path: Path, dataset: str, split_name: str) -> Path:
    run = run_folders.folder_of(path)
    run = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run
    return run / "evaluations" / f"{dataset}-{split_name}"
