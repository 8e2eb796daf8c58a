"""The jobs of a sweep: what each one does, and how it went."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgcls.checkpoints import format as checkpoint_format
from imgcls.errors import CheckpointError


@dataclass(frozen=True)
class Plan:
    """A job as requested. own: its words that name the user's code; digest: of the configuration that they compose."""

    words: list[str]
    own: list[str]
    digest: str


def digest(text: str) -> str:
    """16 hexadecimal digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class Job:
    """One run of a sweep. differs: its words that not all jobs have; is_late: stopped after job_timeout seconds."""

    plan: Plan
    differs: str
    folder: Path
    code: int | None = None
    seconds: float = 0.0
    is_running: bool = False
    is_late: bool = False

    def result(self) -> dict[str, Any]:
        """Test and validation accuracy of the checkpoint that is kept, the best one; None as long as there is none."""
        found: dict[str, Any] = {"accuracy": None, "val_accuracy": None}
        epoch: int | None = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # the files do not exist yet, or not whole
            report = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
            found["accuracy"] = report["accuracy"] if report.get("split", "test") == "test" else None
            epoch = report.get("epoch")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            text = (self.folder / "metrics.jsonl").read_text(encoding="utf-8")
            rows = [json.loads(line) for line in text.splitlines()]
            epoch = _kept_epoch(self.folder) if epoch is None else epoch
            values = [row["val_accuracy"] for row in rows if epoch is None or row["epoch"] == epoch]
            found["val_accuracy"] = max((value for value in values if value is not None), default=None)
        return found

    @property
    def is_done(self) -> bool:
        """Whether its report is written, the last thing that a run does."""
        with contextlib.suppress(OSError, ValueError):
            return "accuracy" in json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        return False

    def command(self) -> list[str]:
        """The words of ``imgcls train`` that start the job, or resume it if it has been started."""
        if (self.folder / "config.yaml").is_file():
            return [f"resume={self.folder}", *self.plan.own]
        return [*self.plan.words, f"run_dir={self.folder}"]

    @property
    def status(self) -> str:
        """finished, failed, running or pending."""
        if self.is_running:
            return "running"
        return "pending" if self.code is None else "failed" if self.code else "finished"


def _kept_epoch(folder: Path) -> int | None:
    """The epoch of the best checkpoint in the run's folder, None if there is none."""
    with contextlib.suppress(CheckpointError, KeyError, ValueError, TypeError):
        return int(checkpoint_format.read(folder / "checkpoints" / checkpoint_format.BEST).meta["epochs_done"])
    return None


def differing(jobs: Sequence[Sequence[str]]) -> list[str]:
    """For each job its words that not all jobs have."""
    common = set.intersection(*(set(words) for words in jobs)) if jobs else set()
    return [" ".join(word for word in words if word not in common) for words in jobs]
