"""A test result as lines for the terminal."""

from __future__ import annotations

from imgcls.reports.report import Report
from imgcls.text import one_line

ALL_ROWS = 12  # classes in the table
WORST = 8  # classes in the table if there are more


def result_lines(report: Report, images_word: str, label: str = "test") -> list[str]:
    """The label, accuracy, then a row for each class (or for the worst), under 80 columns."""
    low, high = (bound * 100 for bound in report["accuracy_ci95"])
    macro = {name: report[name]["macro"] * 100 for name in ("precision", "recall", "f1")}
    lines = [
        f"{label:<9}{report['n']:,} images, {images_word}",
        f"         accuracy {report['accuracy'] * 100:.1f} % ({low:.1f} to {high:.1f})  "
        f"precision {macro['precision']:.1f}  recall {macro['recall']:.1f}  F1 {macro['f1']:.1f}",
    ]
    if positive := report.get("positive"):
        shown = "  ".join(f"{name} {positive[name] * 100:.1f}" for name in ("precision", "recall"))
        at = f"{report['threshold']:.3g}"
        lines.append(f"         {one_line(positive['class'])} from {at}: {shown}  F1 {positive['f1'] * 100:.1f}")
    if report.get("calibrated"):
        before, after, by = report["ece"] * 100, report["ece_calibrated"] * 100, report["temperature"]
        lines.append(f"         calibration error {before:.1f} % before, {after:.1f} % after (temperature {by:.3g})")
    if "robust_accuracy" in report:
        low, high = (bound * 100 for bound in report["robust_accuracy_ci95"])
        attack = report["attack"]
        steps = f", {attack['steps']} steps" if "steps" in attack else ""
        how = f"{attack['name']} {attack['norm']} {attack['eps']:.3g}{steps}"
        lines.append(
            f"         robust accuracy {report['robust_accuracy'] * 100:.1f} % ({low:.1f} to {high:.1f}), {how}"
        )
    rows = sorted(enumerate(report["per_class"]), key=lambda pair: -pair[1]["f1"])
    left_out = len(rows) - WORST if len(rows) > ALL_ROWS else 0
    width = min(20, max(5, *(len(row["class"]) for _, row in rows)))
    lines.append(f"{'class':<{width}}  precision  recall     F1  images")
    if left_out:
        lines.append(f"... {left_out} better ones; report.json has all")
    for i, row in rows[left_out:]:
        name = row["class"] if len(row["class"]) <= width else row["class"][: width - 3] + "..."
        numbers = (
            f"{name:<{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:5.3f}  {row['support']:6,}"
        )
        lines.append(numbers + _confusion(report, i, 80 - len(numbers)))
    return lines


def _confusion(report: Report, i: int, room: int) -> str:
    """'  mostly confused with dog (181)' if more than a tenth of a class is predicted as another one."""
    if report["confusion_matrix"] is None:  # too many classes
        return ""
    row = [0 if j == i else count for j, count in enumerate(report["confusion_matrix"][i])]
    most = max(row)
    if most == 0 or most < 0.1 * report["per_class"][i]["support"]:
        return ""
    text = f"  mostly confused with {report['per_class'][row.index(most)]['class']} ({most:,})"
    return text if len(text) <= room else ""
