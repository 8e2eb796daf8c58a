"""The limit of the training loop: the share of an epoch spent in forward + backward + update, within one process.

- *loop*: an epoch of `imgcls.training.loop.fit` as in a real run (without validation and saving);
- *constant*: the same module and optimizer on one ready batch: zero_grad, forward, loss, backward, step. After every
  twentieth of the epoch as many of these as there were steps, so that a slow machine slows both;
- *parts*: the calls of the loop written out and timed one by one, in a separate epoch.

The update share is that of *parts*; "of the limit" is constant / loop: the time of a loop without any overhead, on a
batch that is already in the caches, divided by the time of the real loop. The constant batch is trained with a learning
rate of 0, which costs the same and leaves the weights unchanged.

    python benchmarks/limit.py              # five repeats: about ten minutes
    python benchmarks/limit.py --quick
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import Arguments, environment, machine, machine_lines, middle, say, spend, table, write
from synthetic import data_folder

THREADS = 2
SMALL = "dataset.limit=711"  # 640 training images, five batches of 128
WORKLOADS = {  # name: (title, target share, overrides)
    "lenet-mnist": ("LeNet / MNIST", 0.97, ["model=lenet", "dataset=mnist"]),
    "lenet-cifar10": ("LeNet / CIFAR-10, crop + flip", 0.95, ["model=lenet", "dataset=cifar10"]),
    "mlp-mnist": ("MLP / MNIST", 0.90, ["model=mlp", "dataset=mnist"]),
    "resnet18-fp32": ("ResNet-18 / CIFAR-10, fp32", 0.99, ["model=resnet18", "dataset=cifar10", SMALL]),
    "resnet18-bf16": (
        "ResNet-18 / CIFAR-10, bf16",
        0.99,
        ["model=resnet18", "dataset=cifar10", SMALL, "precision=bf16"],
    ),
}
PARTS = ("fetch", "update", "rest")
BLOCKS = 20  # per epoch
AUGMENT_LIMIT = 0.5  # ms: crop + flip of 128 CIFAR images on one thread


# --- in the process of one workload ----------------------------------------------------------------------------------


def measure(words: list[str], repeats: int) -> dict[str, Any]:
    """Seconds per epoch of each kind for every repeat; the first one is a warm-up and not counted."""
    import torch

    from imgcls import train
    from imgcls.compose.composer import Composer
    from imgcls.compose.overrides import read_all
    from imgcls.config.parsing import parse
    from imgcls.config.schema import TrainConfig
    from imgcls.runtime.session import keep_freed_memory, session
    from imgcls.training.spec import RunSpec

    composer = Composer()
    words = [*words, f"epochs={2 * (repeats + 1)}", "batch_size=128", f"threads={THREADS}", "device=cpu"]
    config = parse(TrainConfig, composer.table(read_all(words, composer.paths), "train"))
    with session(config.device, config.precision, config.threads) as runtime:
        keep_freed_memory()  # as a run does
        run = train.build(config, RunSpec.from_config(config), runtime, {})
        rows = [{**paired_epoch(run), "parts": parts_epoch(run)} for _ in range(repeats + 1)]
        found = {"steps": len(run.loader), "images": len(run.data.splits.train), "repeats": rows[1:]}
        torch.set_num_threads(1)
        return found | {"augment_ms": augment_ms(run)}


def paired_epoch(run: Any) -> dict[str, float]:
    """Seconds of one epoch of the real loop and of as many updates on a constant batch, interleaved."""
    from imgcls.training.callback import INTERVAL
    from imgcls.training.loop import Callback, fit

    images, labels = next(run.loader.epoch(0))
    block = max(1, len(run.loader) // BLOCKS)
    todo, spent = 0, 0.0

    class Between(Callback):
        def after_step(self, state: Any, loss_sum: Any, *step: Any) -> None:
            nonlocal todo, spent
            if state.step % INTERVAL == 0:
                float(loss_sum)
            todo += 1
            if todo == block:
                spent += constant_updates(run, images, labels, todo)
                todo = 0

        def after_epoch(self, state: Any, images_done: int, started: float, lr: float) -> None:
            nonlocal spent
            spent += constant_updates(run, images, labels, todo)
            state.epochs += 1

    started = time.perf_counter()
    fit(run.state, run.forward, run.loader, replace(run.recipe, epochs=run.state.epochs + 1), Between())
    return {"loop": time.perf_counter() - started - spent, "constant": spent}


def constant_updates(run: Any, images: Any, labels: Any, count: int) -> float:
    """Seconds of this many updates on a ready batch, in plain PyTorch."""
    import torch.nn.functional as F

    optimizer = run.state.optimizer
    started = time.perf_counter()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for _ in range(count):
        optimizer.zero_grad()
        with run.recipe.autocast():
            logits = run.forward(images)
            loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


def parts_epoch(run: Any) -> dict[str, float]:
    """Seconds of each part of an epoch, in a copy of the loop."""
    from imgcls import seeding
    from imgcls.loggers.run_log import RunLog
    from imgcls.models.build import is_random
    from imgcls.training.loop import set_lr, update

    log = RunLog(is_quiet=True)
    state, recipe, clock = run.state, run.recipe, time.perf_counter
    spent = dict.fromkeys(PARTS, 0.0)
    batches, count, draws = run.loader.epoch(state.epochs), len(run.loader), is_random(state.module)
    for position in range(count):
        start = clock()
        images, labels = next(batches)
        fetched = clock()
        set_lr(state.optimizer, recipe.base_lrs, recipe.schedule(state.step))
        if draws:
            seeding.seed_default(recipe.seed, "dropout", state.step, recipe.rank)
        size = run.loader.global_size(position)
        prepared = clock()
        update(state, run.forward, images, labels, size, recipe)
        updated = clock()
        state.step += 1
        log.step(state.step, state.epochs, size, 0.0, None)
        logged = clock()
        steps = (
            fetched - start,
            updated - prepared,
            prepared - fetched + logged - updated,
        )
        for part, seconds in zip(PARTS, steps, strict=True):
            spent[part] += seconds
    state.epochs += 1
    return spent


def augment_ms(run: Any, rounds: int = 9, batches: int = 50) -> list[float]:
    """Milliseconds to augment one batch on one thread, measured several times."""
    import numpy as np
    import torch

    images, times = next(run.loader.fetcher.batches([np.arange(128)])), []
    draws = torch.rand(len(images), run.loader.augment.draws)
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(batches):
            run.loader.augment(images, draws)
        times.append((time.perf_counter() - started) / batches * 1000)
    return times


# --- the driver ------------------------------------------------------------------------------------------------------


def row(name: str, found: dict[str, Any]) -> list[str]:
    """A workload's row in the table."""
    title, asked, _ = WORKLOADS[name]
    if "failure" in found:
        return [title, "failed", *["-"] * 8]
    repeats, steps = found["repeats"], found["steps"]
    shares = [one["constant"] / one["loop"] for one in repeats]
    overheads = [sum(one["parts"][part] for part in PARTS if part != "update") for one in repeats]
    updates = [one["parts"]["update"] for one in repeats]
    inner = [update / (update + other) for update, other in zip(updates, overheads, strict=True)]
    is_met = statistics.median(inner) >= asked
    per_step = [statistics.median(one["parts"][part] for one in repeats) / steps * 1000 for part in PARTS]
    return [
        title,
        middle(inner, 3),
        f"{asked:.2f} {'met' if is_met else 'MISSED'}",
        middle(shares, 3),
        f"{found['images'] / statistics.median(one['loop'] for one in repeats):,.0f}",
        f"{statistics.median(one['loop'] for one in repeats) / steps * 1000:.2f}",
        f"{statistics.median(one['constant'] for one in repeats) / steps * 1000:.2f}",
        *(f"{milliseconds:.3f}" for milliseconds in per_step),
    ]


