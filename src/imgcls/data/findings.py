"""What a person should know about a data set before anything is trained on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was seen in a data set; `imgcls data --json` lists all of them.

    **Arguments:**

    - kind: what it is, a word such as ``leak``, ``not_used`` or ``broken``.
    - severity: error if training would stop, warning if it would mislead, note for what was merely decided.
    - text: a sentence for the header of a run, without a full stop.
    - count: how many files, rows or classes it is about.
    - examples: some of them.
    - advice: what to type or do, if there is something; printed after the text.
    """

    kind: str
    severity: Severity
    text: str
    count: int = 1
    examples: tuple[str, ...] = ()
    advice: str = ""

    @property
    def line(self) -> str:
        """Text and advice."""
        return f"{self.text}; {self.advice}" if self.advice else self.text
