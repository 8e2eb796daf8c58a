"""Everything there is to know about imgcls on a GPU, in one call of at most five minutes.

What is done is written as it goes, and a part that fails is reported with its traceback while the others go on:

- *machine*: device, versions, and two ceilings (a bf16 matrix product, a copy within the device's memory);
- *tests*: `pytest -m gpu`;
- *speed*: images/s of whole epochs of the real loop, and of the same model in plain PyTorch on one ready batch:
  launched kernel by kernel, and as one CUDA graph, which shows what graphs could gain; peak memory;
- *profile*: the 20 kernels that take the most time, and the share of the time in which no kernel runs;
- *lightning*: the same jobs by Lightning with its DataLoader;
- *accuracy*: complete runs with their recipes, several seeds. Only with the real data (IMGCLS_DATA);
- *compile*: torch.compile of some models, which takes long.

    python benchmarks/gpu.py                       # see gpu_setup.sh for a machine without a network
    python benchmarks/gpu.py --only tests speed
    python benchmarks/gpu.py --rehearse            # on a CPU, with tiny data: two minutes, checks the program only
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from common import HERE, Arguments, machine, machine_lines, middle, say, table, write
from imgcls import train
from imgcls.cli.app import main as main_of_imgcls
from imgcls.compose.composer import Composer
from imgcls.compose.overrides import read_all
from imgcls.config.parsing import parse
from imgcls.config.schema import TrainConfig
from imgcls.runtime.session import session
from imgcls.training.loop import Callback, fit
from imgcls.training.spec import RunSpec
from synthetic import data_folder, write_cifar10, write_mnist

SECTIONS = ("machine", "tests", "speed", "profile", "lightning", "accuracy", "compile")
LIMIT = 270  # seconds after which no further part begins
WORKLOADS = {
    "lenet": ("LeNet / MNIST, batch 128", ["model=lenet", "dataset=mnist", "batch_size=128"]),
    "mlp": ("MLP / MNIST, batch 128", ["model=mlp", "dataset=mnist", "batch_size=128"]),
    "lenet-cifar10": (
        "LeNet / CIFAR-10, crop + flip, batch 128",
        ["model=lenet", "dataset=cifar10", "batch_size=128"],
    ),
    "resnet18-128": ("ResNet-18 / CIFAR-10, batch 128", ["model=resnet18", "dataset=cifar10", "batch_size=128"]),
    "resnet18-512": ("ResNet-18 / CIFAR-10, batch 512", ["model=resnet18", "dataset=cifar10", "batch_size=512"]),
    "photos": (
        "ResNet-18 / CIFAR-10 at 96x96, random resized crops, batch 256",
        [
            *("model=resnet18", "dataset=cifar10", "dataset.image_size=96", "augment=photo", "batch_size=256"),
            "model.pretrained=false",
        ],
    ),
    "resnet18-1024": ("ResNet-18 / CIFAR-10, batch 1024", ["model=resnet18", "dataset=cifar10", "batch_size=1024"]),
}
RECIPES = {  # experiment: (data set, seeds)
    "mnist_99": ("mnist", 5),
    "cifar10_airbench": ("cifar10", 10),
}


@dataclass(frozen=True)
class Setting:
    """Where this runs: the device, the data, which of the data sets are real, and whether it is only a rehearsal."""

    device: torch.device
    data: Path
    real: frozenset[str]
    is_rehearsal: bool
    repeats: int

    @property
    def words(self) -> list[str]:
        """Overrides of every run."""
        few = ["dataset.limit=700", "dataset.test_limit=100", "threads=1"] if self.is_rehearsal else []
        return [f"device={self.device.type}", "plots=false", "tensorboard=false", *few]

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def configured(setting: Setting, *words: str) -> TrainConfig:
    """A configuration, from the words of a command line."""
    composer = Composer()
    return parse(TrainConfig, composer.table(read_all([*words, *setting.words], composer.paths), "train"))


@contextlib.contextmanager
def built(config: TrainConfig) -> Iterator[train.Run]:
    """The run of a configuration, ready to train; its memory is freed afterwards."""
    with session(config.device, config.precision, config.threads, deterministic=config.deterministic) as runtime:
        yield train.build(config, RunSpec.from_config(config), runtime, {})
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- the machine -----------------------------------------------------------------------------------------------------


def measure_machine(setting: Setting) -> dict[str, Any]:
    """The device and its ceilings."""
    side, megabytes = (8192, 4096) if setting.device.type == "cuda" else (512, 16)
    a, b = (torch.randn(side, side, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(megabytes << 18, device=setting.device)
    target = torch.empty_like(source)
    product = timed(setting, lambda: a @ b, 10)
    copy = timed(setting, lambda: target.copy_(source), 10)
    is_cuda = setting.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if is_cuda else "CPU (a rehearsal)",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tflops": 2 * side**3 / product / 1e12,
        "copy_gb_per_s": 2 * source.numel() * 4 / copy / 1e9,
    }


def timed(setting: Setting, call: Callable[[], Any], count: int) -> float:
    """Seconds of a call: the mean of ``count``, after three more."""
    for _ in range(3):
        call()
    setting.wait()
    started = time.perf_counter()
    for _ in range(count):
        call()
    setting.wait()
    return (time.perf_counter() - started) / count


# --- the tests -------------------------------------------------------------------------------------------------------


def run_tests(setting: Setting) -> dict[str, Any]:
    """``pytest -m gpu`` with several processes on the same GPU."""
    jobs = max(1, min(8, len(os.sched_getaffinity(0)) - 2))
    words = ["-m", "gpu", "-q", "-n", str(jobs), "-o", "filterwarnings=default", "--durations=5", "tests/test_gpu.py"]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    lines = done.stdout.splitlines()
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {
        "code": done.returncode,
        "seconds": time.perf_counter() - started,
        "summary": lines[-1] if lines else done.stderr[-500:],
        "failures": failures,
        "output": "" if done.returncode == 0 else done.stdout[-60_000:],
    }


# --- speed -----------------------------------------------------------------------------------------------------------


class Epochs(Callback):
    """Counts the epochs, and nothing else."""

    def after_epoch(self, state: Any, images: int, started: float, lr: float) -> None:
        state.epochs += 1


def measure_speed(setting: Setting, name: str) -> dict[str, Any]:
    """Seconds of epochs of the loop and of as many updates on one batch, interleaved."""
    is_cuda = setting.device.type == "cuda"
    with built(configured(setting, *WORKLOADS[name][1], "epochs=1000")) as run:
        if is_cuda:
            torch.cuda.reset_peak_memory_stats()
        images, labels = next(run.loader.epoch(0))
        epoch(setting, run)  # chooses algorithms
        peak = torch.cuda.max_memory_allocated() / 1e6 if is_cuda else None
        graph = recorded(run, images, labels) if is_cuda else None
        rows = []
        for _ in range(setting.repeats):
            row = {"loop": epoch(setting, run), "constant": constant(setting, run, images, labels)}
            if graph is not None:
                row["graph"] = timed(setting, graph.replay, len(run.loader)) * len(run.loader)
            rows.append(row)
        return {"rows": rows, "steps": len(run.loader), "images": len(run.data.splits.train), "peak_mb": peak}


def epoch(setting: Setting, run: train.Run) -> float:
    """Seconds of one epoch of the real loop."""
    recipe = replace(run.recipe, epochs=run.state.epochs + 1)
    setting.wait()
    started = time.perf_counter()
    fit(run.state, run.forward, run.loader, recipe, Epochs())
    setting.wait()
    return time.perf_counter() - started


def constant(setting: Setting, run: train.Run, images: Any, labels: Any) -> float:
    """Seconds of as many updates on a ready batch in plain PyTorch, which change no weight."""
    for group in run.state.optimizer.param_groups:
        group["lr"] = 0.0
    setting.wait()
    started = time.perf_counter()
    for _ in range(len(run.loader)):
        plain_update(run, images, labels)
    setting.wait()
    return time.perf_counter() - started


def plain_update(run: train.Run, images: Any, labels: Any) -> None:
    """An update as a tutorial writes it."""
    run.state.optimizer.zero_grad()
    with run.recipe.autocast():
        loss = F.cross_entropy(run.forward(images).float(), labels)
    loss.backward()
    run.state.optimizer.step()


def recorded(run: train.Run, images: Any, labels: Any) -> torch.cuda.CUDAGraph:
    """Such an update as a CUDA graph: its kernels are launched all at once."""
    groups, graph, stream = run.state.optimizer.param_groups, torch.cuda.CUDAGraph(), torch.cuda.Stream()
    kept = [(group["lr"], group.get("capturable")) for group in groups]
    for group in groups:
        group |= {"lr": torch.zeros((), device=images.device), "capturable": True}
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(3):
            plain_update(run, images, labels)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        plain_update(run, images, labels)
    for group, (lr, capturable) in zip(groups, kept, strict=True):
        group |= {"lr": lr} if capturable is None else {"lr": lr, "capturable": capturable}
    return graph


def speed_lines(results: dict[str, Any]) -> list[str]:
    """The table of all workloads."""
    lines = []
    for name, found in results.items():
        if "failure" in found:
            lines.append([WORKLOADS[name][0], "failed", *["-"] * 5])
            continue
        loop = statistics.median(row["loop"] for row in found["rows"])
        graph = [row["loop"] / row["graph"] for row in found["rows"] if "graph" in row]
        lines.append(
            [
                WORKLOADS[name][0],
                f"{found['images'] / loop:,.0f}",
                f"{loop / found['steps'] * 1e6:,.0f}",
                f"{loop:.3f}",
                middle([row["constant"] / row["loop"] for row in found["rows"]]),
                middle(graph),
                "-" if found["peak_mb"] is None else f"{found['peak_mb']:,.0f}",
            ]
        )
    columns = ["workload", "images/s", "us/step", "s/epoch", "of a constant batch", "loop / graph", "peak MB"]
    return [table(columns, lines)]


# --- profiles --------------------------------------------------------------------------------------------------------


def profile(setting: Setting, name: str) -> dict[str, Any]:
    """Twenty updates under torch's profiler."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if setting.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    words = [*WORKLOADS[name][1], "epochs=1000"]

    class Twenty(Epochs):
        begun = 0.0

        def after_step(self, state: Any, *step: Any) -> None:
            if state.step == start + 5:
                setting.wait()
                profiler.start()
                self.begun = time.perf_counter()
            if state.step == start + 25:
                setting.wait()
                self.seconds = time.perf_counter() - self.begun
                profiler.stop()
                raise StopIteration

    with built(configured(setting, *words)) as run:
        epoch(setting, run)
        start, callback = run.state.step, Twenty()
        profiler = torch.profiler.profile(activities=activities, acc_events=True)
        with contextlib.suppress(StopIteration):
            recipe = replace(run.recipe, epochs=run.state.epochs + 9)
            fit(run.state, run.forward, run.loader, recipe, callback)
    key = "self_device_time_total" if setting.device.type == "cuda" else "self_cpu_time_total"
    kind = torch.autograd.DeviceType.CUDA if setting.device.type == "cuda" else torch.autograd.DeviceType.CPU
    events = [event for event in profiler.key_averages() if event.device_type == kind]
    events.sort(key=lambda event: -getattr(event, key))
    busy = sum(getattr(event, key) for event in events) / 1e6
    top = [[event.key[:90], event.count / 20, getattr(event, key) / 20] for event in events[:20]]
    kernels = sum(event.count for event in events) / 20
    return {"us_per_step": callback.seconds / 20 * 1e6, "busy": busy / callback.seconds, "kernels": kernels, "top": top}


