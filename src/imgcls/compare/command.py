"""``imgcls compare``: which of these runs is better on the images that all of them were tested on."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from imgcls.compare.recipes import Side, checkpoints, config_differs, recipes
from imgcls.compare.results import Result, aligned, find, read
from imgcls.compare.text import describe
from imgcls.config.schema import CompareConfig
from imgcls.errors import ConfigError
from imgcls.files import write_whole
from imgcls.text import listing

Comparison = dict[str, Any]
EXAMPLES = 20  # images of each side of a pair; output=FILE.csv has all
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that starts so


def compare(config: CompareConfig, *, own_names: frozenset[str] = frozenset(), is_quiet: bool = False) -> Comparison:
    """Run the command; returns what --json prints. own_names: not used, as no code of a run is imported."""
    file = None if config.output is None else _checked(Path(os.path.expanduser(config.output)))
    found, warnings = find(config.checkpoint)
    if len(found) < 2:
        raise ConfigError("compare needs two or more runs; for example: imgcls compare outputs/a outputs/b")
    results = aligned([read(place) for place in found])
    sides, copies = recipes(results)
    comparison = _comparison(results, sides)
    for warning in (*warnings, *copies, *_other_versions(results)):
        print(f"imgcls: warning: {warning}", file=sys.stderr)
    if file is not None:
        write_whole(file, _disagreements(results).encode("utf-8", "surrogateescape"))
    if not is_quiet:
        print("\n".join([*describe(comparison), *([f"\nlist     {file}"] if file else [])]))
    return comparison


def _checked(file: Path) -> Path:
    """The output. Raises ConfigError if it is no CSV file, or there is one already."""
    if file.suffix.lower() != ".csv":
        raise ConfigError(f"output: expected FILE.csv, got {file}")
    if os.path.lexists(file):
        raise ConfigError(f"output: {file} exists; name another file")
    return file


def _comparison(results: Sequence[Result], by_recipe: Sequence[Side] | None) -> Comparison:
    """What --json prints."""
    sides = by_recipe or checkpoints(results)
    first = results[0]
    return {
        "question": "recipes" if by_recipe else "checkpoints",
        "dataset": first.dataset,
        "split": first.split,
        "runs": [
            {
                "name": side.name,
                "accuracy": side.accuracy,
                "ci95": list(side.ci95),
                "n": len(first.labels),
                "seeds": [one.seed for one in side.results],
                "folders": [one.name for one in side.results],
            }
            for side in sides
        ],
        "pairs": [_pair(a, b) for a, b in combinations(sides, 2)],
        "config_differs": config_differs({side.name: side.settings for side in sides}),
    }


def _pair(a: Side, b: Side) -> dict[str, Any]:
    verdict = a.versus(b)
    gain = a.correct.mean(axis=0) - b.correct.mean(axis=0)
    names = a.results[0].names
    return {
        "a": a.name,
        "b": b.name,
        **{key: value for key, value in verdict._asdict().items() if value is not None},
        "ci95": list(verdict.ci95),
        "examples_a": names[np.argsort(-gain, kind="stable")[: min(verdict.only_a, EXAMPLES)]].tolist(),
        "examples_b": names[np.argsort(gain, kind="stable")[: min(verdict.only_b, EXAMPLES)]].tolist(),
    }


def _other_versions(results: Sequence[Result]) -> list[str]:
    """A warning if the runs were made with other versions of imgcls, Python or a library."""
    seen: dict[str, list[str]] = {}
    for one in results:
        for name, version in one.versions.items():
            seen.setdefault(name, []).append(str(version))
    texts = [f"{name} {listing(sorted({*found}))}" for name, found in seen.items() if len({*found}) > 1]
    return [f"the runs were made with different versions: {'; '.join(texts)}"] if texts else []


def _disagreements(results: Sequence[Result]) -> str:
    """CSV: the images that not all runs put into the same class, with the class by each run."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    first = results[0]
    writer.writerow(["path" if first.names.dtype.kind == "U" else "index", "true", *(one.name for one in results)])
    classes = np.stack([one.predicted for one in results])
    for row in np.flatnonzero((classes != classes[0]).any(axis=0)).tolist():
        writer.writerow(map(_cell, (str(first.names[row]), first.labels[row], *classes[:, row])))
    return file.getvalue()


def _cell(text: str) -> str:
    """Text that a spreadsheet does not treat as a formula; numbers stay as they are."""
    return f"'{text}" if text.startswith(FORMULA) and not re.fullmatch(r"[+-]\d+(\.\d+)?", text) else text
