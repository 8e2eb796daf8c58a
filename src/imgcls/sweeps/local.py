"""``imgcls train -m``: all jobs are checked first, then run one after another, each in its own process.

sweep.json in the sweep's folder records how each job went. The same command with the same sweep_dir resumes a sweep:
finished jobs are skipped, interrupted ones resumed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from imgcls.errors import ConfigError, RunError
from imgcls.files import LOCK, new_numbered_folder
from imgcls.runs.folder import OUTPUTS, RunFolder
from imgcls.runtime.signals import SWEEP_JOB, USR2_STOPS, handlers, handles_usr2, stop_signals
from imgcls.sweeps import folds
from imgcls.sweeps.jobs import Job, Plan, differing
from imgcls.sweeps.results import print_job, print_results, print_start, read_summary, write_summary

STDERR = 2  # the jobs' results are progress here
GRACE = 30.0  # seconds that a job has to save after SIGTERM


def make_folder(sweep_dir: str | None, plans: Sequence[Plan]) -> Path:
    """The sweep's folder: sweep_dir, which must be empty or hold these very jobs, or a new outputs/sweep-N."""
    try:
        if sweep_dir is None:
            return new_numbered_folder(OUTPUTS, "sweep")
        folder = Path(os.path.expanduser(sweep_dir))
        if str(folder).startswith("~"):  # the jobs would expand it
            folder = folder.absolute()
        if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
            before = [row["digest"] for row in read_summary(folder)]
            if before != [plan.digest for plan in plans]:
                what = "already holds a different sweep" if before else "is not empty"
                raise ConfigError(f"sweep_dir: {folder} {what}; name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except OSError as error:
        raise RunError(f"cannot create the sweep's folder {error.filename}: {error.strerror}") from error


def run(
    plans: Sequence[Plan], flags: Sequence[str], sweep_dir: str | None, timeout: float | None, *, is_quiet: bool
) -> int:
    """Run the jobs in order, each for ``timeout`` seconds at most; returns the exit code of the sweep."""
    folder = make_folder(sweep_dir, plans)
    with contextlib.closing(RunFolder(folder)):  # another sweep may have been given the same folder
        names = differing([plan.words for plan in plans])
        jobs = [Job(plan, name, folder / str(i)) for i, (plan, name) in enumerate(zip(plans, names, strict=True))]
        for job, before in zip(jobs, read_summary(folder), strict=False):
            job.code, job.seconds = before["exit_code"], before["seconds"]
        print_start(folder, len(jobs))
        write_summary(folder, jobs)  # without it nothing could be resumed
        launcher = Launcher(flags, timeout)
        with handlers(SIGUSR1=launcher.forward, **dict.fromkeys(stop_signals(), launcher.forward)):
            _run_all(jobs, folder, launcher)
        more = "" if sweep_dir is not None else f" and sweep_dir={shlex.quote(str(folder))}"
        groups, lines = folds.summarized(folder, jobs)
        if groups:
            _record(folder, jobs, groups)
        advice = f"resume with: the same command{more}"
        print_results(jobs, advice, is_quiet=is_quiet, groups=groups, more=lines)
    if launcher.received:
        return 128 + launcher.received[0]
    return 1 if any(job.code != 0 for job in jobs) else 0


def _run_all(jobs: Sequence[Job], folder: Path, launcher: Launcher) -> None:
    """Run the jobs that are not done, until a stop signal is received."""
    for i, job in enumerate(jobs):
        if launcher.received:
            return
        is_done = job.is_done
        print_job(i, job, is_done=is_done)
        if is_done:
            job.code = 0
            continue
        job.is_running = True
        _record(folder, jobs)
        launcher.run(job)
        job.is_running = False
        _record(folder, jobs)


def _record(folder: Path, jobs: Sequence[Job], groups: Sequence[dict[str, Any]] = ()) -> None:
    with contextlib.suppress(RunError):  # a full disk does not stop the sweep: the table is still printed
        write_summary(folder, jobs, groups)


@dataclass
class Launcher:
    """Runs jobs, one at a time, and forwards signals to the one that runs. received: the stop signals so far.
    job_mark: tells the jobs, which start with SIGUSR2 ignored, whether it stops them."""

    flags: Sequence[str]
    timeout: float | None
    received: list[int] = field(default_factory=list)
    job_mark: str = field(default_factory=lambda: USR2_STOPS if handles_usr2() else "1")
    _process: subprocess.Popen[bytes] | None = None

    def run(self, job: Job) -> None:
        """Run the job to its end, in its own process group: the terminal's Ctrl-C reaches it only through us."""
        started = time.monotonic()
        command = [sys.executable, "-m", "imgcls", "train", *job.command(), *self.flags]
        env = {**os.environ, "PYTHONSAFEPATH": "1", SWEEP_JOB: self.job_mark}
        with handlers(SIGUSR1=signal.SIG_IGN, SIGUSR2=signal.SIG_IGN):  # they would end a job that has no handler yet
            self._process = subprocess.Popen(command, stdout=STDERR, env=env, process_group=0)
        for number in self.received:  # while it was being started
            self._process.send_signal(number)
        try:
            job.code = self._process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            job.code, job.is_late = _stop(self._process), True
        self._process = None
        job.seconds += time.monotonic() - started

    def forward(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the job saves and, unless it is SIGUSR1, stops; so does the sweep then."""
        if number != getattr(signal, "SIGUSR1", None):
            self.received.append(number)
        if self._process is not None:
            with contextlib.suppress(ValueError):  # Windows has hardly any signals
                self._process.send_signal(number)


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Tell the job to save and stop, and kill it if it does not; returns its exit code."""
    process.terminate()
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
