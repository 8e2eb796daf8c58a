"""The report on a test: report.json and predictions.npz."""

from __future__ import annotations

import io
import json
import os
import zipfile
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
RESULTS = {
    "report.json": frozenset({"split", "n", "accuracy", "per_class", "checkpoint"}),
    "predictions.npz": frozenset({"labels", "probabilities", "classes"}),
    "confusion_matrix.npz": frozenset({"row", "col", "data", "shape"}),
}  # the files of an evaluation, and some of the keys in each
CHOSEN = ("model", "image_size", "epochs", "lr", "precision", "pretrained")  # by auto: what changes the result


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
        "chosen": {key: meta["chosen"][key] for key in CHOSEN if key in meta.get("chosen", ())},
        "versions": versions(),
    }


def _train_seconds(checkpoint: Path) -> float | None:
    """The duration of the run's epochs, if the checkpoint is still in its run folder."""
    rows = read_rows(run_folders.folder_of(checkpoint) / "metrics.jsonl")
    return round(sum(row["seconds"] for row in rows), 3) if rows else None


def write_predictions(folder: Path, report: Report, logits: NDArray[np.float32], images: Images) -> None:
    """Write predictions.npz: labels (N,), probabilities (N, C) from the (N, C) logits, path or index (N,), classes."""
    key = "path" if images.ids.dtype.kind == "U" else "index"
    probabilities = metrics.softmax(logits)
    arrays: dict[str, Any] = {
        "labels": images.labels,
        "probabilities": probabilities,
        key: images.ids,
        "classes": np.array([row["class"] for row in report["per_class"]], dtype=np.str_),
    }
    file = io.BytesIO()
    np.savez(file, **arrays)
    write_whole(folder / "predictions.npz", file.getbuffer())
    if report["confusion_matrix"] is None:
        _write_sparse(folder / "confusion_matrix.npz", images.labels, probabilities)


def _write_sparse(path: Path, labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> None:
    """The confusion matrix, as scipy.sparse.load_npz reads it: row (true class), col (predicted), data (count)."""
    classes = probabilities.shape[1]
    row, col, data = metrics.confused_pairs(labels, probabilities.argmax(axis=1), classes)
    file = io.BytesIO()
    np.savez_compressed(file, row=row, col=col, data=data, shape=np.array([classes, classes]), format=np.array(b"coo"))
    write_whole(path, file.getbuffer())


def confusion_counts(folder: Path, report: Report, most: int) -> NDArray[np.int64]:
    """The confusion matrix, of the report or its file; of more than ``most`` classes in (at most ``most``)^2 cells.

    Each of those cells is the sum over a square of neighboring classes.
    """
    if report["confusion_matrix"] is not None:
        return np.asarray(report["confusion_matrix"])
    with np.load(folder / "confusion_matrix.npz", allow_pickle=False) as file:
        row, col, data, classes = file["row"], file["col"], file["data"], int(file["shape"][0])
    side = -(-classes // most)  # classes in a cell
    counts = np.zeros((-(-classes // side),) * 2, np.int64)
    np.add.at(counts, (row // side, col // side), data)
    return counts


def write_report(folder: Path, report: Report) -> None:
    """Write report.json, last of all: if it is there, so is the rest."""
    write_whole(folder / "report.json", (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())


def foreign_file(folder: Path) -> str | None:
    """The file in the folder that the result of an evaluation would replace although none wrote it, None if it may.

    Each is known by its keys.
    """
    for name, keys in RESULTS.items():
        path = folder / name
        if os.path.lexists(path) and not _has_keys(path, keys):
            return name
    return None


def _has_keys(path: Path, keys: frozenset[str]) -> bool:
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_text(encoding="utf-8"))
            return isinstance(found, dict) and keys <= found.keys()
        with zipfile.ZipFile(path) as archive:
            return keys <= {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, ValueError, RecursionError, zipfile.BadZipFile):
        return False


def empty_classes(report: Report) -> str | None:
    """A warning about classes without images, which count as 0 in the macro averages; None if there are none."""
    names = [row["class"] for row in report["per_class"] if row["support"] == 0]
    if not names:
        return None
    return f"no images of {listing(names)}; they count as 0 in the macro averages"
