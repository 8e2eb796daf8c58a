"""The fault tests with small counts; ``make faults`` runs them with the full ones (tests/faults.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import faults

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, /proc and resource limits")

NAMES = list(faults.experiments(is_full=False))


@pytest.mark.parametrize("name", NAMES)
def test_fault(name: str) -> None:
    """In a process of its own: a fork must not meet the threads that other tests have started."""
    program = (
        "import json, sys; from tests import faults\n"
        "with faults.laboratory():\n"
        f"    print(json.dumps(faults.experiments(is_full=False)[{name!r}]()))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert {key: value for key, value in counts.items() if key in faults.MUST_BE_ZERO and value} == {}, counts
    assert any(isinstance(value, int) and value > 0 for value in counts.values())
