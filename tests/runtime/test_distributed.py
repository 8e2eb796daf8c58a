"""Several processes: the same samples in the same global batches, one run folder, exact evaluation."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from imgcls.checkpoints import format as checkpoint_format
from imgcls.cli.app import main

WORDS = (
    "dataset.limit=200",
    "dataset.test_limit=60",
    "epochs=2",
    "batch_size=33",
    "threads=1",
    "model=mlp",
    "augment=standard",
    "plots=false",
    "tensorboard=false",
)


def torchrun(*words: str, world: int = 2) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world}", f"--master-port={port}"]
    return subprocess.run(
        [*command, "-m", "imgcls", "train", *words], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.process
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_compute_the_same_as_one() -> None:
    done = torchrun(*WORDS)
    assert done.returncode == 0, done.stderr
    runs = list(Path("outputs").iterdir())
    assert [run.name for run in runs] == ["mlp-digits-1"]
    assert done.stderr.count("data     digits") == 1
    assert main(["train", *WORDS, "run_dir=one"]) == 0
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (runs[0], Path("one"))
    ]
    for several, single in zip(*rows, strict=True):
        for key in ("epoch", "step", "lr"):
            assert several[key] == single[key]
        for key in ("train_loss", "val_loss"):
            assert several[key] == pytest.approx(single[key], rel=1e-4)
    a, b = (checkpoint_format.read(run / "checkpoints/last.safetensors").tensors for run in (runs[0], Path("one")))
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=1e-4, msg=name)
    with np.load(runs[0] / "predictions.npz") as several, np.load("one/predictions.npz") as single:
        assert np.array_equal(several["labels"], single["labels"])
        np.testing.assert_allclose(several["probabilities"], single["probabilities"], atol=1e-3)
    assert main(["evaluate", str(runs[0])]) == 0
    reports = [
        json.loads((runs[0] / name).read_text()) for name in ("report.json", "evaluations/digits-test/report.json")
    ]
    assert reports[0]["accuracy"] == reports[1]["accuracy"]
    assert reports[0]["loss"] == pytest.approx(reports[1]["loss"], rel=1e-6)


@pytest.mark.slow
def test_validation_of_a_model_with_running_statistics_is_exact() -> None:
    words = [word for word in WORDS if word != "model=mlp"] + ["model=resnet18", "dataset.val_fraction=0.3", "epochs=1"]
    words.remove("epochs=2")
    assert torchrun(*words, "run_dir=run").returncode == 0
    row = json.loads(Path("run/metrics.jsonl").read_text())
    assert main(["evaluate", "run", "split=val", "output=val"]) == 0
    report = json.loads(Path("val/report.json").read_text())
    assert row["val_accuracy"] == report["accuracy"]
    assert row["val_balanced_accuracy"] == pytest.approx(report["balanced_accuracy"], abs=1e-12)
    assert row["val_auc"] == pytest.approx(report["roc_auc"], abs=1e-6)
    assert row["val_loss"] == pytest.approx(report["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_batch_smaller_than_the_number_of_processes_is_refused() -> None:
    done = torchrun("batch_size=1", "dataset.limit=50")
    assert "batch_size: 1 is too small to split over 2 processes" in done.stderr
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_an_error_is_reported_once() -> None:
    done = torchrun("epochs=zero")
    assert done.returncode != 0
    assert done.stderr.count("imgcls: error: epochs: expected an integer, got 'zero'") == 1
    assert not Path("outputs").exists()
