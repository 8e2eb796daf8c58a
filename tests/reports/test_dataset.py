"""``imgcls data`` counts what is there and names what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgcls.cli.app import main

Capture = pytest.CaptureFixture[str]


def photo(path: str, seed: int, size: tuple[int, int] = (12, 9), mode: str = "RGB") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def report(capsys: Capture, *words: str) -> dict[str, Any]:
    assert main(["data", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def photos() -> str:
    for i in range(6):
        photo(f"photos/train/cat/{i}.png", i)
        photo(f"photos/test/cat/{i}.png", 100 + i, (20, 30))
    for i in range(2):
        photo(f"photos/train/dog/{i}.png", 50 + i, mode="L")
        photo(f"photos/test/dog/{i}.png", 150 + i)
    shutil.copy("photos/train/cat/0.png", "photos/train/cat/copy.png")
    shutil.copy("photos/train/cat/1.png", "photos/test/cat/seen.png")
    shutil.copy("photos/train/cat/2.png", "photos/train/dog/torn.png")
    Path("photos/train/dog/broken.png").write_bytes(b"no image")
    return "./photos"


def test_everything_is_counted_and_named(photos: str, capsys: Capture) -> None:
    found = report(capsys, photos)
    assert found["dataset"] == "photos"
    assert found["images"] == {"train": 11, "test": 9}
    assert found["classes"] == [{"class": "cat", "train": 7, "test": 7}, {"class": "dog", "train": 4, "test": 2}]
    assert found["sizes"] == [{"width": 12, "height": 9, "images": 13}, {"width": 20, "height": 30, "images": 6}]
    assert (found["grey"], found["colour"]) == (2, 17)
    assert [one["image"] for one in found["broken"]] == ["train/dog/broken.png"]
    assert found["duplicates"] == {"train": 2, "test": 0}
    assert found["leaks"] == [["train: train/cat/1.png", "test: test/cat/seen.png"]]
    assert found["conflicts"] == [["train/cat/2.png (cat)", "train/dog/torn.png (dog)"]]


def test_the_text_says_it_in_80_columns(photos: str, capsys: Capture) -> None:
    assert main(["data", f"dataset={photos}"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for words in (
        "12x9 to 20x30, median 12x9 (2 sizes); 2 gray, 17 RGB",
        "corrupt 1 image cannot be read",
        "broken.png",
        "copies 2 images in train: duplicates of another one there",
        "leak 1 image in two splits",
        "conflict 1 image in two classes",
    ):
        assert words in " ".join(out.split()), words


def test_digits_and_a_table(capsys: Capture) -> None:
    found = report(capsys, "digits")
    assert found["images"] == {"train": 1797}
    assert found["sizes"] == [{"width": 8, "height": 8, "images": 1797}]
    assert found["broken"] == found["leaks"] == found["conflicts"] == []
    for i in range(4):
        photo(f"{i}.png", i)
    Path("list.csv").write_text("".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(4)))
    assert report(capsys, "list.csv")["images"] == {"train": 4}
    assert main(["data", "list.csv"]) == 0
    assert "all images are readable, no duplicates" in capsys.readouterr().out


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
    assert "imgcls data ./photos" in capsys.readouterr().out
