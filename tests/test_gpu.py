"""On a CUDA device: ``pytest -m gpu``. Elsewhere these are skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from imgcls import train
from imgcls.checkpoints.format import read
from imgcls.cli.app import main
from imgcls.config.components import select
from imgcls.config.options import option_node
from imgcls.config.schema import TrainConfig
from imgcls.data.fetchers import Resident
from imgcls.optim.optimizers import OPTIMIZERS
from imgcls.optim.param_groups import parameter_groups
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


@pytest.mark.parametrize(
    ("precision", "words"),
    [("bf16", ()), ("fp16", ()), ("bf16", ("model=airbench", "model.widths=[8,16]", "optimizer=muon"))],
)
def test_a_step_makes_no_host_synchronisation(precision: str, words: tuple[str, ...], config: Config) -> None:
    made = config("device=cuda", f"precision={precision}", "augment=standard", *words)
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


def test_muon_in_a_cuda_graph_follows_the_learning_rate() -> None:
    rates = [0.1, 0.05, 0.02]
    ends = []
    for is_graph in (False, True):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 3)
        module = nn.Sequential(*layers).cuda().to(memory_format=torch.channels_last)
        made = select(OPTIMIZERS, option_node("optimizer", "muon"), "optimizer")
        optimizer = made(parameter_groups(module))
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        steps = [torch.tensor(rates[0], device="cuda")] if is_graph else rates[:1]
        for group in optimizer.param_groups:
            group["lr"] = steps[0]
        with torch.cuda.stream(torch.cuda.Stream()):  # makes the optimizer's state
            optimizer.step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        if is_graph:
            with torch.cuda.graph(graph):
                optimizer.step()
        for rate in rates[1:]:
            if is_graph:
                steps[0].fill_(rate)  # type: ignore[attr-defined]
                graph.replay()
                continue
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        ends.append([parameter.detach().clone() for parameter in module.parameters()])
    for one, other in zip(*ends, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_muon_on_a_gpu_agrees_with_the_cpu() -> None:
    ends = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 3))
        gradients = [torch.randn_like(parameter) for parameter in module.parameters()]
        module.to(device)
        optimizer = select(OPTIMIZERS, option_node("optimizer", "muon"), "optimizer")(parameter_groups(module))
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.grad = gradient.to(device)
        optimizer.step()
        ends.append([parameter.detach().cpu() for parameter in module.parameters()])
    for one, other in zip(*ends, strict=True):
        assert torch.allclose(one, other, atol=0.05 * 0.02)  # of the learning rate


def test_a_gpus_checkpoint_evaluates_on_a_cpu() -> None:
    assert main(["train", *SMALL, "device=cuda", "run_dir=run"]) == 0
    assert main(["evaluate", "run", "device=cpu", "output=cpu"]) == 0
    assert main(["evaluate", "run", "device=cuda", "output=cuda"]) == 0
    import json

    a, b = (json.loads(Path(name, "report.json").read_text()) for name in ("cpu", "cuda"))
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert a["confusion_matrix"] == b["confusion_matrix"]
