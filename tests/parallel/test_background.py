"""Plots drawn in a background process: the same plots and errors, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.parallel.background import BackgroundWorker
from imgcls.reports import plots as report
from tests.conftest import SMALL

# In a new process, as the command line does it: before torch, with one thread.
DRAWN_APART = """
import os, sys
from imgcls.reports import plots as report
from imgcls.parallel.background import BackgroundWorker
from pathlib import Path
plotter = BackgroundWorker(apart=True)
assert plotter._pipe is not None
plotter.draw(os.getpid)
plotter.draw(report.confusion_matrix, [[3, 1], [0, 2]], ["a", "b"], Path("apart.png"))
pid, picture = plotter.finish()
assert pid != os.getpid()
assert "matplotlib" not in sys.modules
assert picture.shape == (400, 400, 3)
plotter.draw(report.confusion_matrix, [[1]], ["a"], Path("no/such/folder.png"))
try:
    plotter.finish()
except FileNotFoundError as error:
    print("raised", Path(error.filename).name)
os.kill(pid, 9)
plotter.draw(report.confusion_matrix, [[1]], ["a"], Path("after.png"))
plotter.finish()
print("drawn", Path("after.png").is_file(), "matplotlib" in sys.modules)
"""


@pytest.mark.process
def test_a_plot_drawn_in_the_background_is_the_same() -> None:
    ran = subprocess.run([sys.executable, "-c", DRAWN_APART], capture_output=True, text=True, check=False, timeout=60)
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: no background process")
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["raised folder.png", "drawn True True"]
    report.confusion_matrix([[3, 1], [0, 2]], ["a", "b"], Path("here.png"))
    assert Path("apart.png").read_bytes() == Path("here.png").read_bytes()


def test_without_a_process_finish_draws() -> None:
    plotter = BackgroundWorker()
    plotter.draw(report.batch, [], [], Path("batch.png"))
    plotter.draw(len, [1, 2])
    assert not Path("batch.png").exists()
    assert plotter.finish() == [None, 2]
    assert Path("batch.png").is_file()
    assert plotter.finish() == []


@pytest.mark.process
@pytest.mark.parametrize("ends", [pytest.param(None, marks=pytest.mark.slow), signal.SIGKILL])
def test_no_process_is_left_by_a_run_that_ends_or_is_killed(ends: signal.Signals | None) -> None:
    words = ["train", *(word for word in SMALL if "epochs" not in word), f"epochs={5000 if ends else 1}", "run_dir=run"]
    code = f"import sys; from imgcls.cli import entry; sys.argv[1:] = {words!r}; entry()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        if ends:
            next(line for line in process.stderr if line.startswith("    1"))  # an epoch is done
            process.send_signal(ends)
        process.communicate(timeout=60)  # until no process holds stderr, the other one included
        assert process.returncode == (-ends if ends else 0)
