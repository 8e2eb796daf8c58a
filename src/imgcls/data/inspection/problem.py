"""A finding and the pictures that it is about."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.data.findings import Finding


@dataclass(frozen=True)
class Problem:
    """A finding; rows: pictures that one might leave out or relabel, each with the row of the picture it is like, or
    -1. shown: rows for the contact sheet, if others than these."""

    finding: Finding
    rows: tuple[tuple[int, int], ...] = ()
    shown: tuple[int, ...] = ()
