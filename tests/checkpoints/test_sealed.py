"""Checkpoints with a valid checksum but invalid content, runs that have lost files, closed streams."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imgcls.checkpoints import format as checkpoint_format
from imgcls.cli.app import main
from imgcls.optim.optimizers import OPTIMIZERS
from tests.conftest import SMALL

Capture = pytest.CaptureFixture[str]
Tensors = dict[str, torch.Tensor]
LAST, PREV, BEST = (
    Path("run/checkpoints", name) for name in (checkpoint_format.LAST, checkpoint_format.PREV, checkpoint_format.BEST)
)
NAME = "optimizer.fc.weight.exp_avg"


def sealed(change: Callable[[Tensors, dict[str, Any]], None]) -> None:
    """Change the run's last checkpoint, and make its checksum valid again."""
    found = checkpoint_format.read(LAST)
    tensors, meta = dict(found.tensors), {key: value for key, value in found.meta.items() if key != "sha256"}
    change(tensors, meta)
    LAST.write_bytes(b"".join(checkpoint_format.encode(tensors, meta)))
    PREV.unlink(missing_ok=True)


def slots(tensors: Tensors, ending: str) -> list[str]:
    return [name for name in tensors if name.startswith("optimizer.") and name.endswith(ending)]


def ones(tensors: Tensors, meta: dict[str, Any]) -> None:
    for name in slots(tensors, ".exp_avg"):
        tensors[name] = torch.ones(1)


def zero_dimensional(tensors: Tensors, meta: dict[str, Any]) -> None:
    for name in slots(tensors, ".exp_avg_sq"):
        tensors[name] = torch.ones(())


def double(tensors: Tensors, meta: dict[str, Any]) -> None:
    tensors[slots(tensors, ".exp_avg")[0]] = tensors[slots(tensors, ".exp_avg")[0]].double()


def lacking(tensors: Tensors, meta: dict[str, Any]) -> None:
    del tensors[slots(tensors, ".exp_avg")[0]]


def negative(tensors: Tensors, meta: dict[str, Any]) -> None:
    tensors[slots(tensors, ".exp_avg_sq")[0]] -= 1


def backwards(tensors: Tensors, meta: dict[str, Any]) -> None:
    for name in slots(tensors, ".step"):
        tensors[name] = torch.tensor(-1.0)


def endless(tensors: Tensors, meta: dict[str, Any]) -> None:
    meta["best"] = [[float("inf"), 0.0, 0], 1]


def no_number(tensors: Tensors, meta: dict[str, Any]) -> None:
    meta["best"] = [[float("nan"), 0.0, 0], 1]


def far(tensors: Tensors, meta: dict[str, Any]) -> None:
    meta["best"] = [[0.5, -0.5, 0], 10**30]


def ahead(tensors: Tensors, meta: dict[str, Any]) -> None:
    meta["epochs_done"] = 1000


CHANGES = [ones, zero_dimensional, double, lacking, negative, backwards, endless, no_number, far, ahead]


@pytest.fixture
def run(lenet_run: Path) -> None:
    shutil.copytree(lenet_run, "run")


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_invalid_content_with_a_valid_checksum_is_refused(
    change: Callable[..., None], run: None, capsys: Capture
) -> None:
    sealed(change)
    before = Path("run/metrics.jsonl").read_bytes(), Path("run/report.json").read_bytes()
    capsys.readouterr()
    assert main(["train", "resume=run", "epochs=5"]) == 3
    err = capsys.readouterr().err.strip().splitlines()
    assert err[-1].startswith("imgcls: error: ")
    assert "--debug" not in err[-1]
    assert before == (Path("run/metrics.jsonl").read_bytes(), Path("run/report.json").read_bytes())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("sgd", "muon") else pytest.mark.slow) for name in OPTIMIZERS]
)
def test_every_optimizers_state_is_accepted(name: str) -> None:
    assert main(["train", *SMALL, f"optimizer={name}", "run_dir=run"]) == 0
    assert main(["train", "resume=run", "epochs=3"]) == 0


