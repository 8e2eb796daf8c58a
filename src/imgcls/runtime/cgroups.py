"""The memory limits of this process's control group: a container, a SLURM job, a systemd unit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

ROOT = "/sys/fs/cgroup"
OWN = "/proc/self/cgroup"
LIMITS = (("memory.max", "memory.current"), ("memory.high", "memory.current"))  # the limit, and what is used of it
LIMITS_V1 = (("memory.limit_in_bytes", "memory.usage_in_bytes"),)


def memory_left() -> list[int]:
    """Bytes left of each limit on this process: of its control group, and of all groups around it."""
    left: list[int] = []
    for folder, names in _groups():
        for limit_file, used_file in names:
            with (
                contextlib.suppress(OSError, ValueError),  # "max" is no limit
                open(f"{folder}/{limit_file}") as limit,
                open(f"{folder}/{used_file}") as used,
            ):
                left.append(max(0, int(limit.read()) - int(used.read())))
    return left


def _groups() -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """(folder, its pairs of files) of each group that this process is in, by /proc/self/cgroup.

    A container may not show the groups around it: its paths do not exist then, and its own group is the root.
    """
    lines = ["0::/", "0:memory:/"]
    with contextlib.suppress(OSError, ValueError), open(OWN, encoding="utf-8") as file:
        lines += file.read().splitlines()
    for text in dict.fromkeys(lines):
        number, _, rest = text.partition(":")
        controllers, _, path = rest.partition(":")
        is_v2 = number == "0" and not controllers
        if not is_v2 and "memory" not in controllers.split(","):
            continue
        inner = [part for part in path.split("/") if part not in ("", "..")]
        for mount in ("", "/unified") if is_v2 else ("/memory", f"/{controllers}"):
            for depth in range(len(inner) + 1):
                yield "/".join([f"{ROOT}{mount}", *inner[:depth]]), LIMITS if is_v2 else LIMITS_V1
