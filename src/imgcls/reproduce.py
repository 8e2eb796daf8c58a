"""``imgcls reproduce``: a run's stored configuration once more, and whether its weights and figures come out again."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from imgcls import train
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints.format import Checkpoint
from imgcls.checkpoints.state import AVERAGE, MODEL
from imgcls.config.parsing import parse
from imgcls.config.schema import ReproduceConfig, TrainConfig
from imgcls.data.datamodule import with_stored_tables
from imgcls.errors import CheckpointError, ConfigError, Mismatch
from imgcls.loggers.run_log import read_rows
from imgcls.models.pretrained import is_file
from imgcls.runs import fingerprint
from imgcls.runs import folder as run_folders
from imgcls.runs.provenance import read_provenance
from imgcls.runtime.device import choose_device, choose_precision
from imgcls.text import line, show
from imgcls.training.resume import resumed_config
from imgcls.training.spec import RunSpec, weights

Found = dict[str, Any]
KEPT = ("precision", "loader", "compile")  # keys whose auto is what it became in the run
NO_FIGURES = ("seconds", "images_per_second", "train_seconds", "checkpoint", "versions", "chosen")
STORED = ("git_dirty", "processes", "data_fingerprint")  # of provenance.json
NAMED = 3  # figures that differ, in the text


def reproduce(
    config: ReproduceConfig, *, own_names: frozenset[str] = frozenset(), is_quiet: bool = False
) -> Found | None:
    """Run the command; returns what --json prints (in the main process).

    own_names: names of the user's own code that were typed for this command. Raises DataError, before it trains, if
    the images have changed, and Mismatch if the run does not come out the same.
    """
    word = os.path.expanduser(config.checkpoint)
    folder = run_folders.run_folder(str(run_folders.folder_of(Path(word))) if os.path.isfile(word) else word)
    if not (folder / "report.json").is_file():
        raise CheckpointError(
            f"{folder} is not finished; finish it first: imgcls train resume={shlex.quote(str(folder))}"
        )
    best = run_folders.best_checkpoint(str(folder))
    again = _again(folder, best, config)
    report = train.begin(again, _spec(folder, best, again, own_names), same_as=folder, is_quiet=is_quiet)
    if report is None:
        return None
    found = compare(folder, Path(report["checkpoint"]).parent.parent)
    if not is_quiet:
        print("\n".join(describe(found)))
    if not (found["weights_match"] and found["metrics_match"]):
        raise Mismatch(f"{found['reproduction']} is not the same as {folder}", found)
    return found


def _again(folder: Path, best: Checkpoint, config: ReproduceConfig) -> TrainConfig:
    """The run's own configuration, with what auto became there. Raises ConfigError for another kind of device."""
    _, table = resumed_config(str(folder), {})
    chosen = best.meta["chosen"]
    device, was = choose_device(config.device or table["device"]).type, chosen.get("device")
    if was not in (None, device) and config.device is None:
        why = f"{folder} was trained on {was}, which is not here, and its weights would not come out the same"
        raise ConfigError(f"device: {why}; device={device} runs it all the same")
    if was in (None, device):
        table |= {key: chosen[key] for key in KEPT if table[key] == "auto" and key in chosen}
    if table["model"]["pretrained"] == "auto" and chosen.get("pretrained") is False:
        table["model"]["pretrained"] = False
    table |= {"device": config.device or table["device"], "threads": table["threads"] or chosen["threads"]}
    return parse(TrainConfig, {**table, "run_dir": config.run_dir})


def _spec(folder: Path, best: Checkpoint, config: TrainConfig, own_names: frozenset[str]) -> RunSpec:
    """The run's components, its data cut as it was, with the tables that it stored."""
    run_folders.check_new(config.run_dir)
    choose_precision(config.precision, choose_device(config.device))
    spec = RunSpec.from_config(config, own_names)
    data = replace(with_stored_tables(spec.data, folder), rule=fingerprint.cut_rule(folder, best.meta))
    path = config.model["pretrained"]
    source = weights(config.model["name"], path) if is_file(path) else spec.pretrained
    return replace(spec, data=data, pretrained=source)


