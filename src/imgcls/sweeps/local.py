"""``imgcls train -m``: all jobs checked first, then one after another, each in a process of its own.

sweep.json in the sweep's folder says how each went; the same words with the same sweep_dir go on with a sweep that was
stopped: finished jobs are left alone, stopped ones are resumed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from imgcls import files
from imgcls.errors import ConfigError, RunError
from imgcls.files import LOCK, new_numbered_folder
from imgcls.runs.folder import OUTPUTS, RunFolder
from imgcls.runtime.signals import SWEEP_JOB

if TYPE_CHECKING:
    pass
from imgcls.sweeps.jobs import Job, Plan, differing
from imgcls.sweeps.results import SUMMARY, as_json, print_results, read_summary, write_summary

STDERR = 2  # the jobs' own results are progress here
GRACE = 30.0  # seconds that a job has to save in, once it is told to stop


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


@contextlib.contextmanager
def _passing_on(received: list[int], running: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM are noted and passed on to the running job, once each: it saves before it stops.

    SIGUSR1 (where there is one) is passed on: the job saves and goes on.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number in stopping:
            received.append(number)
        for process in running:
            with contextlib.suppress(ValueError):  # Windows has hardly any signals
                process.send_signal(number)

    is_main = threading.current_thread() is threading.main_thread()
    stopping = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        stopping.append(signal.SIGHUP)
    numbers = [*stopping, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])] if is_main else []
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    plans: Sequence[Plan], flags: Sequence[str], sweep_dir: str | None, timeout: float | None, *, is_quiet: bool
) -> int:
    """Run the jobs in order, each for so many seconds at most; returns the exit code of the whole sweep."""
    folder = make_folder(sweep_dir, plans)
    with contextlib.closing(RunFolder(folder)):  # another sweep may have been told the same folder
        more = "" if sweep_dir is not None else f" and sweep_dir={shlex.quote(str(folder))}"
        names = differing([plan.words for plan in plans])
        jobs = [Job(plan, name, folder / str(i)) for i, (plan, name) in enumerate(zip(plans, names, strict=True))]
        return _run_all(folder, jobs, flags, timeout, f"go on with: the same command{more}", is_quiet=is_quiet)


def _run_all(
    folder: Path, todo: list[Job], flags: Sequence[str], timeout: float | None, advice: str, *, is_quiet: bool
) -> int:
    print(f"sweep    {folder}, {len(todo)} job{'s' if len(todo) > 1 else ''}", file=sys.stderr)
    for job, before in zip(todo, read_summary(folder), strict=False):
        job.code, job.seconds = before["exit_code"], before["seconds"]
    files.write_whole(folder / SUMMARY, as_json(todo))  # without it nothing could be gone on with
    received: list[int] = []
    running: list[subprocess.Popen[bytes]] = []
    with _passing_on(received, running):
        for i, job in enumerate(todo):
            if received:
                break
            is_done = job.result()["accuracy"] is not None
            words = ": done before" if is_done else ""
            print(f"\njob {i}    {job.differs or '(the defaults)'}{words}", file=sys.stderr, flush=True)
            if is_done:
                job.code = 0
                continue
            job.is_running = True
            write_summary(folder, todo)
            _run(job, flags, timeout, received, running)
            job.is_running = False
            write_summary(folder, todo)
    print_results(todo, advice, is_quiet=is_quiet)
    if received:
        return 128 + received[0]
    return 1 if any(job.code != 0 for job in todo) else 0


def _run(
    job: Job,
    flags: Sequence[str],
    timeout: float | None,
    received: list[int],
    running: list[subprocess.Popen[bytes]],
) -> None:
    """Run one job to its end, in a process group of its own: the terminal's Ctrl-C reaches it through us alone."""
    started = time.monotonic()
    command = [sys.executable, "-m", "imgcls", "train", *job.command(), *flags]
    env = {**os.environ, "PYTHONSAFEPATH": "1", SWEEP_JOB: "1"}
    with _deaf_to_sigusr1():
        running[:] = [subprocess.Popen(command, stdout=STDERR, env=env, process_group=0)]
    for number in received:  # while it was being started
        running[0].send_signal(number)
    try:
        job.code = running[0].wait(timeout)
    except subprocess.TimeoutExpired:
        job.code, job.is_late = _stopped(running[0]), True
    running.clear()
    job.seconds += time.monotonic() - started


def _stopped(process: subprocess.Popen[bytes]) -> int:
    """Tell the job to save and stop, and kill it if it does not; returns its exit code."""
    process.terminate()
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextlib.contextmanager
def _deaf_to_sigusr1() -> Iterator[None]:
    """A process started inside ignores SIGUSR1, which would end it, until it knows what to do."""
    if not hasattr(signal, "SIGUSR1") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
