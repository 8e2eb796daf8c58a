"""benchmarks/gpu.py gets one call on a GPU: here it is rehearsed, and what a CPU cannot rehearse is faked."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from imgcls.config.schema import TrainConfig
from imgcls.runtime.session import Runtime
from imgcls.training.builder import build
from imgcls.training.spec import RunSpec
from tests.fake_cuda import CUDA, fake_cuda

Config = Callable[..., TrainConfig]
ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports a program of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("gpu", "common", "synthetic", "pack_cifar"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_rehearsal_runs_every_part(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "IMGCLS_DATA"}
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--rehearse", "--out", str(tmp_path / "gpu")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu-rehearsal.json").read_text())
    assert {"machine", "tests", "speed", "profile", "accuracy"} <= found.keys()
    assert found["tests"]["pytest -m gpu"]["code"] == 0
    assert (tmp_path / "gpu-rehearsal.md").read_text().startswith("# On a GPU")
    assert "## Speed" in done.stdout


def test_a_failing_part_is_reported_and_the_others_go_on(benchmark: Any, tmp_path: Path) -> None:
    report = benchmark("gpu").Report(tmp_path / "gpu")

    def fail() -> Any:
        raise RuntimeError("CUDA error: an illegal memory access")

    report.part("speed", "lenet", fail)
    found = {"accuracy": [0.99], "accuracy_tta": [0.991], "training_s": [1.0], "wall_s": [2.0]}
    report.part("accuracy", "mnist_99", lambda: found)
    text = (tmp_path / "gpu.md").read_text()
    assert "| LeNet / MNIST, batch 128 |   failed |" in text
    assert "## Failed: speed lenet" in text
    assert "illegal memory access" in text
    assert "99.00 +- 0.00 %" in text


def test_an_update_is_recorded(benchmark: Any, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = benchmark("gpu")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "graph")
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    made = config("model=lenet")
    with fake_cuda() as cuda:
        run = build(made, RunSpec.from_config(made), Runtime(CUDA, "bf16", 1), {})
        images, labels = next(run.loader.epoch(0))
        with cuda.never_waits():
            assert gpu.recorded(run, images, labels) == "graph"
        assert isinstance(run.state.optimizer.param_groups[0]["lr"], float)


def test_cifar_is_packed_and_unpacked(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic, packing = benchmark("synthetic"), benchmark("pack_cifar")
    monkeypatch.setattr(packing, "ROWS", 3)
    monkeypatch.setattr(packing, "COLUMNS", 2)
    monkeypatch.setattr(packing, "PARTS", (slice(0, 30), slice(30, 72)))
    synthetic.write_cifar10(tmp_path, 12)
    packing.pack(tmp_path, tmp_path / "parts")
    packing.unpack(tmp_path / "parts", tmp_path / "out")
    for name in packing.BATCHES:
        files = [folder / "cifar-10-batches-py" / name for folder in (tmp_path, tmp_path / "out")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_the_setup_installs_what_was_brought_along(tmp_path: Path) -> None:
    wheels, data = tmp_path / "wheels", tmp_path / "data"
    wheels.mkdir()
    data.mkdir()
    info = "brought_along-1.0.dist-info"
    with zipfile.ZipFile(wheels / "brought_along-1.0-py3-none-any.whl", "w") as file:
        file.writestr("brought_along.py", "HERE = True\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: brought-along\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: none\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    (data / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"pixels"))
    script = (
        f"cd {ROOT} && . benchmarks/gpu_setup.sh {wheels} {data} "
        "&& python3 -c 'import brought_along, imgcls; print(imgcls.__file__)' "
        "&& cat $IMGCLS_DATA/MNIST/raw/train-images-idx3-ubyte"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "IMGCLS_DATA": str(tmp_path / "there")}
    done = subprocess.run(["bash", "-ec", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(ROOT / "src/imgcls/__init__.py"), "pixels"]
