"""``imgcls data``: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgcls.config.components import Choice
from imgcls.config.schema import DataConfig
from imgcls.data.datamodule import DataSpec, data_spec, load_source
from imgcls.data.inspection import Inspection, inspect_source, without_source
from imgcls.data.source import Source
from imgcls.errors import ConfigError, DataError, PartialFailure
from imgcls.files import file_digest, write_whole
from imgcls.loggers.run_log import RunLog
from imgcls.reports.contact_sheet import digest_in, page
from imgcls.text import line, one_line

Report = dict[str, Any]
NAMED = 5  # examples of a finding in the text; the JSON report has more, findings.csv all
MOST_ROWS = 12  # classes in the text; of more, only the largest and the smallest are shown
WIDTH = 80


def inspect_dataset(
    config: DataConfig, *, dataset: Choice, own_names: frozenset[str] = frozenset(), is_quiet: bool = False
) -> Report:
    """What is in the data set and what is wrong with it, as plain values; see Inspection.

    With ``output`` the contact sheet and findings.csv are written there. Raises PartialFailure, with the report, if
    there are errors or warnings: a training would stop, or its figures would mislead.
    """
    assert dataset.node is not None  # the command line makes sure of it
    choice = data_spec(dataset.node)
    folder = _checked(config.output, choice)
    refusal: DataError | None = None
    source: Source | None = None
    try:
        source = load_source(choice)
        found = inspect_source(source, choice)
    except DataError as error:
        refusal, found = error, without_source(error)
    report: Report = {"dataset": choice.name, **found.report}
    log = RunLog(is_main=True, is_quiet=is_quiet)
    if refusal is None:
        for text in describe(report):
            log.output(text)
    if folder is not None:
        content = table(found).encode("utf-8", "surrogateescape")
        write_whole(folder / "findings.csv", content)
        digest = hashlib.sha256(content).hexdigest()
        write_whole(folder / "index.html", page(report, found, source, digest).encode())
        log.output(f"\nreport   {folder / 'index.html'}\n         {folder / 'findings.csv'}")
        report["output"] = str(folder)
    if refusal is not None:
        raise PartialFailure(str(refusal), report) from refusal
    if found.count("error") or found.count("warning"):
        raise PartialFailure(_verdict(choice.name, found), report)
    return report


def _checked(output: str | None, choice: DataSpec) -> Path | None:
    """The folder for the results. Raises ConfigError for one that they cannot be written to, or must not be."""
    if output is None:
        return None
    folder = Path(os.path.expanduser(output))
    if os.path.isfile(folder):
        raise ConfigError(f"output: {output} is a file; name a folder")
    if (folder / "config.yaml").exists():
        raise ConfigError(f"output: {output} is a run folder; name another folder")
    root = choice.source.params.get("root")
    data = os.path.realpath(os.path.expanduser(root)) if isinstance(root, str) else ""
    if os.path.isdir(data) and os.path.commonpath([data, os.path.realpath(folder)]) == data:
        raise ConfigError(f"output: {output} is inside the data set, which would change it; name another folder")
    if kept := kept_file(folder):
        whose = "was not written by imgcls data, or edited since"
        raise ConfigError(f"output: {folder / kept} {whose}, so it is kept; name another folder")
    return folder


def kept_file(folder: Path) -> str | None:
    """The file in the folder that the results would replace although somebody else wrote or edited it, if any.

    The page that is written beside findings.csv has its digest.
    """
    table_file, page_file = folder / "findings.csv", folder / "index.html"
    digest = digest_in(page_file) if page_file.is_file() else None
    if page_file.exists() and digest is None:
        return page_file.name
    if table_file.exists() and (digest is None or file_digest(table_file, "sha256") != digest):
        return table_file.name
    return None


def _verdict(name: str, found: Inspection) -> str:
    counts = {"error": found.count("error"), "warning": found.count("warning")}
    words = " and ".join(f"{count} {word}{'s' * (count != 1)}" for word, count in counts.items() if count)
    kinds = dict.fromkeys(one.finding.kind for one in found.problems if one.finding.severity != "note")
    return f"{name}: {words} ({', '.join(kinds)})"


def table(found: Inspection) -> str:
    """findings.csv: path, kind, label, severity and the path that it is like; a row for each picture of a finding."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["path", "kind", "label", "severity", "like"])
    pictures = found.pictures
    for one in found.problems if pictures is not None else ():
        assert pictures is not None
        for row, other in one.rows:
            like = pictures.names[other] if other >= 0 else ""
            writer.writerow([pictures.names[row], one.finding.kind, pictures.label(row), one.finding.severity, like])
    return text.getvalue()


