"""model.pretrained=FILE: safetensors, and .pth by weights_only, for torchvision's models and our own."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from imgcls.checkpoints.format import read
from imgcls.cli.app import main
from imgcls.errors import ConfigError
from imgcls.models.pretrained import pretrained, read_weights
from tests.conftest import SMALL
from tests.models.test_models import build

Capture = pytest.CaptureFixture[str]
State = dict[str, torch.Tensor]
STILL = ["optimizer=sgd", "optimizer.lr=1e-30", "optimizer.weight_decay=0", *SMALL]  # weights stay as they began

WRITERS: dict[str, Callable[[State], Any]] = {
    "plain.pth": lambda state: state,
    "of timm.pth.tar": lambda state: {"epoch": 3, "arch": "x", "state_dict": state},
    "parallel.pt": lambda state: {"model": {f"module.{name}": one for name, one in state.items()}, "epoch": 3},
}  # file: what is in it


def weights_of_lenet() -> State:
    torch.manual_seed(5)
    return {name: one.clone() for name, one in build("lenet", 1, (8, 8), 7).state_dict().items()}


@pytest.mark.parametrize("name", [*WRITERS, "my, weights.safetensors"])
def test_a_file_is_where_a_run_begins_but_for_its_last_layer(name: str, capsys: Capture) -> None:
    state = weights_of_lenet()
    if name in WRITERS:
        torch.save(WRITERS[name](state), name)
    else:
        save_file(state, name)
    assert main(["train", "model=lenet", f"model.pretrained=./{name}", *STILL, "run_dir=a"]) == 0
    assert f"pretrained: {name}, new last layer" in " ".join(capsys.readouterr().err.split())
    kept = read(Path("a/checkpoints/best.safetensors")).part("model.")
    assert all(torch.equal(kept[key], one) for key, one in state.items() if "fc3" not in key)
    assert kept["classifier.fc3.weight"].shape[0] == 10
    Path(name).unlink()  # not needed again
    shutil.copytree("a", "b")
    assert main(["train", "resume=b", "epochs=3"]) == 0
    assert main(["evaluate", "b"]) == 0


def test_a_file_for_one_of_torchvisions_models_brings_their_normalization() -> None:
    torch.manual_seed(3)
    state: State = torchvision.models.get_model("squeezenet1_1", weights=None).state_dict()
    save_file(state, "own.safetensors")
    found = pretrained("squeezenet1_1", str(Path("own.safetensors").absolute()))
    assert found is not None
    assert (found.size, found.mean) == (224, (0.485, 0.456, 0.406))
    for channels in (1, 3):
        module = build("squeezenet1_1", channels, (64, 64), 7, stem="large")
        found.load(module, 7)
        assert torch.equal(module.state_dict()["features.3.squeeze.weight"], state["features.3.squeeze.weight"])
    with pytest.raises(ConfigError, match=r"own.safetensors does not fit this squeezenet1_1 \(features.0.weight\)"):
        found.load(build("squeezenet1_1", 4, (64, 64), 7, stem="large"), 7)


@pytest.mark.parametrize(
    ("content", "code", "needle"),
    [
        (b"<html>", 3, "not a file of weights, or it holds more than weights"),
        (argparse.Namespace(lr=1), 3, "not a file of weights, or it holds more than weights"),
        ({"epoch": 3}, 3, "expected a dictionary of tensors"),
        (
            {"conv9.weight": torch.zeros(3)},
            2,
            "w.pth does not fit this lenet (conv9.weight); set the model's parameters",
        ),
    ],
)
def test_what_is_no_file_of_weights_is_one_line(content: Any, code: int, needle: str, capsys: Capture) -> None:
    if isinstance(content, bytes):
        Path("w.pth").write_bytes(content)
    else:
        torch.save(content, "w.pth")
    assert main(["train", "model=lenet", "model.pretrained=w.pth", *SMALL]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert needle in lines[-1]
    assert not Path("outputs").exists()


def test_a_file_needs_a_named_model(capsys: Capture) -> None:
    save_file(weights_of_lenet(), "w.safetensors")
    assert main(["train", "model.pretrained=w.safetensors"]) == 2
    assert "model.pretrained needs a named model" in capsys.readouterr().err


def test_code_in_a_file_is_not_run() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (Path("touched"),)

    torch.save({"w": Bomb()}, "w.pth")
    with pytest.raises(Exception, match="holds more than weights"):
        read_weights(Path("w.pth"))
    assert not Path("touched").exists()
