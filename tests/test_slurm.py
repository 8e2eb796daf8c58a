"""In a real SLURM, where there is one: nothing that was trained is lost at the end of a job's time."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imgcls.checkpoints import format as checkpoint_format

WORDS = ["model=linear", "dataset.limit=200", "epochs=1000000", "threads=1", "plots=false", "tensorboard=false"]


def told(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise OSError(done.stderr)
    return done.stdout


def works() -> bool:
    try:
        return shutil.which("sbatch") is not None and bool(told("sinfo", "-h", "-t", "idle,mix").strip())
    except (OSError, subprocess.TimeoutExpired):
        return False


def until(is_true: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


pytestmark = [pytest.mark.slow, pytest.mark.process]


@pytest.fixture(autouse=True, scope="module")
def _slurm() -> None:
    if not works():
        pytest.skip("there is no SLURM here that runs jobs")


@pytest.mark.parametrize("kind", ["run", "sweep"])
@pytest.mark.parametrize("how", ["srun", "exec"])
@pytest.mark.parametrize("event", ["time limit", "SIGUSR2 before it", "scancel"])
def test_nothing_is_lost(event: str, how: str, kind: str) -> None:
    """The step at which it said it was saved is the one in the checkpoint, and the job was not killed."""
    words = [*WORDS, *(["-m", "seed=0,1", "sweep_dir=here"] if kind == "sweep" else ["run_dir=here"])]
    run = Path("here/0" if kind == "sweep" else "here")
    prefix = "srun" if how == "srun" else "exec"
    Path("job.sh").write_text(f"#!/bin/bash\n{prefix} {sys.executable} -m imgcls train {' '.join(words)}\n")
    job = told("sbatch", "--parsable", "--time=5", "--output=said", "job.sh").split(";")[0].strip()
    until((run / "checkpoints/last.safetensors").exists, 60, "it does not start")
    if event == "time limit":
        told("scontrol", "update", f"JobId={job}", "EndTime=now+1")
    elif event == "scancel":
        told("scancel", job)
    else:  # as --signal=USR2@60 (srun), --signal=B:USR2@60 (exec) do
        told("scancel", "--signal=USR2", *(["--batch"] if how == "exec" else []), job)
    until(lambda: "interrupted by" in Path("said").read_text(), 60, "it said nothing")
    until(lambda: not told("squeue", "-h", "-j", job).strip(), 60, "it does not end")
    said = Path("said").read_text()
    step = checkpoint_format.read(run / "checkpoints/last.safetensors").meta["step"]
    name = "SIGUSR2" if "USR2" in event else "SIGTERM"
    assert f"interrupted by {name}, saved at step {step:,}; resume with: imgcls train resume={run}" in said
    assert not Path("here/1").exists()