# --- what came out ---------------------------------------------------------------------------------------------------


def compare(before: Path, now: Path) -> Found:
    """Whether two runs have the same weights, to the last bit, and the same figures; paths and times do not count."""
    gaps: list[float | None] = []
    for name in (checkpoint_format.BEST, checkpoint_format.LAST):
        if (before / "checkpoints" / name).is_file():
            one, other = (_weights(run / "checkpoints" / name) for run in (before, now))
            gaps += [_gap(one.get(key), other.get(key)) for key in {**one, **other}]
    metrics = _differing(_figures(before), _figures(now))
    return {
        "run": str(before),
        "reproduction": str(now),
        "weights_match": all(gap == 0 for gap in gaps),
        "metrics_match": not metrics,
        "tensors": len(gaps),
        "tensors_differ": sum(gap != 0 for gap in gaps),
        "largest_difference": max((gap for gap in gaps if gap is not None), default=0.0),
        "metrics_differ": metrics,
        "environment_differs": _differing(_environment(before), _environment(now)),
    }


def _weights(path: Path) -> dict[str, torch.Tensor]:
    tensors = checkpoint_format.read(path).tensors
    return {name: tensor for name, tensor in tensors.items() if name.startswith((MODEL, AVERAGE))}


def _gap(before: torch.Tensor | None, now: torch.Tensor | None) -> float | None:
    """The largest difference between two tensors, None if they do not have the same shape and type."""
    if before is None or now is None or (before.shape, before.dtype) != (now.shape, now.dtype):
        return None
    return 0.0 if torch.equal(before, now) else float((before.double() - now.double()).abs().max())


def _figures(run: Path) -> dict[str, Any]:
    """All figures of a run by name: 'epoch 3: val_loss', 'report: accuracy'."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    rows = {f"epoch {row['epoch']}": row for row in read_rows(run / "metrics.jsonl")}
    tables = {**rows, "report": report}.items()
    flat = {f"{name}: {key}": one for name, table in tables for key, one in table.items() if key not in NO_FIGURES}
    return {"epochs": len(rows), **flat}


def _environment(run: Path) -> dict[str, Any]:
    """What a run was made with, as far as it is stored."""
    meta, stored = checkpoint_format.read(run / "checkpoints" / checkpoint_format.BEST).meta, read_provenance(run)
    found = {key: stored[key] for key in STORED if key in stored} | {"git_commit": meta.get("git_commit")}
    if stored:
        lengths = dict.fromkeys(one.get("epochs") for one in (stored, *stored["resumed"]))
        found["epochs asked for, one after the other"] = [*lengths]
    versions = {f"versions.{name}": one for name, one in meta["versions"].items()}
    return {**versions, **found, **{f"chosen.{key}": one for key, one in meta["chosen"].items()}}


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{key: {"before", "now"}} where two tables differ; other versions may have other keys, which do not count."""
    shared = [key for key in before if key in now]
    return {key: {"before": before[key], "now": now[key]} for key in shared if before[key] != now[key]}


def describe(found: Found) -> Iterator[str]:
    """The result as lines under 80 columns."""
    yield ""
    if found["weights_match"]:
        yield line(
            "weights", f"the same to the last bit: {found['tensors']} tensors of the best and the last checkpoint"
        )
    else:
        by = f"by {found['largest_difference']:.3g} at most"
        yield line("weights", f"different: {found['tensors_differ']} of {found['tensors']} tensors, {by}")
    differ = found["metrics_differ"]
    yield line(
        "metrics", f"different: {len(differ)} figures" if differ else "the same in every epoch and in the report"
    )
    for key, one in [*differ.items()][:NAMED]:
        yield line("", f"{key} was {show(one['before'])}, is {show(one['now'])}")
    for i, (key, one) in enumerate(found["environment_differs"].items()):
        yield line("" if i else "differs", f"{key} was {show(one['before'])}, is {show(one['now'])}")
