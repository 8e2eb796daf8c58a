"""monitor: which epoch is the best, by each of the figures of validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from imgcls import train
from imgcls.config.schema import Monitor, TrainConfig
from imgcls.data.source import Images
from imgcls.errors import ConfigError
from imgcls.training.validation import FIGURES, MOST_RANKED, Validator, check_watched, quality

Config = Callable[..., TrainConfig]


@pytest.mark.parametrize("monitor", get_args(Monitor))
def test_each_monitored_figure_decides_and_the_loss_breaks_ties(monitor: Monitor) -> None:
    figures = dict.fromkeys(FIGURES, 0.5)
    better = 0.4 if monitor == "val_loss" else 0.6
    assert quality(figures | {monitor: better}, monitor) > quality(figures, monitor)
    assert quality(figures | {"val_loss": 0.4, "val_accuracy": 0.6}, monitor) > quality(figures, monitor)
    for other in {*FIGURES} - {monitor, "val_loss", "val_accuracy"}:
        assert quality(figures | {other: 0.9}, monitor) == quality(figures, monitor)


@pytest.mark.parametrize("monitor", ["val_balanced_accuracy", "val_f1", "val_auc"])
def test_the_best_by_other_figures_is_kept_and_they_are_those_of_the_report(
    monitor: str, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a net that gets worse, tested on validation."""
    words = ("model=mlp", "epochs=6", "optimizer.lr=0.05", "test=false", f"monitor={monitor}", "run_dir=run")
    report = train.train(config(*words))
    assert report is not None
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda one: (one[monitor], -one["val_loss"]))
    assert report["epoch"] == best["epoch"]
    assert best["val_balanced_accuracy"] == pytest.approx(report["balanced_accuracy"], abs=1e-12)
    assert best["val_f1"] == pytest.approx(report["f1"]["macro"], abs=1e-12)
    assert best["val_auc"] == pytest.approx(report["roc_auc"], abs=1e-12)
    said = capsys.readouterr().err
    assert f"best by {monitor}" in said
    assert all(len(line) <= 80 for line in said.splitlines())
    assert f"{rows[0][monitor]:.3f}" in said


def test_early_stopping_by_another_figure(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    train.train(
        config(
            "model=mlp",
            "epochs=50",
            "patience=2",
            "optimizer.lr=0.03",
            "scheduler=constant",
            "monitor=val_auc",
            "run_dir=run",
        )
    )
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    best = max(range(len(rows)), key=lambda i: (rows[i]["val_auc"], -rows[i]["val_loss"]))
    assert len(rows) == best + 3 < 50
    assert "early stopping: val_auc has not improved for 2 epochs" in capsys.readouterr().err


def test_the_auc_of_many_classes_is_computed_if_it_is_monitored() -> None:
    labels = np.arange(MOST_RANKED + 1)
    images = Images(labels, pixels=np.zeros((len(labels), 2, 2), np.uint8))
    logits = np.eye(len(labels), dtype=np.float32)
    cases: dict[Monitor, float | None] = {"val_accuracy": None, "val_auc": 1.0}
    for monitor, expected in cases.items():
        nothing: Any = None
        validator = Validator(images, nothing, nothing, nothing, nothing, monitor=monitor)
        assert validator._figures(logits, labels)["val_auc"] == expected


@pytest.mark.parametrize(
    ("counts", "said"), [([3, 0], "none of b; use monitor=val_balanced_accuracy"), ([3], "two classes or more")]
)
def test_an_auc_that_is_undefined_cannot_be_monitored(counts: list[int], said: str) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    images = Images(labels, pixels=np.zeros((len(labels), 2, 2), np.uint8))
    check_watched("val_f1", 3, images, ("a", "b")[: len(counts)])
    with pytest.raises(ConfigError, match=said):
        check_watched("val_auc", None, images, ("a", "b")[: len(counts)])
