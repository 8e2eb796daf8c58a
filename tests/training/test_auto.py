"""Runs whose model, image size and epochs auto chose: said, stored, kept when they are resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from imgcls.checkpoints.format import LAST, read
from imgcls.cli.app import main
from imgcls.config.components import Component, select
from imgcls.config.options import option_node
from imgcls.config.schema import TrainConfig
from imgcls.data.datamodule import read_splits
from imgcls.models import MODELS, automatic
from imgcls.models.build import MODEL_CONTEXT
from imgcls.runtime.session import Runtime, session
from imgcls.training import summary
from imgcls.training.cost import seconds_per_image
from imgcls.training.dry_run import DryRun
from imgcls.training.spec import RunSpec, check, resolve_auto
from tests.conftest import SMALL

Capture = pytest.CaptureFixture[str]
WORDS = ["dataset=./photos", "threads=1", "plots=false", "tensorboard=false", "run_dir=run"]


def photos(side: int, count: int = 12) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        path = Path("photos", "ab"[i % 2], f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (side, side), np.uint8)).save(path)


def table(monkeypatch: pytest.MonkeyPatch, model: str, size: int, epochs: int, **params: Any) -> None:
    """The table of auto on a CPU becomes this."""
    for row in ("CPU", "CPU_NAMED"):
        monkeypatch.setattr(automatic, row, automatic.Row(model, size, ((automatic.ANY, epochs),), params))


def meta() -> dict[str, Any]:
    return read(Path("run/checkpoints", LAST)).meta


def test_auto_is_said_and_stored(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    photos(230)
    table(monkeypatch, "convnet", 66, 2, widths=[4, 4])
    assert main(["train", *WORDS]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "images resized from 230x230 to 66x66" in said
    assert "model convnet (auto)" in said
    assert "epochs 2 (auto: 9 photos on a CPU) device" in said
    assert yaml.safe_load(Path("run/config.yaml").read_text())["epochs"] == 2
    report = json.loads(Path("run/report.json").read_text())
    chosen = report["chosen"]
    given = {"model": "convnet", "image_size": [66, 66], "epochs": 2, "lr": 0.005}
    assert chosen == {**given, "precision": "fp32", "pretrained": False}
    assert all(meta()["chosen"][key] == value for key, value in chosen.items())
    assert meta()["model"]["widths"] == [4, 4]
    assert main(["evaluate", "run", "output=again"]) == 0
    assert json.loads(Path("again/report.json").read_text())["chosen"] == chosen


def test_a_long_run_says_what_it_and_a_larger_choice_cost(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    photos(230)
    table(monkeypatch, "convnet", 66, 2, widths=[4, 4])
    monkeypatch.setattr(automatic, "cpu_minutes", lambda *_: 1.0)
    asked: list[tuple[str, tuple[int, int, int]]] = []

    def cost(model: Component, shape: tuple[int, int, int], num_classes: int, runtime: Runtime) -> float:
        asked.append((model.name, shape))
        return 10.0 if model.name == "convnet" else 1000.0

    monkeypatch.setattr(summary, "seconds_per_image", cost)
    assert main(["train", *WORDS]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "(auto: 9 photos on a CPU); about 3 min here; resnet18 at 224x224 5 h (model=resnet18 dataset.i" in said
    assert asked == [("convnet", (66, 66, 1)), ("resnet18", (224, 224, 1))]


def test_the_cost_is_measured_without_a_trace() -> None:
    model = select(MODELS, option_node("model", "lenet"), "model", context=MODEL_CONTEXT)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    with session("cpu", "fp32", 1) as runtime:
        assert 0 < seconds_per_image(model, (32, 32, 3), 4, runtime) < 1
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_run_keeps_what_auto_became(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Though the table is another one now, as it is on another device."""
    photos(230)
    table(monkeypatch, "convnet", 66, 1, widths=[4, 4])
    assert main(["train", *WORDS]) == 0
    table(monkeypatch, "mlp", 70, 9)
    capsys.readouterr()
    assert main(["train", "resume=run", "epochs=auto"]) == 0
    assert "already complete (epoch 1/1)" in capsys.readouterr().err
    assert main(["train", "resume=run", "epochs=2"]) == 0
    assert "(epoch 2 of 2)" in capsys.readouterr().err
    chosen = meta()["chosen"]
    assert (chosen["model"], chosen["image_size"], chosen["epochs"]) == ("convnet", [66, 66], 2)
    assert meta()["model"]["widths"] == [4, 4]


