"""The jobs of a sweep: what each one does, and how it went."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
        """Its test accuracy and best validation accuracy, None as long as there is none."""
        found: dict[str, Any] = {"accuracy": None, "val_accuracy": None}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # the files do not exist yet, or not whole
            text = (self.folder / "metrics.jsonl").read_text(encoding="utf-8")
            values = [json.loads(line)["val_accuracy"] for line in text.splitlines()]
            found["val_accuracy"] = max((value for value in values if value is not None), default=None)
            report = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
            found["accuracy"] = report["accuracy"] if report.get("split", "test") == "test" else None
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


def differing(jobs: Sequence[Sequence[str]]) -> list[str]:
    """For each job its words that not all jobs have."""
    common = set.intersection(*(set(words) for words in jobs)) if jobs else set()
    return [" ".join(word for word in words if word not in common) for words in jobs]
