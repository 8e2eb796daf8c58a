"""``imgcls data``: what is in a data set, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from imgcls.config.components import Choice
from imgcls.config.schema import DataConfig
from imgcls.data.datamodule import data_spec, load_source
from imgcls.data.inspection import Report, inspect_source
from imgcls.loggers.run_log import RunLog
from imgcls.text import line, one_line

NAMED = 10  # files in the text; the JSON report has all
MOST_ROWS = 12  # classes in the text; of more, only the largest and the smallest are shown


def inspect_dataset(
    config: DataConfig, *, dataset: Choice, own_names: frozenset[str] = frozenset(), is_quiet: bool = False
) -> Report:
    """What is in the data set: counts, sizes, color modes, balance, corrupt files, duplicates. See inspect_source."""
    assert dataset.node is not None  # the command line makes sure of it
    choice = data_spec(dataset.node)
    source = load_source(choice)
    log = RunLog(is_main=True, is_quiet=is_quiet)
    report = {"dataset": choice.name, **inspect_source(source)}
    for text in (*source.all_notes(), *(f"warning  {warning}" for warning in source.all_warnings())):
        log.info(text)
    for text in describe(report):
        log.output(text)
    return report


def describe(report: Report) -> list[str]:
    """The report as lines for the terminal, under 80 columns."""
    parts = ", ".join(f"{count:,} {part}" for part, count in report["images"].items())
    lines = [line("data", f"{report['dataset']}: {parts}; {len(report['classes'])} classes")]
    colors = [f"{report[kind]:,} {word}" for kind, word in (("grey", "gray"), ("colour", "RGB")) if report[kind]]
    lines.append(line("images", f"{_sizes(report['sizes'])}; {', '.join(colors) or 'none readable'}"))
    lines += _balance(report)
    if report["broken"]:
        lines.append(line("corrupt", f"{_images(len(report['broken']))} cannot be read"))
        lines += [line("", one_line(f"{one['image']}: {one['reason']}")) for one in report["broken"][:NAMED]]
        lines.append(line("", "leave corrupt images out with dataset.on_error=skip"))
    for part, count in report["duplicates"].items():
        if count:
            lines.append(line("copies", f"{_images(count)} in {part}: duplicates of another one there, byte for byte"))
    for label, where in (("leak", "in two splits: test results are inflated"), ("conflict", "in two classes")):
        found = report[f"{label}s"]
        if found:
            lines.append(line(label, f"{_images(len(found))} {where}"))
            lines += [line("", " = ".join(map(one_line, group))) for group in found[:NAMED]]
    if not (report["broken"] or report["leaks"] or report["conflicts"] or any(report["duplicates"].values())):
        lines.append(line("ok", "all images are readable, no duplicates"))
    return lines


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


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
    parts = list(report["images"])
    rows = sorted(report["classes"], key=lambda row: (-row["train"], row["class"]))
    shown = rows if len(rows) <= MOST_ROWS else [*rows[: MOST_ROWS // 2], None, *rows[-MOST_ROWS // 2 :]]
    width = min(40, max(5, *(len(row["class"]) for row in rows)))
    lines = ["", f"{'class':<{width}}" + "".join(f"{part:>10}" for part in parts)]
    for row in shown:
        if row is None:
            lines.append(f"... {len(rows) - MOST_ROWS:,} more in between")
            continue
        name = row["class"] if len(row["class"]) <= width else row["class"][: width - 3] + "..."
        lines.append(f"{name:<{width}}" + "".join(f"{row[part]:>10,}" for part in parts))
    least, most = rows[-1]["train"], rows[0]["train"]
    if least and most >= 2 * least:
        times = most / least
        lines.append(f"the largest class is {times:.1f} times the smallest: see class_weights and sampler")
    return [*lines, ""]
