"""Cross-validation: the jobs of a sweep that differ in dataset.fold alone, in means and in one report on all images."""

from __future__ import annotations

import json
import shutil
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from imgcls.errors import ImgclsError, RunError
from imgcls.sweeps.jobs import Job
from imgcls.text import line, one_line

FOLD = "dataset.fold="
POOLED = "pooled"  # folder in the sweep's


class Tested(NamedTuple):
    """What the test of a fold left: report.json, and the arrays of predictions.npz."""

    report: dict[str, Any]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    ids: NDArray[Any]


def summarized(folder: Path, jobs: Sequence[Job]) -> tuple[list[dict[str, Any]], list[str]]:
    """The groups of jobs that are folds of one configuration, for sweep.json, and lines on them for the terminal.

    Mean and (sample) standard deviation are over the folds that are done. Once all are, the report on the images of
    all folds together is in the sweep's folder, in pooled/ or for each configuration in pooled-0/, pooled-1/, ...
    """
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, job in enumerate(jobs):
        if any(word.startswith(FOLD) for word in job.plan.words):
            found[tuple(word for word in job.plan.words if not word.startswith(FOLD))].append(i)
    groups, lines = [], list[str]()
    several = [(words, numbers) for words, numbers in found.items() if len(numbers) > 1]
    common = set.intersection(*(set(words) for words, _ in several)) if several else set()
    for k, (words, numbers) in enumerate(several):
        place = folder / (POOLED if len(several) == 1 else f"{POOLED}-{k}")
        try:
            pooled, why = _pooled([jobs[i].folder for i in numbers if jobs[i].is_done], place)
        except (OSError, ValueError, LookupError, TypeError, BadZipFile, ImgclsError) as error:  # files were changed
            pooled, why = None, one_line(str(error))
        group = _group(words, numbers, [jobs[i].result() for i in numbers])
        group["report"] = None if pooled is None else str(place / "report.json")
        groups.append(group)
        lines += _lines(group, [word for word in words if word not in common], pooled, why)
    return groups, lines


def _group(words: Sequence[str], numbers: Sequence[int], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation of the accuracies over the jobs with these numbers."""
    group: dict[str, Any] = {"overrides": list(words), "jobs": list(numbers)}
    for name, key in (("val", "val_accuracy"), ("test", "accuracy")):
        values = [one[key] for one in results if one[key] is not None]
        group[f"{name}_mean"] = statistics.fmean(values) if values else None
        group[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return group | {"n": sum(one["accuracy"] is not None for one in results)}


def _lines(group: dict[str, Any], words: Sequence[str], pooled: dict[str, Any] | None, why: str) -> list[str]:
    def shown(name: str) -> str:
        mean, std = group[f"{name}_mean"], group[f"{name}_std"]
        return "-" if mean is None else f"{mean:.1%}" + ("" if std is None else f" ± {std * 100:.1f}")

    which = f", {' '.join(words)}" if words else ""
    what = f"{group['n']} of {len(group['jobs'])}{which}: test acc {shown('test')}, val acc {shown('val')}"
    lines = ["", line("folds", f"{what} (mean and deviation)")]
    if pooled is None:
        return [*lines, line("", f"no pooled report: {why}")]
    low, high = (bound * 100 for bound in pooled["accuracy_ci95"])
    accuracy = f"accuracy {pooled['accuracy']:.1%} ({low:.1f} to {high:.1f})"
    lines.append(line("", f"{pooled['n']:,} images, each tested once: {accuracy}"))
    return [*lines, f"report   {group['report']}"]


def _pooled(runs: Sequence[Path], place: Path) -> tuple[dict[str, Any] | None, str]:
    """The report on the tests of all folds, written to the folder with its predictions.npz; or why there is none."""
    tests = [_tested(run) for run in runs]
    if why := _reason(tests):
        shutil.rmtree(place, ignore_errors=True)  # of a sweep that had other jobs
        return None, why
    from imgcls import metrics
    from imgcls.data.source import Images
    from imgcls.reports.report import write_predictions, write_report

    labels, probabilities, ids = (
        np.concatenate([getattr(one, key) for one in tests]) for key in ("labels", "probabilities", "ids")
    )
    first = tests[0].report
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(probabilities.astype(np.float64)), -1e4)
    report = {
        "split": "test",
        **metrics.report(logits, labels, tuple(row["class"] for row in first["per_class"])),
        **{key: first.get(key) for key in ("model", "dataset", "group")},
        "fold": None,
        "folds": first["folds"],
        "skipped": first["skipped"],
        "fold_accuracy": [one.report["accuracy"] for one in tests],
        "checkpoint": None,
        "checkpoints": [one.report["checkpoint"] for one in tests],
        "versions": first["versions"],
    }
    try:
        place.mkdir(exist_ok=True)
        images = Images(labels, paths=[""] * len(labels), ids=ids)
        write_predictions(place, report, logits, images)
        write_report(place, report)
    except OSError as error:
        raise RunError(f"cannot write {error.filename}: {error.strerror}") from error
    return report, ""


def _tested(run: Path) -> Tested:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    if report.get("split") != "test":
        return Tested(report, np.array([], np.int64), np.array([], np.float32), np.array([]))
    with np.load(run / "predictions.npz", allow_pickle=False) as file:
        return Tested(report, file["labels"], file["probabilities"], file["path" if "path" in file else "index"])


def _reason(tests: Sequence[Tested]) -> str:
    """Why these tests are not one test of each image; empty if they are."""
    if any(one.report.get("split") != "test" for one in tests):
        return "the test images are left alone (test=false)"
    wanted = {one.report["folds"] for one in tests}
    there = sorted(one.report["fold"] for one in tests)
    if len(wanted) != 1 or there != list(range(*wanted)):
        return (
            f"of {'/'.join(map(str, sorted(wanted))) or 'all'} folds, {', '.join(map(str, there)) or 'none'} are done"
        )
    ids = [name for one in tests for name in one.ids.tolist()]
    if len({*ids}) < len(ids):
        return f"{len(ids) - len({*ids}):,} images are tested in several folds, as their data sets or keys differ"
    classes = {tuple(row["class"] for row in one.report["per_class"]) for one in tests}
    return "" if len(classes) == 1 else "the folds have different classes"