def test_stored_group_numbers_are_ignored(run: None) -> None:
    def change(tensors: Tensors, meta: dict[str, Any]) -> None:
        for name in [name for name in meta["optimizer_numbers"] if name.endswith((".eps", ".weight_decay"))]:
            meta["optimizer_numbers"][name] = "x"

    sealed(change)
    assert main(["train", "resume=run", "epochs=3"]) == 0


def test_a_finished_run_without_its_last_checkpoint_is_not_restarted(run: None, capsys: Capture) -> None:
    LAST.unlink()
    PREV.unlink(missing_ok=True)
    before = BEST.read_bytes()
    assert main(["train", "resume=run", "epochs=4"]) == 3
    assert "last.safetensors is missing, so this finished run cannot be resumed" in capsys.readouterr().err
    assert BEST.read_bytes() == before
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_lost_best_is_reported_before_training(how: str, run: None, capsys: Capture) -> None:
    shutil.copy(BEST, "kept")
    BEST.unlink() if how == "missing" else BEST.write_bytes(b"x")
    Path("run/report.json").unlink()
    assert main(["train", "resume=run"]) == 3
    assert "train on with epochs=3 to make a new best checkpoint" in capsys.readouterr().err
    assert main(["train", "resume=run", "epochs=3"]) == 0
    assert "the best of the remaining epochs takes its place" in " ".join(capsys.readouterr().err.split())
    assert json.loads(Path("run/report.json").read_text())["epoch"] == 3


def test_many_threads_are_not_treated_as_damage(run: None) -> None:
    def change(tensors: Tensors, meta: dict[str, Any]) -> None:
        meta["chosen"]["threads"] = 1024

    sealed(change)
    assert checkpoint_format.described(checkpoint_format.read(LAST)).meta["chosen"]["threads"] == 1024


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "closed"),
    [
        ("train {small} run_dir=run", "<&- >&- 2>&-"),
        pytest.param("train {small} run_dir=run", ">&-", marks=pytest.mark.slow),
        pytest.param("train {small} run_dir=run", "2>&-", marks=pytest.mark.slow),
        pytest.param("train -m {small} seed=1 sweep_dir=sweep", "<&- >&- 2>&-", marks=pytest.mark.slow),
        pytest.param("train -m {small} seed=1 sweep_dir=sweep", ">&-", marks=pytest.mark.slow),
        pytest.param("train -m {small} seed=1 sweep_dir=sweep", "2>&-", marks=pytest.mark.slow),
    ],
)
def test_closed_streams(words: str, closed: str) -> None:
    small = " ".join(SMALL)
    command = f"{sys.executable} -m imgcls {words.format(small=small)} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    where = Path("run") if "run_dir" in words else Path("sweep/0")
    assert (where / "report.json").is_file()
    assert "epoch" not in Path(where.parent, ".lock").read_text() if "sweep" in words else True


def test_a_log_that_cannot_be_written_does_not_stop_the_run(capsys: Capture) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    assert main(["train", *SMALL, "run_dir=run"]) == 0
    Path("run/train.log").unlink()
    Path("run/train.log").symlink_to("/dev/full")
    assert main(["train", "resume=run", "epochs=3"]) == 0
    assert capsys.readouterr().err.count("train.log cannot be written (No space left on device)") == 1


def test_a_prediction_that_cannot_be_written_leaves_the_old_file(run: None, capsys: Capture) -> None:
    import resource
    import signal

    from PIL import Image

    Image.new("L", (8, 8)).save("a.png")
    old = "path,label,probability\nb.png,3,0.9\n"
    Path("old.csv").write_text(old)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        assert main(["predict", "run", "a.png", "output=old.csv", "overwrite=true"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert Path("old.csv").read_text() == old
    assert "cannot save" in capsys.readouterr().err


def test_a_number_of_thousands_of_digits(capsys: Capture) -> None:
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/hex.yaml").write_text(f"# @package _global_\nepochs: 0x{'f' * 6000}\n")
    assert main(["train", "--config-dir=own", "experiment=hex"]) == 2
    assert (
        "epochs: must be at least 1 and at most 1,000,000, got a number of thousands of digits"
        in capsys.readouterr().err
    )
