"""The report on a test: report.json and predictions.npz."""

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
    report: Report, checkpoint: Checkpoint, parameters: int, split_name: str | None, dataset: str, skipped: int
) -> Report:
    """The report together with what was tested, in the order of report.json.

    split_name: None if nothing was. skipped: files of the data set that were left out because they are corrupt
    (dataset.on_error=skip).
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
    """The duration of the run's epochs, if the checkpoint is still in its run folder."""
    rows = read_rows(run_folders.folder_of(checkpoint) / "metrics.jsonl")
    return round(sum(row["seconds"] for row in rows), 3) if rows else None


def write_predictions(folder: Path, report: Report, logits: NDArray[np.float32], images: Images) -> None:
    """Write predictions.npz: labels (N,), probabilities (N, C) from the (N, C) logits, path or index (N,), classes."""
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
    """Write report.json, last of all: if it is there, so is the rest."""
    write_whole(folder / "report.json", (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())


def empty_classes(report: Report) -> str | None:
    """A warning about classes without images, which count as 0 in the macro averages; None if there are none."""
    names = [row["class"] for row in report["per_class"] if row["support"] == 0]
    if not names:
        return None
    return f"no images of {listing(names)}; they count as 0 in the macro averages"
