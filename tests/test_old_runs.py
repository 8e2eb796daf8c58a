"""Runs of the version before the packages, kept as they were written: they resume, evaluate and predict as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from imgcls.cli.app import main

OLD_RUNS = Path(__file__).parent / "old_runs"


@pytest.fixture(params=["finished", "interrupted"])
def run(request: pytest.FixtureRequest) -> Path:
    """A copy of an old run in the working folder: linear; and an MLP with dropout, EMA and strong augmentation."""
    return Path(shutil.copytree(OLD_RUNS / request.param, request.param))


def test_it_evaluates(run: Path) -> None:
    assert main(["evaluate", str(run), "output=again"]) == 0
    assert json.loads(Path("again/report.json").read_text())["n"] == 100


def test_its_evaluation_is_the_report_that_it_wrote() -> None:
    shutil.copytree(OLD_RUNS / "finished", "finished")
    assert main(["evaluate", "finished", "output=again"]) == 0
    before, now = (json.loads(Path(run, "report.json").read_text()) for run in ("finished", "again"))
    assert now["accuracy"] == before["accuracy"]
    assert now["loss"] == pytest.approx(before["loss"], rel=1e-4)
    with np.load("finished/predictions.npz") as old, np.load("again/predictions.npz") as new:
        assert old.files == new.files
        assert np.allclose(old["probabilities"], new["probabilities"], atol=1e-5)


def test_it_resumes_from_its_last_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = len((run / "metrics.jsonl").read_text().splitlines())
    assert main(["train", f"resume={run}", f"epochs={done + 1}"]) == 0
    assert f"(epoch {done + 1} of {done + 1})" in capsys.readouterr().err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, done + 2))
    assert rows[-1]["val_loss"] == pytest.approx(rows[-2]["val_loss"], rel=0.2)  # not begun anew
    assert (run / "report.json").is_file()


def test_a_finished_one_has_nothing_left_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(OLD_RUNS / "finished", "finished")
    assert main(["train", "resume=finished"]) == 0
    assert "already complete (epoch 2/2)" in capsys.readouterr().err
