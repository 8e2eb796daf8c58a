"""What the benchmark programs share: measured processes, the command line, the machine's description, tables, files."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
LIBRARIES = ("imgcls", "torch", "torchvision", "numpy", "pillow", "lightning", "keras", "fastai", "timm")
SAMPLE_SECONDS = 0.05  # between two samples of the memory of a process tree
LARGEST_SAMPLING_SHARE = 0.2  # of a core: smaps_rollup takes 18 ms for 1.5 GB, and blocks the process meanwhile
TICKS = os.sysconf("SC_CLK_TCK")


# --- a process, measured ---------------------------------------------------------------------------------------------


@dataclass
class Spent:
    """Resources that a process and its children used, from start to exit.

    cpu: user + system seconds, including all children it waited for. peak_rss_mb: of the largest single process.
    peak_pss_mb: of the whole process tree, None if not requested. others: cores in use by the rest of the machine.
    """

    wall: float
    cpu: float
    peak_rss_mb: float
    peak_pss_mb: float | None
    others: float
    code: int
    stdout: str
    stderr: str

    @property
    def figures(self) -> dict[str, Any]:
        """Everything but the output."""
        return {key: value for key, value in asdict(self).items() if key not in ("stdout", "stderr")}

    @property
    def failure(self) -> str | None:
        """Exit code and last line of stderr, if the process failed."""
        if self.code == 0:
            return None
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return f"exit code {self.code}: {lines[-1][:200] if lines else 'nothing on stderr'}"


def spend(
    command: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float = 3600,
    memory: bool = False,
) -> Spent:
    """Run a command and measure it; ``memory`` samples the PSS of the process tree, which slows it down."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        busy, started = _busy_seconds(), time.perf_counter()
        process = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        sampler = _Sampler(process.pid) if memory else None
        alarm = threading.Timer(timeout, _kill, (process.pid,))
        alarm.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _kill(process.pid)
            raise
        finally:
            alarm.cancel()
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = sampler.stop() if sampler else None
        cpu = usage.ru_utime + usage.ru_stime
        others = max(0.0, _busy_seconds() - busy - cpu) / wall
        texts = [_text(file) for file in (out, err)]
    return Spent(wall, cpu, usage.ru_maxrss / 1024, peak, others, process.returncode, *texts)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _text(file: Any) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _busy_seconds() -> float:
    """CPU seconds that the whole machine has been busy: user, nice, system, interrupts, steal."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


class _Sampler(threading.Thread):
    """Peak PSS of a process tree in MB, sampled every 50 ms or as often as the limit on its cost allows."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root = root
        self.peak = 0.0
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        pause = SAMPLE_SECONDS
        while not self._over.wait(pause):
            started = time.perf_counter()
            self.peak = max(self.peak, sum(_pss_mb(pid) for pid in _tree(self.root)))
            pause = max(SAMPLE_SECONDS, (time.perf_counter() - started) / LARGEST_SAMPLING_SHARE)

    def stop(self) -> float:
        self._over.set()
        self.join()
        return self.peak


def _tree(root: int) -> list[int]:
    """A process and all its descendants."""
    found = [root]
    for pid in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _pss_mb(pid: int) -> float:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def imgcls(*words: str) -> list[str]:
    """The imgcls command line in this environment, as a user types it."""
    script = Path(sys.executable).with_name("imgcls")
    return [str(script), *words] if script.is_file() else [sys.executable, "-m", "imgcls", *words]


def environment(threads: int, data: str | Path) -> dict[str, str]:
    """Environment variables of every measured process; others that the user has set are kept."""
    given = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    fixed = {"OMP_NUM_THREADS": str(threads), "IMGCLS_DATA": str(data), "PYTHONWARNINGS": "ignore", "COLUMNS": "120"}
    return given | fixed


# --- the command line of a benchmark ---------------------------------------------------------------------------------


class Arguments(argparse.ArgumentParser):
    """Options of a benchmark: its own, --out and, if it repeats its measurements, --repeats and --quick."""

    def __init__(self, doc: str | None, name: str, repeats: int = 0, quick: str = "a smoke test: one repeat") -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.name = name
        if repeats:
            self.add_argument("--repeats", type=int, default=repeats, help=f"default: {repeats}")
            self.add_argument("--quick", action="store_true", help=quick)
        self.add_argument("--out", type=Path, metavar="PREFIX", help=f"default: benchmarks/results/{name}")

    def read(self) -> argparse.Namespace:
        """The arguments, with --quick and the default of --out applied; from now on SIGTERM ends children as well."""
        args = self.parse_args()
        if is_quick := getattr(args, "quick", False):
            args.repeats = 1
        args.out = args.out or RESULTS / (f"{self.name}-quick" if is_quick else self.name)
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        return args


# --- the machine -----------------------------------------------------------------------------------------------------


def machine(libraries: Iterable[str] = LIBRARIES) -> dict[str, Any]:
    """Date, hardware, versions, command and load, for the top of every result."""
    cpu, memory = Path("/proc/cpuinfo").read_text(), Path("/proc/meminfo").read_text()
    name = next(
        (line.split(":", 1)[1].strip() for line in cpu.splitlines() if line.startswith("model name")), "unknown"
    )
    flags = next((line for line in cpu.splitlines() if line.startswith("flags")), "").split()
    return {
        "date": datetime.datetime.now().isoformat(sep=" ", timespec="minutes"),
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)),
        "bf16": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags],
        "ram_gb": round(int(memory.split()[1]) / 2**20),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in libraries if (version := _version(name))},
        "commit": _commit(),
        "command": shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this repository, with a plus sign if the sources have uncommitted changes."""
    answers = []
    for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "../src", "../conf")):
        try:
            done = subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        answers.append(done.stdout.strip())
    return answers[0] + ("+" if answers[1] else "")


def machine_lines(found: dict[str, Any]) -> list[str]:
    """The description as lines of Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    bf16 = ", ".join(found["bf16"]) or "no bf16 instructions"
    return [
        f"{found['date']}; {found['cores']} cores of {found['cpu']} ({bf16}), {found['ram_gb']} GB RAM, "
        f"{found['system']}; load before: {' '.join(str(load) for load in found['load_before'])}.",
        f"Python {found['python']}, {versions}; commit {found['commit']}.",
        "",
        f"    {found['command']}",
    ]


# --- figures, tables, files ------------------------------------------------------------------------------------------


def middle(values: Sequence[float], digits: int = 2) -> str:
    """Median and, of several values, the range: '12.3 (11.9 to 14.0)'"""
    if not values:
        return "-"
    text = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def paired(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """The ratio within each repeat that both have."""
    return [ours[repeat] / theirs[repeat] for repeat in sorted(ours.keys() & theirs.keys()) if theirs[repeat]]


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    ruler = "|" + "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)) + "|"
    return "\n".join([line(columns), ruler, *(line(row) for row in cells)])


def say(text: str) -> None:
    """Print progress to stderr; stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def write(prefix: Path, text: str, raw: Any) -> None:
    """Write the result to PREFIX.md and PREFIX.json, and the former to stdout."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".md").write_text(text.rstrip() + "\n", encoding="utf-8")
    write_json(prefix, raw)
    print(text.rstrip())


def read_json(prefix: Path) -> dict[str, Any]:
    """The raw figures in PREFIX.json, if there are any."""
    path = prefix.with_suffix(".json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_json(prefix: Path, raw: Any) -> None:
    """Write the raw figures to PREFIX.json."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
