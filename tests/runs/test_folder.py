"""Run folders: never shared, never overwritten, and how RUN finds one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imgcls.errors import CheckpointError, ConfigError, RunError
from imgcls.runs import folder as run_folders


def test_names_count_up_past_the_highest() -> None:
    Path("outputs/lenet-digits-7").mkdir(parents=True)
    Path("outputs/lenet-digits-x").mkdir()
    for name, path in (("lenet-digits", "outputs/lenet-digits-8"), ("mlp-digits", "outputs/mlp-digits-1")):
        held = run_folders.claim(None, name)
        held.close()
        assert held.path == Path(path)


def test_eight_claims_at_once_get_eight_folders() -> None:
    barrier = threading.Barrier(8)

    def claim(_: int) -> Path:
        barrier.wait()
        held = run_folders.claim(None, "a")
        held.close()
        return held.path

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(claim, range(8)))
    assert sorted(paths) == [Path(f"outputs/a-{i}") for i in range(1, 9)]
    assert all(path.is_dir() for path in paths)


def test_a_folder_that_is_not_empty_is_refused() -> None:
    Path("run").mkdir()
    run_folders.check_new("run")
    Path("run/notes.txt").touch()
    with pytest.raises(ConfigError, match=r"name a new folder$"):
        run_folders.claim("run", "x")
    Path("run/config.yaml").touch()
    with pytest.raises(ConfigError, match="resume=run"):
        run_folders.claim("run", "x")
    with pytest.raises(ConfigError, match="is a file"):
        run_folders.check_new("run/notes.txt")


def test_what_a_kill_leaves_before_there_is_a_run_does_not_count(tmp_path: Path) -> None:
    for name in (".lock", "split.npz", ".split.npz.tmp", "provenance.json", ".provenance.json.tmp", ".config.yaml.tmp"):
        (tmp_path / name).touch()
    run_folders.claim(str(tmp_path), "x").close()
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        run_folders.claim(str(tmp_path), "x")


@pytest.mark.process
def test_a_folder_in_use_is_refused_until_its_process_ends() -> None:
    code = (
        "import sys; from imgcls.runs import folder; held = folder.claim('run', 'x'); "
        "open('run/config.yaml', 'w').close(); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(RunError, match=f"in use by process {process.pid}"):
            run_folders.check_new("run")
        with pytest.raises(RunError, match=f"in use by process {process.pid}"):
            run_folders.RunFolder(Path("run"))
        process.kill()
        process.wait()
    run_folders.RunFolder(Path("run")).close()


def test_a_folder_that_cannot_be_created_is_a_run_error() -> None:
    with pytest.raises(RunError, match="/proc/none"):
        run_folders.claim("/proc/none", "x")


def test_latest_is_the_newest_run_including_those_of_sweeps() -> None:
    with pytest.raises(CheckpointError, match="no run"):
        run_folders.latest()
    for age, name in ((30, "a-1"), (20, "sweep-1/0"), (10, "sweep-1/1"), (40, "b-1")):
        config = Path("outputs", name, "config.yaml")
        config.parent.mkdir(parents=True)
        config.touch()
        os.utime(config, (1e9 - age, 1e9 - age))
    assert run_folders.latest() == Path("outputs/sweep-1/1")


def test_a_run_is_found_by_its_folder_and_by_its_checkpoints() -> None:
    for name in ("config.yaml", "checkpoints/best.safetensors", "checkpoints/last.safetensors"):
        path = Path("run", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert run_folders.run_folder("run") == Path("run")
    assert run_folders.run_folder("run/checkpoints/last.safetensors") == Path("run").resolve()
    with pytest.raises(CheckpointError, match="has weights only, no optimizer state; use resume="):
        run_folders.run_folder("run/checkpoints/best.safetensors")
    for wrong in ("none", "run/checkpoints"):
        with pytest.raises(CheckpointError, match=wrong):
            run_folders.run_folder(wrong)
        with pytest.raises(CheckpointError):
            run_folders.best_checkpoint(wrong)


@pytest.mark.process
def test_a_forked_worker_does_not_keep_the_folder() -> None:
    held = run_folders.claim("run", "x")
    Path("run/config.yaml").touch()
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        held.close()
        run_folders.RunFolder(Path("run")).close()
        code = "from pathlib import Path; from imgcls.runs.folder import RunFolder; RunFolder(Path('run'))"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
