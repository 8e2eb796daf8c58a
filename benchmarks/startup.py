"""Start-up: CPU time, wall time and peak memory of fresh processes, from `python -c pass` to a complete first run.

The cases alternate, repeat by repeat. The bare script is the minimum of a training program: import torch, one Linear
layer, cross entropy, backward, one SGD step. `imgcls train` is measured until the end of its first update.

    python benchmarks/startup.py               # nine repeats: about six minutes
    python benchmarks/startup.py --quick
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import (
    HERE,
    Arguments,
    environment,
    imgcls,
    machine,
    machine_lines,
    middle,
    paired,
    say,
    spend,
    table,
    write,
)
from synthetic import data_folder

THREADS = 2
BARE = """
import torch
model = torch.nn.Linear(784, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = torch.nn.functional.cross_entropy(model(torch.randn(128, 784)), torch.randint(10, (128,)))
loss.backward()
optimizer.step()
"""
HARD = "\nimport os\nos._exit(0)"
BASE = "bare script, os._exit"
RUN = "run_dir={folder}/run"


def cases() -> dict[str, list[str]]:
    """Name -> command; {folder} is replaced by a new folder for each process."""
    python, first = [sys.executable, "-c"], [sys.executable, str(HERE / "first_step.py"), RUN]
    return {
        "python -c pass": [*python, "pass"],
        "import torch": [*python, "import torch"],
        "import torch, os._exit": [*python, "import torch" + HARD],
        BASE: [*python, BARE + HARD],
        "bare script, ordinary exit": [*python, BARE],
        "imgcls --version": imgcls("--version"),
        "imgcls --help": imgcls("--help"),
        "imgcls train --help": imgcls("train", "--help"),
        "imgcls train, to its first update": first,
        "imgcls train model=lenet dataset=mnist, to its first update": [*first, "model=lenet", "dataset=mnist"],
        "imgcls train epochs=1, whole": imgcls("train", "epochs=1", RUN),
    }


def measure(repeats: int, data: str) -> list[dict[str, Any]]:
    """Every case in turn, repeat by repeat; a first round, not counted, fills the file cache."""
    found = []
    for repeat in range(-1, repeats):
        for name, command in cases().items():
            with tempfile.TemporaryDirectory(prefix="imgcls-bench-start-") as folder:
                words = [word.replace("{folder}", folder) for word in command]
                spent = spend(words, env=environment(THREADS, data), cwd=folder, timeout=600)
            if repeat >= 0:
                found.append(spent.figures | {"case": name, "repeat": repeat, "failure": spent.failure})
        say(f"round {repeat + 1} of {repeats}")
    return found


def report(found: list[dict[str, Any]], found_on: dict[str, Any], prefix: Path) -> None:
    """results/startup.md and .json."""
    good: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in cases()}
    failures = {}
    for one in found:
        if one["failure"]:
            failures[one["case"]] = one["failure"]
        else:
            good[one["case"]][one["repeat"]] = one

    def values(name: str, key: str) -> dict[int, float]:
        return {repeat: one[key] for repeat, one in good[name].items()}

    rows = []
    for name, runs in good.items():
        if not runs:
            rows.append([name, "failed", *["-"] * 4])
            continue
        ratios = paired(values(name, "cpu"), values(BASE, "cpu"))
        figures = [middle(list(values(name, key).values()), 2) for key in ("cpu", "wall")]
        peak = f"{statistics.median(values(name, 'peak_rss_mb').values()):,.0f}"
        rows.append([name, *figures, peak, f"{statistics.median(ratios):.2f}" if ratios else "-", len(runs)])
    columns = ["process", "CPU s", "wall s", "peak RSS MB", "CPU x bare", "n"]
    lines = ["# Start-up", "", *machine_lines(found_on), "", table(columns, rows), ""]
    lines += [f"- {name} failed: `{text}`" for name, text in failures.items()]
    first = "imgcls train, to its first update"
    for base in (BASE, "bare script, ordinary exit"):
        if ratios := paired(values(first, "cpu"), values(base, "cpu")):
            lines.append(
                f"- {first}: {statistics.median(ratios):.2f} times the CPU time of the {base} (target: at most 1.20)."
            )
    lines += [
        "- Medians over the repeats, range in parentheses; *CPU x bare*: median of the ratios within a repeat. A",
        "  process that exits with os._exit skips the interpreter's cleanup; so does one ended at its first update.",
    ]
    write(prefix, "\n".join(lines), {"machine": found_on, "runs": found})


def main() -> None:
    args = Arguments(__doc__, "startup", repeats=9).read()
    found_on = machine()
    with data_folder({"mnist"}) as (data, _):
        found = measure(args.repeats, data)
    report(found, found_on, args.out)


if __name__ == "__main__":
    main()
