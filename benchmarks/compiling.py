"""What torch.compile gains: seconds per step with and without it, and its cost up front.

Same module, optimizer and batch in one process; eager and compiled steps alternate. The result is the number of updates
after which compiling pays off, which is what compile=auto uses (PAYS_OFF in src/imgcls/runtime/device.py).

    python benchmarks/compiling.py             # about five minutes
    python benchmarks/compiling.py --quick
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Arguments, environment, machine, machine_lines, say, spend, table, write
from synthetic import data_folder

THREADS = 2
WORKLOADS = {
    "mlp": ["model=mlp", "dataset=mnist"],
    "lenet": ["model=lenet", "dataset=cifar10"],
    "resnet18": ["model=resnet18", "dataset=cifar10", "dataset.limit=711"],
}


def measure(words: list[str], repeats: int) -> dict[str, Any]:
    """Seconds per step of each kind for every repeat, and of the first compiled step."""
    from imgcls.compose.composer import Composer
    from imgcls.compose.overrides import read_all
    from imgcls.config.parsing import parse
    from imgcls.config.schema import TrainConfig
    from imgcls.runtime.session import session
    from imgcls.training.builder import build
    from imgcls.training.spec import RunSpec

    composer = Composer()
    words = [*words, "batch_size=128", f"threads={THREADS}", "device=cpu"]
    config = parse(TrainConfig, composer.table(read_all(words, composer.paths), "train"))
    with session(config.device, config.precision, config.threads) as runtime:
        run = build(config, RunSpec.from_config(config), runtime, {})
        images, labels = next(run.loader.epoch(0))
        modules = {"eager": run.state.module, "compiled": copy.deepcopy(run.state.module)}
        forwards = {kind: runtime.wrap(one, is_compiled=kind == "compiled") for kind, one in modules.items()}
        first = {kind: seconds(one, images, labels, 1) for kind, one in forwards.items()}
        count = max(1, round(1 / seconds(forwards["eager"], images, labels, 3)))
        found: dict[str, list[float]] = {kind: [] for kind in forwards}
        for _ in range(repeats + 1):
            for kind, forward in forwards.items():
                found[kind].append(seconds(forward, images, labels, count))
    return {"first": first["compiled"], "steps": {kind: values[1:] for kind, values in found.items()}}


def seconds(forward: Any, images: Any, labels: Any, count: int) -> float:
    """Mean over this many steps, without the optimizer, which is never compiled."""
    import torch.nn.functional as F

    started = time.perf_counter()
    for _ in range(count):
        forward.zero_grad(set_to_none=True)
        F.cross_entropy(forward(images), labels).backward()
    return (time.perf_counter() - started) / count


def row(name: str, found: dict[str, Any]) -> list[str]:
    """A model's row in the table."""
    if "failure" in found:
        return [name, "failed", *["-"] * 4]
    gains = [eager / compiled for eager, compiled in zip(*found["steps"].values(), strict=True)]
    eager, compiled = (statistics.median(values) for values in found["steps"].values())
    saved = eager - compiled
    back = f"{found['first'] / saved:,.0f}" if saved > 0 and statistics.median(gains) > 1.02 else "never"
    spread = f"{statistics.median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})"
    return [name, f"{eager * 1000:.2f}", f"{compiled * 1000:.2f}", spread, f"{found['first']:.1f}", back]


def report(results: dict[str, Any], found_on: dict[str, Any], prefix: Path) -> None:
    """results/compiling.md and .json."""
    columns = ["model", "eager ms", "compiled ms", "speedup", "first step s", "updates to pay off"]
    lines = ["# torch.compile on this machine", "", *machine_lines(found_on), ""]
    lines += [table(columns, [row(name, found) for name, found in results.items()]), ""]
    lines += [f"- {name} failed: `{found['failure']}`" for name, found in results.items() if "failure" in found]
    lines += [
        "- Forward and backward of a batch of 128; speedup: median of the ratios within a repeat, range in parentheses."
    ]
    write(prefix, "\n".join(lines), {"machine": found_on, "models": results})


def main() -> None:
    parser = Arguments(__doc__, "compiling", repeats=7)
    parser.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.read()
    if args.one:
        print(json.dumps(measure(WORKLOADS[args.one], args.repeats)))
        return
    found_on, results = machine(), {}
    with data_folder({"mnist", "cifar10"}) as (data, _):
        for name in WORKLOADS:
            with tempfile.TemporaryDirectory(prefix="imgcls-bench-compile-") as cache:  # an empty cache
                env = environment(THREADS, data) | {"TORCHINDUCTOR_CACHE_DIR": cache}
                flags = ["--repeats", str(args.repeats)]
                spent = spend([sys.executable, __file__, "--one", name, *flags], env=env, timeout=1200)
            results[name] = json.loads(spent.stdout.splitlines()[-1]) if spent.code == 0 else {"failure": spent.failure}
            say(f"{name}: {row(name, results[name])}")
    report(results, found_on, args.out)


if __name__ == "__main__":
    main()
