"""Odd surroundings: no locale, no home, no terminal, python -O, a clock that jumps; and no pickle anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls import train
from imgcls.checkpoints import format as checkpoint_format
from imgcls.cli.app import main
from imgcls.runs import folder as run_folders
from tests.conftest import SMALL

Capture = pytest.CaptureFixture[str]


def imgcls(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with nothing in the environment but this."""
    bare = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-m", "imgcls", *words]
    return subprocess.run(command, capture_output=True, env=bare, encoding="utf-8", errors="replace", check=False)


@pytest.mark.process
@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "NO_COLOR": "1", "COLUMNS": "0"},
        pytest.param({"PYTHONOPTIMIZE": "1"}, marks=pytest.mark.slow),
    ],
)
def test_train_evaluate_predict_in_odd_surroundings(env: dict[str, str]) -> None:
    for label, name in enumerate(("grün", "rot und blau")):
        Path("bilder", name).mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng(i).integers(0, 99, (12, 12, 3), np.uint8) + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(Path("bilder", name, f"{i}.png"))
    done = imgcls("train", "dataset=./bilder", "model=linear", "epochs=1", "run_dir=läufe/eins", **env)
    assert done.returncode == 0, done.stderr
    report = json.loads(Path("läufe/eins/report.json").read_text(encoding="utf-8"))
    assert [row["class"] for row in report["per_class"]] == ["grün", "rot und blau"]
    assert imgcls("evaluate", "läufe/eins", **env).returncode == 0
    done = imgcls("predict", "läufe/eins", "bilder/grün", "output=zeilen.csv", **env)
    assert done.returncode == 0, done.stderr
    assert "bilder/grün/0.png" in Path("zeilen.csv").read_text(encoding="utf-8")
    done = imgcls("train", "epoch=3", **env)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_clock_that_jumps_back_does_not_make_the_older_checkpoint_the_newer(capsys: Capture) -> None:
    assert main(["train", *SMALL, "model=linear", "run_dir=run"]) == 0
    folder = Path("run/checkpoints")
    os.utime(folder / checkpoint_format.LAST, (1, 1))
    newest, warnings = run_folders.last_checkpoint(Path("run"))
    assert newest is not None
    assert (newest.path.name, newest.meta["epochs_done"], warnings) == (checkpoint_format.LAST, 2, [])
    (folder / checkpoint_format.LAST).rename(folder / "swap")
    (folder / checkpoint_format.PREV).rename(folder / checkpoint_format.LAST)
    (folder / "swap").rename(folder / checkpoint_format.PREV)
    newest, _ = run_folders.last_checkpoint(Path("run"))
    assert newest is not None
    assert (newest.path.name, newest.meta["epochs_done"]) == (checkpoint_format.PREV, 2)


@pytest.mark.process
def test_nothing_is_unpickled_by_train_evaluate_and_predict() -> None:
    """With pickle made to raise before imgcls is imported, on digits."""
    program = """
import pickle, sys
import torch
class Refusing(pickle.Unpickler):
    def __init__(self, *args, **more):
        raise RuntimeError("unpickled")
def refuse(*args, **more):
    raise RuntimeError("unpickled")
pickle.load = pickle.loads = pickle._load = pickle._loads = torch.load = refuse
pickle.Unpickler = pickle._Unpickler = Refusing
from imgcls.cli import main
words = ["dataset.limit=200", "dataset.test_limit=60", "epochs=1", "model=linear", "threads=1"]
codes = [main(["train", *words, "run_dir=run"]), main(["train", "resume=run", "epochs=2"]), main(["evaluate", "run"])]
from PIL import Image
Image.new("L", (8, 8), 99).save("one.png")
codes.append(main(["predict", "run", "one.png"]))
sys.exit(str(codes) if any(codes) else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes that decode are forked")
def test_nothing_is_unpickled_by_the_commands_and_their_processes() -> None:
    """With pickle made to raise before anything at all is imported; files enough for processes that decode."""
    Path("raising").mkdir()
    Path("raising/sitecustomize.py").write_text(
        "import pickle\n"
        "def refuse(*args, **more):\n    raise RuntimeError('unpickled')\n"
        "class Refusing(pickle.Unpickler):\n    __init__ = refuse\n"
        "pickle.load = pickle.loads = pickle._load = pickle._loads = refuse\n"
        "pickle.Unpickler = pickle._Unpickler = Refusing\n"
    )
    for label, name in enumerate(("a", "b")):
        Path("photos", name).mkdir(parents=True)
        for i in range(50):
            pixels = np.random.default_rng(i).integers(0, 99, (12, 12, 3), np.uint8) + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(Path("photos", name, f"{i}.png"))
    env = {"PYTHONPATH": os.pathsep.join(["raising", *sys.path])}
    words = ["model=linear", "epochs=1", "threads=2", "workers=2", "loader=stream"]
    for command in (
        ["train", *words, "dataset=./photos", "run_dir=run"],
        ["train", *words, "run_dir=digits"],
        ["evaluate", "run"],
        ["predict", "run", "photos", "output=rows.csv"],
    ):
        done = imgcls(*command, **env)
        assert (done.returncode, "Traceback" in done.stderr, "unpickled" in done.stderr) == (0, False, False), (
            done.stderr
        )
    done = subprocess.run([sys.executable, "-c", "import pickle; pickle.loads(b'')"], env=env, capture_output=True)
    assert b"unpickled" in done.stderr  # the test can fail


@pytest.mark.slow
def test_progress_that_nobody_can_read_does_not_stop_a_run() -> None:
    words = ["train", *SMALL, "model=linear"]
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "imgcls", *words, "run_dir=full"], stderr=full, check=False)
    assert done.returncode == 0
    shut = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-m", "imgcls", *words, "run_dir=shut"], check=False
    )
    assert shut.returncode == 0
    assert Path("full/report.json").is_file()
    assert Path("shut/report.json").is_file()


@pytest.mark.process
def test_a_full_disk_is_named_with_its_path_whatever_was_being_written() -> None:
    words = ["train", *SMALL, "model=linear", "epochs=300", "run_dir=run"]
    words.remove("epochs=2")
    command = ["sh", "-c", 'ulimit -f 40; trap "" XFSZ; exec "$@"', "sh", sys.executable, "-m", "imgcls", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("imgcls: error:")]
    assert "File too large: " in line
    assert "run/" in line or line.endswith("run")
    assert "Traceback" not in done.stderr


def test_out_of_memory_says_the_batch_size_and_what_to_try(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(train, "fit", full)
    assert main(["train", *SMALL, "model=linear", "run_dir=run"]) == 1
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("imgcls: error:")]
    assert "out of memory" in line
    assert "batch_size" in line
    assert "32" in line
    assert "accumulate=" in line
