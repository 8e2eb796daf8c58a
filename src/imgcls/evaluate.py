"""``imgcls evaluate``: a checkpoint on a split of a data set -> report.json and predictions.npz."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgcls import config as configs
from imgcls import metrics, rundir
from imgcls.attacks import ATTACKS, Attack
from imgcls.checkpoint import Checkpoint, write_whole
from imgcls.confdir import Node, option_node
from imgcls.config import Component, EvaluateConfig, TestTime, select
from imgcls.data import Source
from imgcls.data.loaders import Fetcher
from imgcls.data.source import Images, Indices
from imgcls.data.splits import split
from imgcls.errors import CheckpointError, ConfigError, DataError
from imgcls.inference import Looking, Trained, check_finite, describe_parts, infer, restore, versions
from imgcls.logbook import Logbook, read_rows
from imgcls.losses import cross_entropy
from imgcls.prepare import DataChoice, auto_workers, choose_data, fetcher_for, is_resident, load_source
from imgcls.runtime import Runtime, choose_device, choose_precision, exact_fp32, session
from imgcls.seeding import derive
from imgcls.stored import completed_node

WORST = 8  # classes in the table, if there are more than
ALL_ROWS = 12

Report = dict[str, Any]


def fetcher_of(trained: Trained, images: Images, runtime: Runtime, *, loader: str, workers: int) -> Fetcher:
    """These images as the model wants them, to be looked at as often as need be."""
    resident = is_resident(images, trained.preprocessing, runtime, loader)
    return fetcher_for(images, trained.preprocessing, runtime, resident=resident, workers=workers)


def assess(
    trained: Trained, images: Images, fetcher: Fetcher, runtime: Runtime, *, tta: TestTime = "none"
) -> tuple[Report, NDArray[np.float32]]:
    """The report of a model on these images, as far as it follows from its logits; and the logits, (N, C)."""
    with exact_fp32():
        logits = infer(trained.module, fetcher, len(images), trained.preprocessing, runtime, tta=tta)
    check_finite(logits, str(trained.checkpoint.path))
    return metrics.report(logits, images.labels, trained.classes), logits


def assess_attacked(
    trained: Trained,
    images: Images,
    fetcher: Fetcher,
    runtime: Runtime,
    attack: Attack,
    node: Node,
    *,
    tta: TestTime = "none",
) -> Report:
    """The accuracy on the same images, each changed by the attack so that the cross entropy of the answer rises."""
    shape, answer = trained.preprocessing, Looking(trained.module, tta)
    labels = torch.from_numpy(images.labels).to(runtime.device)
    loss = cross_entropy(label_smoothing=0.0)

    def change(some: Tensor, rows: Indices) -> Tensor:
        targets = labels[torch.from_numpy(rows).to(runtime.device)]
        seed = derive(0, "attack", int(rows[0]))
        return attack(answer, some, targets, loss, mean=shape.mean, std=shape.std, seed=seed)

    with exact_fp32():
        logits = infer(trained.module, fetcher, len(images), shape, runtime, change=change, tta=tta)
    check_finite(logits, str(trained.checkpoint.path))
    hits = int((logits.argmax(1) == images.labels).sum())
    accuracy = hits / len(images)
    eps = attack.radius(shape.channels, shape.height, shape.width)
    return {
        "robust_accuracy": accuracy,
        "robust_accuracy_ci95": list(metrics.wilson(accuracy, len(images))),
        "attack": {**node, "eps": eps, "step_size": attack.stride(eps)},
    }


def complete(report: Report, trained: Trained, split_name: str, dataset: str, skipped: int) -> Report:
    """The report with what it is a report of, in the order of the contract.

    skipped: files of the data set that were left out since they are broken (dataset.on_error=skip).
    """
    meta = trained.checkpoint.meta
    return {
        "split": split_name,
        **report,
        "model": meta["model"]["name"],
        "dataset": dataset,
        "skipped": skipped,
        "checkpoint": str(trained.checkpoint.path),
        "epoch": meta["epochs_done"],
        "parameters": trained.parameters,
        "train_seconds": _train_seconds(trained.checkpoint.path),
        "versions": versions(),
    }


def _train_seconds(checkpoint: Path) -> float | None:
    """What the run's epochs took, if the checkpoint still lies in its run folder."""
    rows = read_rows(rundir.folder_of(checkpoint) / "metrics.jsonl")
    return round(sum(row["seconds"] for row in rows), 3) if rows else None


def write_predictions(folder: Path, report: Report, logits: NDArray[np.float32], images: Images) -> None:
    """predictions.npz into the folder."""
    key = "path" if images.ids.dtype.kind == "U" else "index"
    arrays: dict[str, Any] = {
        "labels": images.labels,
        "probabilities": metrics.softmax(logits),
        key: images.ids,
        "classes": np.array([row["class"] for row in report["per_class"]], dtype=np.str_),
    }
    file = io.BytesIO()
    np.savez(file, **arrays)
    write_whole(folder / "predictions.npz", file.getvalue())


