"""On a CUDA device: ``pytest -m gpu``. Elsewhere these are skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from imgcls import train
from imgcls.checkpoints.format import read
from imgcls.cli.app import main
from imgcls.config.schema import TrainConfig
from imgcls.data.fetchers import Resident
from imgcls.runtime.session import session
from imgcls.training.loop import update
from imgcls.training.spec import RunSpec
from tests.conftest import SMALL
from tests.training.test_resume import interrupted, same_runs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

Config = Callable[..., TrainConfig]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_in_each_precision(precision: str) -> None:
    assert main(["train", *SMALL, "device=cuda", f"precision={precision}", "run_dir=run"]) == 0
    checkpoint = read(Path("run/checkpoints/last.safetensors"))
    assert checkpoint.meta["chosen"]["precision"] == precision
    assert ("scaler.scale" in checkpoint.tensors) == (precision == "fp16")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model", ["lenet", "resnet18"])
def test_a_stopped_run_ends_like_the_uninterrupted_one(
    model: str, precision: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "draw_test", lambda *args: None)
    words = (f"model={model}", f"precision={precision}", "device=cuda", "deterministic=true", "augment=standard")
    train.train(config(*words, "run_dir=whole"))
    interrupted(config(*words, "run_dir=parts"), [1, 6, 8], monkeypatch, Path("parts"))
    same_runs(Path("whole"), Path("parts"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_makes_no_host_synchronisation(precision: str, config: Config) -> None:
    made = config("device=cuda", f"precision={precision}", "augment=standard")
    with session("cuda", precision, 1) as runtime:
        run = train.build(made, RunSpec.from_config(made), runtime, {})
        assert isinstance(run.loader.fetcher, Resident)
        assert run.loader.fetcher.pixels.is_cuda
        batches = list(run.loader.epoch(0))

        def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
            images, labels = batch
            images = torch.zeros(len(labels), *run.loader.fetcher.pixels.shape[1:], dtype=torch.uint8, device="cuda")
            draws = torch.zeros(len(images), run.loader.augment.draws, device="cuda")
            images = run.loader.normalize(run.loader.augment(images, draws))
            update(run.state, run.forward, images, labels, len(labels), run.recipe)

        step(batches[0])  # the first makes the optimizer's state
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(batches[1])
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_gpus_checkpoint_evaluates_on_a_cpu() -> None:
    assert main(["train", *SMALL, "device=cuda", "run_dir=run"]) == 0
    assert main(["evaluate", "run", "device=cpu", "output=cpu"]) == 0
    assert main(["evaluate", "run", "device=cuda", "output=cuda"]) == 0
    import json

    a, b = (json.loads(Path(name, "report.json").read_text()) for name in ("cpu", "cuda"))
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert a["confusion_matrix"] == b["confusion_matrix"]
