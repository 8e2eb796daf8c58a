"""report.json and predictions.npz."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgcls import metrics
from imgcls.checkpoints.format import Checkpoint
from imgcls.data.source import Images
from imgcls.files import write_whole
from imgcls.loggers.run_log import read_rows
from imgcls.runs import folder as run_folders
from imgcls.runs.provenance import versions
from imgcls.text import listing

Report = dict[str, Any]


def complete(
    report: Report, checkpoint: Checkpoint, parameters: int, split_name: str, dataset: str, skipped: int
) -> Report:
    """The report with what it is a report of, in the order of the contract.

    skipped: files of the data set that were left out since they are broken (dataset.on_error=skip).
    """
    meta = checkpoint.meta
    return {
        "split": split_name,
        **report,
        "model": meta["model"]["name"],
        "dataset": dataset,
        "skipped": skipped,
        "checkpoint": str(checkpoint.path),
        "epoch": meta["epochs_done"],
        "parameters": parameters,
        "train_seconds": _train_seconds(checkpoint.path),
        "versions": versions(),
    }


def _train_seconds(checkpoint: Path) -> float | None:
    """What the run's epochs took, if the checkpoint still lies in its run folder."""
    rows = read_rows(run_folders.folder_of(checkpoint) / "metrics.jsonl")
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


def empty_classes(report: Report) -> str | None:
    """A warning that names the classes without images: they count as 0 in the macro averages."""
    names = [row["class"] for row in report["per_class"] if row["support"] == 0]
    if not names:
        return None
    return f"no images of {listing(names)}; they count as 0 in the macro averages"
