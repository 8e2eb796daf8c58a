"""``imgcls train -m``: all jobs checked first, then one after another, each in a process of its own.

sweep.json in the sweep's folder says how each went; the same words with the same sweep_dir go on with a sweep that was
stopped: finished jobs are left alone, stopped ones are resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, get_type_hints

from imgcls import checkpoint as checkpoints
from imgcls.confdir import as_yaml
from imgcls.config import OWN_PARTS, TrainConfig, convert, parse
from imgcls.errors import ConfigError, RunError
from imgcls.rundir import LOCK, RunFolder
from imgcls.signals import SWEEP_JOB

if TYPE_CHECKING:
    from imgcls.compose import Composer, Override

OUTPUTS = Path("outputs")
SUMMARY = "sweep.json"
OWN_KEYS = ("sweep_dir", "job_timeout")  # of the sweep, not of its jobs
STDERR = 2  # the jobs' own results are progress here
GRACE = 30.0  # seconds that a job has to save in, once it is told to stop


@dataclass(frozen=True)
class Plan:
    """A job as it is asked for: the words of its command, those that name code of the user's own, and a digest of the
    configuration that they make."""

    words: list[str]
    own: list[str]
    digest: str


def digest(text: str) -> str:
    """Short, and different for different texts."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class Job:
    """One run of a sweep: its plan, the words that differ between jobs, and how it went."""

    plan: Plan
    differs: str
    folder: Path
    code: int | None = None
    seconds: float = 0.0
    is_running: bool = False
    is_late: bool = False  # stopped because it took longer than job_timeout

    def result(self) -> dict[str, Any]:
        """Its report and its best validation accuracy, as far as it got."""
        found: dict[str, Any] = {"accuracy": None, "val_accuracy": None}
        with contextlib.suppress(
            OSError, ValueError, KeyError, TypeError
        ):  # it did not get that far: the table shows a dash
            text = (self.folder / "metrics.jsonl").read_text(encoding="utf-8")
            values = [json.loads(line)["val_accuracy"] for line in text.splitlines()]
            found["val_accuracy"] = max((value for value in values if value is not None), default=None)
            found["accuracy"] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))["accuracy"]
        return found

    def command(self) -> list[str]:
        """The words of ``imgcls train`` that begin it, or that go on with it where it has begun."""
        if (self.folder / "config.yaml").is_file():
            return [f"resume={self.folder}", *self.plan.own]
        return [*self.plan.words, f"run_dir={self.folder}"]

    @property
    def status(self) -> str:
        """finished, failed, running or pending."""
        if self.is_running:
            return "running"
        return "pending" if self.code is None else "failed" if self.code else "finished"

    @property
    def state(self) -> str:
        """How it ended, where that was not well."""
        if self.code is None:
            return "not run"
        if self.is_late and self.code:
            return "stopped by job_timeout"
        if self.code < 0:
            known = {int(one): one.name for one in signal.Signals}
            return f"killed by {known.get(-self.code, f'signal {-self.code}')}"
        return f"failed (exit {self.code})" if self.code else ""


def plan(
    composer: Composer, words: Sequence[str], check: Callable[[TrainConfig], None]
) -> tuple[list[Plan], str | None, float | None]:
    """(the jobs, each composed and checked; sweep_dir; job_timeout)"""
    jobs = composer.expand(words)
    folders = {composer.paths.restore(one.value) for job in jobs for one in job if one.key == "sweep_dir"}
    if len(folders) > 1:
        raise ConfigError("sweep_dir: one folder for the whole sweep, got several")
    if key := next((one.key for one in jobs[0] if one.key in ("run_dir", "resume")), None):
        raise ConfigError(f"{key} cannot be used with --multirun; sweep_dir= names the folder of all its runs")
    timeout = _job_timeout(jobs, composer)
    plans = []
    for i, job in enumerate([[one for one in job if one.key not in OWN_KEYS] for job in jobs]):
        try:
            table = composer.table(job, "train")
            check(parse(TrainConfig, table))
            names = {f"{group}.name": str(table[group]["name"]) for group in OWN_PARTS}
            own = [f"{key}={name}" for key, name in names.items() if ":" in name]
            plans.append(Plan(composer.words(job), own, digest(as_yaml(table))))
        except ConfigError as error:
            which = f" (job {i}: {' '.join(composer.words(job))})" if len(jobs) > 1 else ""
            raise type(error)(f"{error}{which}") from error
    return plans, next(iter(folders), None), timeout


def _job_timeout(jobs: list[list[Override]], composer: Composer) -> float | None:
    """Seconds that a job may take, None for any."""
    key = "job_timeout"
    given = [composer.values([one])[key] for job in jobs for one in job if one.key == key]
    if any(value != given[0] for value in given):
        raise ConfigError(f"{key}: one value for the whole sweep, got several")
    kind = get_type_hints(TrainConfig, include_extras=True)[key]
    seconds: float | None = convert(given[0] if given else None, kind, key)
    return seconds


