"""Which runs update by CUDA graph; what a graph computes is tested on a GPU (tests/test_gpu.py)."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from imgcls.cli.app import main
from imgcls.errors import ConfigError
from imgcls.optim.optimizers import OPTIMIZERS
from imgcls.runtime.session import Runtime
from imgcls.training.cuda_graph import GRAPHED, choose_cuda_graph
from tests.conftest import SMALL


def choice(asked: bool | Literal["auto"] = "auto", **changed: Any) -> tuple[bool, str]:
    given = {"device": "cuda", "precision": "bf16", "world": 1, "model": "lenet", "optimizer": "adamw", **changed}
    runtime = Runtime(torch.device(given["device"]), given["precision"], 1, 0, given["world"])
    others = {"an attack": given.get("is_attacked", False)}
    return choose_cuda_graph(asked, runtime, given["model"], given["optimizer"], others)


def test_auto_is_wherever_it_is_possible() -> None:
    assert choice() == (True, "auto")
    assert choice(True) == (True, "as asked")
    assert choice(False) == (False, "as asked")


@pytest.mark.parametrize(
    ("changed", "obstacle"),
    [
        ({"device": "cpu"}, "device=cpu"),
        ({"world": 2}, "2 processes"),
        ({"precision": "fp16"}, "precision=fp16"),
        ({"model": "mine:Net"}, "model.name=mine:Net"),
        ({"optimizer": "adafactor"}, "optimizer=adafactor"),
        ({"optimizer": "mine:Lion"}, "optimizer=mine:Lion"),
        ({"is_attacked": True}, "an attack"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_in_the_way(changed: dict[str, Any], obstacle: str) -> None:
    assert choice(**changed) == (False, f"auto: not possible with {obstacle}")
    with pytest.raises(ConfigError, match=f"cuda_graph: not possible with {obstacle}; use cuda_graph=auto or"):
        choice(True, **changed)


def test_the_optimizers_are_known() -> None:
    assert set(GRAPHED) <= set(OPTIMIZERS)


def test_it_is_refused_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "device=cpu", "cuda_graph=true"]) == 2
    message = "imgcls: error: cuda_graph: not possible with device=cpu; use cuda_graph=auto or cuda_graph=false"
    assert message in capsys.readouterr().err
