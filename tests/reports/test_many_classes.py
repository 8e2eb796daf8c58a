"""Above 1,000 classes the confusion matrix is sparse, and nothing grows with the square of their number."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from imgcls import metrics
from imgcls.data.source import Images
from imgcls.reports.report import confusion_counts, foreign_file, write_predictions, write_report
from imgcls.reports.tables import result_lines


def logits_of(labels: np.ndarray, classes: int) -> np.ndarray:
    """Every third image is taken for the next class."""
    predicted = np.where(np.arange(len(labels)) % 3 == 0, (labels + 1) % classes, labels)
    logits = np.zeros((len(labels), classes), np.float32)
    logits[np.arange(len(labels)), predicted] = 9
    return logits


@pytest.mark.parametrize(("classes", "is_sparse"), [(1000, False), (1001, True), (3000, True)])
def test_the_matrix_is_in_the_report_or_beside_it(classes: int, is_sparse: bool) -> None:
    from scipy import sparse

    labels = np.arange(60, dtype=np.int64) * 7 % classes
    logits = logits_of(labels, classes)
    report = metrics.report(logits, labels, tuple(map(str, range(classes))))
    images = Images(labels, pixels=np.zeros((60, 1, 1, 1), np.uint8))
    write_predictions(Path("out"), report, logits, images)
    write_report(Path("out"), report | {"split": "test", "checkpoint": "x"})
    assert (json.loads(Path("out/report.json").read_text())["confusion_matrix"] is None) == is_sparse
    assert Path("out/confusion_matrix.npz").exists() == is_sparse
    dense = metrics.confusion_matrix(labels, logits.argmax(1), classes)
    if is_sparse:
        assert np.array_equal(sparse.load_npz("out/confusion_matrix.npz").toarray(), dense)
        assert Path("out/report.json").stat().st_size < 200 * classes
    counts = confusion_counts(Path("out"), report, 1000)
    assert max(counts.shape) <= 1000
    assert counts.sum() == 60
    assert np.trace(counts) >= np.trace(dense)
    assert any("test     60 images" in line for line in result_lines(report, "x"))
    assert foreign_file(Path("out")) is None


def test_the_memory_of_many_classes_is_bounded() -> None:
    labels = np.arange(100, dtype=np.int64) * 100
    logits = logits_of(labels, 10_000)  # 4 MB; a dense matrix would be 800 MB
    tracemalloc.start()
    metrics.report(logits, labels, tuple(map(str, range(10_000))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6


def test_blocks_change_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    names = tuple("abcdefg")
    whole = metrics.report(logits, labels, names)
    monkeypatch.setattr(metrics, "BLOCK", 21)  # three rows
    assert metrics.report(logits, labels, names) == whole
