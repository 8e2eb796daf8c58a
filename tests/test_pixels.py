"""How stored pixels become the model's, from the command line to the checkpoint and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imgcls
from imgcls.cli.app import main
from imgcls.data.pixels.decoding import load_image
from imgcls.data.pixels.view import View
from imgcls.errors import DataError, ReadingFailed
from tests.conftest import QUIET

SIDE = 8
FEW = ("epochs=12", "batch_size=8", "threads=1", "dataset.val_fraction=0")


def photos(kind: type[Any] = np.uint16, scale: float = 1.0, suffix: str = "png") -> None:
    """The class is which half is 100 counts brighter."""
    rng = np.random.default_rng(0)
    for name, half in (("top", slice(0, 4)), ("base", slice(4, 8))):
        Path("photos", name).mkdir(parents=True)
        for i in range(20):
            counts = 2000 + rng.integers(-10, 10, (SIDE, SIDE))
            counts[half] += 100
            Image.fromarray((counts * scale).astype(kind)).save(f"photos/{name}/{i}.{suffix}")


def train(*words: str) -> int:
    return main(["train", *QUIET, *FEW, "dataset=./photos", "model=linear", "run_dir=run", *words])


@pytest.mark.parametrize(
    ("kind", "scale", "suffix"), [(np.uint16, 1.0, "png"), (np.int32, -50.0, "tiff"), (np.float32, 1e-4, "tiff")]
)
def test_a_range_of_the_training_pictures_is_used_everywhere(
    kind: type[Any], scale: float, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(kind, scale, suffix)
    assert train("augment=none") == 0
    assert "become 0 to 255 in every picture" in capsys.readouterr().err
    assert json.loads(Path("run/report.json").read_text())["accuracy"] == 1.0
    stored = imgcls.load("run").preprocessing.as_dict()
    assert stored["depth"][0] < stored["depth"][1]
    assert main(["predict", "run", "photos"]) == 0
    assert "accuracy 100.0%" in capsys.readouterr().out


def test_file_picture_and_array_agree() -> None:
    photos()
    assert train() == 0
    model, path = imgcls.load("run"), "photos/top/3.png"
    with Image.open(path) as image:
        array = np.asarray(image).copy()
        same = [path, image, array, array.astype(np.int32), array.astype(np.float64), array[..., None]]
        pixels = [model.pixels(one) for one in same]
    assert all(np.array_equal(pixels[0], one) for one in pixels)
    assert len({row["label"] for row in model.predict(same)}) == 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I"])
def test_pictures_of_any_mode_are_taken(linear_run: Path, mode: str) -> None:
    image = Image.new(mode, (9, 7))
    assert imgcls.load(str(linear_run)).predict([image])[0]["label"]


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.float32), np.zeros((8, 8, 3)), Image.new("F", (8, 8)), np.zeros((8, 8), complex), "text"],
    ids=["float gray", "float color", "F", "complex", "name"],
)
def test_what_has_no_defined_range_is_refused_in_one_line(linear_run: Path, image: Any) -> None:
    with pytest.raises(DataError) as caught:
        imgcls.load(str(linear_run)).predict([image])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["dataset.background=black", "dataset.depth=[0,9]"])
def test_evaluate_takes_neither_from_the_command_line(
    linear_run: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(linear_run), word]) == 2
    assert f"{word.partition('=')[0]}: stored in the checkpoint" in capsys.readouterr().err


def test_the_background_is_stored_and_used() -> None:
    rng = np.random.default_rng(0)
    for name, rows in (("bar", slice(3, 5)), ("block", slice(0, 8))):
        Path("photos", name).mkdir(parents=True)
        for i in range(20):
            rgba = np.full((SIDE, SIDE, 4), 255, np.uint8)
            rgba[..., 3] = 0
            rgba[rows, rng.integers(0, 3) :, 3] = 255
            Image.fromarray(rgba).save(f"photos/{name}/{i}.png")
    assert train("dataset.background=black", "augment=none") == 0
    model = imgcls.load("run")
    assert model.preprocessing.rendering.background == (0, 0, 0)
    assert np.array_equal(
        model.pixels("photos/bar/1.png"),
        load_image("photos/bar/1.png", View(3, SIDE, SIDE, model.preprocessing.rendering)),
    )
    assert model.pixels("photos/bar/1.png")[0].max() == 0
    assert json.loads(Path("run/report.json").read_text())["accuracy"] == 1.0


@pytest.mark.parametrize(("words", "said"), [((), True), (("augment.flip=0",), False), (("augment=none",), False)])
def test_classes_that_mirroring_confuses_are_warned_of(
    words: tuple[str, ...], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    photos()
    Path("photos/top").rename("photos/left")
    Path("photos/base").rename("photos/right")
    assert train(*words) == 0
    text = capsys.readouterr()
    assert ("augment.flip=0 turns it off" in text.out + text.err) is said
    assert main(["predict", "run", "photos", "tta=flip"]) == 0
    text = capsys.readouterr()
    assert "tta=flip mirrors images, which may turn the class left into right" in text.out + text.err


def test_a_disk_that_fails_ends_the_run_and_skips_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos()
    opened = Image.open

    def fail(path: Any, *args: Any, **more: Any) -> Any:
        if str(path).endswith("top/7.png"):
            raise OSError(5, "Input/output error", path)
        return opened(path, *args, **more)

    monkeypatch.setattr(Image, "open", fail)
    monkeypatch.setattr("imgcls.data.pixels.opening.PAUSES", (0.0, 0.0))
    assert train("dataset.on_error=skip") == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "cannot read" in line
    assert "top/7.png: Input/output error" in line
    with pytest.raises(ReadingFailed):
        load_image("photos/top/7.png", View(1, SIDE, SIDE))
