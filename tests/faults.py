"""Fault injection: kills, lost writes, damaged and hostile files, a full disk.

    python -m tests.faults --full          # the full counts, the mutants too; make faults writes benchmarks/results

tests/test_faults.py runs the same with smaller counts. This process imports torch and trains once; each trial is a fork
of it, so that it takes half a second and not three. Every experiment returns what it counted; what must be 0 is in
``MUST_BE_ZERO``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from imgcls import files, seeding, train
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints import state as checkpoint_state
from imgcls.cli.app import main
from imgcls.data.pixels.decoding import load_image
from imgcls.data.pixels.view import View
from imgcls.errors import CheckpointError, DataError
from imgcls.runs import folder as run_folders

Counts = dict[str, Any]

WORDS = (
    "model.name=tests.faults:net",
    "augment=standard",
    "scheduler=cosine",
    "dataset.limit=120",
    "dataset.test_limit=40",
    "epochs=3",
    "batch_size=32",
    "threads=1",
    "checkpoint_every=1",
    "ema=0.9",
)
MUST_BE_ZERO = ("different", "unloadable", "lost", "silent", "crashed", "accepted", "slow", "too_much_memory", "wrong")
MEGABYTE = 1 << 20


def net(channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    """Batch norm and dropout, so that a resumed run can get buffers and random numbers wrong."""
    height, width = image_size
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8 * height * width, num_classes),
    )


# --- forks -----------------------------------------------------------------------------------------------------------


def forked(work: Callable[[], int], err: Path | None = None) -> int:
    """The process number of a fork that does the work, silently, and exits with the code that it returns."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here: make faults &
    try:
        with open(os.devnull, "w") as nowhere, open(err or os.devnull, "w") as errors:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            code = work()
            sys.stderr.flush()
    except BaseException as error:  # noqa: BLE001 - a fork never returns
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def outcome(pid: int, timeout: float = 120.0) -> int | None:
    """The exit code (negative: the signal) of a fork; None if it was still running and had to be killed."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


@contextlib.contextmanager
def laboratory() -> Iterator[Path]:
    """A working folder, in memory if possible, with a finished run ``whole`` in it; everything is imported."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and shutil.disk_usage(memory).free > 256 * MEGABYTE else None
    before, threads = Path.cwd(), torch.get_num_threads()
    drawing = train.draw_test, train.draw_batch
    with tempfile.TemporaryDirectory(dir=where, prefix="imgcls-faults-") as folder:
        os.chdir(folder)
        torch.set_num_threads(1)
        train.draw_test = train.draw_batch = lambda *args: None  # plots do not matter here
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
                code = main(["train", *WORDS, "run_dir=whole"])
            if code:
                raise RuntimeError(said.getvalue())
            yield Path(folder)
        finally:
            train.draw_test, train.draw_batch = drawing
            torch.set_num_threads(threads)
            os.chdir(before)


# --- kills -----------------------------------------------------------------------------------------------------------


def finish(folder: Path, words: Sequence[str] = ()) -> int:
    """The command that a user would give: resume the run, or start it."""
    if (folder / "config.yaml").is_file():
        return main(["train", f"resume={folder}", WORDS[0]])
    return main(["train", *(words or WORDS), f"run_dir={folder}"])


def kill_at_random(kills: int, seed: int = 0) -> Counts:
    """SIGKILL at random moments, until ``count`` have hit; every run is resumed to its end and compared."""
    draw = random.Random(seed)
    started = time.monotonic()
    outcome(forked(lambda: finish(Path("timed"))))
    length = time.monotonic() - started
    shutil.rmtree("timed", ignore_errors=True)
    found: Counts = {"kills": 0, "runs": 0, "different": 0, "unloadable": 0, "failed": 0, "which": []}
    while found["kills"] < kills:
        folder = Path("killed")
        found["runs"] += 1
        tries = 0
        while True:
            delay = draw.uniform(0, 0.8 * length) if tries < 20 else 100.0
            code = outcome(forked(lambda folder=folder: finish(folder), Path("said")), delay)  # type: ignore[misc]
            tries += 1
            if code == 0:
                break
            if code is not None or tries > 20:  # an error, or a run that hangs
                found["failed"] += 1
                found["which"].append(f"exit {code} after {tries} tries: {Path('said').read_text().strip()[-300:]}")
                break
            found["kills"] += 1
            found["unloadable"] += not loadable(folder)
        found["different"] += not equal_runs(Path("whole"), folder)
        shutil.rmtree(folder, ignore_errors=True)
    found["wrong"] = found.pop("failed")
    return found


