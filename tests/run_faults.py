"""Faults during whole runs: signals, non-finite numbers, corrupt images, failing jobs, dying processes.

Forks, the run and the working folder come from tests/faults.py, which lists the experiments.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from imgcls import files, train
from imgcls.checkpoints import format as checkpoint_format
from imgcls.cli.app import main
from imgcls.data.fetchers import Streamed
from imgcls.runs import folder as run_folders
from imgcls.training import loop, validation
from tests.faults import WORDS, Counts, equal_runs, finish, forked, net, outcome, sound

ROOT = Path(__file__).parents[1]
STEPS_AN_EPOCH = 4  # WORDS: about 108 training images in batches of 32
SLOW = 30.0  # seconds within which a run must end when one of its processes dies


def calling(where: Any, name: str, call: int, action: Callable[..., None]) -> None:
    """From now on in this process, run the action right before that call (1 is the first) of where.name."""
    real, calls = getattr(where, name), [0]

    def wrapped(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            action(*args)
        return real(*args, **more)

    setattr(where, name, wrapped)


def errors_in(said: str) -> list[str]:
    """The error lines."""
    return [line for line in said.splitlines() if line.startswith("imgcls: error")]


# --- signals ---------------------------------------------------------------------------------------------------------

# stage: (object, name of the function called, which call, the step saved then; None: not because of the signal)
STAGES: dict[str, tuple[Any, str, int, int | None]] = {
    "reading the data": (train, "build", 1, None),
    "opening the log": (train, "_fit", 1, None),
    "before the first step": (train, "keep_freed_memory", 1, 1),
    "the first step": (loop, "update", 1, 1),
    "a step": (loop, "update", STEPS_AN_EPOCH + 2, STEPS_AN_EPOCH + 2),
    "the last step": (loop, "update", 3 * STEPS_AN_EPOCH, 3 * STEPS_AN_EPOCH),
    "validation": (validation, "infer", 2, 2 * STEPS_AN_EPOCH),
    "a save": (checkpoint_format, "encode", STEPS_AN_EPOCH + 3, None),
    "the writing of a save": (files, "write_whole", STEPS_AN_EPOCH + 5, None),
    "waiting for data": (Streamed, "batches", 3, STEPS_AN_EPOCH + 1),
    "the test": (train, "assess", 1, None),
    "the report": (train, "write_report", 1, None),
}


def signalled(*, is_full: bool) -> Counts:
    """SIGTERM and SIGINT at every stage of a run, once and twice: exit code, a save, and the same result."""
    found: Counts = {"signals": 0, "wrong": 0, "unloadable": 0, "different": 0, "slow": 0, "which": []}
    trials = [(stage, number, 1) for stage in STAGES for number in (signal.SIGTERM, signal.SIGINT)]
    trials += [(stage, signal.SIGTERM, 2) for stage in ("a step", "validation", "a save")]
    trials += [("a step", signal.SIGUSR1, 1)]
    if not is_full:
        trials = [one for one in trials if one[1:] == (signal.SIGTERM, 1)] + trials[-4:]
    for stage, number, times in trials:
        where, name, call, step = STAGES[stage]
        getattr(where, name)  # here: in the fork, a name that has moved would look like a failing run
        folder, words = Path("signalled"), list(WORDS)
        words += ["loader=stream", "workers=1"] if stage == "waiting for data" else []
        if step is not None:  # only the signal makes it save within an epoch
            words.remove("checkpoint_every=1")
        Path("when").unlink(missing_ok=True)

        def work(where: Any = where, name: str = name, call: int = call, words: Any = words, n: Any = number) -> int:
            def send(*args: Any) -> None:
                Path("when").write_text(str(time.monotonic()))
                for _ in range(times):  # noqa: B023 - the fork is made in this iteration
                    os.kill(os.getpid(), n)

            calling(where, name, call, send)
            return main(["train", *words, "run_dir=signalled"])

        code, ended = outcome(forked(work, Path("said"))), time.monotonic()
        goes_on, said = number == signal.SIGUSR1, Path("said").read_text()
        told = f"saved at step {step or 0:,}"
        bad = {
            "wrong": code != (0 if goes_on else 128 + number) or (step is not None and times == 1 and told not in said),
            "slow": not Path("when").exists() or ended - float(Path("when").read_text()) > (SLOW if goes_on else 5.0),
            "unloadable": any(not sound(path) for path in folder.glob("checkpoints/*.safetensors")),
        }
        after = 0
        if not goes_on:
            after = outcome(forked(lambda folder=folder, words=words: finish(folder, words), Path("said too")))  # type: ignore[misc, assignment]
        bad["wrong"] |= after != 0
        bad["different"] = not equal_runs(Path("whole"), folder)
        found["signals"] += times
        found |= {key: found[key] + is_bad for key, is_bad in bad.items()}
        if any(bad.values()):
            found["which"].append(f"{stage}, {times} x {number.name}: exit {code}, {after}, {bad}")
        shutil.rmtree(folder, ignore_errors=True)
    return found


def signalled_early(*, is_full: bool) -> Counts:
    """The command, stopped while it starts: during imports, before there is anything to save."""
    found: Counts = {"signals": 0, "wrong": 0, "which": []}
    command = [sys.executable, "-m", "imgcls", "train", *WORDS, "epochs=100000", "run_dir=early"]
    command.remove("epochs=3")
    for i in range(24 if is_full else 6):
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=with_tests()) as process:
            while not _catches(process.pid, signal.SIGTERM):
                time.sleep(0.01)
            time.sleep(i * (0.1 if is_full else 0.3))
            process.send_signal(number)
            try:
                said = process.communicate(timeout=60)[1]
            except subprocess.TimeoutExpired:
                process.kill()
                said = "it did not end"
        found["signals"] += 1
        is_right = process.returncode == 128 + number and "Traceback" not in said
        found["wrong"] += not is_right
        found["which"] += [] if is_right else [f"{number.name} in trial {i}: exit {process.returncode}, {said[-300:]}"]
        shutil.rmtree("early", ignore_errors=True)
    return found


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether that process has a handler for the signal by now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next((line.split()[1] for line in lines if line.startswith("SigCgt")), "0")
    return bool(int(mask, 16) >> (number - 1) & 1)


# --- non-finite numbers ----------------------------------------------------------------------------------------------


def not_finite() -> Counts:
    """NaN in the loss, in a gradient, in a weight; a huge learning rate: exit 1, and a checkpoint is kept."""

    def spoil_loss(state: Any, forward: Any, images: torch.Tensor, *rest: Any) -> None:
        images.fill_(float("nan"))

    def spoil_gradient(optimizer: torch.optim.Optimizer) -> None:
        optimizer.param_groups[0]["params"][0].grad.flatten()[0] = float("nan")  # type: ignore[union-attr]

    def spoil_weight(state: Any, *rest: Any) -> None:
        with torch.no_grad():
            next(state.module.parameters()).flatten()[0] = float("inf")

    step = STEPS_AN_EPOCH + 2
    kinds: dict[str, tuple[tuple[str, ...], Callable[[], None]]] = {
        "loss": ((), lambda: calling(loop, "update", step, spoil_loss)),
        "gradient": ((), lambda: calling(loop.fast_step, "step", step, spoil_gradient)),
        "weight": ((), lambda: calling(loop, "update", step, spoil_weight)),
        "learning rate": (("optimizer=sgd", "optimizer.lr=1000", "optimizer.momentum=0.999"), lambda: None),
    }
    found: Counts = {"runs": 0, "wrong": 0, "unloadable": 0, "which": []}
    for name, (words, prepare) in kinds.items():

        def work(words: tuple[str, ...] = words, prepare: Callable[[], None] = prepare) -> int:
            prepare()
            more = ("epochs=40",) if words else ()
            return main(
                ["train", *[w for w in WORDS if not (more and w.startswith("epochs"))], *words, *more, "run_dir=nan"]
            )

        code = outcome(forked(work, Path("said")))
        lines = errors_in(Path("said").read_text())
        is_said = len(lines) == 1 and all(word in lines[0] for word in ("not finite", "step", "epoch"))
        found["runs"] += 1
        found["wrong"] += code != 1 or not is_said
        last, _ = run_folders.last_checkpoint(Path("nan"))
        is_sound = last is None or all(bool(torch.isfinite(one).all()) for one in last.tensors.values())
        found["unloadable"] += not is_sound or (last is None and name != "learning rate")
        if code != 1 or not is_said or not is_sound:
            found["which"].append(f"{name}: exit {code}, {lines}")
        shutil.rmtree("nan", ignore_errors=True)
    return found


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def failing_board() -> Counts:
    """TensorBoard's writer failing at its first, at a later write, and when it is opened: one warning, the same run."""
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from torch.utils import tensorboard

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    found: Counts = {"runs": 0, "wrong": 0, "different": 0}
    for where, name, call in (
        (EventFileWriter, "add_event", 1),
        (EventFileWriter, "add_event", 7),
        (EventFileWriter, "flush", 1),
        (tensorboard, "SummaryWriter", 1),
    ):

        def work(where: Any = where, name: str = name, call: int = call) -> int:
            calling(where, name, call, full)
            return main(["train", *WORDS, "run_dir=board"])

        code = outcome(forked(work, Path("said")))
        warnings = [line for line in Path("said").read_text().splitlines() if line.startswith("imgcls: warning:")]
        found["runs"] += 1
        found["wrong"] += code != 0 or len(warnings) != 1 or "No space left" not in warnings[0]
        found["different"] += not equal_runs(Path("whole"), Path("board"))
        shutil.rmtree("board", ignore_errors=True)
    return found