def describe(report: Report) -> list[str]:
    """The report as lines for the terminal, under 80 columns."""
    parts = ", ".join(f"{count:,} {part}" for part, count in report["parts"].items())
    lines = [line("data", f"{report['dataset']}: {parts}; {len(report['classes'])} classes")]
    colors = [f"{report[kind]:,} {word}" for kind, word in (("gray", "gray"), ("color", "RGB")) if report[kind]]
    lines.append(line("images", f"{_sizes(report['sizes'])}; {', '.join(colors) or 'none readable'}"))
    lines += _balance(report)
    for finding in report["findings"]:
        lines += _finding(finding)
    if all(one["severity"] == "note" for one in report["findings"]):
        lines.append(line("ok", "no errors, no warnings: all images are readable"))
    return lines


def _finding(finding: Mapping[str, Any]) -> list[str]:
    advice = f"; {finding['advice']}" if finding["advice"] else ""
    lines = [line(finding["severity"], f"{finding['kind']}: {one_line(finding['text'])}{one_line(advice)}")]
    shown = [one for one in finding["examples"] if one not in finding["text"]]
    for example in shown[:NAMED]:
        lines += textwrap.wrap(one_line(example), WIDTH - 11, initial_indent=" " * 11, subsequent_indent=" " * 11)
    return lines


def _sizes(sizes: Sequence[Mapping[str, int]]) -> str:
    """'28x28', or the smallest, the median by area and the largest."""
    if len(sizes) < 2:
        return " ".join(f"{one['width']}x{one['height']}" for one in sizes) or "no sizes"
    ordered = sorted(sizes, key=lambda one: one["width"] * one["height"])
    reached = np.cumsum([one["images"] for one in ordered])
    median = ordered[int(np.searchsorted(reached, reached[-1] / 2))]
    shown = [f"{one['width']}x{one['height']}" for one in (ordered[0], ordered[-1], median)]
    return f"{shown[0]} to {shown[1]}, median {shown[2]} ({len(sizes):,} sizes)"


def _balance(report: Report) -> list[str]:
    """A row for each class, largest first; of many, only the largest and smallest."""
    parts = list(report["parts"])
    rows = sorted(report["class_parts"].items(), key=lambda pair: (-pair[1]["train"], pair[0]))
    shown = rows if len(rows) <= MOST_ROWS else [*rows[: MOST_ROWS // 2], None, *rows[-MOST_ROWS // 2 :]]
    width = min(40, max(5, *(len(name) for name, _ in rows), 0))
    lines = ["", f"{'class':<{width}}" + "".join(f"{part:>10}" for part in parts)]
    for row in shown:
        if row is None:
            lines.append(f"... {len(rows) - MOST_ROWS:,} more in between")
            continue
        name = row[0] if len(row[0]) <= width else row[0][: width - 3] + "..."
        lines.append(f"{one_line(name):<{width}}" + "".join(f"{row[1][part]:>10,}" for part in parts))
    least, most = rows[-1][1]["train"], rows[0][1]["train"]
    if least and most >= 2 * least:
        times = most / least
        lines.append(f"the largest class is {times:.1f} times the smallest: see class_weights and sampler")
    return [*lines, ""]
