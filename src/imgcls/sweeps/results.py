"""sweep.json and the table at the end of a sweep."""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgcls import files
from imgcls.errors import RunError

if TYPE_CHECKING:
    pass
from imgcls.sweeps.jobs import Job

SUMMARY = "sweep.json"


def read_summary(folder: Path) -> list[dict[str, Any]]:
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


def write_summary(folder: Path, jobs: Sequence[Job]) -> None:
    """sweep.json as it stands; a full disk does not stop the sweep, whose table still tells."""
    with contextlib.suppress(RunError):
        files.write_whole(folder / SUMMARY, as_json(jobs))


def as_json(jobs: Sequence[Job]) -> bytes:
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


def print_results(jobs: Sequence[Job], advice: str, *, is_quiet: bool) -> None:
    """The table, or JSON; and which jobs failed."""
    if is_quiet:
        print(as_json(jobs).decode())
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
