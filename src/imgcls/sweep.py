"""``imgcls train -m``: all jobs checked first, then one after another, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from imgcls.errors import ConfigError, RunError

OUTPUTS = Path("outputs")
STDERR = 2  # the jobs' own results are progress here


@dataclass
class Job:
    """One run of a sweep: the words that are typed for it, those that differ between jobs, and how it went."""

    words: list[str]
    differs: str
    folder: Path
    code: int | None = None
    seconds: float = 0.0

    def result(self) -> dict[str, Any]:
        """Its report and its best validation accuracy, as far as it got."""
        found: dict[str, Any] = {"accuracy": None, "val_accuracy": None}
        with contextlib.suppress(OSError, ValueError, KeyError):  # it did not get that far: the table shows a dash
            text = (self.folder / "metrics.jsonl").read_text(encoding="utf-8")
            values = [json.loads(line)["val_accuracy"] for line in text.splitlines()]
            found["val_accuracy"] = max((value for value in values if value is not None), default=None)
            found["accuracy"] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))["accuracy"]
        return found


def make_folder(sweep_dir: str | None) -> Path:
    """The sweep's folder: sweep_dir, or outputs/sweep-N."""
    try:
        if sweep_dir is not None:
            folder = Path(os.path.expanduser(sweep_dir))
            if folder.is_dir() and any(folder.iterdir()):
                raise ConfigError(f"sweep_dir: {folder} is not empty; name a new folder")
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


def differing(jobs: Sequence[Sequence[str]]) -> list[str]:
    """For each job its words that not all jobs have."""
    common = set.intersection(*(set(words) for words in jobs)) if jobs else set()
    return [" ".join(word for word in words if word not in common) for words in jobs]


@contextlib.contextmanager
def _passing_on(received: list[int], running: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM are noted and passed on to the running job, once each: it saves before it stops."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in running:
            process.send_signal(number)

    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(jobs: Sequence[Sequence[str]], flags: Sequence[str], sweep_dir: str | None, *, is_quiet: bool) -> int:
    """Run the jobs (the words of each) in order; returns the exit code of the whole sweep."""
    folder = make_folder(sweep_dir)
    todo = [
        Job(list(words), differs, folder / str(i))
        for i, (words, differs) in enumerate(zip(jobs, differing(jobs), strict=True))
    ]
    print(f"sweep    {folder}, {len(todo)} job{'s' if len(todo) > 1 else ''}", file=sys.stderr)
    received: list[int] = []
    running: list[subprocess.Popen[bytes]] = []
    with _passing_on(received, running):
        for i, job in enumerate(todo):
            if received:
                break
            print(f"\njob {i}    {job.differs or '(the defaults)'}", file=sys.stderr, flush=True)
            _run(job, flags, received, running)
    _tell(todo, is_quiet=is_quiet)
    if received:
        return 128 + received[0]
    return 1 if any(job.code != 0 for job in todo) else 0


def _run(job: Job, flags: Sequence[str], received: list[int], running: list[subprocess.Popen[bytes]]) -> None:
    """Run one job to its end, in a process group of its own: the terminal's Ctrl-C reaches it through us alone."""
    started = time.monotonic()
    command = [sys.executable, "-m", "imgcls", "train", *job.words, f"run_dir={job.folder}", *flags]
    env = {**os.environ, "PYTHONSAFEPATH": "1"}
    running[:] = [subprocess.Popen(command, stdout=STDERR, env=env, process_group=0)]
    for number in received:  # while it was being started
        running[0].send_signal(number)
    job.code = running[0].wait()
    running.clear()
    job.seconds = time.monotonic() - started


def _tell(jobs: Sequence[Job], *, is_quiet: bool) -> None:
    """The table, or JSON; and which jobs failed."""
    results = [job.result() for job in jobs]
    if is_quiet:
        rows = [
            {"id": i, "overrides": job.words, "run_dir": str(job.folder), "exit_code": job.code, **result}
            for i, (job, result) in enumerate(zip(jobs, results, strict=True))
        ]
        print(json.dumps({"jobs": rows}, indent=1))
    else:
        print("\n".join(table(jobs, results)))
    if failed := [str(i) for i, job in enumerate(jobs) if job.code != 0]:
        print(f"imgcls: error: {len(failed)} of {len(jobs)} jobs did not finish: {', '.join(failed)}", file=sys.stderr)


def table(jobs: Sequence[Job], results: Sequence[dict[str, Any]]) -> list[str]:
    """The jobs, best test accuracy first."""
    order = sorted(range(len(jobs)), key=lambda i: -(results[i]["accuracy"] or -1.0))
    width = min(44, max([len("what differs"), *(len(job.differs) for job in jobs)]))
    lines = ["", f"job  {'what differs':<{width}}  val acc  test acc  seconds"]
    for i in order:
        job, numbers = jobs[i], results[i]
        val, test = (f"{numbers[key]:.1%}" if numbers[key] is not None else "-" for key in ("val_accuracy", "accuracy"))
        words = job.differs if len(job.differs) <= width else job.differs[: width - 3] + "..."
        state = "" if job.code == 0 else "  not run" if job.code is None else f"  failed (exit {job.code})"
        lines.append(f"{i:>3}  {words:<{width}}  {val:>7}  {test:>8}  {job.seconds:7.1f}{state}")
    return lines
