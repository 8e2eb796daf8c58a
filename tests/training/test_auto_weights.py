"""model.pretrained=auto: published weights for photos if they are at hand, one line if not, never a long wait."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from imgcls.checkpoints.format import read
from imgcls.cli.app import main
from imgcls.config.migrations import completed
from imgcls.models import automatic, online
from imgcls.models.online import OFFLINE, is_online
from imgcls.sweeps import local as sweep
from imgcls.training.resume import stored_config
from tests.conftest import QUIET

Capture = pytest.CaptureFixture[str]
NAME, FILE = "squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"  # small and quick, and the file that torchvision names
ADDRESS = f"https://download.pytorch.org/models/{FILE}"
QUICK = ["dataset.image_size=65", "epochs=1", "batch_size=8", "threads=1", "optimizer.lr=1e-30", *QUIET]
STILL = ["optimizer=sgd", "optimizer.weight_decay=0", *QUICK]  # weights stay as they began


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's folder of downloaded weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch/hub/checkpoints"


@pytest.fixture
def photos() -> str:
    for number, name in enumerate(("cat", "dog")):
        Path("photos", name).mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng([number, i]).integers(0, 256, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photos/{name}/{i}.png")
    return "dataset=./photos"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that are asked for; nobody answers."""
    addresses: list[str] = []

    def refuse(request: Any, **_: object) -> None:
        addresses.append(request.full_url)
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.delenv(OFFLINE)
    return addresses


