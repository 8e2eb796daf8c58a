"""What a result was computed with and from: command, versions, git commit and a fingerprint of the data."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgcls.files import write_whole
from imgcls.version import __version__

FILE = "provenance.json"


def versions() -> dict[str, str]:
    """The versions of imgcls, Python, torch and numpy."""
    return {
        "imgcls": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def command() -> str:
    """The command line of this process, as it could be typed."""
    program = Path(sys.argv[0])
    is_ours = program.stem == "imgcls" or program.parts[-2:] == ("imgcls", "__main__.py")
    return shlex.join(["imgcls" if is_ours else sys.argv[0], *sys.argv[1:]])


def git_commit() -> str | None:
    """The commit checked out in the working folder, None if it is not in a repository."""
    return _git("rev-parse", "HEAD") or None


def git_state() -> dict[str, Any]:
    """git_commit, and git_dirty: whether files of that commit were changed since.

    None for what is not known: outside a repository, before its first commit, or of a huge one within a second.
    """
    said = _git("--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no", timeout=1)
    found = re.match(r"# branch\.oid ([0-9a-f]+)\n", said or "")
    if found is None:
        return {"git_commit": git_commit(), "git_dirty": None}
    return {"git_commit": found[1], "git_dirty": re.search(r"^[^#]", said or "", re.MULTILINE) is not None}


def _git(*words: str, timeout: float = 5) -> str | None:
    """What git says, None if it fails."""
    try:
        answer = subprocess.run(
            ["git", *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def write_provenance(folder: Path, data_fingerprint: str, **more: Any) -> None:
    """provenance.json of a new run. data_fingerprint: see runs/fingerprint.py; more: what else is to be in it."""
    _write(folder, {**_now(), **more, "data_fingerprint": data_fingerprint, "resumed": []})


def add_resumed(folder: Path, **more: Any) -> None:
    """Add this process to those that resumed the run."""
    before = read_provenance(folder)
    _write(folder, {**before, "resumed": [*before.get("resumed", []), {**_now(), **more}]})


def read_provenance(folder: Path) -> dict[str, Any]:
    """provenance.json of a run; empty for one of an earlier version."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _now() -> dict[str, Any]:
    return {"command": command(), **git_state(), "versions": versions()}


def _write(folder: Path, content: dict[str, Any]) -> None:
    write_whole(folder / FILE, (json.dumps(content, indent=1) + "\n").encode())
