"""``imgcls evaluate``: a checkpoint on a split of a data set -> report.json and predictions.npz."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgcls.checkpoints.format import Checkpoint
from imgcls.config import parsing
from imgcls.config.components import NO_CHOICE, Choice
from imgcls.config.migrations import completed_node
from imgcls.config.schema import EvaluateConfig
from imgcls.data.datamodule import DataSpec, auto_workers, data_spec, load_source
from imgcls.data.source import Images, Source, all_images, describe_parts
from imgcls.data.splits import split
from imgcls.errors import CheckpointError, ConfigError, DataError
from imgcls.inference.assess import assess, assess_attacked, choose_attack, fetcher_of
from imgcls.inference.restore import restore
from imgcls.loggers.run_log import RunLog
from imgcls.reports.report import Report, complete, empty_classes, write_predictions, write_report
from imgcls.reports.tables import table
from imgcls.runs import fingerprint
from imgcls.runs import folder as run_folders
from imgcls.runtime.device import choose_device, choose_precision
from imgcls.runtime.session import session


def evaluate(
    config: EvaluateConfig,
    *,
    dataset: Choice = NO_CHOICE,
    attack: Choice = NO_CHOICE,
    own_names: frozenset[str] = frozenset(),
    is_quiet: bool = False,
) -> Report:
    """Run the command.

    dataset: another data set than the run's own, or keys changed in the run's own one; attack: the same for the attack
    that the robust accuracy is measured under. own_names: names of the user's own code that were typed for this
    command.
    """
    choose_precision(config.precision, choose_device(config.device))
    checkpoint = run_folders.best_checkpoint(config.checkpoint)
    if config.output and (Path(os.path.expanduser(config.output)) / "config.yaml").exists():
        raise ConfigError(
            f"output: {config.output} is a run's own folder, which evaluate does not change; name another"
        )
    if config.output and os.path.isfile(os.path.expanduser(config.output)):
        raise ConfigError(f"output: {config.output} is a file; name a folder")
    stored = checkpoint.meta.get("chosen", {})
    threads = config.threads or stored.get("threads")
    with session(config.device, "fp32" if config.precision == "auto" else config.precision, threads) as runtime:
        log = RunLog(is_main=True, is_quiet=is_quiet)
        trained = restore(checkpoint, runtime, own_names)
        choice = _choose(checkpoint.meta, dataset, own_names)
        component = choose_attack(checkpoint.meta, attack)
        source = load_source(choice)
        for note in source.notes:
            log.info(note)
        for doubt in source.warnings:
            log.warning(doubt)
        images, how = _part(source, choice, config.split, trained.classes)
        is_sample = config.split == "test" and set(dataset.changes) == {"test_limit"}
        if dataset.node is None and config.split != "all" and not is_sample:
            fingerprint.check_same_images(run_folders.folder_of(checkpoint.path), {config.split: images})
        if config.split != "train" and (count := _trained_on(checkpoint, choice, images)):
            log.warning(f"{count:,} of these {len(images):,} images were used in training")
        log.info(f"data     {choice.name}: {describe_parts({config.split: images})}{how}")
        log.info(f"model    {checkpoint.meta['model']['name']} from {checkpoint.path}")
        log.info(f"device   {runtime.describe()}\n")
        if config.tta != "none" and not source.mirror:
            log.warning(f"tta={config.tta} looks at mirror images too, which for {choice.name} may be of no class")
        fetcher = fetcher_of(trained, images, runtime, loader="auto", workers=auto_workers(runtime))
        report, logits = assess(trained, images, fetcher, runtime, tta=config.tta)
        if (made := component()) is not None:
            report |= assess_attacked(trained, images, fetcher, runtime, made, component.node, tta=config.tta)
    report = complete(report, checkpoint, trained.parameters, config.split, choice.name, source.skipped)
    report |= {} if config.tta == "none" else {"tta": config.tta}
    default = _default_output(checkpoint.path, choice.name, config.split)
    folder = Path(os.path.expanduser(config.output)) if config.output else default
    write_predictions(folder, report, logits, images)
    write_report(folder, report)
    if warning := empty_classes(report):
        log.warning(warning)
    for line in table(report, f"the {config.split} split of {choice.name}"):
        log.output(line)
    log.output(f"\nreport   {folder / 'report.json'}")
    return report


def _choose(meta: Mapping[str, Any], dataset: Choice, own_names: frozenset[str]) -> DataSpec:
    node, changes = dataset.node, dataset.changes
    if node is None:
        try:
            node = completed_node("dataset", {**meta["config"]["dataset"], **changes}, with_keys=True)
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                "the checkpoint does not say which data set it is from; name one by dataset=..."
            ) from error
        own = completed_node("dataset", meta["config"]["dataset"], with_keys=True)
        unknown = [key for key in changes if key not in own]
        if unknown:
            known = {f"dataset.{key}": value for key, value in own.items()}
            raise parsing.unknown_key(f"dataset.{unknown[0]}", known)
    name = str(node.get("name"))
    return data_spec(node, trusted=dataset.node is not None or name in own_names)


def _trained_on(checkpoint: Checkpoint, choice: DataSpec, images: Images) -> int:
    """How many of the images the model was trained on, where they lie in the run's own folder or table."""
    config = checkpoint.meta.get("config")
    own = config.get("dataset") if isinstance(config, Mapping) else None
    is_own = _root(choice.source.node) == _root(own)
    return fingerprint.count_trained(run_folders.folder_of(checkpoint.path), images) if is_own else 0


def _root(node: object) -> str | None:
    """The folder or table of the user's own images, if the data set's node names one."""
    root = node.get("root") if isinstance(node, Mapping) else None
    return os.path.realpath(os.path.expanduser(root)) if isinstance(root, str) else None


def _part(source: Source, choice: DataSpec, name: str, classes: tuple[str, ...]) -> tuple[Images, str]:
    """The images of the split, labelled by the model's classes, and a phrase on how the split came about."""
    if set(source.classes) - set(classes):
        both = f"it has {_listing(source.classes)}; the model has {_listing(classes)}"
        raise DataError(f"{choice.name} has other classes than the model: {both}")
    if name == "all":
        images, how = all_images(source), "; every image it has"
    else:
        splits = split(source, choice.options)
        part = {"train": splits.train, "val": splits.val, "test": splits.test}[name]
        if part is None:
            raise ConfigError(f"split: {choice.name} has no {name} part")
        images, how = part, "".join(f"; {words}" for words in splits.how if words.startswith(name))
    return images.relabel([classes.index(each) for each in source.classes]), how


def _listing(classes: tuple[str, ...]) -> str:
    return f"{', '.join(classes[:10])}{f' ... ({len(classes)} in all)' if len(classes) > 10 else ''}"


def _default_output(path: Path, dataset: str, split_name: str) -> Path:
    run = run_folders.folder_of(path)
    run = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run
    return run / "evaluations" / f"{dataset}-{split_name}"
