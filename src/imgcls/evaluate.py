"""``imgcls evaluate``: a checkpoint on a split of a data set -> report.json and predictions.npz."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from imgcls import metrics
from imgcls.checkpoints.format import Checkpoint
from imgcls.config.components import NO_CHOICE, Choice, Component
from imgcls.config.migrations import completed_node
from imgcls.config.options import Node
from imgcls.config.parsing import unknown_key
from imgcls.config.schema import EvaluateConfig
from imgcls.config.yaml_files import read_yaml
from imgcls.data import mirroring
from imgcls.data.datamodule import DataSpec, auto_workers, cut, data_spec, load_source, with_stored_tables
from imgcls.data.datasets.tables.image_table import POOLED
from imgcls.data.edits import STORED, edited_part
from imgcls.data.renames import advice, renames_of
from imgcls.data.source import Images, Source, all_images, describe_parts
from imgcls.data.splits import Cut, stratified
from imgcls.decisions import Decisions, wanted_threshold
from imgcls.errors import CheckpointError, ConfigError, DataError, ImgclsError
from imgcls.inference.assess import assess, assess_attacked, check_calibrated, choose_attack, fetcher_of, logits_of
from imgcls.inference.restore import RestoredModel, open_model
from imgcls.loggers.run_log import RunLog
from imgcls.reports.report import Report, complete, empty_classes, foreign_file, write_predictions, write_report
from imgcls.reports.tables import result_lines
from imgcls.runs import fingerprint
from imgcls.runs import folder as run_folders
from imgcls.runtime.session import Runtime
from imgcls.text import listing


class Selection(NamedTuple):
    """The images of one split, labeled with the model's classes.

    split: its name. how: in words, how it was made. trained: how many of its images the model was trained on.
    """

    source: Source
    split: str
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
    if config.output is not None:
        _check_output(Path(os.path.expanduser(config.output)))
    log = RunLog(is_quiet=is_quiet)
    with open_model(config, own_names) as (model, runtime):
        checkpoint = model.checkpoint
        spec = _data_spec(checkpoint.meta, run_folders.folder_of(checkpoint.path), dataset, own_names)
        if dataset.node is None:
            spec = with_stored_tables(spec, run_folders.folder_of(checkpoint.path), given=dataset.changes)
        _check_decisions(config, model)
        component = choose_attack(checkpoint.meta, attack)
        shown = f"{spec.name}-edited" if any(_edits(dataset).values()) else spec.name
        folder = _output_folder(config, checkpoint, shown, component)
        selection = _select(config, spec, dataset, checkpoint, model.classes)
        source, images = selection.source, selection.images
        _print_header(log, config, spec, checkpoint, selection)
        log.info(f"device   {runtime.describe()}\n")
        own = _decisions(config, model, runtime, dataset, own_names)
        fetcher = fetcher_of(model, images, runtime, loader="auto", workers=auto_workers(runtime))
        report, logits = assess(model, images, fetcher, runtime, config.tta, own, is_calibrated=config.calibrated)
        if (made := component()) is not None:
            report |= assess_attacked(model, images, fetcher, runtime, made, component.node, tta=config.tta)
    report = complete(report, checkpoint, model.parameters, selection.split, spec.name, source.skipped) | spec.cut_keys
    report |= _asked(config)
    write_predictions(folder, report, logits, images)
    write_report(folder, report)
    if warning := empty_classes(report):
        log.warning(warning)
    for line in result_lines(report, f"the {selection.split} split of {spec.name}"):
        log.output(line)
    log.output(f"\nreport   {folder / 'report.json'}")
    return report


def _asked(config: EvaluateConfig) -> dict[str, Any]:
    """The keys that change the figures, in the report."""
    tta = {} if config.tta == "none" else {"tta": config.tta}
    return {**tta, **({"calibrated": True} if config.calibrated else {}), **config.aim}


def _check_decisions(config: EvaluateConfig, model: RestoredModel) -> None:
    """Raises ConfigError for what cannot be decided with this model."""
    if config.calibrated:
        check_calibrated(model)
    if config.aim and model.decisions.positive is None:
        raise ConfigError(
            f"{next(iter(config.aim))}: needs a model of two classes; this one has {len(model.classes):,}"
        )


def _decisions(
    config: EvaluateConfig, model: RestoredModel, runtime: Runtime, dataset: Choice, own_names: frozenset[str]
) -> Decisions:
    """Those of the checkpoint; the threshold as at_recall or at_precision wants it on the run's validation images."""
    own, checkpoint = model.decisions, model.checkpoint
    if not config.aim or own.positive is None:
        return own
    (key, value), folder = *config.aim.items(), run_folders.folder_of(checkpoint.path)
    typed = dataset.changes if dataset.node is None else {}
    moved = Choice(None, {key: typed[key] for key in ("root", "images") if key in typed})
    spec = with_stored_tables(_data_spec(checkpoint.meta, folder, moved, own_names), folder)
    try:
        images = _select(replace(config, split="val"), spec, moved, checkpoint, model.classes).images
    except ConfigError as error:
        why = str(error).removeprefix("split: ")
        raise ConfigError(f"{key}: needs the run's validation images, but {why}") from error
    fetcher = fetcher_of(model, images, runtime, loader="auto", workers=auto_workers(runtime))
    logits = logits_of(model, images, fetcher, runtime, config.tta)
    try:
        scores, is_own = metrics.softmax(logits)[:, own.positive], images.labels == own.positive
        return replace(own, threshold=wanted_threshold(scores, is_own, **{key.removeprefix("at_"): value}))
    except ValueError as error:
        raise ConfigError(f"{key}: {value:g} is out of reach on the {len(images):,} val images: {error}") from error


