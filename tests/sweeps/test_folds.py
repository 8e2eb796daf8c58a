"""The folds of a configuration: means, deviations and one report on all images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgcls import metrics
from imgcls.sweeps import folds
from imgcls.sweeps.jobs import Job, Plan
from imgcls.sweeps.results import as_json

COUNT, CLASSES = 60, ("a", "b", "c")


def job(number: int, fold: int, *words: str, of: int = 3, **changed: Any) -> Job:
    """A finished job on every third image."""
    folder = Path(str(number))
    folder.mkdir()
    rng = np.random.default_rng(number)
    ids = np.arange(fold, COUNT, of)
    probabilities = rng.dirichlet([0.5] * 3, len(ids)).astype(np.float32)
    report = {
        "split": "test",
        **metrics.report(np.log(probabilities), ids % 3, CLASSES),
        "model": "linear",
        "dataset": "x",
        "skipped": 0,
        "checkpoint": f"{folder}/best",
        "versions": {},
        "group": None,
        "fold": fold,
        "folds": of,
        **changed,
    }
    (folder / "report.json").write_text(json.dumps(report))
    np.savez(folder / "predictions.npz", labels=ids % 3, probabilities=probabilities, index=ids)
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "val_accuracy": 0.5 + number / 10}) + "\n")
    return Job(Plan(["dataset.folds=3", f"dataset.fold={fold}", *words], [], ""), "", folder, 0)


def test_the_folds_end_in_means_and_one_report() -> None:
    jobs = [job(i, i, epoch=1) for i in range(3)]
    (group,), lines = folds.summarized(Path(), jobs)
    each = [json.loads(Path(str(i), "report.json").read_text())["accuracy"] for i in range(3)]
    assert group["overrides"] == ["dataset.folds=3"]
    assert group["jobs"] == [0, 1, 2]
    assert group["n"] == 3
    assert group["test_mean"] == pytest.approx(np.mean(each), abs=1e-12)
    assert group["test_std"] == pytest.approx(np.std(each, ddof=1), abs=1e-12)
    assert group["val_mean"] == pytest.approx(0.6, abs=1e-12)
    pooled = json.loads(Path("pooled/report.json").read_text())
    assert (pooled["n"], pooled["folds"], pooled["fold"], pooled["split"]) == (COUNT, 3, None, "test")
    assert pooled["fold_accuracy"] == each
    with np.load("pooled/predictions.npz") as file:
        assert sorted(file["index"].tolist()) == list(range(COUNT))
        assert (file["labels"] == file["index"] % 3).all()
        right = file["probabilities"].argmax(axis=1) == file["labels"]
        loss = -np.log(file["probabilities"][np.arange(COUNT), file["labels"]]).mean()
    assert pooled["accuracy"] == right.mean()
    assert pooled["loss"] == pytest.approx(loss, rel=1e-5)
    assert lines[1].startswith(f"folds    3 of 3: test acc {np.mean(each):.1%} ± {np.std(each, ddof=1) * 100:.1f}")
    assert f"60 images, each tested once: accuracy {pooled['accuracy']:.1%}" in lines[2]
    assert max(map(len, "\n".join(lines).split("\n"))) <= 80
    assert json.loads(as_json(jobs, [group]))["groups"] == [group]
    assert "groups" not in json.loads(as_json(jobs))


def test_each_configuration_has_its_own_report() -> None:
    jobs = [job(3 * k + i, i, f"model={name}") for k, name in enumerate(("lenet", "mlp")) for i in range(3)]
    groups, lines = folds.summarized(Path(), jobs)
    assert [group["report"] for group in groups] == ["pooled-0/report.json", "pooled-1/report.json"]
    assert [group["overrides"][1] for group in groups] == ["model=lenet", "model=mlp"]
    assert sum("model=mlp" in line for line in lines) == 1


def test_what_is_no_cross_validation_says_nothing() -> None:
    jobs = [job(0, 0), job(1, 1)]
    for one in jobs:
        one.plan.words.pop(1)
    assert folds.summarized(Path(), jobs) == ([], [])
    assert folds.summarized(Path(), [job(2, 2)]) == ([], [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("a fold is not done", "of 3 folds, 0, 1 are done"),
        ("a fold is missing", "of 4 folds, 0, 1, 2 are done"),
        ("an image twice", "20 images are tested in several folds"),
        ("not tested", "the test images are left alone (test=false)"),
        ("another data set", "the folds have different classes"),
        ("no predictions", "No such file"),
    ],
)
def test_why_there_is_no_report_on_all(change: str, words: str) -> None:
    (Path("pooled")).mkdir()
    (Path("pooled") / "report.json").write_text("{}")
    of = 4 if change == "a fold is missing" else 3
    jobs = [job(i, i, of=of, **({"split": "val"} if change == "not tested" else {})) for i in range(3)]
    if change == "a fold is not done":
        Path("2/report.json").unlink()
    if change == "an image twice":
        Path("2/predictions.npz").write_bytes(Path("1/predictions.npz").read_bytes())
    if change == "no predictions":
        Path("2/predictions.npz").unlink()
    if change == "another data set":
        report = json.loads(Path("2/report.json").read_text())
        report["per_class"][0]["class"] = "z"
        Path("2/report.json").write_text(json.dumps(report))
    (group,), lines = folds.summarized(Path(), jobs)
    assert group["report"] is None
    assert words in lines[-1]