# --- images ----------------------------------------------------------------------------------------------------------


def _bytes_of(kind: str, size: tuple[int, int] = (24, 20), **more: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(file, kind, **more)
    return file.getvalue()


def broken_images() -> dict[str, bytes | Callable[[Path], None]]:
    """Contents under an image's name, or functions that create them; none is an image."""
    png, jpeg = _bytes_of("PNG"), _bytes_of("JPEG")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    def png_of(width: int, height: int) -> bytes:
        header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
        rows = zlib.compress(bytes(1000))
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    tiff = io.BytesIO()
    Image.fromarray(np.full((20, 24), np.nan, np.float32)).save(tiff, "TIFF")
    return {
        "nothing": b"",
        "one byte": b"\xff",
        "text": b"hello\n",
        "html": b"<!doctype html><title>404</title>" * 9,
        "zeros": bytes(4096),
        "noise": np.random.default_rng(0).bytes(4096),
        "half a PNG": png[: len(png) // 2],
        "a PNG without its end": png[:-30],
        "a PNG with a wrong sum": png[:40] + bytes([png[40] ^ 255]) + png[41:],
        "a PNG's header": png[:33],
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "a JPEG's first bytes": jpeg[:4],
        "half a WebP": _bytes_of("WEBP")[:200],
        "half a GIF": _bytes_of("GIF")[:300],
        "half a BMP": _bytes_of("BMP")[:500],
        "half a TIFF": _bytes_of("TIFF")[:300],
        "half a PPM": _bytes_of("PPM")[:500],
        "a TIFF of NaN": tiff.getvalue(),
        "an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "a PSD": b"8BPS\0\x01" + bytes(200),
        "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "an HDF5": b"\x89HDF\r\n\x1a\n" + bytes(200),
        "an ICO": _bytes_of("ICO", (16, 16)),
        "a zip": b"PK\x03\x04" + bytes(100),
        "a pickle": b"\x80\x04\x95" + bytes(100),
        "a bomb of 400 million pixels": png_of(20_000, 20_000),
        "an image of no pixels": png_of(0, 7),
        "a line of 2^31 pixels": png_of(2**31 - 1, 1),
        "a pipe": os.mkfifo,
        "a folder": lambda path: path.mkdir(),
        "a link to nowhere": lambda path: path.symlink_to("nowhere"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    }


def train_on_broken(*, is_full: bool) -> Counts:
    """One corrupt file among good ones: refused before training and named, or skipped and counted; never a crash."""
    for label in ("cat", "dog"):
        folder = Path("photos", label)
        folder.mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng(i).integers(0, 200, (20, 24, 3), np.uint8) + 50 * (label == "cat")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    words = ["train", "dataset=./photos", "model=linear", "epochs=1", "threads=1", "dataset.image_size=16"]
    found: Counts = {"files": 0, "runs": 0, "wrong": 0, "accepted": 0, "slow": 0, "which": []}
    kinds = list(broken_images().items())
    for name, made in kinds if is_full else kinds[::4]:
        path = Path("photos/cat/broken.png")
        if isinstance(made, bytes):
            path.write_bytes(made)
        else:
            made(path)
        found["files"] += 1
        for policy in (["dataset.verify=true"], ["dataset.on_error=skip"], []):
            began = time.monotonic()
            code = outcome(forked(lambda policy=policy: main([*words, *policy, "run_dir=r"]), Path("said")), 60.0)  # type: ignore[misc]
            said = Path("said").read_text()
            report = Path("r/report.json")
            if "on_error" in "".join(policy):
                # an empty folder is not a file
                skipped = json.loads(report.read_text())["skipped"] if report.is_file() else None
                is_right = code == 0 and skipped == (0 if name == "a folder" else 1)
            elif name == "a folder":
                is_right = code == 0
            else:
                is_right = code == 3 and "broken.png" in said and len(errors_in(said)) == 1 and not report.is_file()
            is_right &= "Traceback" not in said
            found["runs"] += 1
            found["wrong"] += not is_right
            found["accepted"] += Path("r").is_dir() and policy == ["dataset.verify=true"] and name != "a folder"
            found["slow"] += time.monotonic() - began > 20
            if not is_right:
                found["which"].append(f"{name} {policy}: exit {code}, {said.strip()[-200:]}")
            shutil.rmtree("r", ignore_errors=True)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree("photos")
    return found


# --- sweeps ----------------------------------------------------------------------------------------------------------


class Failing(nn.Module):
    """A linear model that fails on purpose in its third training step, in the way that its parameter says."""

    def __init__(self, image_size: tuple[int, int], num_classes: int, fails: str = "not") -> None:
        super().__init__()
        self.fails, self.steps = fails, 0
        self.linear = nn.Linear(image_size[0] * image_size[1], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if self.steps == 3 and self.training and not Path("mended").exists():
            self.fail()
        logits: torch.Tensor = self.linear(images.flatten(1))
        return logits

    def fail(self) -> None:
        """Fail as requested."""
        if self.fails == "raises":
            raise ValueError("broken on purpose")
        if self.fails == "exits":
            os._exit(3)
        if self.fails == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails == "hangs":
            time.sleep(3600)
        if self.fails == "memory":
            raise MemoryError
        if self.fails == "not_finite":
            with torch.no_grad():
                self.linear.weight.fill_(float("nan"))


def sweep_with_failures(*, is_full: bool) -> Counts:
    """Jobs that raise, exit, are killed, hang, run out of memory or diverge, among good ones: the good ones finish, the
    table shows the others, and the same command resumes only those."""
    kinds = ["killed", "not", "raises"]
    kinds += ["exits", "memory", "not_finite", "hangs"] if is_full else []
    words = ["model.name=tests.run_faults:Failing", f"model.fails={','.join(kinds)}", f"seed=0{',1' * is_full}"]
    words += ["dataset.limit=100", "dataset.test_limit=20", "epochs=2", "batch_size=16", "threads=1", "sweep_dir=sweep"]
    words += ["job_timeout=25"] if is_full else []
    found: Counts = {"jobs": 0, "wrong": 0, "which": []}
    command = [sys.executable, "-m", "imgcls", "train", "-m", *words]
    for is_mended in (False, True):
        if is_mended:
            Path("mended").touch()
        done = subprocess.run(command, capture_output=True, text=True, env=with_tests(), timeout=600, check=False)
        if not Path("sweep/sweep.json").is_file():
            return {"jobs": 0, "wrong": 1, "which": [done.stderr[-400:]]}
        rows = json.loads(Path("sweep/sweep.json").read_text())["jobs"]
        for row in rows:
            fails = not is_mended and "model.fails=not" not in row["overrides"]
            is_right = (row["exit_code"] != 0) == fails == (row["accuracy"] is None)
            found["jobs"] += 1
            found["wrong"] += not is_right
            found["which"] += [] if is_right else [f"{row}"]
        finished_before = done.stderr.count("already done")
        expected = sum("model.fails=not" in row["overrides"] for row in rows) if is_mended else 0
        is_right = done.returncode == (0 if is_mended else 1) and finished_before == expected
        found["wrong"] += not is_right
        found["which"] += [] if is_right else [f"exit {done.returncode}, {done.stderr[-400:]}"]
    Path("mended").unlink()
    shutil.rmtree("sweep")
    return found


def with_tests(**more: str) -> dict[str, str]:
    """An environment in which commands find the models in these files."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1", **more}


# --- starts and surroundings -----------------------------------------------------------------------------------------


def start_together(count: int = 8) -> Counts:
    """Runs started at once in one folder: each gets its own run folder, nothing is lost."""
    pids = [forked(lambda: main(["train", *WORDS])) for _ in range(count)]
    codes = [outcome(pid, 300.0) for pid in pids]
    folders = list(Path("outputs").iterdir())
    finished = [folder for folder in folders if equal_runs(Path("whole"), folder)]
    shutil.rmtree("outputs")
    return {"starts": count, "wrong": sum(code != 0 for code in codes), "lost": count - len(finished)}


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, to which no folder is closed; only in a fork."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    yield


def odd_places() -> Counts:
    """Closed folders and odd names: a run, or one line."""
    found: Counts = {"places": 0, "wrong": 0, "which": []}
    words = ["train", "model=linear", "dataset.limit=100", "dataset.test_limit=20", "epochs=1", "threads=1"]
    Path("closed").mkdir(mode=0o555)
    Path.cwd().chmod(0o755)  # for the user nobody

    def look(name: str, run_dir: str, expected: int, must_say: str = "", *, is_nobody: bool = False) -> None:
        def work() -> int:
            with as_nobody() if is_nobody else contextlib.nullcontext():
                return main([*words, f"run_dir={run_dir}"])

        code = outcome(forked(work, Path("said")))
        said = Path("said").read_text()
        if expected:
            is_right = code == expected and len(errors_in(said)) == 1 and must_say in said and "Traceback" not in said
        else:
            is_right = code == 0 and Path(run_dir, "report.json").is_file()
        found["places"] += 1
        found["wrong"] += not is_right
        found["which"] += [] if is_right else [f"{name}: exit {code}, {said.strip()[-200:]}"]

    for name in ("a b", "ä/ö", "a=b", "a,b", "[x]", "a\nb", "'q'", "-minus", "#", "${x}", "~", "x" * 255):
        look(name, f"./{name}", 0)
    look("a name of 256 bytes", "./" + "y" * 256, 1)
    look("a closed folder", "closed/run", 1, "closed/run: Permission denied", is_nobody=True)
    look("a folder within a file", "said/run", 1, "said/run: Not a directory")
    look("/proc", "/proc/run", 1)
    look("/dev/null", "/dev/null", 2)
    return found


def same_everywhere() -> Counts:
    """The same command with different hash seeds, time zones, languages and terminals: the same bytes."""
    found: Counts = {"runs": 0, "different": 0, "wrong": 0}
    totals = set()
    here = Path.cwd()
    for i, more in enumerate(
        (
            {"PYTHONHASHSEED": "0", "TZ": "UTC", "LANG": "C"},
            {"PYTHONHASHSEED": "1", "TZ": "Asia/Kolkata", "LANG": "de_DE.UTF-8", "PYTHONUTF8": "0"},
            {
                "PYTHONHASHSEED": "2",
                "TZ": "America/New_York",
                "LC_ALL": "tr_TR.UTF-8",
                "TERM": "dumb",
                "PYTHONOPTIMIZE": "1",
            },
        )
    ):
        folder = here / f"place{i}"
        folder.mkdir()
        command = [sys.executable, "-m", "imgcls", "train", *WORDS, "run_dir=run"]
        done = subprocess.run(command, capture_output=True, env=with_tests(**more), cwd=folder, check=False)
        found["runs"] += 1
        found["wrong"] += done.returncode != 0
        saved = sorted(folder.glob("run/checkpoints/*.safetensors"))
        totals.add(hashlib.sha256(b"".join(path.read_bytes() for path in saved)).hexdigest() if saved else f"none {i}")
        shutil.rmtree(folder)
    found["different"] = len(totals) - 1
    return found


# --- several processes -----------------------------------------------------------------------------------------------


def dying(channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    """The model of faults.py; in process 1 it fails at its seventh training step as the variable says."""
    module = net(channels, image_size, num_classes)
    fault, calls = os.environ.get("IMGCLS_TEST_FAULT"), [0]

    def hook(module: nn.Module, images: Any) -> None:
        calls[0] += module.training
        if calls[0] == 7 and module.training and os.environ.get("RANK") == "1":
            if fault == "raises":
                raise ValueError("broken on purpose")
            if fault == "exits":
                os._exit(5)
            if fault is not None:
                os.kill(os.getpid(), getattr(signal, fault))

    module.register_forward_pre_hook(hook)
    return module


def torchrun(*words: str, **more: str) -> tuple[int, str, float]:
    """Two processes: exit code, stderr, seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    began = time.monotonic()
    command += ["-m", "imgcls", "train", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=with_tests(**more)) as process:
        try:
            said = process.communicate(timeout=200)[1]
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its processes too
            said = "it went on"
    return process.returncode, said, time.monotonic() - began


def processes(*, is_full: bool) -> Counts:
    """One of two processes is killed, raises, exits, gets a signal: all end soon, and resume to the same result."""
    name = "model.name=tests.run_faults:dying"
    words = [name, *WORDS[1:]]
    found: Counts = {"runs": 0, "wrong": 0, "slow": 0, "different": 0, "unloadable": 0, "which": []}
    code, said, length = torchrun(*words, "run_dir=two")
    found["wrong"] += code != 0
    faults = {
        "SIGKILL": "",
        "SIGTERM": "interrupted by SIGTERM",
        "raises": "rank 1",
        "exits": "",
        "SIGINT": "interrupted by SIGINT",
    }
    for fault, must_say in faults.items() if is_full else list(faults.items())[1:3]:
        code, said, seconds = torchrun(*words, "run_dir=hurt", IMGCLS_TEST_FAULT=fault)
        is_right = code != 0 and must_say in said
        found["slow"] += seconds > length + SLOW
        found["unloadable"] += any(not sound(path) for path in Path("hurt/checkpoints").glob("*.safetensors"))
        again, _, _ = torchrun("resume=hurt", name)
        found["runs"] += 1
        found["wrong"] += not is_right or again != 0
        found["different"] += not equal_runs(Path("two"), Path("hurt"))
        if not is_right or again != 0:
            found["which"].append(f"{fault}: exit {code}, {again}; {said[-300:]}")
        shutil.rmtree("hurt", ignore_errors=True)
    if is_full:
        torchrun(*words, "run_dir=hurt", IMGCLS_TEST_FAULT="SIGTERM")
        locked = outcome(forked(lambda: main(["train", "resume=hurt", name]), Path("said")))
        rows = [len(Path(run, "metrics.jsonl").read_text().splitlines()) for run in ("two", "hurt")]
        found["runs"] += 1
        found["wrong"] += locked != 0 or rows[0] != rows[1]
        if locked != 0:
            found["which"].append(f"two, then one: exit {locked}; {Path('said').read_text()[-300:]}")
    for folder in ("two", "hurt"):
        shutil.rmtree(folder, ignore_errors=True)
    return found