def profile_lines(name: str, found: dict[str, Any]) -> list[str]:
    """The kernels of one workload."""
    if "failure" in found:
        return [f"{name}: failed", ""]
    head = (
        f"**{name}**: {found['us_per_step']:,.0f} us per step under the profiler, kernels run {found['busy']:.0%} of "
        f"the time, {found['kernels']:.0f} kernels per step"
    )
    rows = [[f"`{key}`", f"{count:.1f}", f"{micro:,.1f}"] for key, count, micro in found["top"]]
    return [head, "", table(["kernel", "per step", "us per step"], rows), ""]


# --- Lightning -------------------------------------------------------------------------------------------------------


def lightning(setting: Setting, model: str) -> dict[str, Any]:
    """Seconds of Lightning's second epoch of MNIST."""
    is_cuda = setting.device.type == "cuda"
    job = {
        "model": model,
        "dataset": "mnist",
        "data": str(setting.data),
        "epochs": 2,
        "workers": 8 if is_cuda else 0,
        "precision": "bf16" if is_cuda else "fp32",
        "limit": None if is_cuda else 1000,
        "test_limit": 200,
    }
    script = str(HERE / "contenders" / "with_lightning.py")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, script, json.dumps(job)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    answer = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": answer["epoch_seconds"][-1], "images": answer["images"]}


