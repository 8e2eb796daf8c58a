"""The jobs of a sweep: what each was asked to do, and how it went."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Plan:
    """A job as it is asked for: the words of its command, those that name code of the user's own, and a digest of the
    configuration that they make."""

    words: list[str]
    own: list[str]
    digest: str


def digest(text: str) -> str:
    """Short, and different for different texts."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class Job:
    """One run of a sweep: its plan, the words that differ between jobs, and how it went."""

    plan: Plan
    differs: str
    folder: Path
    code: int | None = None
    seconds: float = 0.0
    is_running: bool = False
    is_late: bool = False  # stopped because it took longer than job_timeout

    def result(self) -> dict[str, Any]:
        """Its report and its best validation accuracy, as far as it got."""
        found: dict[str, Any] = {"accuracy": None, "val_accuracy": None}
        with contextlib.suppress(
            OSError, ValueError, KeyError, TypeError
        ):  # it did not get that far: the table shows a dash
            text = (self.folder / "metrics.jsonl").read_text(encoding="utf-8")
            values = [json.loads(line)["val_accuracy"] for line in text.splitlines()]
            found["val_accuracy"] = max((value for value in values if value is not None), default=None)
            found["accuracy"] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))["accuracy"]
        return found

    def command(self) -> list[str]:
        """The words of ``imgcls train`` that begin it, or that go on with it where it has begun."""
        if (self.folder / "config.yaml").is_file():
            return [f"resume={self.folder}", *self.plan.own]
        return [*self.plan.words, f"run_dir={self.folder}"]

    @property
    def status(self) -> str:
        """finished, failed, running or pending."""
        if self.is_running:
            return "running"
        return "pending" if self.code is None else "failed" if self.code else "finished"

    @property
    def state(self) -> str:
        """How it ended, where that was not well."""
        if self.code is None:
            return "not run"
        if self.is_late and self.code:
            return "stopped by job_timeout"
        if self.code < 0:
            known = {int(one): one.name for one in signal.Signals}
            return f"killed by {known.get(-self.code, f'signal {-self.code}')}"
        return f"failed (exit {self.code})" if self.code else ""


def differing(jobs: Sequence[Sequence[str]]) -> list[str]:
    """For each job its words that not all jobs have."""
    common = set.intersection(*(set(words) for words in jobs)) if jobs else set()
    return [" ".join(word for word in words if word not in common) for words in jobs]