def _check_output(folder: Path) -> None:
    """Raises ConfigError for a folder that the results cannot be written to, or where they would replace others."""
    if run_folders.holds_records(folder):
        raise ConfigError(f"output: {folder} is a run folder, which evaluate never changes; name another folder")
    if os.path.isfile(folder):
        raise ConfigError(f"output: {folder} is a file; name a folder")
    if name := foreign_file(folder):
        kept = f"{folder / name} exists and is not a file that evaluate wrote, so it is kept"
        raise ConfigError(f"output: {kept}; name another folder (output=FOLDER)")


def _output_folder(config: EvaluateConfig, checkpoint: Checkpoint, dataset: str, attack: Component) -> Path:
    """The named folder, else RUN/evaluations/DATASET-SPLIT, with what is not the default for this model behind it."""
    if config.output:
        return Path(os.path.expanduser(config.output))
    run = run_folders.folder_of(checkpoint.path)
    run = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run
    name = f"{dataset}-{config.split}"
    name += "" if config.tta == "none" else f"-tta-{config.tta}"
    name += f"-{run_folders.folder_word(attack.name)}" if attack.node != _own_attack(checkpoint) else ""
    name += "-calibrated" if config.calibrated else ""
    name += "".join(f"-{key.replace('_', '-')}-{value:g}" for key, value in config.aim.items())
    folder = run / "evaluations" / name
    _check_output(folder)
    return folder


def _own_attack(checkpoint: Checkpoint) -> Node | None:
    """The attack that is measured if none is named."""
    try:
        return choose_attack(checkpoint.meta).node
    except CheckpointError:
        return None