# --- accuracy --------------------------------------------------------------------------------------------------------


def accuracy(setting: Setting, experiment: str, seeds: int) -> dict[str, Any]:
    """Test accuracy and seconds of training (the sum of the epochs', without validation and saving) of some seeds."""
    found: dict[str, Any] = {"accuracy": [], "accuracy_tta": [], "training_s": [], "wall_s": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds + 1):  # the first is not counted: libraries are loaded, algorithms chosen
            where = Path(folder, str(seed))
            words = [f"experiment={experiment}", f"seed={seed}", f"run_dir={where}"]
            words += ["epochs=1", "batch_size=100"] if setting.is_rehearsal else []
            started = time.perf_counter()
            with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
                report = train.train(configured(setting, *words))
                wall = time.perf_counter() - started
                words = [str(where), "tta=shift", f"device={setting.device.type}", f"output={where / 'tta'}"]
                assert main_of_imgcls(["evaluate", *words]) == 0
            tta = json.loads((where / "tta" / "report.json").read_text())
            rows = [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]
            assert report is not None
            if seed or setting.is_rehearsal:
                found["wall_s"].append(wall)
                found["accuracy"].append(report["accuracy"])
                found["accuracy_tta"].append(tta["accuracy"])
                found["training_s"].append(sum(row["seconds"] for row in rows))
    return found


