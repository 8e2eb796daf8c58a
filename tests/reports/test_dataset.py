"""``imgcls data`` counts what is there and names what is wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from imgcls.cli.app import main
from imgcls.data.inspection import without_source
from imgcls.errors import DataError

Capture = pytest.CaptureFixture[str]
CONTRACT = {"kind", "severity", "count", "examples", "advice"}


def photo(path: str, seed: int, size: tuple[int, int] = (12, 9), mode: str = "RGB") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def textured(seed: int, size: tuple[int, int] = (200, 150)) -> Image.Image:
    """A picture with structure of every size, like a photo."""
    draws, out = np.random.default_rng(seed), np.zeros((size[1], size[0], 3))
    for cells in (3, 6, 12, 24, 48):
        part = Image.fromarray(draws.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        out += (np.asarray(part.resize(size, Image.Resampling.BICUBIC), float) - 128) * 2 / cells**0.7
    return Image.fromarray((128 + 0.7 * out).clip(0, 255).astype(np.uint8))


def save(image: Image.Image, path: str, **options: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def report(capsys: Capture, *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["data", *words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def of_kind(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one for one in found["findings"] if one["kind"] == kind]


def only(found: dict[str, Any], kind: str) -> dict[str, Any]:
    (one,) = of_kind(found, kind)
    return one


@pytest.fixture
def photos() -> str:
    for i in range(12):
        photo(f"photos/train/cat/{i}.png", i)
        photo(f"photos/test/cat/{i}.png", 100 + i, (20, 30))
    for i in range(9):
        photo(f"photos/train/dog/{i}.png", 50 + i, mode="L")
        photo(f"photos/test/dog/{i}.png", 150 + i)
    shutil.copy("photos/train/cat/0.png", "photos/train/cat/copy.png")
    shutil.copy("photos/train/cat/1.png", "photos/test/cat/seen.png")
    shutil.copy("photos/train/cat/2.png", "photos/train/dog/torn.png")
    Path("photos/train/dog/broken.png").write_bytes(b"no image")
    return "./photos"


def test_everything_is_counted_and_named(photos: str, capsys: Capture) -> None:
    found = report(capsys, photos, code=3)
    assert found["dataset"] == "photos"
    assert found["parts"] == {"train": 24, "test": 22}
    assert found["classes"] == {"cat": 26, "dog": 20}
    assert found["class_parts"]["dog"] == {"train": 11, "test": 9}
    assert found["sizes"] == [{"width": 12, "height": 9, "images": 33}, {"width": 20, "height": 30, "images": 12}]
    assert (found["gray"], found["color"]) == (9, 36)
    assert all(one.keys() >= CONTRACT for one in found["findings"])
    broken = only(found, "broken")
    assert (broken["severity"], broken["count"]) == ("error", 1)
    assert broken["examples"][0].startswith("train/dog/broken.png: ")
    assert only(found, "duplicate")["count"] == 2
    leaked = [one for one in of_kind(found, "leak") if one["examples"]]
    assert [one["count"] for one in leaked] == [1]
    assert leaked[0]["examples"] == ["train: train/cat/1.png = test: test/cat/seen.png"]
    assert only(found, "label_conflict")["examples"] == ["train/cat/2.png (cat) = train/dog/torn.png (dog)"]
    assert {one["severity"] for one in found["findings"]} == {"error", "warning", "note"}


def test_the_text_says_it_in_80_columns(photos: str, capsys: Capture) -> None:
    assert main(["data", f"dataset={photos}"]) == 3
    printed = capsys.readouterr()
    assert max(map(len, printed.out.splitlines())) <= 80
    for words in (
        "12x9 to 20x30, median 12x9 (2 sizes); 9 gray, 36 RGB",
        "error broken: 1 image cannot be read",
        "dataset.on_error=skip",
        "note duplicate: 2 images are byte for byte the same as another one",
        "warning leak: 1 image of test is in train too, byte for byte",
        "warning label_conflict: the same picture, byte for byte in several classes: once",
    ):
        assert words in " ".join(printed.out.split()), words
    assert re.search(r"photos: 1 error and \d warnings \(broken, ", printed.err)
    assert printed.err.count("\n") == 1


def test_digits_and_a_table(capsys: Capture) -> None:
    found = report(capsys, "digits")
    assert found["parts"] == {"train": 1797}
    assert found["sizes"] == [{"width": 8, "height": 8, "images": 1797}]
    assert found["findings"] == []
    for i in range(30):
        photo(f"{i}.png", i)
    Path("list.csv").write_text("".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(30)))
    assert report(capsys, "list.csv")["parts"] == {"train": 30}
    assert main(["data", "list.csv"]) == 0
    assert "no errors, no warnings" in capsys.readouterr().out


# --- each kind of finding -------------------------------------------------------------------------------------------


def two_classes(count: int = 15, size: tuple[int, int] = (40, 30)) -> None:
    for i in range(count):
        save(textured(i, size), f"set/a/{i}.png")
        save(textured(1000 + i, size), f"set/b/{i}.png")


def _gray_level(low: int, high: int) -> None:
    for path in Path("set").rglob("*.png"):
        seed = abs(hash(str(path))) % 2**32
        values = np.random.default_rng(seed).integers(low, high, (30, 40)).astype(np.uint16)
        Image.fromarray(values).save(path)


def _flat(count: int, mode: str = "RGB", value: Any = (9, 9, 9)) -> None:
    for i in range(count):
        save(Image.new(mode, (40, 30), value), f"set/a/flat{i}.png")


CASES: dict[str, tuple[Callable[[], object], str, str, int]] = {  # what is done; kind, severity, count
    "nothing readable in a file": (lambda: Path("set/a/0.png").write_bytes(b"GIF89a"), "broken", "error", 1),
    "truncated": (lambda: os.truncate("set/a/0.png", 900), "broken", "error", 1),
    "empty file": (lambda: os.truncate("set/a/0.png", 0), "broken", "error", 1),
    "black": (lambda: save(Image.new("RGB", (40, 30)), "set/a/black.png"), "one_color", "warning", 1),
    "gray": (lambda: save(Image.new("L", (40, 30), 77), "set/a/gray.png"), "one_color", "warning", 1),
    "white on transparency": (
        lambda: save(Image.new("RGBA", (40, 30), (255, 255, 255, 0)), "set/a/logo.png"),
        "one_color",
        "warning",
        1,
    ),
    "12 of 16 bits": (lambda: _gray_level(0, 4096), "narrow_range", "note", 30),
    "thermal": (lambda: _gray_level(29000, 31000), "narrow_range", "note", 30),
    "a panorama": (lambda: save(textured(7, (300, 30)), "set/a/wide.png"), "cropped", "note", 1),
    "a class of 3": (
        lambda: [save(textured(i, (40, 30)), f"set/c/{i}.png") for i in range(90, 93)],
        "tiny_class",
        "",
        1,
    ),
    "case": (
        lambda: [save(textured(i, (40, 30)), f"set/A/{i}.png") for i in range(90, 105)],
        "alike_names",
        "warning",
        2,
    ),
    "blanks": (lambda: [save(textured(i, (40, 30)), f"set/a /{i}.png") for i in range(90, 105)], "alike_names", "", 2),
    "a thumbnail": (lambda: save(textured(7, (5, 4)), "set/a/tiny.png"), "odd_size", "note", 1),
    "nearly black": (
        lambda: save(ImageEnhance.Brightness(textured(7, (40, 30))).enhance(0.05), "set/a/dark.png"),
        "brightness",
        "note",
        1,
    ),
    "frames": (
        lambda: textured(7).save("set/a/x.gif", save_all=True, append_images=[textured(8)]),
        "frames",
        "note",
        1,
    ),
    "other files": (lambda: Path("set/a/notes.txt").write_text("x"), "not_used", "note", 1),
    "equal": (lambda: shutil.copy("set/a/0.png", "set/a/copy.png"), "duplicate", "note", 1),
    "two labels": (lambda: shutil.copy("set/a/0.png", "set/b/copy.png"), "label_conflict", "warning", 1),
    "saved again": (lambda: textured(0, (40, 30)).save("set/a/again.jpg", quality=50), "near_duplicate", "note", 1),
    "again, in another class": (
        lambda: textured(0, (40, 30)).save("set/b/again.jpg", quality=50),
        "label_conflict",
        "warning",
        1,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_is_found(case: str, capsys: Capture) -> None:
    two_classes()
    assert [one["kind"] for one in report(capsys, "./set")["findings"]] == []
    change, kind, severity, count = CASES[case]
    change()
    assert main(["data", "./set", "--json"]) in (0, 3)
    one = only(json.loads(capsys.readouterr().out), kind)
    assert one["count"] == count
    assert one["severity"] in ({severity} if severity else {"note", "warning"})


def test_pictures_that_lose_half_are_warned_of(capsys: Capture) -> None:
    two_classes(size=(200, 40))
    Image.open("set/a/0.png").resize((190, 40)).save("set/a/0.png")
    one = only(report(capsys, "./set", code=3), "cropped")
    assert one["severity"] == "warning"
    assert one["count"] == 30
    assert "dataset.fit" in one["advice"]
    assert "200x40, loses 80%" in one["examples"][0]


def test_notes_alone_are_exit_0(capsys: Capture) -> None:
    two_classes()
    Path("set/a/notes.txt").write_text("x")
    assert main(["data", "./set"]) == 0
    assert "note     not_used: ignored" in capsys.readouterr().out


def test_copies_that_the_cut_tears_apart_are_a_leak(capsys: Capture) -> None:
    two_classes(30)
    for i in range(30):
        Image.open(f"set/a/{i}.png").save(f"set/a/{i}-again.jpg", quality=60)
    found = report(capsys, "./set", code=3)
    assert only(found, "near_duplicate")["count"] == 30
    assert only(found, "leak")["count"] >= 3


@pytest.mark.parametrize(
    ("make", "kind", "needle"),
    [
        (lambda: None, "error", "no such folder"),
        (lambda: Path("set").mkdir(), "error", "no class folders"),
        (lambda: [Path("set").mkdir(), Path("set/x.png").write_bytes(b"")], "error", "no class folders"),
    ],
)
def test_what_the_reader_refuses_is_an_error_in_json(
    make: Callable[[], object], kind: str, needle: str, capsys: Capture
) -> None:
    make()
    assert main(["data", "./set", "--json", "output=out"]) == 3
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["classes"], found["parts"]) == ({}, {})
    (one,) = found["findings"]
    assert one["severity"] == "error"
    assert one["kind"] == kind
    assert needle in one["text"]
    assert needle in printed.err
    assert needle in Path("out/index.html").read_text()
    assert Path("out/findings.csv").read_text().splitlines() == ["path,kind,label,severity,like"]


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("photos: images/ beside masks/ is a data set for image segmentation", "", "other_task"),
        ("photos: anything at all", "other_task", "other_task"),
        ("2 corrupt files: a.png, b.png", "", "broken"),
        ("no images in the class folder photos/dog; add some or remove it", "", "empty_class"),
        ("no such folder: segmentation", "", "error"),
        ("table.csv, line 3: no label", "", "error"),
    ],
)
def test_a_refusal_has_the_kind_that_fits(text: str, kind: str, expected: str) -> None:
    error = DataError(text)
    error.kind = kind
    (one,) = without_source(error).report["findings"]
    assert one["kind"] == expected
    assert one["text"] == text


def test_a_corrupt_file_that_the_reader_names_is_broken(photos: str, capsys: Capture) -> None:
    assert only(report(capsys, photos, "dataset.verify=true", code=3), "broken")["severity"] == "error"


# --- the contact sheet -----------------------------------------------------------------------------------------------


def test_findings_csv_and_the_contact_sheet(photos: str, capsys: Capture) -> None:
    os.rename("photos/train/cat/0.png", "photos/train/cat/<b>&'\"=0.png")
    found = report(capsys, photos, "output=./out", code=3)
    assert found["output"] == "out"
    rows = list(csv.DictReader(io.StringIO(Path("out/findings.csv").read_text())))
    listed = {(row["path"], row["kind"], row["label"], row["severity"]) for row in rows}
    assert ("train/dog/broken.png", "broken", "dog", "error") in listed
    assert ("train/cat/1.png", "leak", "cat", "warning") in listed
    assert ("train/cat/copy.png", "duplicate", "cat", "note") in listed
    assert {("train/cat/2.png", "label_conflict", "cat", "warning")} <= listed
    assert {("train/dog/torn.png", "label_conflict", "dog", "warning")} <= listed
    page = Path("out/index.html").read_text()
    assert "&lt;b&gt;&amp;&#x27;&quot;=0.png" in page
    assert "<b>&" not in page
    assert page.count("data:image/jpeg;base64,") > 20
    assert not re.search(r"<script|https?://|src=\"(?!data:)", page)
    assert "broken.png" in page
    assert ">dog</h2>" in page


@pytest.mark.parametrize(
    ("output", "needle"),
    [
        ("file", "output: file is a file; name a folder"),
        ("run", "output: run is a run folder"),
        ("photos/train/out", "inside the data set"),
        ("photos", "inside the data set"),
    ],
)
def test_outputs_that_are_refused(output: str, needle: str, photos: str, capsys: Capture) -> None:
    Path("file").write_text("mine")
    Path("run").mkdir()
    Path("run/config.yaml").write_text("")
    assert main(["data", photos, f"output={output}"]) == 2
    assert needle in capsys.readouterr().err


def test_pixels_in_memory_have_a_contact_sheet_too(capsys: Capture) -> None:
    report(capsys, "digits", "output=out")
    assert Path("out/index.html").read_text().count("data:image") == 80


@pytest.mark.parametrize(
    ("words", "code", "needle"),
    [
        ([], 2, "missing DATASET; usage: imgcls data DATASET"),
        (["./gone"], 3, "no such folder: "),
        (["mnst"], 2, "dataset: unknown 'mnst'; did you mean 'mnist'?"),
        (["a", "b"], 2, "expected one DATASET, got 2: a b"),
        (["dataset.root=x"], 2, "missing DATASET; usage: imgcls data DATASET"),
        (["digits", "epochs=3"], 2, "unknown key 'epochs'"),
        (["digits", "-m"], 2, "--multirun is for train"),
    ],
)
def test_bad_command_lines_are_refused(words: list[str], code: int, needle: str, capsys: Capture) -> None:
    assert main(["data", *words]) == code
    assert needle in capsys.readouterr().err


def test_help(capsys: Capture) -> None:
    assert main(["data", "--help"]) == 0
    out = capsys.readouterr().out
    assert "imgcls data ./photos" in out
    assert "output" in out


def test_files_of_others_and_edited_ones_are_kept(capsys: Capture) -> None:
    two_classes()
    Path("mine").mkdir()
    Path("mine/index.html").write_text("mine")
    assert main(["data", "./set", "output=mine"]) == 2
    assert "index.html was not written by imgcls data, or edited since, so it is kept" in capsys.readouterr().err
    assert Path("mine/index.html").read_text() == "mine"
    assert main(["data", "./set", "output=sheet"]) == 0
    assert main(["data", "./set", "output=sheet"]) == 0  # its own are replaced
    with Path("sheet/findings.csv").open("a") as file:
        file.write("a/0.png,broken,a,error,\n")
    assert main(["data", "./set", "output=sheet"]) == 2
    assert "findings.csv" in capsys.readouterr().err
