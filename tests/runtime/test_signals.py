"""Which signals stop a run, which are copies of another, and which are passed over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgcls.errors import Terminated
from imgcls.runtime import signals
from imgcls.runtime.signals import SWEEP_JOB, Signals, terminable

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="no SIGUSR2")
TERM, INT = signal.SIGTERM, signal.SIGINT
USR2 = getattr(signal, "SIGUSR2", TERM)
SLURM, TORCHRUN = {"SLURM_JOB_ID": "7"}, {"TORCHELASTIC_RUN_ID": "none"}
RAY = {"RAY_JOB_ID": "01000000"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in signals.RELAYING:
        monkeypatch.delenv(name, raising=False)

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(signals.os, "_exit", leave)


@pytest.mark.parametrize(
    ("env", "sent", "received", "ended"),
    [
        ({}, [TERM], TERM, False),
        ({}, [TERM, TERM], TERM, True),
        ({}, [INT, INT], INT, True),
        (SLURM, [TERM, TERM], TERM, False),  # the end of the time: slurmstepd and srun
        (SLURM, [TERM, TERM, None, TERM], TERM, False),  # the end of the grace, later
        (SLURM, [USR2, TERM, TERM], USR2, False),
        (SLURM, [USR2, USR2], USR2, False),  # a sweep and SLURM itself
        (SLURM, [TERM, USR2], TERM, False),
        (SLURM, [TERM, INT], TERM, True),  # typed
        (SLURM, [INT, None, INT], INT, True),
        ({}, [USR2], USR2, False),
        ({}, [USR2, USR2, TERM], USR2, False),
        (RAY, [TERM, TERM], TERM, False),
        (TORCHRUN, [TERM, TERM], TERM, False),
        (TORCHRUN, [TERM, None, TERM], TERM, True),
    ],
)
def test_stop_signals_while_training(
    env: dict[str, str], sent: list[int | None], received: int, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with Signals() as found:
        try:
            for number in sent:
                if number is None:
                    signals._last.time -= signals.RELAY
                else:
                    os.kill(os.getpid(), number)
            assert not ended
        except SystemExit:
            assert ended
    assert found.received == received


def test_before_training_it_does_nothing_and_a_second_sigterm_of_slurm_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with terminable():
        os.kill(os.getpid(), USR2)
        with pytest.raises(Terminated):
            os.kill(os.getpid(), TERM)
        os.kill(os.getpid(), TERM)  # while the first one ends the command


def test_after_training_another_sigterm_of_slurm_does_not_hide_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with terminable():
        with Signals():
            os.kill(os.getpid(), TERM)
        os.kill(os.getpid(), TERM)


@pytest.mark.parametrize(("mark", "received"), [(None, 0), ("1", 0), (signals.USR2_STOPS, USR2)])
def test_ignored_by_a_parent_it_stays_ignored_but_in_a_sweeps_job(
    mark: str | None, received: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mark is not None:
        monkeypatch.setenv(SWEEP_JOB, mark)
    with signals.handlers(SIGUSR2=signal.SIG_IGN), terminable(), Signals() as found:
        os.kill(os.getpid(), USR2)
    assert found.received == received


@pytest.mark.process
@pytest.mark.parametrize("is_sweep", [False, True])
def test_sigusr2_saves_and_stops(is_sweep: bool) -> None:
    words = ["model=linear", "dataset.limit=200", "epochs=100000", "threads=1", "tensorboard=false"]
    words += ["-m", "seed=0,1", "sweep_dir=here"] if is_sweep else ["run_dir=here"]
    command = [sys.executable, "-m", "imgcls", "train", *words]
    run = Path("here/0" if is_sweep else "here")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if (run / "checkpoints/last.safetensors").exists():
                break
            time.sleep(0.1)
        process.send_signal(USR2)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + USR2, err
    assert "interrupted by SIGUSR2, saved at step" in err
    assert f"resume with: imgcls train resume={run}" in err
    assert not Path("here/1").exists()
