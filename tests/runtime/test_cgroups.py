"""Memory limits are read from the process's own control group, wherever it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgcls.runtime import cgroups, session

GB = 1 << 30
V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")

# /proc/self/cgroup, {folder: (limit, used)}, the least that is left
CASES = {
    "container, version 2": ("0::/", {"": (4, 1)}, 3),
    "container, version 1": ("4:memory:/docker/abc\n0::/", {"memory": (2, 1)}, 1),
    "docker version 1, groups shown": ("4:memory:/docker/abc", {"memory": (900, 9), "memory/docker/abc": (2, 1)}, 1),
    "systemd unit": ("0::/user.slice/run-1.scope", {"user.slice/run-1.scope": (5, 1)}, 4),
    "slurm step, limit of the job": (
        "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0",
        {
            "system.slice/slurmstepd.scope/job_7": (3, 2),
            "system.slice/slurmstepd.scope/job_7/step_0/user/task_0": ("max", 2),
        },
        1,
    ),
    "slurm version 1": ("9:memory:/slurm/uid_0/job_7/step_0", {"memory/slurm/uid_0/job_7": (6, 1)}, 5),
    "hybrid": ("4:memory:/a\n0::/b", {"memory/a": (8, 1), "unified/b": (7, 1)}, 6),
    "controllers together": ("5:cpu,memory:/a", {"cpu,memory/a": (3, 1)}, 2),
    "more used than allowed": ("0::/a", {"a": (1, 2)}, 0),
    "another controller's group is not ours": ("3:cpuset:/a\n0::/", {"memory/a": (1, 0)}, None),
    "above a namespace": ("0::/../../other", {"": (3, 1)}, 2),
    "no limit": ("0::/a", {"a": ("max", 1)}, None),
    "no such file": (None, {"": (4, 1)}, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_the_least_that_is_left_counts(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, groups, least = CASES[case]
    monkeypatch.setattr(cgroups, "ROOT", str(tmp_path / "cgroup"))
    monkeypatch.setattr(cgroups, "OWN", str(tmp_path / "own"))
    if own is not None:
        Path("own").write_text(f"{own}\n")
    for name, numbers in groups.items():
        folder = tmp_path / "cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, number in zip(V1 if name.startswith(("memory", "cpu")) else V2, numbers, strict=True):
            (folder / file).write_text(f"{number if isinstance(number, str) else number * GB}\n")
    assert min(cgroups.memory_left(), default=None) == (None if least is None else least * GB)
    if least == 0:
        assert session._free_ram() == 0