def loadable(folder: Path) -> bool:
    """Whether the last checkpoint, if any, is valid: a mere kill must never make the previous one necessary."""
    path = folder / "checkpoints" / checkpoint_format.LAST
    if not path.is_file():
        return not (folder / "checkpoints" / checkpoint_format.PREV).is_file() or sound(
            folder / "checkpoints" / checkpoint_format.PREV
        )
    return sound(path)


def sound(path: Path) -> bool:
    """Whether the checkpoint can be read."""
    try:
        checkpoint_format.described(checkpoint_format.read(path))
    except CheckpointError:
        return False
    return True


def equal_runs(one: Path, other: Path) -> bool:
    """Whether weights, optimizer state, metrics, predictions and report are bit-identical."""
    from tests.training.test_resume import same_runs

    try:
        same_runs(one, other)
    except (AssertionError, OSError, CheckpointError, KeyError):
        return False
    return True


def contents(step: int) -> list[bytes | memoryview]:
    """A small checkpoint at that step."""
    whole = checkpoint_format.read(Path("whole/checkpoints") / checkpoint_format.LAST)
    meta = {key: value for key, value in whole.meta.items() if key not in ("sha256", "format")}
    return checkpoint_format.encode(whole.tensors, meta | {"step": step})


def save(folder: Path, step: int) -> None:
    """Save as training does."""
    files.write_whole(folder / checkpoint_format.LAST, *contents(step), keep_as=folder / checkpoint_format.PREV)