def percent(values: list[float]) -> str:
    """Mean and standard deviation: '94.02 +- 0.13 %'"""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} +- {100 * spread:.2f} %"


def accuracy_lines(results: dict[str, Any]) -> list[str]:
    """The table of all recipes."""
    rows = []
    for name, found in results.items():
        if "failure" in found:
            rows.append([name, "failed", *["-"] * 4])
            continue
        rows.append(
            [
                name,
                percent(found["accuracy"]),
                percent(found["accuracy_tta"]),
                middle(found["training_s"]),
                middle(found["wall_s"], 1),
                len(found["accuracy"]),
            ]
        )
    return [table(["experiment", "test accuracy", "with tta=shift", "training s", "whole run s", "seeds"], rows)]


# --- torch.compile ---------------------------------------------------------------------------------------------------


def compiled(setting: Setting, name: str) -> dict[str, Any]:
    """Seconds to compile, and of an epoch afterwards."""
    words = [*WORKLOADS[name][1], "epochs=1000", "compile=true"]
    with built(configured(setting, *words)) as run:
        first = epoch(setting, run)
        times = [epoch(setting, run) for _ in range(max(2, setting.repeats))]
        best = statistics.median(times)
        return {"first": first, "epoch": times, "images_per_s": len(run.data.splits.train) / best}


# --- the program -----------------------------------------------------------------------------------------------------


class Report:
    """All results so far; every part is written when it is done."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.found_on = machine()
        self.results: dict[str, dict[str, Any]] = {}
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the program began."""
        return time.perf_counter() - self.started

    def part(self, section: str, name: str, call: Callable[[], dict[str, Any]]) -> None:
        """Run a part and keep what it finds, or why it failed."""
        started = time.perf_counter()
        try:
            found = call()
        except Exception as error:  # noqa: BLE001 - the other parts go on
            found = {"failure": f"{type(error).__name__}: {error}"[:3000], "traceback": traceback.format_exc()[-6000:]}
        seconds = time.perf_counter() - started
        self.results.setdefault(section, {})[name] = found
        say(f"{self.seconds:6.1f} s  {section} {name}: {seconds:.1f} s {found.get('failure', '')}")
        with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
            self.write()

    def write(self) -> None:
        """Write PREFIX.md and PREFIX.json."""
        write(self.prefix, "\n".join(self.lines()), {"machine": self.found_on, **self.results})

    def lines(self) -> list[str]:
        """The results as Markdown."""
        found = self.results
        lines = ["# On a GPU", "", *machine_lines(self.found_on), ""]
        for one in found.get("machine", {}).values():
            if "failure" not in one:
                ceilings = f"{one['tflops']:,.0f} TFLOP/s in a bf16 matrix product, {one['copy_gb_per_s']:,.0f} GB/s"
                lines += [f"{one['device']}, CUDA {one['cuda']}, cuDNN {one['cudnn']}: {ceilings} in a copy.", ""]
        for one in found.get("tests", {}).values():
            summary = re.sub(r"\x1b\[\d*m", "", one.get("summary", "failed"))
            lines += [f"`pytest -m gpu`: {summary.strip('= ')}", *(f"- {line}" for line in one.get("failures", [])), ""]
        if speed := found.get("speed"):
            lines += ["## Speed", "", *speed_lines(speed), ""]
            lines += [
                "*of a constant batch*: the time of plain PyTorch on one ready batch (for a graph: of replaying it"
            ]
            lines += ["alone) divided by that of the whole loop. Medians; ranges over the repeats.", ""]
        for name, one in found.get("lightning", {}).items():
            ours = speed.get(name, {}).get("rows", []) if speed else []
            if "failure" in one or not ours:
                continue
            best = statistics.median(row["loop"] for row in ours)
            rate, theirs = speed[name]["images"] / best, one["images"] / one["seconds"]
            lines.append(
                f"Lightning, {WORKLOADS[name][0]}: {theirs:,.0f} images/s; imgcls {rate / theirs:.1f} times that."
            )
        if runs := found.get("accuracy"):
            lines += ["", "## Accuracy", "", *accuracy_lines(runs), ""]
            lines += ["*training s*: all epochs, without start-up, validation, saving and the test.", ""]
        for name, one in found.get("compile", {}).items():
            if "failure" not in one:
                speed_text = f"{one['images_per_s']:,.0f} images/s, first epoch {one['first']:.1f} s"
                lines.append(f"torch.compile, {WORKLOADS[name][0]}: {speed_text}.")
        if profiles := found.get("profile"):
            lines += ["", "## Profiles", ""]
            for name, one in profiles.items():
                lines += profile_lines(name, one)
        failures = {f"{section} {name}": one for section, parts in found.items() for name, one in parts.items()}
        for name, one in failures.items():
            if "traceback" in one:
                lines += [f"## Failed: {name}", "", "```", one["traceback"].rstrip(), "```", ""]
        return lines