def write_report(folder: Path, report: Report) -> None:
    """report.json into the folder, last of all: where it stands, the rest is there."""
    write_whole(folder / "report.json", (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())


def table(report: Report, images_word: str) -> list[str]:
    """The result as lines for the terminal: accuracy, then a row for each class (or the worst), under 80 columns."""
    low, high = (bound * 100 for bound in report["accuracy_ci95"])
    macro = {name: report[name]["macro"] * 100 for name in ("precision", "recall", "f1")}
    lines = [
        f"test     {report['n']:,} images, {images_word}",
        f"         accuracy {report['accuracy'] * 100:.1f} % ({low:.1f} to {high:.1f})  "
        f"precision {macro['precision']:.1f}  recall {macro['recall']:.1f}  F1 {macro['f1']:.1f}",
    ]
    if "robust_accuracy" in report:
        low, high = (bound * 100 for bound in report["robust_accuracy_ci95"])
        attack = report["attack"]
        steps = f", {attack['steps']} steps" if "steps" in attack else ""
        how = f"{attack['name']} {attack['norm']} {attack['eps']:.3g}{steps}"
        lines.append(
            f"         robust accuracy {report['robust_accuracy'] * 100:.1f} % ({low:.1f} to {high:.1f}), {how}"
        )
    rows = sorted(enumerate(report["per_class"]), key=lambda pair: -pair[1]["f1"])
    left_out = len(rows) - WORST if len(rows) > ALL_ROWS else 0
    width = min(20, max(5, *(len(row["class"]) for _, row in rows)))
    lines.append(f"{'class':<{width}}  precision  recall     F1  images")
    if left_out:
        lines.append(f"... {left_out} better ones; all of them are in report.json")
    for i, row in rows[left_out:]:
        name = row["class"] if len(row["class"]) <= width else row["class"][: width - 3] + "..."
        numbers = (
            f"{name:<{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:5.3f}  {row['support']:6,}"
        )
        lines.append(numbers + _confusion(report, i, 80 - len(numbers)))
    return lines


def _confusion(report: Report, i: int, room: int) -> str:
    """'  most often taken for dog (181)' where a class loses more than a tenth of its images to another."""
    row = [0 if j == i else count for j, count in enumerate(report["confusion_matrix"][i])]
    most = max(row)
    if most == 0 or most < 0.1 * report["per_class"][i]["support"]:
        return ""
    text = f"  most often taken for {report['per_class'][row.index(most)]['class']} ({most:,})"
    return text if len(text) <= room else ""


def empty_classes(report: Report) -> str | None:
    """A warning that names the classes without images: they count as 0 in the macro averages."""
    names = [row["class"] for row in report["per_class"] if row["support"] == 0]
    if not names:
        return None
    return (
        f"no images of {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}; they count as 0 in the macro averages"
    )


# --- the command -----------------------------------------------------------------------------------------------------


def evaluate(
    config: EvaluateConfig,
    dataset: Node | None,
    changes: Mapping[str, Any],
    own_names: frozenset[str],
    *,
    attack: Node | None = None,
    attack_changes: Mapping[str, Any] = MappingProxyType({}),
    is_quiet: bool,
) -> Report:
    """Run the command.

    dataset: the node of another data set than the run's own; changes: keys changed in the run's own one. attack,
    attack_changes: the same for the attack that the robust accuracy is measured under.
    own_names: names of the user's own code that were typed for this command.
    """
    choose_precision(config.precision, choose_device(config.device))
    checkpoint = rundir.best_checkpoint(config.checkpoint)
    if config.output and (Path(os.path.expanduser(config.output)) / "config.yaml").exists():
        raise ConfigError(
            f"output: {config.output} is a run's own folder, which evaluate does not change; name another"
        )
    if config.output and os.path.isfile(os.path.expanduser(config.output)):
        raise ConfigError(f"output: {config.output} is a file; name a folder")
    stored = checkpoint.meta.get("chosen", {})
    threads = config.threads or stored.get("threads")
    with session(config.device, "fp32" if config.precision == "auto" else config.precision, threads) as runtime:
        log = Logbook(is_main=True, is_quiet=is_quiet)
        trained = restore(checkpoint, runtime, own_names)
        choice = _choose(checkpoint.meta, dataset, changes, own_names)
        component = choose_attack(checkpoint.meta, attack, attack_changes)
        source = load_source(choice)
        for note in source.notes:
            log.say(note)
        for doubt in source.warnings:
            log.warn(doubt)
        images, how = _part(source, choice, config.split, trained.classes)
        is_sample = config.split == "test" and set(changes) == {"test_limit"}  # more or fewer of the same test images
        if dataset is None and config.split != "all" and not is_sample:
            rundir.check_same_images(rundir.folder_of(checkpoint.path), {config.split: images})
        if config.split != "train" and (count := _trained_on(checkpoint, choice, images)):
            log.warn(f"{count:,} of these {len(images):,} images were used in training")
        log.say(f"data     {choice.name}: {describe_parts({config.split: images})}{how}")
        log.say(f"model    {checkpoint.meta['model']['name']} from {checkpoint.path}")
        log.say(f"device   {runtime.describe()}\n")
        if config.tta != "none" and not source.mirror:
            log.warn(f"tta={config.tta} looks at mirror images too, which for {choice.name} may be of no class")
        fetcher = fetcher_of(trained, images, runtime, loader="auto", workers=auto_workers(runtime))
        report, logits = assess(trained, images, fetcher, runtime, tta=config.tta)
        if (made := component()) is not None:
            report |= assess_attacked(trained, images, fetcher, runtime, made, component.node, tta=config.tta)
    report = complete(report, trained, config.split, choice.name, source.skipped)
    report |= {} if config.tta == "none" else {"tta": config.tta}
    default = _default_output(checkpoint.path, choice.name, config.split)
    folder = Path(os.path.expanduser(config.output)) if config.output else default
    write_predictions(folder, report, logits, images)
    write_report(folder, report)
    if warning := empty_classes(report):
        log.warn(warning)
    for line in table(report, f"the {config.split} split of {choice.name}"):
        log.result(line)
    log.result(f"\nreport   {folder / 'report.json'}")
    return report


def _choose(
    meta: Mapping[str, Any], dataset: Node | None, changes: Mapping[str, Any], own_names: frozenset[str]
) -> DataChoice:
    node = dataset
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
            raise configs.unknown_key(f"dataset.{unknown[0]}", known)
    name = str(node.get("name"))
    return choose_data(node, trusted=dataset is not None or name in own_names)


def choose_attack(meta: Mapping[str, Any], attack: Node | None, changes: Mapping[str, Any]) -> Component:
    """The attack that is named, else the one that the model was trained against, whose knobs hold until changed."""
    try:
        own = meta["config"].get("attack") or option_node("attack", "none")
        chosen = select(ATTACKS, own, "attack")
    except (ConfigError, TypeError, AttributeError, KeyError) as error:
        if attack is not None:
            return select(ATTACKS, attack, "attack")
        raise CheckpointError(f"the checkpoint's attack is damaged ({error}); name one, or attack=none") from error
    if attack is not None and attack["name"] != chosen.name:
        return select(ATTACKS, attack, "attack")
    if changes and chosen.name == "none":
        raise ConfigError(f"attack.{next(iter(changes))}: the model was trained without an attack; add attack=pgd")
    if changes.get("norm", own.get("norm")) != own.get("norm"):  # the sizes of one norm mean nothing in the other
        changes = {"eps": None, "step_size": None, **changes}
    return select(ATTACKS, {**own, **changes}, "attack") if changes else chosen


def _trained_on(checkpoint: Checkpoint, choice: DataChoice, images: Images) -> int:
    """How many of the images the model was trained on, where they lie in the run's own folder or table."""
    config = checkpoint.meta.get("config")
    own = config.get("dataset") if isinstance(config, Mapping) else None
    is_own = _root(choice.source.node) == _root(own)
    return rundir.count_trained(rundir.folder_of(checkpoint.path), images) if is_own else 0


def _root(node: object) -> str | None:
    """The folder or table of the user's own images, if the data set's node names one."""
    root = node.get("root") if isinstance(node, Mapping) else None
    return os.path.realpath(os.path.expanduser(root)) if isinstance(root, str) else None


def _part(source: Source, choice: DataChoice, name: str, classes: tuple[str, ...]) -> tuple[Images, str]:
    """The images of the split, labelled by the model's classes, and a phrase on how the split came about."""
    if set(source.classes) - set(classes):
        both = f"it has {_listing(source.classes)}; the model has {_listing(classes)}"
        raise DataError(f"{choice.name} has other classes than the model: {both}")
    if name == "all":
        images, how = _everything(source), "; every image it has"
    else:
        splits = split(source, choice.options)
        part = {"train": splits.train, "val": splits.val, "test": splits.test}[name]
        if part is None:
            raise ConfigError(f"split: {choice.name} has no {name} part")
        images, how = part, "".join(f"; {words}" for words in splits.how if words.startswith(name))
    return images.relabel([classes.index(each) for each in source.classes]), how


def _everything(source: Source) -> Images:
    parts = list(source.parts.values())
    if len(parts) == 1:
        return parts[0]
    labels = np.concatenate([part.labels for part in parts])
    if parts[0].pixels is not None:
        return Images(labels, pixels=np.concatenate([part.pixels for part in parts if part.pixels is not None]))
    paths = [path for part in parts for path in part.paths or ()]
    return Images(labels, paths=paths, ids=np.concatenate([part.ids for part in parts]))


def _listing(classes: tuple[str, ...]) -> str:
    return f"{', '.join(classes[:10])}{f' ... ({len(classes)} in all)' if len(classes) > 10 else ''}"


def _default_output(path: Path, dataset: str, split_name: str) -> Path:
    run = rundir.folder_of(path)
    run = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run
    return run / "evaluations" / f"{dataset}-{split_name}"