def kill_within_a_save(present: Sequence[int] = (0, 1, 2)) -> Counts:
    """A kill before and after every system call of a save, and within its writes.

    present: how many checkpoints exist before.
    """
    found = {"kills": 0, "unloadable": 0, "lost": 0, "wrong": 0}
    for before in present:
        for moment in range(1000):
            folder = Path("saves/checkpoints")
            shutil.rmtree("saves", ignore_errors=True)
            for step in range(1, before + 1):
                save(folder, step)
            parts = contents(before + 1)

            def work(moment: int = moment, folder: Path = folder, parts: list[Any] = parts) -> int:
                calls = 0

                def hook(frame: Any, event: str, what: Any) -> None:
                    nonlocal calls
                    if event in ("c_call", "c_return"):
                        if calls == moment:
                            os.kill(os.getpid(), signal.SIGKILL)
                        calls += 1

                sys.setprofile(hook)
                files.write_whole(folder / checkpoint_format.LAST, *parts, keep_as=folder / checkpoint_format.PREV)
                sys.setprofile(None)
                return 0

            code = outcome(forked(work))
            if code == 0:
                break
            found["kills"] += 1
            found["wrong"] += code != -signal.SIGKILL
            _look(folder, before, found)
        for quarter in range(1, 4):
            shutil.rmtree("saves", ignore_errors=True)
            for step in range(1, before + 1):
                save(folder, step)
            data = b"".join(contents(before + 1))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f".{checkpoint_format.LAST}.tmp").write_bytes(data[: len(data) * quarter // 4])
            found["kills"] += 1
            _look(folder, before, found)
            save(folder, before + 1)  # leftovers do not interfere
            found["lost"] += run_folders.last_checkpoint(folder.parent)[0].meta["step"] != before + 1  # type: ignore[union-attr]
    return found


def _look(folder: Path, before: int, found: Counts) -> None:
    try:
        newest, _ = run_folders.last_checkpoint(folder.parent)
    except CheckpointError:
        found["unloadable"] += 1
        return
    step = 0 if newest is None else newest.meta["step"]
    found["lost"] += step not in (before, before + 1)


# --- power -----------------------------------------------------------------------------------------------------------


class Disk:
    """A log of what was written, and every state that a power loss could leave: file content is lost unless it was
    fsynced; renames are lost, from the last backwards, unless the folder was fsynced."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, Any]] = []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Records what write_whole does."""
        real_fsync, real_replace, real_open = os.fsync, Path.replace, Path.open

        def fsync(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if os.path.isdir(path):
                self.log.append(("fsync folder", path, None))
            else:
                self.log.append(("fsync", Path(path).name, Path(path).read_bytes()))
            real_fsync(descriptor)

        def replace(path: Path, target: Any) -> Path:
            self.log.append(("rename", path.name, (Path(target).name, path.read_bytes())))
            return real_replace(path, target)

        def opened(path: Path, *args: Any, **more: Any) -> Any:
            if args and "w" in str(args[0]):
                self.log.append(("create", path.name, None))
            return real_open(path, *args, **more)

        os.fsync, Path.replace, Path.open = fsync, replace, opened  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            os.fsync, Path.replace, Path.open = real_fsync, real_replace, real_open  # type: ignore[method-assign]

    def states(self, start: dict[str, bytes]) -> Iterator[tuple[dict[str, bytes], bool]]:
        """(files, whether the save had returned) after a power loss at each moment, in each possible way."""
        for moment in range(len(self.log) + 1):
            done = self.log[:moment]
            synced = {name: data for kind, name, data in done if kind == "fsync"}
            last_sync = max((i for i, (kind, _, _) in enumerate(done) if kind == "fsync folder"), default=-1)
            renames = [i for i, (kind, _, _) in enumerate(done) if kind == "rename"]
            certain = [i for i in renames if i < last_sync]
            for kept in range(len(certain), len(renames) + 1):
                files = dict(start)
                for i in renames[:kept]:
                    _, source, (target, data) = done[i]
                    is_safe = files.get(source) == data or synced.get(source) == data
                    files.pop(source, None)
                    files[target] = data if is_safe else b""
                yield files, moment == len(self.log)


def lose_power() -> Counts:
    """Every state that a power loss during or after a save could leave must hold the right checkpoint."""
    found = {"states": 0, "unloadable": 0, "lost": 0}
    for before in (1, 2):
        shutil.rmtree("power", ignore_errors=True)
        folder = Path("power/checkpoints")
        for step in range(1, before + 1):
            save(folder, step)
        start = {path.name: path.read_bytes() for path in folder.iterdir()}
        disk = Disk()
        with disk.recording():
            save(folder, before + 1)
        for contents, has_returned in disk.states(start):
            shutil.rmtree("power", ignore_errors=True)
            folder.mkdir(parents=True)
            for name, data in contents.items():
                (folder / name).write_bytes(data)
            found["states"] += 1
            try:
                newest, _ = run_folders.last_checkpoint(folder.parent)
            except CheckpointError:
                found["unloadable"] += 1
                continue
            step = 0 if newest is None else int(newest.meta["step"])
            found["lost"] += step < before or (has_returned and step != before + 1)
    return found


# --- damage ----------------------------------------------------------------------------------------------------------


def damage(flips: int, cuts: int, seed: int = 0) -> Counts:
    """Flipped bits (all of the header's bytes first) and truncations of a real checkpoint: none may pass."""
    draw = random.Random(seed)
    data = Path("whole/checkpoints", checkpoint_format.BEST).read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    found = {"flips": 0, "cuts": 0, "silent": 0}

    def passes(bad: bytes) -> bool:
        try:
            checkpoint_format.decode(bad, Path("x"))
        except CheckpointError:
            return False
        return True

    for i in range(flips):
        bad = bytearray(data)
        place = i * header // (flips // 2) if i < flips // 2 else draw.randrange(len(data))
        bad[min(place, len(data) - 1)] ^= 1 << draw.randrange(8)
        found["flips"] += 1
        found["silent"] += passes(bytes(bad))
    edges = [0, 1, 7, 8, 9, header - 1, header, header + 1, len(data) - 1]
    for length in (edges + [draw.randrange(len(data)) for _ in range(cuts)])[:cuts]:
        found["cuts"] += 1
        found["silent"] += passes(data[:length])
    return found


class _Gadget:
    def __reduce__(self) -> Any:
        return os.system, ("touch sentinel",)


def hostile_files() -> dict[str, bytes]:
    """Files that are not our checkpoints, or pretend to be; each sealed one has a valid checksum."""
    whole = checkpoint_format.read(Path("whole/checkpoints", checkpoint_format.BEST))
    good = {key: value for key, value in whole.meta.items() if key not in ("sha256", "format")}

    def sealed(tensors: dict[str, torch.Tensor] | None = None, **meta: Any) -> bytes:
        return b"".join(checkpoint_format.encode(whole.tensors if tensors is None else tensors, good | meta))

    def resealed(change: Callable[[dict[str, Any]], None]) -> bytes:
        """The header changed, with a valid checksum."""
        data = sealed()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        change(header)
        header["__metadata__"]["sha256"] = checkpoint_format.NO_DIGEST
        text = json.dumps(header, separators=(",", ":")).encode()
        blank = len(text).to_bytes(8, "little") + text + data[8 + size :]
        import hashlib

        return blank.replace(checkpoint_format.NO_DIGEST.encode(), hashlib.sha256(blank).hexdigest().encode(), 1)

    first = "model.5.weight"  # of the last layer
    saved, bomb, tar = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"model": whole.tensors}, saved)
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (64 * MEGABYTE))
    import tarfile

    with tarfile.open(fileobj=tar, mode="w") as archive_of_old:
        for name in ("pickle", "tensors", "storages"):
            archive_of_old.addfile(tarfile.TarInfo(name))
    infinite = {name: one.clone() for name, one in whole.tensors.items()}
    infinite[first].flatten()[0] = float("nan")
    return {
        "nothing": b"",
        "text": b"hello",
        "html": b"<!doctype html><title>404</title>" * 50,
        "zeros": bytes(MEGABYTE),
        "pickle": pickle.dumps({"model": 1}) + bytes(100),
        "pickle with code": pickle.dumps(_Gadget()),
        "torch.save": saved.getvalue(),
        "zip bomb": bomb.getvalue(),
        "old tar": tar.getvalue(),
        "deep pickle": b"(" * 100_000 + b"l" * 100_000 + b".",
        "huge header": (1 << 60).to_bytes(8, "little") + b"{" + b"x" * 1000,
        "header of 90 MB that is not there": (90 * MEGABYTE).to_bytes(8, "little") + b"{" + b"x" * 1000,
        "plain safetensors": safetensors.torch.save(whole.tensors),
        "wrong checksum": safetensors.torch.save(whole.tensors, {"sha256": "0" * 64}),
        "shape of 10^12 on a few bytes": resealed(lambda header: header[first].update(shape=[10**6, 10**6])),
        "overlapping offsets": resealed(lambda header: header[first].update(data_offsets=[0, 4])),
        "offsets beyond the end": resealed(lambda header: header[first].update(data_offsets=[0, 1 << 40])),
        "unknown type": resealed(lambda header: header[first].update(dtype="Q99")),
        "missing tensor": sealed({name: one for name, one in whole.tensors.items() if name != first}),
        "unknown tensor": sealed(whole.tensors | {"model.more": torch.zeros(3)}),
        "wrong shape": sealed(whole.tensors | {first: torch.zeros(2, 2)}),
        "wrong type": sealed(whole.tensors | {first: whole.tensors[first].to(torch.float64)}),
        "not finite": sealed(infinite),
        "newer format": sealed(format_version=99, imgcls="9.9"),
        "a billion classes": sealed(classes=["a"], model={"name": "mlp", "hidden": [65536] * 40, "dropout": 0.0}),
        "too few classes": sealed(classes=["a", "b"]),
        "image of 10^9 pixels": sealed(preprocessing=good["preprocessing"] | {"height": 10**9}),
        "code to call": sealed(model={"name": "os:system"}),
        "nested description": sealed(model={"name": ["x"] * 1000}),
    }


