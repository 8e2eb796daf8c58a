"""What a sweep reports: sweep.json, the lines of its jobs, and the table at the end."""

from __future__ import annotations

import json
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgcls import files
from imgcls.errors import error_line
from imgcls.sweeps.jobs import Job

SUMMARY = "sweep.json"


def read_summary(folder: Path) -> list[dict[str, Any]]:
    """digest, exit_code and seconds of each job in the folder's sweep.json; none if there is no such file."""
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


def write_summary(folder: Path, jobs: Sequence[Job], groups: Sequence[dict[str, Any]] = ()) -> None:
    """Replace sweep.json. groups: see folds.summarized. Raises RunError."""
    files.write_whole(folder / SUMMARY, as_json(jobs, groups))


def as_json(jobs: Sequence[Job], groups: Sequence[dict[str, Any]] = ()) -> bytes:
    """The content of sweep.json, which --json prints too."""
    rows = [
        {
            "id": i,
            "overrides": job.plan.words,
            "status": job.status,
            "error": ending(job) or None if job.status == "failed" else None,
            "run_dir": str(job.folder),
            "exit_code": job.code,
            "seconds": round(job.seconds, 1),
            "digest": job.plan.digest,
            **job.result(),
        }
        for i, job in enumerate(jobs)
    ]
    return json.dumps({"jobs": rows, **({"groups": list(groups)} if groups else {})}, indent=1).encode()


def ending(job: Job) -> str:
    """Why the job did not finish, '' if it did."""
    if job.code is None:
        return "not run"
    if job.is_late and job.code:
        return "stopped by job_timeout"
    if job.code < 0:
        known = {int(one): one.name for one in signal.Signals}
        return f"killed by {known.get(-job.code, f'signal {-job.code}')}"
    return f"failed (exit {job.code})" if job.code else ""


def print_start(folder: Path, count: int) -> None:
    """The first line of a sweep."""
    print(f"sweep    {folder}, {count} job{'s' if count > 1 else ''}", file=sys.stderr)


def print_job(number: int, job: Job, *, is_done: bool) -> None:
    """The line above a job's own output."""
    done = ": already done" if is_done else ""
    print(f"\njob {number}    {job.differs or '(the defaults)'}{done}", file=sys.stderr, flush=True)


def print_results(
    jobs: Sequence[Job], advice: str, *, is_quiet: bool, groups: Sequence[dict[str, Any]] = (), more: Sequence[str] = ()
) -> None:
    """The table and the lines after it, or JSON with the groups of jobs; and which jobs failed."""
    if is_quiet:
        print(as_json(jobs, groups).decode())
    else:
        print("\n".join([*table(jobs, [job.result() for job in jobs]), *more]))
    if failed := [str(i) for i, job in enumerate(jobs) if job.code != 0]:
        print(advice, file=sys.stderr)
        said = f"{len(failed)} of {len(jobs)} jobs did not finish: {', '.join(failed)}"
        print(error_line(said), file=sys.stderr)


def table(jobs: Sequence[Job], results: Sequence[dict[str, Any]]) -> list[str]:
    """The jobs, best validation accuracy first: the test is not for choosing. Those without a result come last."""

    def rank(i: int) -> tuple[bool, float]:
        value = results[i]["val_accuracy"]
        return not jobs[i].is_done, 1.0 if value is None else -value

    order = sorted(range(len(jobs)), key=rank)
    width = min(44, max([len("what differs"), *(len(job.differs) for job in jobs)]))
    lines = ["", f"job  {'what differs':<{width}}  val acc  test acc  seconds"]
    for i in order:
        job, numbers = jobs[i], results[i]
        val, test = (f"{numbers[key]:.1%}" if numbers[key] is not None else "-" for key in ("val_accuracy", "accuracy"))
        words, *more = textwrap.wrap(job.differs, width, break_on_hyphens=False) or [""]
        lines.append(f"{i:>3}  {words:<{width}}  {val:>7}  {test:>8}  {job.seconds:7.1f}  {ending(job)}".rstrip())
        lines += [f"     {words}" for words in more]
    return lines