def report(results: dict[str, Any], found_on: dict[str, Any], prefix: Path) -> None:
    """results/limit.md and .json."""
    columns = ["workload", "update share", "target", "of the limit", "images/s", "loop ms", "constant ms", *PARTS]
    lines = ["# The training loop compared with its limit", "", *machine_lines(found_on), ""]
    lines += [table(columns, [row(name, found) for name, found in results.items()]), ""]
    lines += [f"- {name} failed: `{found['failure']}`" for name, found in results.items() if "failure" in found]
    cifar = results.get("lenet-cifar10", {})
    if times := cifar.get("augment_ms"):
        verdict = "met" if statistics.median(times) <= AUGMENT_LIMIT else "MISSED"
        text = f"{middle(times, 3)} ms (target: at most {AUGMENT_LIMIT} ms, {verdict})"
        lines.append(f"- Crop + flip of one batch of 128 CIFAR images on one thread: {text}.")
    lines += [
        "- *update share*: the fraction of the loop spent in zero_grad, forward, loss, backward, step and the sums of",
        "  loss and hits. *of the limit*: constant / loop within a repeat: the time of plain PyTorch on a ready batch",
        "  (which is already in the caches, unlike a new one) divided by the time of the loop; above 1 it is noise.",
        "  Median and range.",
        "- The last three columns are milliseconds per step: fetch (gather, augmentation, normalization), update, and",
        "  rest (learning rate, dropout seed, log).",
    ]
    write(prefix, "\n".join(lines), {"machine": found_on, "workloads": results})


def main() -> None:
    parser = Arguments(__doc__, "limit", repeats=5, quick="a smoke test: few images, one repeat")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--one", metavar="WORKLOAD", help=argparse.SUPPRESS)
    args = parser.read()
    if args.one:
        words = WORKLOADS[args.one][2]
        words = [*(word for word in words if word != SMALL), "dataset.limit=285"] if args.quick else words
        print(json.dumps(measure(words, args.repeats)))
        return
    found_on, results = machine(), {}
    with data_folder({"mnist", "cifar10"}) as (data, _):
        for name in args.workloads:
            if "bf16" in name and not found_on["bf16"]:
                continue
            flags = ["--repeats", str(args.repeats), *["--quick"] * args.quick]
            spent = spend([sys.executable, __file__, "--one", name, *flags], env=environment(THREADS, data))
            failure = spent.failure
            results[name] = {"failure": failure} if failure else json.loads(spent.stdout.splitlines()[-1])
            results[name]["others"] = spent.others
            say(f"{name:16} {spent.wall:.0f} s, others {spent.others:.2f} cores {failure or ''}")
    report(results, found_on, args.out)


if __name__ == "__main__":
    main()
