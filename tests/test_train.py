"""A whole run from the command line: what it writes, what it says, and that others can read it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn import metrics as reference
from torch import nn

import imgcls
from imgcls import train
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints.state import State
from imgcls.cli.app import main
from imgcls.config.schema import TrainConfig
from imgcls.data.datamodule import fitting_batch
from imgcls.errors import RunError
from imgcls.training import artifacts
from imgcls.training.callback import TrainingCallback
from tests.conftest import DRAWN, QUIET, SMALL, without_times

Config = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", *DRAWN, f"run_dir={folder}", "model=mlp"]) == 0
    return folder


@pytest.mark.parametrize(
    "words", [["loss=mse"], ["loss=focal", "class_weights={3: 5}"], ["loss=binary_cross_entropy"]], ids=str
)
def test_the_validation_loss_is_the_one_that_is_trained(words: list[str], tmp_path: Path) -> None:
    quiet = ["optimizer=sgd", "optimizer.lr=1e-12", "scheduler=constant", "epochs=1", "model=mlp", "threads=1", *QUIET]
    assert main(["train", *quiet, *words, f"run_dir={tmp_path}/run"]) == 0
    row = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    assert row["val_loss"] == pytest.approx(row["train_loss"], rel=0.05)


def test_captions_say_how_images_are_mixed() -> None:
    classes = ("airplane", "ship", "truck")
    assert artifacts._caption(1, classes) == "ship"
    assert artifacts._caption([0.0, 0.7, 0.3], classes) == "ship .7 truck .3"
    assert artifacts._caption([1.0, 0.0, 0.0], classes) == "airplane"
    assert artifacts._caption([1.0], ("alone",)) == "alone"


def test_the_run_folder_holds_what_the_contract_lists(run: Path) -> None:
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert files >= {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints/last.safetensors",
        "checkpoints/prev.safetensors",
        "checkpoints/best.safetensors",
        "report.json",
        "predictions.npz",
        "plots/curves.png",
        "plots/confusion_matrix.png",
        "plots/mistakes.png",
        "plots/train_batch.png",
        "train.log",
        "split.npz",
    }
    assert any(name.startswith("tensorboard/events") for name in files)
    for plot in (run / "plots").iterdir():
        with Image.open(plot) as image:
            assert min(image.size) > 100, plot


def test_metrics_have_a_line_for_each_epoch(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    keys = "epoch step lr train_loss train_accuracy val_loss val_accuracy val_balanced_accuracy val_f1 val_auc"
    assert all(list(row) == [*keys.split(), "seconds", "images_per_second"] for row in rows)


def test_config_yaml_is_the_configuration(run: Path, config: Config) -> None:
    stored = yaml.safe_load((run / "config.yaml").read_text())
    words = ("model=mlp", "optimizer.lr=0.005", "plots=true", "tensorboard=true")  # auto is stored as what it became
    assert stored == vars(config(*words, f"run_dir={run}"))


def test_the_report_equals_scikit_learns_figures(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    with np.load(run / "predictions.npz", allow_pickle=False) as file:
        labels, probabilities, classes = file["labels"], file["probabilities"], file["classes"]
    predicted = probabilities.argmax(1)
    every: dict[str, Any] = {"labels": range(len(classes)), "zero_division": 0}
    assert report["n"] == len(labels) == 60
    assert report["accuracy"] == reference.accuracy_score(labels, predicted)
    assert report["confusion_matrix"] == reference.confusion_matrix(labels, predicted, labels=range(10)).tolist()
    names = {"precision": reference.precision_score, "recall": reference.recall_score, "f1": reference.f1_score}
    for name, score in names.items():
        for average in ("macro", "micro", "weighted"):
            assert report[name][average] == pytest.approx(score(labels, predicted, average=average, **every), abs=1e-12)
        own = [row[name] for row in report["per_class"]]
        np.testing.assert_allclose(own, score(labels, predicted, average=None, **every), atol=1e-12)
    assert report["loss"] == pytest.approx(reference.log_loss(labels, probabilities, labels=range(10)), rel=1e-5)


def test_evaluate_gives_trains_report_to_the_last_digit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "output=again"]) == 0
    ours, theirs = (json.loads(path.read_text()) for path in (Path("again/report.json"), run / "report.json"))
    assert without_times(ours) == without_times(theirs)
    with np.load("again/predictions.npz") as a, np.load(run / "predictions.npz") as b:
        assert np.array_equal(a["probabilities"], b["probabilities"])
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert main(["evaluate", str(run), "split=val"]) == 0
    assert (run / "evaluations/digits-val/report.json").is_file()
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_evaluate_does_not_write_where_train_wrote(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "report.json").read_bytes()
    assert main(["evaluate", str(run), f"output={run}", "split=val"]) == 2
    assert "output" in capsys.readouterr().err
    assert (run / "report.json").read_bytes() == before


def test_ctrl_c_during_the_test_prints_the_command_that_goes_on(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object, **keys: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_test", interrupt)
    assert main(["train", *SMALL, "run_dir=run"]) == 130
    assert capsys.readouterr().err.splitlines()[-1].endswith("resume with: imgcls train resume=run")


def test_sigterm_during_the_test_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "_test", lambda *args, **keys: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["train", *SMALL, "run_dir=run"]) == 143
    assert capsys.readouterr().err.splitlines()[-1].endswith("resume with: imgcls train resume=run")


@pytest.mark.process
def test_a_reader_that_leaves_early_costs_nothing() -> None:
    command = [sys.executable, "-m", "imgcls", "train", *DRAWN, "model=linear", "run_dir=run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 0
    assert Path("run/report.json").is_file()
    assert Path("run/plots/mistakes.png").is_file()


def test_a_batch_of_one_and_batch_norm_is_a_mistake_that_can_be_mended(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model=resnet18", "dataset.limit=12", "dataset.test_limit=5", "batch_size=1", "dataset.image_size=4"]
    assert main(["train", *words, "epochs=1"]) == 2
    assert "batch_size: too small" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "batch"), [(9, 9), (86, 16), (300, 37), (1294, 128)])
def test_the_automatic_batch_leaves_several_updates_an_epoch(count: int, batch: int) -> None:
    assert fitting_batch("auto", count) == batch
    assert fitting_batch(64, count) == min(64, count)


def test_tensorboard_reads_the_events_back(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for tag, key in {"train/loss": "train_loss", "val/accuracy": "val_accuracy"}.items():
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [row["step"] for row in rows]
        assert [scalar.value for scalar in scalars] == pytest.approx([row[key] for row in rows])
    assert "test/confusion_matrix" in events.Tags()["images"]
    assert events.Tags()["graph"]
    session = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(session).session_start_info.hparams
    assert hparams["optimizer.lr"].number_value == 0.005
    assert hparams["model"].string_value == "mlp"


def test_the_checkpoint_is_all_that_predict_needs(run: Path) -> None:
    locked = Path("alone.safetensors")
    locked.write_bytes((run / "checkpoints/best.safetensors").read_bytes())
    model = imgcls.load(str(locked))
    assert model.classes == tuple("0123456789")
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    row = model.predict([image], topk=3)[0]
    with torch.no_grad():
        probabilities = model.module(model.preprocess(image)).softmax(1)[0]
    assert row["probability"] == pytest.approx(float(probabilities.max()), abs=1e-6)
    assert [top["label"] for top in row["topk"]] == [
        model.classes[i] for i in probabilities.argsort(descending=True)[:3]
    ]


def test_the_header_names_every_choice_that_changes_the_result(
    config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "draw_test", lambda *args: None)
    train.train(config("dataset.limit=40", "batch_size=500", "epochs=1"))
    said = capsys.readouterr()
    for words in (
        "run      outputs/lenet-digits-1",
        "digits: 36 train, 4 val, 60 test; 10 classes, 8x8 gray",
        "test: a stratified 20% of all",
        "val: a stratified 10% of train",
        "augment  none",
        "batch    reduced from 500 to 36",
        "lenet (auto), 44,426 parameters; adamw lr 0.005, onecycle",
        "cpu, 1 thread, fp32",
        "images in memory",
    ):
        assert words in said.err
    assert said.out.lstrip().startswith("test     60 images, never used before")
    assert max(map(len, (said.err + said.out).splitlines())) <= 80 or "model " in said.err
    assert (said.err + said.out).count("\x1b") == 0


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_good_checkpoint(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingCallback.after_step

    def poison(self: TrainingCallback, state: State, *args: Any) -> None:
        step(self, state, *args)
        if state.step == 7:
            with torch.no_grad():
                next(state.module.parameters()).fill_(float("nan"))

    monkeypatch.setattr(TrainingCallback, "after_step", poison)
    with pytest.raises(RunError, match=r"not finite \(step 12, epoch 2, learning rate"):
        train.train(config("run_dir=run"))
    last = checkpoint_format.read(Path("run/checkpoints/last.safetensors"))
    assert last.meta["step"] == 6
    assert all(torch.isfinite(tensor).all() for tensor in last.tensors.values())


def test_tensorboard_failing_is_said_and_does_not_stop_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    assert main(["train", *DRAWN, "model=linear", "run_dir=run"]) == 0
    assert capsys.readouterr().err.count("TensorBoard logging is off") == 1


class Lazy(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.LazyLinear(num_classes))


class Masked(nn.Linear):
    def __init__(self, num_classes: int, *, persistent: bool = True) -> None:
        super().__init__(64, num_classes)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]), persistent=persistent)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.flatten(1))


def test_lazy_layers_are_made_whole_trained_and_restored() -> None:
    words = ["model.name=tests.test_train:Lazy", "run_dir=run"]
    assert main(["train", *SMALL, *words]) == 0
    assert main(["evaluate", "run", words[0]]) == 0


def test_a_buffer_that_is_not_finite_is_named_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "model.name=tests.test_train:Masked"]
    assert main(["train", *words]) == 1
    assert "a checkpoint cannot hold the buffer mask, which is not finite (step 6, epoch 1, learning rate " in (
        capsys.readouterr().err
    )
    assert main(["train", *words, "model.persistent=false"]) == 0


@pytest.mark.slow
def test_a_color_run_on_real_images(real_data: str) -> None:
    words = ["dataset=cifar10", "dataset.limit=3000", "dataset.test_limit=300", "epochs=4", "threads=1", "run_dir=run"]
    assert main(["train", *words, f"dataset.root={real_data}"]) == 0
    report = json.loads(Path("run/report.json").read_text())
    assert report["n"] == 300
    assert report["accuracy"] > 0.2


def test_mnist_in_one_epoch(real_data: str) -> None:
    words = ["dataset=mnist", "model=mlp", "epochs=1", f"dataset.root={real_data}", "run_dir=run"]
    assert main(["train", *words, *QUIET]) == 0
    assert json.loads(Path("run/report.json").read_text())["accuracy"] > 0.95
