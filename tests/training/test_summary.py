"""The summary at the top of a run: every default that changes the result is printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from imgcls.cli.app import main
from imgcls.config.components import Component
from imgcls.config.schema import TrainConfig
from imgcls.models.lenet import lenet
from imgcls.runtime.session import Runtime, session
from imgcls.training import summary as summaries
from imgcls.training.builder import Run, build
from imgcls.training.spec import RunSpec


@pytest.fixture
def text(config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function from overrides to the summary's lines on the device, of a run that claims that model and device."""
    with session("cpu", "fp32", 1) as runtime:
        made = config("model=linear", "compile=auto", "epochs=1")
        run: Run = build(made, RunSpec.from_config(made), runtime, {})

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")

    def make(*words: str, model: str = "lenet", kind: str = "cpu") -> str:
        pretended = dataclasses.replace(
            run,
            config=config(*words),
            runtime=Runtime(torch.device(kind), "fp32", 1),
            model=Component("model", model, lenet, {}),
            compiled=(False, "auto: why"),
        )
        return "\n".join(summaries._device(pretended)[1:])

    return make


def test_what_was_not_asked_for_is_not_printed(text: Callable[..., str]) -> None:
    assert text() == ""
    assert text("compile=auto") == "compile  no (auto: why)"


def test_deterministic_says_what_it_costs(text: Callable[..., str]) -> None:
    assert "free on a CPU" in text("deterministic=true")
    assert "slower kernels" in text("deterministic=true", kind="cuda")


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bf16_is_pointed_out_if_it_pays(
    has_bf16: bool, text: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "cpu_has_bf16", lambda: has_bf16)
    assert ("precision=bf16" in text(model="resnet18")) is has_bf16
    assert "precision=bf16" not in text(model="lenet")
    assert "precision=bf16" not in text("precision=fp32", model="resnet18")
    assert "precision=bf16" not in text(model="resnet18", kind="cuda")


def test_loss_class_weights_and_sampling_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "model=linear", "dataset.limit=100", "dataset.test_limit=20", "epochs=1", "threads=1"]
    assert main([*words, "loss=binary_cross_entropy", "loss.label_smoothing=1/10", "class_weights=auto"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "loss binary_cross_entropy; label smoothing 0.1; class weights" in said
    assert main([*words, "sampler=balanced"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "balanced sampling" in said
    assert "loss cross_entropy" not in said