@pytest.mark.parametrize("model", ["auto", "linear"])
def test_a_run_at_a_size_that_is_no_default_any_more_resumes_at_it(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Earlier versions kept images of one size up to 512 pixels."""
    photos(226)
    with monkeypatch.context() as earlier:
        earlier.setattr("imgcls.data.geometry.LARGEST_NATIVE", 512)
        table(earlier, "linear", 224, 1)
        assert main(["train", *WORDS, f"model={model}", "epochs=1"]) == 0
    capsys.readouterr()
    assert main(["train", "resume=run", "epochs=2"]) == 0
    assert "resized" not in capsys.readouterr().err
    assert meta()["chosen"]["image_size"] == [226, 226]
    assert json.loads(Path("run/report.json").read_text())["epoch"] in (1, 2)


def test_a_stored_auto_is_damage(capsys: Capture) -> None:
    """It became a number when the run began."""
    assert main(["train", *SMALL, "model=linear", "run_dir=run"]) == 0
    path = Path("run/config.yaml")
    path.write_text(path.read_text().replace("epochs: 2\n", "epochs: auto\n"))
    assert main(["train", "resume=run"]) == 3
    assert "config.yaml: damaged (epochs: expected an integer, got 'auto')" in capsys.readouterr().err


def test_small_images_train_for_20_epochs(capsys: Capture) -> None:
    words = [word for word in SMALL if not word.startswith("epochs")]
    assert main(["train", *words, "model=linear", "run_dir=run"]) == 0
    assert "epochs 20 (auto: images of up to 64 pixels)" in " ".join(capsys.readouterr().err.split())
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 20


def test_a_named_model_is_told_what_its_usual_size_would_cost(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    photos(230)
    table(monkeypatch, "", 70, 1)
    assert main(["train", *WORDS, "model=resnet18", "dataset.limit=4"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "epochs 1 (auto: 4 photos on a CPU); dataset.image_size=224 takes about 10 times as long" in said


@pytest.mark.parametrize(
    "words",
    [
        ("scheduler.warmup_epochs=21",),
        ("scheduler=step", "scheduler.milestones=[5,20]"),
        ("scheduler=cosine", "scheduler.warmup_epochs=20"),
    ],
)
def test_a_schedule_is_checked_against_what_auto_becomes(
    words: tuple[str, ...], config: Callable[..., TrainConfig], capsys: Capture
) -> None:
    made = config("epochs=auto", *words)
    check(made)  # nothing is known of the images yet
    with pytest.raises(Exception, match=r"less than epochs \(20\), got 2[01]"):
        DryRun()(made)
    assert main(["train", *(word for word in SMALL if not word.startswith("epochs")), *words]) == 2
    assert "less than epochs (20)" in capsys.readouterr().err


def test_milestones_that_fit_no_run_are_refused_at_once(config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(Exception, match="milestones must increase, got 2 after 5"):
        check(config("epochs=auto", "scheduler=step", "scheduler.milestones=[5,2]"))


def test_patience_counts_from_the_rise_of_what_auto_becomes(capsys: Capture) -> None:
    words = [word for word in SMALL if not word.startswith("epochs")]
    assert main(["train", *words, "model=linear", "optimizer.lr=1e-9", "patience=1", "run_dir=run"]) == 0
    assert "early stopping, patience 1 from epoch 5, after the rise" in " ".join(capsys.readouterr().err.split())
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 6


def test_a_gpu_gets_resnet50_at_224(config: Callable[..., TrainConfig]) -> None:
    photos(230)
    made = config("dataset=./photos", "epochs=auto")
    spec = RunSpec.from_config(made)
    data = read_splits(spec.data, spec.default_size("cuda"))
    resolved, model, _ = resolve_auto(made, spec, data, "cuda", {})
    assert (model.name, data.image_size, resolved.epochs) == ("resnet50", (224, 224), 60)
    assert resolve_auto(resolved, spec, data, "cpu", {})[0].epochs == 60  # a number stays what it is
