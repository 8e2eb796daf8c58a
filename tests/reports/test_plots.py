"""The pictures are written whatever the classes are called, and open as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgcls.reports import fonts
from imgcls.reports import plots as report

ODD_NAMES = (
    "$5 and $6",
    "$x$",
    r"\frac{1}{0}",
    "猫",
    "כלב",
    "عربي",
    "हिन्दी",
    "a\nb",
    "<b>&",
    "x" * 300,
    "r\\xe9d",
    "😀",
)


def size(path: str | Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def row(epoch: int, val: float | None = 0.5) -> dict[str, Any]:
    return {"epoch": epoch, "train_loss": 1 / epoch, "train_accuracy": 0.5, "val_loss": val, "val_accuracy": val}


@pytest.mark.parametrize(
    "rows", [[], [row(1)], [row(1, None), row(2, None)], [row(i + 1) for i in range(200)]], ids=len
)
def test_curves_of_any_length_are_drawn(rows: list[dict[str, Any]]) -> None:
    report.curves(rows, Path("curves.png"))
    assert size("curves.png") == (1000, 400)


@pytest.mark.parametrize(("count", "side"), [(1, 400), (2, 400), (12, 740), (31, 1400), (130, 1400)])
def test_a_confusion_matrix_of_any_size_is_drawn_and_returned(count: int, side: int) -> None:
    matrix = np.random.default_rng(0).integers(0, 50, (count, count)).tolist()
    picture = report.confusion_matrix(matrix, [f"class {i}" for i in range(count)], Path("matrix.png"))
    assert size("matrix.png") == (side, side)
    assert (picture.shape, picture.dtype) == ((side, side, 3), np.uint8)
    with Image.open("matrix.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), picture)


def test_names_in_any_alphabet_and_with_mathematical_signs_are_drawn() -> None:
    count = len(ODD_NAMES)
    report.confusion_matrix(np.eye(count, dtype=int).tolist(), ODD_NAMES, Path("matrix.png"))
    images = [np.zeros((8, 8, 3), np.uint8)] * count
    report.mistakes(images, [(i, (i + 1) % count, 0.5) for i in range(count)], ODD_NAMES, Path("mistakes.png"))
    report.batch(images, ODD_NAMES, Path("batch.png"))
    assert size("matrix.png") == (740, 740)
    assert size("mistakes.png") == (900, 400)
    assert size("batch.png") == (1200, 400)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_tiles_of_any_kind_of_image_are_drawn(channels: int, count: int) -> None:
    images = [np.full((5, 9, channels), 10 * i, np.uint8) for i in range(count)]
    report.mistakes(images, [(0, 1, 0.9)] * count, ("a", "b"), Path("mistakes.png"))
    assert size("mistakes.png")[0] == 900


def test_the_worst_mistakes_come_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7], [0.99, 0.01]], np.float32)
    np.savez("predictions.npz", labels=np.array([0, 0, 0, 1, 1]), probabilities=probabilities)
    worst = report.worst_mistakes(Path("predictions.npz"), 2)
    assert [facts[:3] for facts in worst] == [(4, 1, 0), (1, 0, 1)]
    assert worst[0][3] == pytest.approx(0.99)


def test_the_same_numbers_give_the_same_file() -> None:
    for name in ("a.png", "b.png"):
        report.confusion_matrix([[3, 1], [0, 2]], ["a", "b"], Path(name))
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_drawing_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, imgcls.reports.plots; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("name", "has_font"), [("cat", True), ("кот", True), ("قط", True), ("Ω é", True)])
def test_names_that_our_own_font_has_are_drawn_as_they_are(name: str, has_font: bool) -> None:
    assert (fonts.family(name) == (fonts.OWN,)) is has_font
    assert fonts.drawn_names(["x", name]) == ("x", name)


def test_names_without_a_font_become_numbers_with_a_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts._family.cache_clear()
    monkeypatch.setattr(fonts, "_installed", lambda: ())
    report.confusion_matrix([[1, 0], [0, 2]], ["dog", "猫"], Path("matrix.png"))
    assert fonts.drawn_names(["dog", "猫"]) == ("dog", "1")
    assert Path("classes.txt").read_text(encoding="utf-8") == "0\tdog\n1\t猫\n"
    fonts._family.cache_clear()


def test_another_font_is_used_if_it_has_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts._family.cache_clear()
    monkeypatch.setattr(fonts, "_installed", lambda: ("Latin", "Noto Sans CJK SC"))
    monkeypatch.setattr(fonts, "_letters", lambda name: frozenset(map(ord, "猫犬" if "CJK" in name else "é")))
    assert fonts.family("猫 cat") == (fonts.OWN, "Noto Sans CJK SC")
    assert fonts.family("鳥") is None
    fonts._family.cache_clear()
