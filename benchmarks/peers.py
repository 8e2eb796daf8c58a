"""imgcls compared with Lightning, Keras 3, fastai, timm and the PyTorch tutorial loop: throughput, job time, memory.

Each contender is a separate process and does the same job: N epochs over the training images, then the test images
once. The repeats are interleaved (each contender once, then each again), ratios are taken within a repeat, and memory
is measured in separate runs, since sampling it slows a process down. Needs `pip install -e '.[bench]'`.

    python benchmarks/peers.py                                  # all workloads, five repeats: about 80 minutes
    python benchmarks/peers.py --workloads lenet-mnist --repeats 3
    python benchmarks/peers.py --quick                          # a smoke test: a minute or two
    python benchmarks/peers.py --picture                        # only draw results/peers.png from results/peers.json

The real files are read from the folder in the variable IMGCLS_DATA; if it is not set, files in the same formats are
written to a temporary folder. Workloads that are run replace those in the results file, the others are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
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
    read_json,
    say,
    spend,
    table,
    write,
    write_json,
)
from synthetic import data_folder

BASE = "lightning"  # baseline of the comparison
THREADS = WORKERS = 2
BATCH = 128


@dataclass(frozen=True)
class Workload:
    """A job: model, data, how much of it, and its contenders."""

    name: str
    title: str
    model: str
    dataset: str
    contenders: tuple[str, ...]
    epochs: int = 3
    limit: int | None = None
    test_limit: int | None = None


@dataclass(frozen=True)
class Contender:
    """A program that does a job (script None: imgcls's command line), with its precision and workers."""

    title: str
    script: str | None
    precision: str = "fp32"
    workers: int = WORKERS


CONTENDERS = {
    "imgcls": Contender("imgcls", None),
    "imgcls-bf16": Contender("imgcls, bf16", None, precision="bf16"),
    "lightning": Contender("Lightning, 2 workers", "with_lightning"),
    "lightning-bf16": Contender("Lightning, bf16-mixed", "with_lightning", precision="bf16"),
    "keras": Contender("Keras 3 (torch), arrays", "with_keras"),
    "fastai": Contender("fastai, 2 workers", "with_fastai"),
    "timm": Contender("timm's loader and loop", "with_timm"),
    "tutorial": Contender("tutorial loop, 0 workers", "tutorial", workers=0),
    "tutorial-2": Contender("tutorial loop, 2 workers", "tutorial"),
}
LOOPS = ("tutorial", "tutorial-2", "lightning", "fastai")
SMALL = {"epochs": 2, "limit": 640, "test_limit": 256}
WORKLOADS = {
    one.name: one
    for one in (
        Workload("lenet-mnist", "LeNet / MNIST", "lenet", "mnist", ("imgcls", *LOOPS, "keras")),
        Workload(
            "lenet-cifar10",
            "LeNet / CIFAR-10, crop + flip",
            "lenet",
            "cifar10",
            ("imgcls", *LOOPS, "timm", "keras"),
        ),
        Workload("mlp-mnist", "MLP / MNIST", "mlp", "mnist", ("imgcls", *LOOPS, "keras")),
        Workload(
            "resnet18-cifar10",
            "ResNet-18 / CIFAR-10, crop + flip, 640 images",
            "resnet18",
            "cifar10",
            ("imgcls", "imgcls-bf16", "tutorial-2", "lightning", "lightning-bf16", "fastai", "timm"),
            **SMALL,
        ),
    )
}
TARGETS = {  # throughput vs. Lightning and vs. Keras; wall time of the whole job vs. Lightning
    ("lenet-mnist", "imgcls"): (3.5, 2.0, 0.30),
    ("lenet-cifar10", "imgcls"): (3.5, 3.5, 0.30),
    ("mlp-mnist", "imgcls"): (14.0, 3.5, 0.15),
    ("resnet18-cifar10", "imgcls"): (1.35, None, 0.65),
    ("resnet18-cifar10", "imgcls-bf16"): (2.4, None, None),
}
FOOT = """
- *images/s*: training images per second in the training part of an epoch, median of all epochs but the first (worker
  start-up, first allocations); validation and saving are excluded. *job*: from process start to exit. *CPU*: user +
  system seconds of the process and its children. *PSS*: peak of the process tree, measured in separate runs.
- Median of the repeats, range in parentheses. *x Lightning*, *x Keras* and *job x*: median over the repeats of the
  ratio within a repeat; higher is better for images/s, lower for job and PSS.
- imgcls is `imgcls train` with its defaults and everything it normally writes (checkpoints, TensorBoard events, report,
  predictions, plots). It holds out a tenth of the training images for validation and validates after each epoch:
  {counts}. The others train on all images and do not validate. The figures are not corrected for this.
- All use the same layers, AdamW with lr 0.005 and weight decay 0.01 (fastai: its Adam with decoupled decay), batch size
  128 and two threads (OMP_NUM_THREADS=2). Only imgcls uses a learning rate schedule (one cycle) and channels last; the
  others follow their own documentation. Keras has no padded random crop, so it uses RandomTranslation instead.
- Accuracy only shows that the same work was done; after so few epochs it says nothing about a library.
"""
COLUMNS = ["contender", "images/s", "x Lightning", "x Keras", "job s", "job x", "CPU s", "PSS MB", "PSS x", "acc.", "n"]


# --- running ---------------------------------------------------------------------------------------------------------


def run(workload: Workload, name: str, data: str, *, memory: bool, timeout: float) -> dict[str, Any]:
    """Run one process: its figures, or its failure."""
    contender = CONTENDERS[name]
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-run-") as folder:
        if contender.script is None:
            command = _imgcls_command(workload, contender.precision, Path(folder, "run"))
        else:
            job = {key: getattr(workload, key) for key in ("model", "dataset", "epochs", "limit", "test_limit")}
            job |= {"data": data, "batch_size": BATCH, "threads": THREADS, "workers": contender.workers}
            job |= {"precision": contender.precision}
            command = [sys.executable, str(HERE / "contenders" / f"{contender.script}.py"), json.dumps(job)]
        spent = spend(command, env=environment(THREADS, data), cwd=folder, timeout=timeout, memory=memory)
        if spent.failure is not None:
            return spent.figures | {"failure": spent.failure}
        try:
            found = _read_run(Path(folder, "run")) if contender.script is None else _read_answer(spent.stdout)
        except (OSError, ValueError, LookupError) as error:
            return spent.figures | {"failure": f"no figures: {error!r}"}
    return spent.figures | found


def _imgcls_command(workload: Workload, precision: str, run_dir: Path) -> list[str]:
    words = [f"model={workload.model}", f"dataset={workload.dataset}", f"epochs={workload.epochs}"]
    words += [f"batch_size={BATCH}", f"run_dir={run_dir}"]
    words += [f"dataset.{key}={getattr(workload, key)}" for key in ("limit", "test_limit") if getattr(workload, key)]
    words += [f"precision={precision}"] if precision != "fp32" else []
    return imgcls("train", *words)


def _read_run(folder: Path) -> dict[str, Any]:
    """From the files of an imgcls run: speed of every epoch, and test accuracy."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    accuracy = json.loads((folder / "report.json").read_text())["accuracy"]
    return {"epoch_rates": [row["images_per_second"] for row in rows], "accuracy": accuracy}


def _read_answer(stdout: str) -> dict[str, Any]:
    """The last line that a contender printed."""
    given = json.loads(stdout.strip().splitlines()[-1])
    rates = [given["images"] / seconds for seconds in given["epoch_seconds"]]
    return {"epoch_rates": rates, "accuracy": given["accuracy"]}


def measure(workload: Workload, data: str, is_real: bool, args: argparse.Namespace) -> dict[str, Any]:
    """All runs of a workload: repeat by repeat, then the runs that measure memory."""
    names = [name for name in workload.contenders if args.contenders is None or name in args.contenders]
    found = {"machine": machine(), "workload": asdict(workload), "real_data": is_real, "runs": []}
    if not found["machine"]["bf16"]:
        names = [name for name in names if CONTENDERS[name].precision != "bf16"]
    for memory, repeats in ((False, args.repeats), (True, args.memory_runs)):
        for repeat in range(repeats):
            for name in names:
                figures = run(workload, name, data, memory=memory, timeout=args.timeout)
                found["runs"].append({"contender": name, "repeat": repeat, "memory": memory, **figures})
                say(f"{workload.name:16} {'memory' if memory else repeat} {name:15} {_brief(figures)}")
    return found


def _brief(figures: dict[str, Any]) -> str:
    if "failure" in figures:
        return f"FAILED {figures['failure']}"
    pss = f", PSS {figures['peak_pss_mb']:,.0f} MB" if figures["peak_pss_mb"] else ""
    return f"{rate(figures):>10,.0f} images/s, job {figures['wall']:6.1f} s, others {figures['others']:.2f} cores{pss}"


def rate(figures: dict[str, Any]) -> float:
    """Images per second: median of all epochs, without the first if there are several."""
    rates = figures["epoch_rates"]
    return statistics.median(rates[1:] or rates)


# --- the tables ------------------------------------------------------------------------------------------------------


def section(found: dict[str, Any]) -> str:
    """The table of a workload and the machine it was measured on."""
    workload, good = found["workload"], defaultdict(dict)
    jobs, memory, failures = defaultdict(dict), defaultdict(list), {}
    for one in found["runs"]:
        name = one["contender"]
        if "failure" in one:
            failures[name] = one["failure"]
        elif one["memory"]:
            memory[name].append(one["peak_pss_mb"])
        else:
            good[name][one["repeat"]] = one
            jobs[name][one["repeat"]] = one["wall"]
    rows = []
    for name in dict.fromkeys(one["contender"] for one in found["runs"]):
        runs = list(good[name].values())
        if not runs:
            rows.append([CONTENDERS[name].title, "failed", *["-"] * (len(COLUMNS) - 2)])
            continue
        rates = {key: {n: rate(one) for n, one in good[key].items()} for key in (name, BASE, "keras")}
        rows.append(
            [
                CONTENDERS[name].title,
                middle([rate(one) for one in runs], 0),
                ratio(rates[name], rates[BASE]),
                ratio(rates[name], rates["keras"]),
                middle([one["wall"] for one in runs], 1),
                ratio(jobs[name], jobs[BASE]),
                middle([one["cpu"] for one in runs], 1),
                middle(memory[name], 0),
                ratio(dict(enumerate(memory[name])), dict(enumerate(memory[BASE]))),
                f"{statistics.median(one['accuracy'] for one in runs):.3f}",
                len(runs),
            ]
        )
    parts = [f"## {workload['title']}, {workload['epochs']} epochs", "", table(COLUMNS, rows), ""]
    parts += [f"- **{CONTENDERS[name].title} failed**: `{text}`" for name, text in failures.items()]
    parts += [*_targets(workload["name"], good, jobs), _noise(found), "", *machine_lines(found["machine"]), ""]
    return "\n".join(parts)


def ratio(ours: dict[int, float], theirs: dict[int, float]) -> str:
    """The median of the paired ratios."""
    ratios = paired(ours, theirs)
    return f"{statistics.median(ratios):.2f}" if ratios else "-"


def _targets(workload: str, good: dict[str, Any], jobs: dict[str, Any]) -> list[str]:
    """A line for each target of the workload: measured, target, met or missed."""
    lines = []
    for (name, contender), (lightning, keras, job) in TARGETS.items():
        if name != workload or not good[contender]:
            continue
        rates = {key: {n: rate(one) for n, one in good[key].items()} for key in (contender, BASE, "keras")}
        seen = []
        for words, target, pair, is_more in (
            ("images/s x Lightning", lightning, (rates[contender], rates[BASE]), True),
            ("images/s x Keras", keras, (rates[contender], rates["keras"]), True),
            ("job x Lightning", job, (jobs[contender], jobs[BASE]), False),
        ):
            if target is None or not (ratios := paired(*pair)):
                continue
            value = statistics.median(ratios)
            is_met = value >= target if is_more else value <= target
            sign = "at least" if is_more else "at most"
            seen.append(f"{words} {value:.2f} (target: {sign} {target:.2f}, {'met' if is_met else 'MISSED'})")
        lines.append(f"- {CONTENDERS[contender].title}: " + "; ".join(seen))
    return lines


def _noise(found: dict[str, Any]) -> str:
    """Which data was used, and how busy the machine was otherwise."""
    others = [one["others"] for one in found["runs"] if not one["memory"]] or [0.0]
    data = "the real files" if found["real_data"] else "synthetic files in the same formats (class pattern plus noise)"
    cores = f"{statistics.median(others):.2f} cores (median of the runs; maximum: {max(others):.2f})"
    return f"- Data: {data}. Load from the rest of the machine: {cores}."


def counts(workloads: list[dict[str, Any]]) -> str:
    """How imgcls splits the training images, a phrase for each data set."""
    words = []
    for one in workloads:
        whole = one["limit"] or {"mnist": 60_000, "cifar10": 50_000}[one["dataset"]]
        text = f"{whole - round(whole / 10):,} training + {round(whole / 10):,} validation images of {whole:,}"
        if text not in words:
            words.append(text)
    return "; ".join(words)


def report(found: dict[str, Any], prefix: Path) -> None:
    """results/peers.md and .json of all workloads that are stored in this file."""
    ordered = {name: found[name] for name in WORKLOADS if name in found}
    title = (
        "# imgcls and its peers\n\nWritten by benchmarks/peers.py; the raw figures are in the JSON file next to it.\n"
    )
    foot = FOOT.format(counts=counts([one["workload"] for one in ordered.values()]))
    sections = [section(one) for one in ordered.values()]
    write(prefix, "\n".join([title, *sections, "## How to read the tables", foot]), ordered)


# --- the picture -----------------------------------------------------------------------------------------------------


def picture(found: dict[str, Any], path: Path) -> None:
    """A chart of images per second for each workload, with a bar for each contender."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    charts = [(name, found[name]) for name in WORKLOADS if name in found]
    bars = []
    for name, one in charts:
        rates: dict[str, list[float]] = {figures["contender"]: [] for figures in one["runs"]}
        for figures in one["runs"]:
            if not figures["memory"] and "failure" not in figures:
                rates[figures["contender"]].append(rate(figures))
        bars.append((name, sorted((statistics.median(values or [0.0]), key) for key, values in rates.items())))
    heights = [0.5 + len(chart) for _, chart in bars]
    size = (9, 0.27 * sum(heights) + 0.5 * len(bars) + 0.4)
    figure, axes = plt.subplots(len(bars), 1, figsize=size, squeeze=False, height_ratios=heights)
    for axis, (name, chart) in zip(axes[:, 0], bars, strict=True):
        base = {key: value for value, key in chart}.get(BASE)
        for i, (value, key) in enumerate(chart):
            axis.barh(i, value, color="#2a6fbb" if key.startswith("imgcls") else "#b9c2cc", height=0.72)
            relative = f"   {value / base:.1f}x" if base and key != BASE else ""
            axis.text(value, i, f" {value:,.0f}{relative}" if value else " failed", va="center", fontsize=9)
        axis.set_yticks(range(len(chart)), [CONTENDERS[key].title for _, key in chart], fontsize=9)
        axis.set_xlim(0, max((value for value, _ in chart), default=1) * 1.22)
        axis.set_title(f"{WORKLOADS[name].title}: training images/s", fontsize=10, loc="left", fontweight="bold")
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(left=False)
    found_on = charts[0][1]["machine"]
    text = f"{found_on['cores']} cores of {found_on['cpu']}, batch {BATCH}; x: relative to Lightning. Higher is better."
    figure.text(0.01, 0.005, text, fontsize=8, color="#555555")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(path, dpi=100, facecolor="white")
    say(f"{path}")


# --- the command -----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = Arguments(__doc__, "peers", repeats=5, quick="a smoke test: few images, one repeat")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="default: all that fit a workload")
    parser.add_argument("--memory-runs", type=int, default=1, help="extra runs of each, to measure memory (default: 1)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which a process is killed")
    parser.add_argument("--picture", action="store_true", help="draw PREFIX.png from PREFIX.json, run nothing")
    args = parser.read()
    found = read_json(args.out)
    if args.picture:
        picture(found, args.out.with_suffix(".png"))
        return
    chosen = [WORKLOADS[name] for name in args.workloads]
    if args.quick:
        chosen = [replace(one, epochs=2, limit=256 if one.limit else 2560, test_limit=256) for one in chosen]
    with data_folder({one.dataset for one in chosen}) as (data, is_real):
        for workload in chosen:
            found[workload.name] = measure(workload, data, is_real, args)
            write_json(args.out, found)
    report(found, args.out)


if __name__ == "__main__":
    main()