def make_folder(sweep_dir: str | None, plans: Sequence[Plan]) -> Path:
    """The sweep's folder: sweep_dir, new or with these very jobs in it, or outputs/sweep-N."""
    try:
        if sweep_dir is not None:
            folder = Path(os.path.expanduser(sweep_dir))
            if str(folder).startswith("~"):  # the jobs would take it for a home
                folder = folder.absolute()
            if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
                before = [row["digest"] for row in _summary(folder)]
                if before != [plan.digest for plan in plans]:
                    what = "holds a sweep of other jobs" if before else "is not empty"
                    raise ConfigError(f"sweep_dir: {folder} {what}; name a new folder")
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        OUTPUTS.mkdir(parents=True, exist_ok=True)
        taken = [int(match[1]) for path in OUTPUTS.iterdir() if (match := re.fullmatch(r"sweep-(\d+)", path.name))]
        number = max(taken, default=0) + 1
        while True:
            try:
                (OUTPUTS / f"sweep-{number}").mkdir()
            except FileExistsError:
                number += 1
            else:
                return OUTPUTS / f"sweep-{number}"
    except OSError as error:
        raise RunError(f"cannot create the sweep's folder: {error.strerror} ({error.filename})") from error


def _summary(folder: Path) -> list[dict[str, Any]]:
    """The jobs as the folder's sweep.json has them, none if there is none."""
    try:
        rows = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["jobs"]
        return [
            {
                "digest": row["digest"],
                "exit_code": None if row["exit_code"] is None else int(row["exit_code"]),
                "seconds": float(row["seconds"]),
            }
            for row in rows
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def differing(jobs: Sequence[Sequence[str]]) -> list[str]:
    """For each job its words that not all jobs have."""
    common = set.intersection(*(set(words) for words in jobs)) if jobs else set()
    return [" ".join(word for word in words if word not in common) for words in jobs]


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
    for job, before in zip(todo, _summary(folder), strict=False):
        job.code, job.seconds = before["exit_code"], before["seconds"]
    checkpoints.write_whole(folder / SUMMARY, _as_json(todo))  # without it nothing could be gone on with
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
            _write(folder, todo)
            _run(job, flags, timeout, received, running)
            job.is_running = False
            _write(folder, todo)
    _tell(todo, advice, is_quiet=is_quiet)
    if received:
        return 128 + received[0]
    return 1 if any(job.code != 0 for job in todo) else 0


def _write(folder: Path, jobs: Sequence[Job]) -> None:
    """sweep.json as it stands; a full disk does not stop the sweep, whose table still tells."""
    with contextlib.suppress(RunError):
        checkpoints.write_whole(folder / SUMMARY, _as_json(jobs))


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


def _as_json(jobs: Sequence[Job]) -> bytes:
    rows = [
        {
            "id": i,
            "overrides": job.plan.words,
            "status": job.status,
            "error": job.state or None if job.status == "failed" else None,
            "run_dir": str(job.folder),
            "exit_code": job.code,
            "seconds": round(job.seconds, 1),
            "digest": job.plan.digest,
            **job.result(),
        }
        for i, job in enumerate(jobs)
    ]
    return json.dumps({"jobs": rows}, indent=1).encode()


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


def _tell(jobs: Sequence[Job], advice: str, *, is_quiet: bool) -> None:
    """The table, or JSON; and which jobs failed."""
    if is_quiet:
        print(_as_json(jobs).decode())
    else:
        print("\n".join(table(jobs, [job.result() for job in jobs])))
    if failed := [str(i) for i, job in enumerate(jobs) if job.code != 0]:
        print(advice, file=sys.stderr)
        print(f"imgcls: error: {len(failed)} of {len(jobs)} jobs did not finish: {', '.join(failed)}", file=sys.stderr)


def table(jobs: Sequence[Job], results: Sequence[dict[str, Any]]) -> list[str]:
    """The jobs, best test accuracy first."""
    order = sorted(range(len(jobs)), key=lambda i: -(results[i]["accuracy"] or -1.0))
    width = min(44, max([len("what differs"), *(len(job.differs) for job in jobs)]))
    lines = ["", f"job  {'what differs':<{width}}  val acc  test acc  seconds"]
    for i in order:
        job, numbers = jobs[i], results[i]
        val, test = (f"{numbers[key]:.1%}" if numbers[key] is not None else "-" for key in ("val_accuracy", "accuracy"))
        words, *more = textwrap.wrap(job.differs, width, break_on_hyphens=False) or [""]
        lines.append(f"{i:>3}  {words:<{width}}  {val:>7}  {test:>8}  {job.seconds:7.1f}  {job.state}".rstrip())
        lines += [f"     {words}" for words in more]
    return lines