def load_hostile() -> Counts:
    """Each must be refused with exit code 3 (or 2), quickly, in little memory, without executing anything."""
    found: Counts = {"files": 0, "accepted": 0, "slow": 0, "too_much_memory": 0, "crashed": 0, "wrong": 0, "which": []}
    best = Path("whole/checkpoints", checkpoint_format.BEST)
    found["wrong"] += outcome(forked(lambda: main(["evaluate", str(best), WORDS[0], "output=evaluated"]))) != 0
    shutil.rmtree("evaluated", ignore_errors=True)
    for name, data in hostile_files().items():
        Path("hostile.safetensors").write_bytes(data)

        def work(name: str = name) -> int:
            before = _memory()
            resource.setrlimit(resource.RLIMIT_AS, (before + 400 * MEGABYTE,) * 2)
            return main(["evaluate", "hostile.safetensors", WORDS[0] if name != "code to call" else "threads=1"])

        started = time.monotonic()
        code = outcome(forked(work, Path("said")), 20.0)
        found["files"] += 1
        said = Path("said").read_text()
        bad = {
            "accepted": code == 0 or Path("sentinel").exists(),
            "slow": time.monotonic() - started > 2.0,
            "too_much_memory": "out of memory" in said or "MemoryError" in said,
            "crashed": code not in (0, 3 if name != "code to call" else 2) or len(said.strip().splitlines()) != 1,
        }
        found |= {key: found[key] + is_bad for key, is_bad in bad.items()}
        found["which"] += [f"{name}: {said.strip()[-200:]} ({code})"] if any(bad.values()) else []
    return found