def place(hub: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    state: dict[str, torch.Tensor] = torchvision.models.get_model(NAME, weights=None).state_dict()
    hub.mkdir(parents=True, exist_ok=True)
    torch.save(state, hub / FILE)
    return state


def err_of(capsys: Capture) -> str:
    return " ".join(capsys.readouterr().err.split())


def began_with(state: dict[str, torch.Tensor], run: str) -> bool:
    kept = read(Path(run, "checkpoints/best.safetensors")).part("model.")
    return all(
        torch.allclose(kept[key], one, atol=1e-9) for key, one in state.items() if not key.startswith("classifier")
    )


def chosen(run: str) -> Any:
    of_report = json.loads(Path(run, "report.json").read_text())["chosen"]["pretrained"]
    assert read(Path(run, "checkpoints/best.safetensors")).meta["chosen"]["pretrained"] == of_report
    return of_report


def test_photos_begin_from_weights_at_hand(hub: Path, photos: str, capsys: Capture, asked: list[str]) -> None:
    state = place(hub)
    assert main(["train", f"model={NAME}", photos, *STILL, "run_dir=a"]) == 0
    assert f"pretrained: {FILE}, new last layer (auto; model.pretrained=false: from scratch)" in err_of(capsys)
    assert began_with(state, "a")
    assert chosen("a") == "IMAGENET1K_V1"
    assert read(Path("a/checkpoints/last.safetensors")).meta["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert main(["train", f"model={NAME}", photos, *STILL, "model.pretrained=false", "run_dir=b"]) == 0
    assert "pretrained" not in err_of(capsys)
    assert not began_with(state, "b")
    assert chosen("b") is False
    assert not asked


def test_a_file_of_the_users_is_not_called_published(hub: Path, photos: str, capsys: Capture) -> None:
    state = place(hub)
    (hub / FILE).rename("own.pth")
    assert main(["train", f"model={NAME}", photos, *STILL, "model.pretrained=own.pth", "run_dir=a"]) == 0
    assert "pretrained: own.pth, new last layer device" in err_of(capsys)
    assert began_with(state, "a")
    assert chosen("a") is True
    before = read(Path("a/checkpoints/last.safetensors")).meta["preprocessing"]
    Path("own.pth").unlink()
    assert main(["train", "resume=a", "epochs=2"]) == 0
    assert read(Path("a/checkpoints/last.safetensors")).meta["preprocessing"] == before
    assert chosen("a") is True


def test_without_them_a_run_begins_from_scratch_and_says_so(
    hub: Path, photos: str, capsys: Capture, asked: list[str]
) -> None:
    for run in ("a", "b"):
        assert main(["train", f"model={NAME}", photos, *STILL, f"run_dir={run}"]) == 0
        line = f"from scratch: no pretrained weights (no network); put {ADDRESS} at {hub / FILE}"
        assert line in err_of(capsys)
        assert chosen(run) is False
    assert asked == [ADDRESS]  # once in a process


def test_a_resumed_run_keeps_what_was_chosen(hub: Path, photos: str, capsys: Capture) -> None:
    assert main(["train", f"model={NAME}", photos, *STILL, "run_dir=a"]) == 0
    place(hub)
    assert main(["train", "resume=a", "epochs=2"]) == 0
    assert chosen("a") is False
    capsys.readouterr()
    assert main(["train", f"model={NAME}", photos, *STILL, "run_dir=b"]) == 0
    shutil.rmtree(hub)
    assert main(["train", "resume=b", "epochs=2"]) == 0
    assert err_of(capsys).count(f"pretrained: {FILE}, new last layer") == 2
    assert chosen("b") == "IMAGENET1K_V1"


@pytest.mark.parametrize(
    ("content", "needle"), [(b"", "empty"), (b"<html>404</html>", "not a file of weights, or damaged")]
)
def test_a_file_in_the_cache_that_is_none_says_what_to_do(
    content: bytes, needle: str, hub: Path, photos: str, capsys: Capture
) -> None:
    hub.mkdir(parents=True)
    (hub / FILE).write_bytes(content)
    assert main(["train", f"model={NAME}", photos, *STILL]) == 3
    error = capsys.readouterr().err
    way = f"put the weights of {NAME} there, or remove it, or set model.pretrained=false"
    assert error == f"imgcls: error: {hub / FILE}: {needle}; {way}\n"


def test_a_cache_that_cannot_be_made_names_the_variable(photos: str, capsys: Capture) -> None:
    Path("torch").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(Path("torch").absolute()))
        assert main(["train", f"model={NAME}", photos, *STILL, "model.pretrained=true"]) == 3
    error = capsys.readouterr().err
    assert f"cannot make the folder {Path('torch/hub/checkpoints').absolute()} (" in error
    assert "set TORCH_HOME to one that can be written, or model.pretrained=false" in error


def test_auto_is_the_model_that_weights_are_there_for(
    hub: Path, photos: str, asked: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = automatic.CPU_PRETRAINED
    monkeypatch.setattr(automatic, "CPU_PRETRAINED", automatic.Row(NAME, 65, ((automatic.ANY, 2),)))
    words = ["train", photos, "batch_size=8", "optimizer=sgd", "optimizer.weight_decay=0", *QUIET]
    assert main([*words, "optimizer.lr=1e-30", "threads=1", "epochs=1", "run_dir=a"]) == 0
    said = err_of(capsys)
    assert "model convnet (auto), 272,018 parameters; sgd lr 1e-30, onecycle; batch 8 from scratch: no pre" in said
    assert f"put {ADDRESS} at {hub / FILE}" in said
    assert asked == [ADDRESS]
    state = place(hub)
    assert main([*words, "optimizer.lr=1e-30", "threads=1", "run_dir=b"]) == 0
    said = err_of(capsys)
    assert f"model {NAME} (auto)" in said
    line = f"pretrained: {FILE}, new last layer (auto; model.pretrained=false: from scratch)"
    assert f"{line} epochs 2 (auto: 17 photos" in said
    assert began_with(state, "b")
    shutil.rmtree(hub)
    monkeypatch.setattr(automatic, "CPU_PRETRAINED", before)
    assert main(["train", "resume=b", "epochs=3"]) == 0
    kept = json.loads(Path("b/report.json").read_text())["chosen"]
    assert (kept["model"], kept["image_size"], kept["pretrained"]) == (NAME, [65, 65], "IMAGENET1K_V1")


@pytest.mark.parametrize(
    "words",
    [
        ["model=linear", "dataset=./photos"],  # nothing is published
        [f"model={NAME}", "dataset=./photos", "dataset.image_size=64"],
        [f"model={NAME}"],  # digits
        [f"model={NAME}", "model.stem=small", "dataset=./photos"],
    ],
)
def test_nobody_is_asked_without_need(words: list[str], hub: Path, photos: str, asked: list[str]) -> None:
    more = [*QUIET, "threads=1", "epochs=1"] + ([] if words[-1].startswith("dataset.image_size") else ["batch_size=8"])
    main(["train", *words, *more, "run_dir=a"])
    assert Path("a/report.json").exists()
    assert not asked


def test_weights_are_downloaded_if_they_can_be(
    hub: Path, photos: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = place(hub)
    kept = (hub / FILE).rename("kept.pth")
    monkeypatch.delenv(OFFLINE)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO())

    def fetch(url: str, *_: object, **__: object) -> dict[str, torch.Tensor]:
        shutil.copy(kept, hub / FILE)
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    assert main(["train", f"model={NAME}", photos, *STILL, "run_dir=a"]) == 0
    err = err_of(capsys)
    assert f"download {ADDRESS}" in err
    assert f"pretrained: {FILE}, new last layer" in err
    assert began_with(state, "a")


def test_a_network_that_is_silent_costs_seconds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OFFLINE)
    monkeypatch.setattr(online, "PATIENCE", 0.05)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: contextlib.nullcontext(time.sleep(0.6)))
    started = time.monotonic()
    assert not any(is_online(ADDRESS) for _ in range(20))
    assert time.monotonic() - started < 0.5


def test_a_sweep_asks_once_and_says_what_each_model_begins_with(
    hub: Path, photos: str, capsys: Capture, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place(hub)
    offline: list[str | None] = []
    monkeypatch.setattr(sweep.Launcher, "run", lambda *_: offline.append(os.environ.get(OFFLINE)))
    main(["train", "-m", f"model={NAME},squeezenet1_0,lenet", photos, *QUICK])
    err = err_of(capsys)
    assert f"weights {NAME}: from {FILE}" in err
    assert "weights squeezenet1_0: from scratch: no pretrained weights (no network); put https://" in err
    assert "weights lenet" not in err
    assert len(asked) == 1
    assert offline == ["1"] * 3  # its jobs do not ask again


def test_runs_of_earlier_versions_keep_false() -> None:
    old = stored_config(Path(__file__).parents[1] / "old_runs" / "finished")
    assert old["model"]["pretrained"] is False
    del old["model"]["pretrained"]
    assert completed(old)["model"]["pretrained"] is False
