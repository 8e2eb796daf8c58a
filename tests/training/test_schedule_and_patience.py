"""Early stopping waits for the end of the rise; a schedule that is stretched on resume is said to make a jump."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imgcls.cli.app import main
from imgcls.config.options import option_node
from imgcls.config.schema import TrainConfig
from imgcls.optim.schedules import SCHEDULERS, rise_of
from imgcls.training.spec import RunSpec
from imgcls.training.validation import Best, is_exhausted
from tests.conftest import SMALL

Capture = pytest.CaptureFixture[str]
NEVER_BETTER = [*(word for word in SMALL if not word.startswith("epochs")), "model=linear", "optimizer.lr=1e-9"]


@pytest.mark.parametrize(
    ("words", "rise"),
    [
        (["scheduler=onecycle", "epochs=20"], 5),
        (["scheduler=onecycle", "epochs=10"], 3),
        (["scheduler=onecycle", "scheduler.warmup_epochs=7", "epochs=20"], 7),
        (["scheduler=onecycle", "scheduler.warmup_epochs=0", "epochs=20"], 0),
        (["scheduler=cosine", "scheduler.warmup_epochs=2", "epochs=9"], 2),
        (["scheduler=constant", "scheduler.warmup_epochs=1.5", "epochs=9"], 2),
        (["scheduler=constant", "epochs=9"], 0),
        (["scheduler=step", "epochs=9"], 0),
        (["scheduler=linear", "epochs=9"], 0),
    ],
)
def test_the_rise_of_a_schedule(words: list[str], rise: int, config: Callable[..., TrainConfig]) -> None:
    made = config(*words, "patience=3")
    spec = RunSpec.from_config(made)
    assert spec.rise(made) == rise


def test_every_schedule_has_a_rise() -> None:
    for name, function in SCHEDULERS.items():
        params = {key: value for key, value in option_node("scheduler", name).items() if key != "name"}
        assert 0 <= rise_of(lambda steps, epochs, made=function, own=params: made(steps, epochs, **own), 8) < 8


@pytest.mark.parametrize(
    ("best", "done", "is_over"),
    [(1, 5, False), (1, 7, False), (1, 8, True), (6, 8, False), (6, 9, True)],
)
def test_patience_counts_from_the_end_of_the_rise(best: int, done: int, is_over: bool) -> None:
    assert is_exhausted(Best((0.5, 0.0, 0), best), done, 3, 5) == is_over


def test_a_run_does_not_stop_in_the_rise(capsys: Capture) -> None:
    words = [*NEVER_BETTER, "epochs=12", "patience=1", "run_dir=run"]
    assert main(["train", *words]) == 0
    said = capsys.readouterr().err
    assert "early stopping, patience 1 from epoch 3, after the rise" in " ".join(said.split())
    rows = Path("run/metrics.jsonl").read_text().splitlines()
    assert len(rows) == 4
    assert main(["train", "resume=run"]) == 0
    assert "already complete (epoch 4/12); early stopping ended it" in capsys.readouterr().err


def test_a_run_that_an_earlier_version_stopped_stays_complete(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(RunSpec, "rise", lambda self, config: 0)
        assert main(["train", *NEVER_BETTER, "epochs=12", "patience=1", "run_dir=run"]) == 0
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 2
    assert main(["train", "resume=run"]) == 0
    assert "already complete (epoch 2/12); early stopping ended it" in capsys.readouterr().err


def test_a_finished_run_made_longer_says_both_rates(linear_run: Path, capsys: Capture) -> None:
    shutil.copytree(linear_run, "run")
    last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["lr"]
    assert main(["train", "resume=run", "epochs=8"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    found = re.search(r"the learning rate rises from (\S+) to (\S+), 100% of its highest: onecycle now spans 8", said)
    assert found
    assert float(found[1]) == pytest.approx(last, rel=0.01)
    assert float(found[2]) == pytest.approx(0.005, rel=0.01)
    assert main(["train", "resume=run"]) == 0
    assert "learning rate" not in capsys.readouterr().err


@pytest.mark.parametrize(("schedule", "is_said"), [("constant", False), ("linear", True)])
def test_it_is_said_only_if_it_jumps(schedule: str, is_said: bool, capsys: Capture) -> None:
    assert main(["train", *SMALL, "model=linear", f"scheduler={schedule}", "run_dir=run"]) == 0
    capsys.readouterr()
    assert main(["train", "resume=run", "epochs=3"]) == 0
    assert ("the learning rate rises from" in capsys.readouterr().err) == is_said