def _data_spec(meta: Mapping[str, Any], folder: Path, dataset: Choice, own_names: frozenset[str]) -> DataSpec:
    """The data set that is named, else the run's own with the changed keys."""
    node = dataset.node
    if fixed := [key for key in ("background", "depth") if key in dataset.changes]:
        raise ConfigError(f"dataset.{fixed[0]}: stored in the checkpoint, as the model was trained; leave it out")
    if (dataset.changes if node is None else node).get("positive") is not None:
        raise ConfigError("dataset.positive: stored in the checkpoint with its threshold; leave it out")
    if node is None:
        try:
            own = completed_node("dataset", meta["config"]["dataset"], with_keys=True)
        except (KeyError, TypeError) as error:
            raise CheckpointError("the checkpoint does not say which data set it is from; add dataset=...") from error
        known = {f"dataset.{key}": value for key, value in own.items()}
        if unknown := [key for key in dataset.changes if key not in own]:
            raise unknown_key(f"dataset.{unknown[0]}", known)
        places = _moved(folder, own)
        node = completed_node("dataset", {**meta["config"]["dataset"], **places, **dataset.changes}, with_keys=True)
    return data_spec(node, trusted=dataset.node is not None or str(node.get("name")) in own_names)


def _moved(folder: Path, own: Mapping[str, Any]) -> dict[str, Any]:
    """Where the run's images are now, if it was resumed after they moved and its best checkpoint is from before."""
    try:
        stored = read_yaml(folder / "config.yaml")["dataset"]
    except (ImgclsError, OSError, LookupError, TypeError):
        return {}
    if not isinstance(stored, Mapping) or stored.get("name") != own.get("name"):
        return {}
    return {key: stored[key] for key in ("root", "images") if key in own and isinstance(stored.get(key), str)}


def _select(
    config: EvaluateConfig, spec: DataSpec, dataset: Choice, checkpoint: Checkpoint, classes: tuple[str, ...]
) -> Selection:
    """The images of the split. Raises DataError if they are no longer those of the run."""
    name, folder = config.split, run_folders.folder_of(checkpoint.path)
    is_own = _is_own(checkpoint, spec, dataset)
    edits: dict[str, Any] = {}  # that do not change how the run's own data set was cut
    if is_own and name != "all":
        spec, edits = _without_edits(spec, dataset, checkpoint)
    source = load_source(spec, allow_empty=True)
    _check_classes(source, spec, classes)
    if is_own:
        spec = replace(spec, rule=fingerprint.cut_rule(folder, checkpoint.meta))
    is_whole = source.untrained is not None and not is_own
    if is_whole or name == "all":  # nothing is cut
        source = replace(source, warnings=tuple(text for text in source.warnings if not text.endswith(POOLED)))
    if is_whole and name != "all":
        images, how = _untrained(source, spec, name)
    else:
        images, how = _split(source, spec, name)
    is_sample = name == "test" and set(dataset.changes) - {*edits} == {"test_limit"}  # of the same test images
    if dataset.node is None and name != "all" and not is_sample:
        fingerprint.check_same_images(folder, {name: images})
    if edits:
        images, findings = edited_part(_unedited(source, spec), name, images, source.classes, **edits)
        source = replace(source, findings=(*source.findings, *findings))
    images = images.relabel([classes.index(each) for each in source.classes])
    trained = 0 if name == "train" else _count_trained(checkpoint, spec, images, by_content=is_whole and name != "all")
    return Selection(source, name, images, how, trained)


def _edits(dataset: Choice) -> dict[str, Any]:
    """dataset.exclude and dataset.relabel as typed for this command, None if they were not."""
    return {key: (dataset.changes if dataset.node is None else dataset.node).get(key) for key in STORED}


def _without_edits(spec: DataSpec, dataset: Choice, checkpoint: Checkpoint) -> tuple[DataSpec, dict[str, Any]]:
    """The run's own data set as it was cut; and dataset.exclude and dataset.relabel as typed now, for a part of it."""
    typed = _edits(dataset)
    if not any(typed.values()):
        return spec, {}
    own = checkpoint.meta["config"]["dataset"]
    before: dict[str, Any] = {key: own.get(key) for key, value in typed.items() if value is not None}
    spec = replace(spec, options=replace(spec.options, **before))
    left = [key for key in STORED if key not in before]
    return with_stored_tables(spec, run_folders.folder_of(checkpoint.path), given=left), typed