def parts(setting: Setting) -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """What there is to do, the most important first: (section, name, what to call)"""
    yield "machine", "ceilings", lambda: measure_machine(setting)
    yield "tests", "pytest -m gpu", lambda: run_tests(setting)
    names = ["lenet", "mlp"] if setting.is_rehearsal else list(WORKLOADS)
    for name in names:
        yield "speed", name, lambda name=name: measure_speed(setting, name)
    for experiment, (dataset, seeds) in RECIPES.items():
        is_known = (HERE.parent / "conf" / "experiment" / f"{experiment}.yaml").is_file()
        if is_known and (dataset in setting.real or setting.is_rehearsal):
            count = 1 if setting.is_rehearsal else seeds
            yield "accuracy", experiment, lambda name=experiment, count=count: accuracy(setting, name, count)
    for name in ("lenet",) if setting.is_rehearsal else ("lenet", "mlp", "resnet18-512"):
        yield "profile", name, lambda name=name: profile(setting, name)
    for name in ("lenet", "mlp") if importlib.util.find_spec("lightning") else ():
        yield "lightning", name, lambda name=name: lightning(setting, name)
    if not setting.is_rehearsal:
        yield "compile", "resnet18-512", lambda: compiled(setting, "resnet18-512")


def main() -> None:
    parser = Arguments(__doc__, "gpu", repeats=3)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--parts", nargs="+", metavar="NAME", help="of those sections, only the parts of these names")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny data")
    args = parser.read()
    if not args.rehearse and not torch.cuda.is_available():
        sys.exit("no CUDA device; --rehearse checks this program on a CPU")
    with data_folder(set()) as (folder, is_given):
        places = {"mnist": Path(folder, "MNIST"), "cifar10": Path(folder, "cifar-10-batches-py")}
        real = frozenset(name for name, place in places.items() if is_given and place.is_dir() and not args.rehearse)
        with tempfile.TemporaryDirectory(prefix="imgcls-bench-") as made:
            data = gathered(places, real, Path(made), is_small=args.rehearse)
            os.environ["IMGCLS_DATA"] = str(data)
            device = torch.device("cpu" if args.rehearse else "cuda")
            setting = Setting(device, data, real, args.rehearse, 1 if args.rehearse else args.repeats)
            run_all(setting, args)


def gathered(places: dict[str, Path], real: frozenset[str], folder: Path, *, is_small: bool) -> Path:
    """A folder with both data sets: links to the real ones, synthetic files for the others."""
    for name in real:
        (folder / places[name].name).symlink_to(places[name].resolve())
    if "mnist" not in real:
        write_mnist(folder, *((1200, 200) if is_small else (60_000, 10_000)))
    if "cifar10" not in real:
        write_cifar10(folder, 300 if is_small else 10_000)
    return folder


def no_time() -> dict[str, Any]:
    """A part for which no time is left."""
    raise TimeoutError(f"not run: {LIMIT} s were over")


def run_all(setting: Setting, args: argparse.Namespace) -> None:
    """Every part that was asked for."""
    report = Report(args.out if not args.rehearse else args.out.with_name(f"{args.out.name}-rehearsal"))
    for section, name, call in parts(setting):
        if section in args.only and (args.parts is None or name in args.parts):
            report.part(section, name, call if report.seconds < LIMIT else no_time)
    print("\n".join(report.lines()))
    if any("failure" in found for one in report.results.values() for found in one.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
