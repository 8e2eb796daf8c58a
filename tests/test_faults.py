"""The fault tests with small counts; ``make faults`` runs them with the full ones (tests/faults.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import faults

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="forks, /proc and resource limits"),
    pytest.mark.process,
]

NAMES = list(faults.experiments(is_full=False))
FAST = {
    "SIGKILL at a few moments",
    "SIGKILL at every call of the second save",
    "damaged checkpoints",
    "hostile checkpoints",
    "mutated images",
    "full disk",
    "numbers that are not finite",
    "TensorBoard failing",
}
PROGRAM = """
import json, os, sys
from tests import faults
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the commands print is no answer
with faults.laboratory():
    experiments = faults.experiments(is_full=False)
    for line in sys.stdin:
        print(json.dumps(experiments[line.strip()]()), file=answers, flush=True)
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A function that makes the experiment of that name in one other process, for all of them.

    In another process, because a fork must not meet the threads that other tests have started.
    """
    said = tmp_path_factory.mktemp("faults") / "said"
    root = Path(__file__).parents[1]
    with (
        said.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=root,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None

        def make(name: str) -> dict[str, Any]:
            print(name, file=process.stdin, flush=True)
            line = process.stdout.readline()  # type: ignore[union-attr]
            assert line.startswith("{"), f"{name}: {line}{said.read_text()}"
            return json.loads(line)  # type: ignore[no-any-return]

        yield make
        process.stdin.close()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in NAMES])
def test_fault(name: str, experiment: Callable[[str], dict[str, Any]]) -> None:
    counts = experiment(name)
    assert {key: value for key, value in counts.items() if key in faults.MUST_BE_ZERO and value} == {}, counts
    assert any(isinstance(value, int) and value > 0 for value in counts.values())
