"""The header says what compile, deterministic and precision amount to here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from imgcls.cli.app import main
from imgcls.config.components import Component
from imgcls.config.schema import TrainConfig
from imgcls.loggers.run_log import RunLog
from imgcls.models.lenet import lenet
from imgcls.runtime.session import Runtime
from imgcls.training import summary as header


def said(config: TrainConfig, capsys: pytest.CaptureFixture[str], *, model: str = "lenet", kind: str = "cpu") -> str:
    runtime = Runtime(torch.device(kind), "fp32", 1)
    header.say_speed(RunLog(is_main=True), config, runtime, Component("model", model, lenet, {}), False, "auto: why")
    return capsys.readouterr().err


def test_what_was_not_asked_for_is_not_said(
    config: Callable[..., TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(config(), capsys) == ""
    assert said(config("compile=auto"), capsys) == "compile  no (auto: why)\n"


def test_deterministic_says_what_it_costs(
    config: Callable[..., TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "costs nothing on a CPU" in said(config("deterministic=true"), capsys)
    assert "slower ones" in said(config("deterministic=true"), capsys, kind="cuda")


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bf16_is_pointed_out_where_it_pays(
    has_bf16: bool,
    config: Callable[..., TrainConfig],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(header, "cpu_has_bf16", lambda: has_bf16)
    assert ("precision=bf16" in said(config(), capsys, model="resnet18")) is has_bf16
    assert "precision=bf16" not in said(config(), capsys, model="lenet")
    assert "precision=bf16" not in said(config("precision=fp32"), capsys, model="resnet18")
    assert "precision=bf16" not in said(config(), capsys, model="resnet18", kind="cuda")


def test_loss_and_weights_of_the_classes_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "model=linear", "dataset.limit=100", "dataset.test_limit=20", "epochs=1", "threads=1"]
    assert main([*words, "loss=binary_cross_entropy", "loss.label_smoothing=1/10", "class_weights=auto"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "loss binary_cross_entropy; labels smoothed by 0.1; classes weighted in the loss" in said
    assert main([*words, "sampler=balanced"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "each class drawn as often as any other" in said
    assert "loss cross_entropy" not in said
