"""What a result was computed with: versions and git commit."""

from __future__ import annotations

import platform
import subprocess

import numpy as np
import torch

from imgcls.version import __version__


def versions() -> dict[str, str]:
    """The versions of imgcls, Python, torch and numpy."""
    return {
        "imgcls": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def git_commit() -> str | None:
    """The commit checked out in the working folder, None if it is not in a repository."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