def _memory() -> int:
    """Bytes of address space in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def mutate_images(count: int, seed: int = 0) -> Counts:
    """Images with flipped, cut, repeated and spliced bytes: an image or one clear error, nothing else."""
    draw = random.Random(seed)
    seeds = []
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 31, 3), np.uint8)
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        for mode in ("RGB", "L"):
            file = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(file, kind)
            seeds.append(file.getvalue())
    found = {"images": 0, "decoded": 0, "crashed": 0, "slow": 0}

    def mutant() -> bytes:
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.randrange(1, 6)):
            place = draw.randrange(len(data) or 1)
            what = draw.randrange(5)
            if what == 0 and data:
                data[place] ^= 1 << draw.randrange(8)
            elif what == 1:
                del data[place : place + draw.randrange(1, 40)]
            elif what == 2:
                data[place:place] = data[place : place + draw.randrange(1, 40)]
            elif what == 3:
                data[place : place + 4] = draw.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
            else:
                data[place:] = draw.choice(seeds)[place:]
        return bytes(data)

    while found["images"] < count:
        some = [mutant() for _ in range(min(100, count - found["images"]))]

        def work(some: list[bytes] = some) -> int:
            resource.setrlimit(resource.RLIMIT_AS, (_memory() + 1024 * MEGABYTE,) * 2)
            decoded = 0
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for data in some:
                    signal.alarm(5)
                    Path("mutant.img").write_bytes(data)
                    with contextlib.suppress(DataError):
                        load_image("mutant.img", View(3, 16, 16))
                        decoded += 1
            Path("decoded").write_text(str(decoded))
            return 0

        code = outcome(forked(work), 600.0)
        found["images"] += len(some)
        found["slow"] += code in (None, -signal.SIGALRM)
        found["crashed"] += code not in (0, None, -signal.SIGALRM)
        if code == 0:
            found["decoded"] += int(Path("decoded").read_text())
    return found


def fill_the_disk(sizes: int) -> Counts:
    """From some save on, no file may grow beyond a limit that the checkpoint exceeds: exit 1, the path is named, the
    previous version is kept, and with room again the run resumes to the same end."""
    whole = Path("whole/checkpoints", checkpoint_format.LAST).stat().st_size
    found = {"trials": 0, "wrong": 0, "lost": 0, "different": 0}
    for i in range(sizes):
        shutil.rmtree("full", ignore_errors=True)
        limit, before = whole * (i + 1) // (sizes + 1), i % 4  # saves that still have room

        def work(limit: int = limit, before: int = before) -> int:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            real, saves = files.write_whole, [0]

            def write_whole(path: Path, *parts: Any, keep_as: Path | None = None) -> None:
                saves[0] += path.name == checkpoint_format.LAST
                if saves[0] > before:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                real(path, *parts, keep_as=keep_as)

            files.write_whole = write_whole
            return main(["train", *WORDS, "run_dir=full"])

        code = outcome(forked(work, Path("said")))
        said = Path("said").read_text()
        errors = [line for line in said.splitlines() if line.startswith("imgcls: error:")]
        found["trials"] += 1
        found["wrong"] += code != 1 or len(errors) != 1 or "full/checkpoints/" not in errors[0] or "Traceback" in said
        left = any(Path("full/checkpoints").glob(".*.tmp")) if Path("full/checkpoints").is_dir() else False
        newest, _ = run_folders.last_checkpoint(Path("full"))
        found["lost"] += left or (0 if newest is None else int(newest.meta["step"])) != before
        found["wrong"] += outcome(forked(lambda: finish(Path("full")))) != 0
        found["different"] += not equal_runs(Path("whole"), Path("full"))
    return found


# --- mutants ---------------------------------------------------------------------------------------------------------


def _in_place(path: Path, *parts: Any, keep_as: Path | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
            file.flush()
            time.sleep(0.005)


def _without_fsync(path: Path, *parts: Any, keep_as: Path | None = None) -> None:
    real = os.fsync
    os.fsync = lambda descriptor: None
    try:
        REAL_WRITE(path, *parts, keep_as=keep_as)
    finally:
        os.fsync = real


def _unverified(data: bytes, path: Path) -> checkpoint_format.Checkpoint:
    size = int.from_bytes(data[:8], "little")
    try:
        strings = json.loads(data[8 : 8 + size])["__metadata__"]
        meta = {key: text if key in checkpoint_format.PLAIN else json.loads(text) for key, text in strings.items()}
        return checkpoint_format.Checkpoint(path, safetensors.torch.load(data), meta)
    except Exception as error:
        raise CheckpointError(str(error)) from error


REAL_WRITE = files.write_whole


def mutants() -> dict[str, tuple[Any, str, Any, Callable[[], Counts]]]:
    """Bugs that the harness must notice: (module, name, replacement, the experiment that must notice)."""
    return {
        "written in place": (files, "write_whole", _in_place, lambda: kill_at_random(40)),
        "no fsync": (files, "write_whole", _without_fsync, lose_power),
        "no checksum": (checkpoint_format, "decode", _unverified, lambda: damage(400, 20)),
        "randomness not derived": (seeding, "derive", _not_derived, lambda: kill_at_random(20)),
        "moving average not restored": (checkpoint_state, "load_module", _without_average, lambda: kill_at_random(20)),
    }


REAL_DERIVE, REAL_LOAD = seeding.derive, checkpoint_state.load_module
DRAWN = [0]  # random numbers drawn in this process


def _not_derived(seed: int, *key: str | int) -> int:
    """Like a generator whose state is not saved: each process starts over."""
    if key[0] not in ("shuffle", "augment", "dropout"):
        return REAL_DERIVE(seed, *key)
    DRAWN[0] += 1
    return REAL_DERIVE(seed, key[0], DRAWN[0])


def _without_average(
    module: nn.Module, checkpoint: checkpoint_format.Checkpoint, prefix: str = checkpoint_state.MODEL
) -> None:
    if prefix == checkpoint_state.MODEL:
        REAL_LOAD(module, checkpoint, prefix)


def unnoticed() -> Counts:
    """How many of the mutants go unnoticed."""
    found: Counts = {"mutants": 0, "wrong": 0, "which": []}
    for name, (where, what, by, experiment) in mutants().items():
        real = getattr(where, what)
        setattr(where, what, by)
        Path("whole").rename("sound")
        try:
            outcome(forked(lambda: finish(Path("whole"))))  # the mutant in an undisturbed run
            outcome(forked(lambda: finish(Path("again"))))
            is_steady = equal_runs(Path("whole"), Path("again"))
            counts = experiment()
        finally:
            setattr(where, what, real)
            for folder in ("whole", "again"):
                shutil.rmtree(folder, ignore_errors=True)
            Path("sound").rename("whole")
        is_noticed = is_steady and any(counts.get(key, 0) for key in MUST_BE_ZERO)
        found["mutants"] += 1
        found["wrong"] += not is_noticed
        found["which"].append(f"{name}: {'noticed' if is_noticed else 'NOT NOTICED'} {counts}")
    return found


# --- all of it -------------------------------------------------------------------------------------------------------


def experiments(*, is_full: bool) -> dict[str, Callable[[], Counts]]:
    """By name; the full ones take minutes."""
    from tests import run_faults as runs

    short: dict[str, Callable[[], Counts]] = {
        "SIGKILL at random moments": lambda: kill_at_random(100 if is_full else 12),
        "SIGKILL at every call of a save": kill_within_a_save,
        "damaged checkpoints": lambda: damage(5000, 200) if is_full else damage(600, 60),
        "hostile checkpoints": load_hostile,
        "mutated images": lambda: mutate_images(2000 if is_full else 300),
        "full disk": lambda: fill_the_disk(20 if is_full else 4),
        "signals at every stage": lambda: runs.signalled(is_full=is_full),
        "signals to a command that starts": lambda: runs.signalled_early(is_full=is_full),
        "numbers that are not finite": runs.not_finite,
        "TensorBoard failing": runs.failing_board,
        "broken images, each policy": lambda: runs.train_on_broken(is_full=is_full),
        "failing jobs of a sweep": lambda: runs.sweep_with_failures(is_full=is_full),
        "runs started together": runs.start_together,
        "odd places": runs.odd_places,
        "the same bytes everywhere": runs.same_everywhere,
        "one of two processes hurt": lambda: runs.processes(is_full=is_full),
    }
    if is_full:
        return short | {"loss of power": lose_power, "mutants": unnoticed}
    return short | {  # for `make test`
        "SIGKILL at a few moments": lambda: kill_at_random(5),
        "SIGKILL at every call of the second save": lambda: kill_within_a_save([1]),
    }


def report(results: dict[str, tuple[Counts, float]]) -> str:
    """A table in Markdown."""
    lines = ["| fault | counted | must be 0 | seconds |", "|---|---|---|---:|"]
    for name, (counts, seconds) in results.items():
        zero = {key: value for key, value in counts.items() if key in MUST_BE_ZERO}
        rest = {key: value for key, value in counts.items() if key not in (*zero, "which")}
        cells = (", ".join(f"{value:,} {key}" for key, value in one.items()) for one in (rest, zero))
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def write(results: dict[str, tuple[Counts, float]], out: Path) -> None:
    """The table as a file, after each experiment."""
    import platform

    head = f"imgcls under faults: Python {platform.python_version()}, torch {torch.__version__}, {platform.platform()}"
    text = f"# {head}\n\n    python -m tests.faults {' '.join(sys.argv[1:])}\n\n{report(results)}\n"
    out.write_text(text, encoding="utf-8")


def run_all() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the full counts and the mutants")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="experiments whose name holds one of these words")
    parser.add_argument("--out", type=Path, help="where the table is written")
    args = parser.parse_args()
    out = args.out.resolve() if args.out else None
    results: dict[str, tuple[Counts, float]] = {}
    with laboratory():
        for name, experiment in experiments(is_full=args.full).items():
            if args.only and not any(word in name for word in args.only):
                continue
            started = time.monotonic()
            results[name] = (experiment(), time.monotonic() - started)
            if out is not None:
                write(results, out)
            print(f"{name}: {results[name][0]} ({results[name][1]:.0f} s)", flush=True)
    print(report(results))
    return int(any(counts.get(key, 0) for counts, _ in results.values() for key in MUST_BE_ZERO))


if __name__ == "__main__":
    sys.exit(run_all())
