"""What several tests need: a clean working folder, a small fast configuration, finished runs, a watch on slow tests."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two workers with two threads each wait for one another
os.environ.setdefault("IMGCLS_OFFLINE", "1")  # no test asks for weights, nor do the processes that it starts

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout

from imgcls.cli.app import main
from imgcls.compose.composer import Composer
from imgcls.compose.overrides import read_all
from imgcls.config.options import option_node
from imgcls.config.parsing import parse
from imgcls.config.schema import TrainConfig
from imgcls.data.datasets.folders.reader import imagefolder as class_folders
from imgcls.data.source import Source
from imgcls.optim.automatic import SMALL_NETS

QUIET = ("plots=false", "tensorboard=false")  # few tests look at them
SMALL = ("dataset.limit=200", "dataset.test_limit=60", "epochs=2", "batch_size=32", "threads=1", *QUIET)
DRAWN = SMALL[: -len(QUIET)]  # with pictures and TensorBoard
SLOWEST = 3.0  # seconds that a test may take that is not marked
OPEN = open  # some tests replace it
MARKS = ("slow", "process", "gpu", "network")  # of the tests that may take longer
MEMORY = Path("/dev/shm")
ROOM = 2 << 30  # bytes free in MEMORY for the tests' folders to be there, where fsync costs nothing


# --- the time of a test ----------------------------------------------------------------------------------------------


def queued() -> float:
    """Seconds that this process was ready to run while other processes had the cores."""
    try:
        with OPEN("/proc/self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fails an unmarked test that is slow if CI is set; otherwise the summary names it. Waiting for a core is free."""
    started, waited = time.perf_counter(), queued()
    yield
    seconds = time.perf_counter() - started - (queued() - waited)
    if seconds <= SLOWEST or any(item.get_closest_marker(name) for name in MARKS):
        return
    message = f"took {seconds:.1f} s, and {SLOWEST:g} s is the most for a test that is not marked slow or process"
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(message, pytrace=False)
    item.user_properties.append(("slow", message))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Names the tests that CI would refuse as too slow."""
    for report in terminalreporter.getreports("passed"):
        for name, message in report.user_properties if report.when == "call" else ():
            if name == "slow":
                terminalreporter.write_line(f"WARNING {report.nodeid} {message}", yellow=True)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """The tests' folders lie in memory if there is room; --basetemp=FOLDER keeps them elsewhere."""
    is_worker = hasattr(config, "workerinput")
    if is_worker or config.option.basetemp or not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < ROOM:
        return
    for left in MEMORY.glob("imgcls-tests-*"):  # by a session that was killed, if nothing locks it
        with contextlib.suppress(Timeout, OSError), FileLock(left / ".lock", timeout=0):
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(dir=MEMORY, prefix="imgcls-tests-")
    lock = FileLock(f"{folder}/.lock")
    lock.acquire()
    config.option.basetemp = f"{folder}/all"
    config.add_cleanup(lock.release)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


# --- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs in a folder of its own and leaves torch's settings as they were."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def config() -> Callable[..., TrainConfig]:
    """A function from overrides to a small configuration: digits, 2 epochs of 6 updates."""

    def make(*words: str) -> TrainConfig:
        keys = {word.partition("=")[0] for word in words}
        composer = Composer()
        chosen = [*words, *(word for word in SMALL if word.partition("=")[0] not in keys)]
        return parse(TrainConfig, composer.table(read_all(chosen, composer.paths), "train"))

    return make


def optimizer_node(name: str) -> dict[str, Any]:
    """An option of optimizer, with the learning rate that auto means for small nets."""
    return {**option_node("optimizer", name), "lr": SMALL_NETS[name]}


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of the test session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder, made by whichever process needs it first."""
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make(folder)
    return folder


def _train(*words: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        code = main(["train", *SMALL, *words, f"run_dir={folder}"])
        assert code == 0

    return make


@pytest.fixture(scope="session")
def linear_run(shared: Path) -> Path:
    """A finished run of the linear model on digits; not to be written to."""
    return made_once(shared / "linear", _train("model=linear"))


@pytest.fixture(scope="session")
def lenet_run(shared: Path) -> Path:
    """A finished run of the default model on digits; not to be written to."""
    return made_once(shared / "lenet", _train())


@pytest.fixture
def real_data() -> str:
    """The folder of the real MNIST and CIFAR-10 files; the test is skipped where there is none."""
    root = os.environ.get("IMGCLS_DATA")
    if not root:
        pytest.skip("IMGCLS_DATA is not set")
    return root


def imagefolder(**params: Any) -> Source:
    """Class folders, the params that are not given as in conf/."""
    defaults = {"root": None, "follow_links": True, "rename": None, "verify": False, "on_error": "error", "group": None}
    return class_folders(**({**defaults, "layout": "auto"} | params))


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl, or a report, without what may differ between two equal runs."""
    return {
        key: value
        for key, value in row.items()
        if key not in ("seconds", "images_per_second", "train_seconds", "checkpoint")
    }
