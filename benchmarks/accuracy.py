"""Models x data sets: test accuracy and wall time of complete runs with imgcls's defaults.

Each run is one command, `imgcls train model=MODEL dataset=DATASET epochs=N seed=SEED`; nothing is tuned per case.
Cases with N = 0 below were not measured. The data are the real files in IMGCLS_DATA.

    python benchmarks/accuracy.py
    python benchmarks/accuracy.py --models lenet --datasets digits
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import (
    Arguments,
    environment,
    imgcls,
    machine,
    machine_lines,
    read_json,
    say,
    spend,
    table,
    write,
    write_json,
)

DATASETS = ("digits", "mnist", "cifar10")
EPOCHS: dict[str, tuple[int, int, int]] = {  # for digits, MNIST, CIFAR-10; 0: not run
    "linear": (20, 5, 5),
    "mlp": (20, 5, 10),
    "lenet": (20, 5, 10),
    "convnet": (20, 5, 10),
    "squeezenet1_1": (20, 0, 0),
    "shufflenet_v2_x0_5": (20, 0, 0),
    "mobilenet_v3_small": (20, 0, 0),
    "resnet18": (20, 0, 0),
}


def cases(models: list[str], datasets: list[str]) -> list[tuple[str, str, int]]:
    """(model, data set, epochs), model by model"""
    every = [(model, name, EPOCHS[model][i]) for model in models for i, name in enumerate(DATASETS)]
    return [case for case in every if case[2] and case[1] in datasets]


def run(model: str, dataset: str, epochs: int, seed: int, threads: int) -> dict[str, Any]:
    """One run, in a temporary folder."""
    words = [f"model={model}", f"dataset={dataset}", f"epochs={epochs}", f"seed={seed}", f"threads={threads}"]
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-accuracy-") as folder:
        data = os.environ.get("IMGCLS_DATA", folder)
        spent = spend(imgcls("train", *words, "run_dir=run", "--json"), env=environment(threads, data), cwd=folder)
    found = {"model": model, "dataset": dataset, "epochs": epochs, "seed": seed, "wall": spent.wall}
    if spent.failure:
        return found | {"failure": spent.failure}
    report = json.loads(spent.stdout)
    return found | {key: report[key] for key in ("accuracy", "parameters", "train_seconds")} | {"others": spent.others}


def cell(runs: list[dict[str, Any]]) -> str:
    """'99.0, 99.1 (5 epochs, 23 s)'"""
    good = [one for one in runs if "accuracy" in one]
    if not runs:
        return "-"
    if not good:
        return runs[0]["failure"]
    accuracies = ", ".join(f"{one['accuracy']:.1%}".rstrip("%") for one in good)
    epochs = f"{good[0]['epochs']} epoch{'s' * (good[0]['epochs'] > 1)}"
    return f"{accuracies} ({epochs}, {statistics.median(one['wall'] for one in good):.0f} s)"


def report(found: list[dict[str, Any]], found_on: dict[str, Any], threads: int, prefix: Path) -> None:
    """results/accuracy.md and .json."""
    rows = []
    for model in dict.fromkeys(one["model"] for one in found):
        own = [one for one in found if one["model"] == model]
        parameters = next((f"{one['parameters']:,}" for one in own[::-1] if "parameters" in one), "-")
        by_set = ([one for one in own if one["dataset"] == name] for name in DATASETS)
        rows.append([model, parameters, *map(cell, by_set)])
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(one["seed"] for one in found))
    lines = [
        *("# Models x data sets", "", *machine_lines(found_on), ""),
        f"Test accuracy in percent (seed {seeds}), epochs, and the median wall time of the command in seconds, with",
        f"{threads} thread{'s' * (threads > 1)}. Everything else is imgcls's default; images keep their size (8x8,",
        "28x28, 32x32); parameters: for the last data set that was run.",
        *("", table(["model", "parameters", *DATASETS], rows), "", "Each cell is the result of"),
        *("", "    imgcls train model=MODEL dataset=DATASET epochs=N seed=SEED"),
    ]
    write(prefix, "\n".join(lines), {"machine": found_on, "runs": found})


def main() -> None:
    parser = Arguments(__doc__, "accuracy")
    parser.add_argument("--models", nargs="+", default=list(EPOCHS), choices=list(EPOCHS), metavar="NAME")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=DATASETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="do not repeat runs that are already in PREFIX.json")
    args = parser.read()
    if "IMGCLS_DATA" not in os.environ and set(args.datasets) != {"digits"}:
        sys.exit("set IMGCLS_DATA to the folder with the real data; accuracies on synthetic data would be meaningless")
    found_on = machine()
    found: list[dict[str, Any]] = read_json(args.out).get("runs", []) if args.keep else []
    done = {(one["model"], one["dataset"], one["epochs"], one["seed"]) for one in found}
    for seed in args.seeds:
        for model, dataset, epochs in cases(args.models, args.datasets):
            if (model, dataset, epochs, seed) in done:
                continue
            found.append(run(model, dataset, epochs, seed, args.threads))
            say(f"{model} on {dataset}, seed {seed}: {cell(found[-1:])}")
            write_json(args.out, {"machine": found_on, "runs": found})
    report(found, found_on, args.threads, args.out)


if __name__ == "__main__":
    main()