def _unedited(source: Source, spec: DataSpec) -> Source:
    """The whole data set, which tables name the images of."""
    whole: dict[str, Any] = dict.fromkeys([*STORED, "classes"])
    options = replace(spec.options, **whole)
    return source if options == spec.options else load_source(replace(spec, options=options), allow_empty=True)


def _is_own(checkpoint: Checkpoint, spec: DataSpec, dataset: Choice) -> bool:
    """Whether it is the data set that the run was trained on."""
    config = checkpoint.meta.get("config")
    own = config.get("dataset") if isinstance(config, Mapping) else None
    if dataset.node is None or not isinstance(own, Mapping):
        return dataset.node is None
    return spec.source.name == own.get("name") and _root(spec.source.node) == _root(own)


def _untrained(source: Source, spec: DataSpec, name: str) -> tuple[Images, str]:
    """The images of a different data set that brings no train part: the part, or all for the test."""
    assert source.untrained is not None
    if name in source.untrained and len(source.untrained[name]) < len(source.train):
        return source.untrained[name], f"; its own {name} part (split=all takes all {len(source.train):,})"
    if name not in (*source.untrained, "test"):
        raise ConfigError(f"split: {spec.name} has no {name} part; split=all evaluates every image that it has")
    images, limit = source.train, spec.options.test_limit
    if limit is not None and limit < len(images):
        count = len(images)
        rows = stratified(images.labels, limit, spec.options.split_seed, "limit", "test", take_one=True)[1]
        return images.take(rows), f"; {Cut('test', 'test', limit, count)}"
    return images, "; every image, as it brings no train part"


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
    log.info(f"data     {spec.name}: {describe_parts({selection.split: images})}{selection.how}")
    log.info(f"model    {checkpoint.meta['model']['name']} from {checkpoint.path}")
    if config.tta != "none" and not source.mirror:
        log.warning(f"tta={config.tta} also averages mirrored images, which may not be valid for {spec.name}")
    elif config.tta != "none" and (mirrored := mirroring.warning(source.classes, f"tta={config.tta}")):
        log.warning(mirrored)


def _count_trained(checkpoint: Checkpoint, spec: DataSpec, images: Images, *, by_content: bool) -> int:
    """How many of the images the model was trained on, by name if they are from the run's own folder or table.

    by_content: look for copies of the run's files in another folder or table.
    """
    config, folder = checkpoint.meta.get("config"), run_folders.folder_of(checkpoint.path)
    own = config.get("dataset") if isinstance(config, Mapping) else None
    root = _root(own)
    if _root(spec.source.node) == root:
        return fingerprint.count_trained(folder, images)
    if root is None or not isinstance(own, Mapping) or not by_content:
        return 0
    start = own.get("images") or (root if os.path.isdir(root) else os.path.dirname(root))
    return fingerprint.count_copies(folder, images, str(start))


def _root(node: object) -> str | None:
    """The folder or table of the user's own images, if the data set's node names one."""
    root = node.get("root") if isinstance(node, Mapping) else None
    return os.path.realpath(os.path.expanduser(root)) if isinstance(root, str) else None


def _check_classes(source: Source, spec: DataSpec, classes: tuple[str, ...]) -> None:
    """Raises DataError for classes that the model does not have."""
    if unknown := [name for name in source.classes if name not in classes]:
        both = f"the data set has {listing(source.classes, 10)}; the model has {listing(classes, 10)}"
        hint = ""
        if "rename" in spec.source.params:
            hint = advice(unknown, classes, renames_of(spec.source.params["rename"]))
        raise DataError(f"the classes of {spec.name} are not the model's: {both}{hint}")


def _split(source: Source, spec: DataSpec, name: str) -> tuple[Images, str]:
    """The images of the split, and a phrase on how the split was made."""
    if name == "all":
        return all_images(source), "; every image it has"
    splits, _ = cut(source, spec)
    found = splits.parts[name]
    if found is None:
        raise ConfigError(f"split: {spec.name} has no {name} split")
    return found, "".join(f"; {text}" for text in splits.how if text.startswith(name))
