"""On a CUDA device: ``pytest -m gpu``. Elsewhere these are skipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from imgcls import train
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints.format import read
from imgcls.cli.app import main
from imgcls.config.components import select
from imgcls.config.schema import TrainConfig
from imgcls.data.fetchers import Resident, Streamed
from imgcls.optim.optimizers import OPTIMIZERS
from imgcls.optim.param_groups import parameter_groups
from imgcls.runtime.session import session
from imgcls.training.loop import Callback, fit
from imgcls.training.spec import RunSpec
from tests.conftest import SMALL, optimizer_node
from tests.training.test_resume import CASES, interrupted, same_runs, same_tensors

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once in a process, by the first matrix product
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

Config = Callable[..., TrainConfig]
EXACT = ("device=cuda", "deterministic=true")
AIRBENCH = ("model=airbench", "model.widths=[8,16]", "optimizer=muon")
LAST = Path("checkpoints", checkpoint_format.LAST)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Global switches of torch are as they were, and no memory is kept."""
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.use_deterministic_algorithms(False)
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.fixture
def is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pictures of mistakes, which are not compared."""
    monkeypatch.setattr(train, "draw_test", lambda *args: None)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_in_each_precision(precision: str) -> None:
    assert main(["train", *SMALL, "device=cuda", f"precision={precision}", "run_dir=run"]) == 0
    assert read(Path("run", LAST)).meta["chosen"]["precision"] == precision


def test_a_run_in_fp16_saves_its_scaler() -> None:
    assert main(["train", *SMALL, "device=cuda", "precision=fp16", "run_dir=run"]) == 0
    assert "scaler.scale" in read(Path("run", LAST)).tensors


# --- determinism and resuming ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("is_plain")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("model", ["lenet", "resnet18"])
def test_a_run_stopped_after_every_step_ends_like_the_uninterrupted_one(
    model: str, precision: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"model={model}", f"precision={precision}", *EXACT, "augment=standard")
    train.train(config(*words, "run_dir=whole"))
    train.train(config(*words, "run_dir=again"))
    same_runs(Path("whole"), Path("again"))
    steps = range(1, 12) if model == "lenet" else (1, 5, 7)
    interrupted(config(*words, "run_dir=parts"), steps, monkeypatch, Path("parts"))
    same_runs(Path("whole"), Path("parts"))


@pytest.mark.usefixtures("is_plain")
@pytest.mark.parametrize("name", [name for name in CASES if name != "deterministic"])
def test_every_case_is_reproducible_and_resumes(name: str, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train.train(config(*EXACT, *CASES[name], "run_dir=whole"))
    interrupted(config(*EXACT, *CASES[name], "run_dir=parts"), [5], monkeypatch, Path("parts"))
    same_runs(Path("whole"), Path("parts"))


class Epochs(Callback):
    """Counts the epochs, and nothing else."""

    def after_epoch(self, state: Any, images: int, started: float, lr: float) -> None:
        state.epochs += 1


# --- the data path ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("precision=fp16",), ("augment=strong", "ema=0.9"), AIRBENCH])
def test_nothing_waits_for_the_device_within_an_epoch(words: tuple[str, ...], config: Config) -> None:
    class Watch(Epochs):
        def after_step(self, state: Any, *step: Any) -> None:
            if state.step == len(run.loader):  # the optimizer has its state
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error")

    made = config("device=cuda", "augment=standard", "epochs=4", *words)
    with session("cuda", made.precision, 1) as runtime:
        run = train.build(made, RunSpec.from_config(made), runtime, {})
        assert isinstance(run.loader.fetcher, Resident)
        assert run.loader.fetcher.pixels.is_cuda
        fit(run.state, run.forward, run.loader, run.recipe, Watch())  # the later epochs as a whole
        torch.cuda.set_sync_debug_mode("default")


def test_a_value_read_in_the_step_would_be_seen(config: Config) -> None:
    class Reads(Epochs):
        def after_step(self, state: Any, loss_sum: torch.Tensor, *step: Any) -> None:
            torch.cuda.set_sync_debug_mode("error")
            float(loss_sum)

    made = config("device=cuda")
    with session("cuda", made.precision, 1) as runtime:
        run = train.build(made, RunSpec.from_config(made), runtime, {})
        with pytest.raises(RuntimeError, match="synchroniz"):
            fit(run.state, run.forward, run.loader, run.recipe, Reads())


@pytest.mark.usefixtures("is_plain")
@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images_are_the_resident_ones(workers: int, config: Config) -> None:
    words = (*EXACT, "augment=standard", "model=lenet")
    train.train(config(*words, "loader=resident", "run_dir=resident"))
    train.train(config(*words, "loader=stream", f"workers={workers}", "run_dir=stream"))
    same_tensors(Path("resident", LAST), Path("stream", LAST))


def test_streamed_images_are_copied_on_their_own_stream(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = []
    pin = torch.Tensor.pin_memory

    def watched(tensor: torch.Tensor) -> torch.Tensor:
        streams.append(torch.cuda.current_stream().cuda_stream)
        return pin(tensor)

    monkeypatch.setattr(torch.Tensor, "pin_memory", watched)
    made = config("device=cuda", "loader=stream", "workers=0")
    with session("cuda", made.precision, 1) as runtime:
        run = train.build(made, RunSpec.from_config(made), runtime, {})
        assert isinstance(run.loader.fetcher, Streamed)
        batches = [np.arange(20), np.arange(20, 40)]
        images = list(run.loader.fetcher.batches(batches))
        assert all(one.is_cuda for one in images)
        assert streams
        assert torch.cuda.default_stream().cuda_stream not in streams


# --- errors ----------------------------------------------------------------------------------------------------------


def test_out_of_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (256 << 20)) / total)
    words = ["model=resnet18", "dataset.image_size=224", "batch_size=180", "device=cuda", "loader=stream", "workers=0"]
    assert main(["train", *SMALL, *words, "run_dir=run"]) == 1
    err = capsys.readouterr().err
    assert "out of memory with batch_size=180; try a smaller one" in err
    assert "Traceback" not in err


def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "device=cuda:99"]) == 2
    assert "there is no cuda:99 (this machine has cuda:0" in capsys.readouterr().err


def test_muon_agrees_with_the_cpu() -> None:
    ends = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 3))
        gradients = [torch.randn_like(parameter) for parameter in module.parameters()]
        module.to(device)
        optimizer = select(OPTIMIZERS, optimizer_node("muon"), "optimizer")(parameter_groups(module))
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.grad = gradient.to(device)
        optimizer.step()
        ends.append([parameter.detach().cpu() for parameter in module.parameters()])
    for one, other in zip(*ends, strict=True):
        assert torch.allclose(one, other, atol=0.05 * 0.02)  # of the learning rate


# --- across devices --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["lenet", "resnet18"])
def test_a_gpus_checkpoint_evaluates_and_predicts_as_on_a_cpu(model: str) -> None:
    assert main(["train", *SMALL, f"model={model}", "device=cuda", "run_dir=run"]) == 0
    reports = {}
    for device in ("cpu", "cuda"):
        assert main(["evaluate", "run", f"device={device}", f"output={device}"]) == 0
        reports[device] = json.loads(Path(device, "report.json").read_text())
    assert reports["cpu"]["loss"] == pytest.approx(reports["cuda"]["loss"], rel=1e-4)
    assert reports["cpu"]["confusion_matrix"] == reports["cuda"]["confusion_matrix"]
    with np.load("cpu/predictions.npz") as a, np.load("cuda/predictions.npz") as b:
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-5)


def test_predictions_are_those_of_a_cpu() -> None:
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(f"photos/{i:02d}.png")
    assert main(["train", *SMALL, "device=cuda", "run_dir=run"]) == 0
    found = {}
    for device in ("cpu", "cuda"):
        assert main(["predict", "run", "photos", f"device={device}", f"output={device}.json"]) == 0
        found[device] = json.loads(Path(f"{device}.json").read_text())
    for one, other in zip(found["cpu"], found["cuda"], strict=True):
        assert (one["path"], one["topk"][0]["label"]) == (other["path"], other["topk"][0]["label"])
        assert one["topk"][0]["probability"] == pytest.approx(other["topk"][0]["probability"], abs=1e-4)


@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon", "radam"])
def test_a_run_resumes_on_the_other_device(first: str, second: str, optimizer: str) -> None:
    words = [*SMALL, f"optimizer={optimizer}", "precision=fp32", "run_dir=run"]
    assert main(["train", *words, f"device={first}"]) == 0
    assert main(["train", "resume=run", "epochs=4", f"device={second}"]) == 0
    assert read(Path("run", LAST)).meta["epochs_done"] == 4


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_compute_the_same_as_one() -> None:
    words = [*SMALL, "device=cuda", "precision=fp32", "model=mlp"]
    assert main(["train", *words, "run_dir=one"]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "imgcls", "train", *words]
    subprocess.run([*command, "run_dir=two"], check=True)
    one, two = (read(Path(name, LAST)).tensors for name in ("one", "two"))
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=1e-4) for name in one)
