"""``imgcls train -m``: all jobs checked first, then one after another, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgcls.errors import ConfigError, RunError

OUTPUTS = Path("outputs")


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
        try:
            found["accuracy"] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))["accuracy"]
            rows = [
                json.loads(line) for line in (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            ]
            values = [row["val_accuracy"] for row in rows if row["val_accuracy"] is not None]
            found["val_accuracy"] = max(values, default=None)
        except (OSError, ValueError, KeyError):
            pass  # it did not get that far: the table shows a dash
        return found


def make_folder(sweep_dir: str | None) -> Path:
    """The sweep's folder: sweep_dir, or outputs/sweep-N."""
    try:
        if sweep_dir is not None:
            folder = Path(sweep_dir).expanduser()
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


def run(jobs: Sequence[Sequence[str]], flags: Sequence[str], sweep_dir: str | None, *, is_quiet: bool) -> int:
    """Run the jobs (the words of each) in order; returns the exit code of the whole sweep."""
    folder = make_folder(sweep_dir)
    todo = [
        Job(list(words), differs, folder / str(i))
        for i, (words, differs) in enumerate(zip(jobs, differing(jobs), strict=True))
    ]
    print(f"sweep    {folder}, {len(todo)} jobs", file=sys.stderr)
    code = 0
    for i, job in enumerate(todo):
        print(f"\njob {i}    {job.differs or '(the defaults)'}", file=sys.stderr, flush=True)
        started = time.monotonic()
        command = [sys.executable, "-m", "imgcls", "train", *job.words, f"run_dir={job.folder}", *flags]
        try:
            job.code = subprocess.run(
                command, stdout=sys.stderr, env={**os.environ, "PYTHONSAFEPATH": "1"}, check=False
            ).returncode
        except KeyboardInterrupt:
            job.code = 130
        job.seconds = time.monotonic() - started
        if job.code in (130, 143, -2, -15):
            code = 143 if job.code in (143, -15) else 130
            break
    code = code or (1 if any(job.code != 0 for job in todo) else 0)
    results = [
        {"id": i, "overrides": job.words, "run_dir": str(job.folder), "exit_code": job.code, **job.result()}
        for i, job in enumerate(todo)
    ]
    if is_quiet:
        print(json.dumps({"jobs": results}, indent=1))
    else:
        print("\n".join(table(todo)))
    if failed := [str(i) for i, job in enumerate(todo) if job.code != 0]:
        print(f"imgcls: error: {len(failed)} of {len(todo)} jobs did not finish: {', '.join(failed)}", file=sys.stderr)
    return code


def table(jobs: Sequence[Job]) -> list[str]:
    """The jobs, best test accuracy first."""
    results = {id(job): job.result() for job in jobs}
    order = sorted(enumerate(jobs), key=lambda pair: -(results[id(pair[1])]["accuracy"] or -1.0))
    width = min(44, max([len("what differs"), *(len(job.differs) for job in jobs)]))
    lines = ["", f"job  {'what differs':<{width}}  val acc  test acc  seconds"]
    for i, job in order:
        numbers = results[id(job)]
        val, test = (f"{numbers[key]:.1%}" if numbers[key] is not None else "-" for key in ("val_accuracy", "accuracy"))
        words = job.differs if len(job.differs) <= width else job.differs[: width - 3] + "..."
        state = "" if job.code == 0 else "  not run" if job.code is None else f"  failed (exit {job.code})"
        lines.append(f"{i:>3}  {words:<{width}}  {val:>7}  {test:>8}  {job.seconds:7.1f}{state}")
    return lines
