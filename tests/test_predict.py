"""predict: rows for files, folders and globs, as the contract says; the same path as training."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import imgcls
from imgcls.cli.app import main
from imgcls.data.datasets.digits import digits
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.pixels.decoding import load_first
from imgcls.data.pixels.opening import SUFFIXES
from imgcls.data.pixels.view import View
from imgcls.data.splits import split
from imgcls.errors import DataError
from imgcls.inference import inputs
from imgcls.reports import predictions as prediction_rows
from tests.data.test_splits import options

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet trained on digits for three epochs."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "model=lenet", "dataset=digits", "epochs=3", "threads=1", f"run_dir={run}"]) == 0
    return run


@pytest.fixture
def photos(trained: Path) -> Path:
    """Twelve test digits as PNG in class folders under photos/, and the run as ./run."""
    Path("run").symlink_to(trained)
    test = split(digits(), options()).test
    assert test.pixels is not None
    for i in range(12):
        folder = Path("photos", str(test.labels[i]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.pixels[i, :, :, 0]).save(folder / f"{i:02}.png")
    return Path("photos")


def rows_of(capsys: pytest.CaptureFixture[str], *words: str, run: str = "run") -> Rows:
    capsys.readouterr()
    assert main(["predict", run, *words, "--json"]) == 0
    rows: Rows = json.loads(capsys.readouterr().out)
    return rows


def test_files_of_the_test_images_give_the_probabilities_of_the_run(trained: Path) -> None:
    """The proof that train and predict share one path from image to logits."""
    with np.load(trained / "predictions.npz", allow_pickle=False) as file:
        index, expected = file["index"], file["probabilities"]
    pixels = digits().train.pixels
    assert pixels is not None
    paths = []
    for row in index:
        paths.append(f"{row}.png")
        Image.fromarray(pixels[row, :, :, 0]).save(paths[-1])
    model = imgcls.load(trained)
    rows = model.predict(paths, topk=10)
    order = {name: i for i, name in enumerate(model.classes)}
    for row, probabilities in zip(rows, expected, strict=True):
        for top in row["topk"]:
            assert top["probability"] == pytest.approx(probabilities[order[top["label"]]], abs=1e-5)


def test_csv_has_the_columns_of_the_contract(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "run", "photos", "topk=3", "output=out/rows.csv"]) == 0
    with open("out/rows.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = ["path", "label", "probability", "label_2", "probability_2", "label_3", "probability_3"]
    assert list(rows[0]) == names
    assert len(rows) == 12
    for row in rows:
        shares = [float(row[name]) for name in names if name.startswith("probability")]
        assert shares == sorted(shares, reverse=True)
        assert Path(row["path"]).is_file()
    assert "wrote    out/rows.csv: 12 images" in capsys.readouterr().err


def test_json_and_json_lines_hold_the_same_rows(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("rows.json", "rows.jsonl"):
        assert main(["predict", "run", "photos", "topk=2", f"output={name}"]) == 0
    rows = json.loads(Path("rows.json").read_text())
    assert rows == [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert rows == rows_of(capsys, "photos", "topk=2")
    assert list(rows[0]) == ["path", "label", "probability", "topk"]
    assert [list(top) for top in rows[0]["topk"]] == [["label", "probability"]] * 2
    assert rows[0]["topk"][0] == {"label": rows[0]["label"], "probability": rows[0]["probability"]}


def test_the_table_and_the_accuracy_stand_on_stdout(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = rows_of(capsys, "photos")
    hits = sum(row["label"] == Path(row["path"]).parent.name for row in expected)
    assert main(["predict", "run", "photos"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert lines[0].split() == [expected[0]["path"], expected[0]["label"], f"{expected[0]['probability']:.1%}"]
    assert lines[-1] == f"accuracy {hits / 12:.1%} ({hits} of 12, labels from the folder names)"


def test_no_accuracy_outside_class_folders(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(next(photos.glob("*/*.png")), "photo.png")
    assert main(["predict", "run", "photo.png", "photos"]) == 0
    assert "accuracy" not in capsys.readouterr().out


def test_topk_ends_at_the_number_of_classes(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {len(row["topk"]) for row in rows_of(capsys, "photos", "topk=99")} == {10}


def test_what_is_no_image_is_named_and_the_rest_is_done(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    (photos / "notes.txt").write_text("no image")
    assert main(["predict", "run", "photos", "gone.png", "output=rows.csv"]) == 3  # gone.png: nothing is done at all
    assert not Path("rows.csv").exists()
    assert main(["predict", "run", "photos", "photos/notes.txt", "output=rows.csv"]) == 3
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert errors[0] == "imgcls: error: no such file: gone.png"
    assert errors[1].startswith("imgcls: error: not a readable image: photos/broken.png (")
    assert errors[2].startswith("imgcls: error: not a readable image: photos/notes.txt (")  # named by the user
    assert len(errors) == 3
    assert len(Path("rows.csv").read_text().splitlines()) == 13


@pytest.mark.parametrize("flags", [(), ("--json",), ("output=rows.csv",)])
@pytest.mark.parametrize("count", [1, 3])
def test_a_broken_file_is_one_line(
    count: int, flags: tuple[str, ...], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"broken{i}.png" for i in range(count)]
    for name in names:
        Path(name).touch()
    assert main(["predict", "run", *names[1:], "photos", names[0], *flags]) == 3
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith(("wrote ", "accuracy "))]
    assert len(lines) == count
    for line, name in zip(lines, [*names[1:], names[0]], strict=True):
        assert line.startswith(f"imgcls: error: not a readable image: {name} (")
    if "--json" in flags:
        assert len(json.loads(said.out)) == 12


def test_an_image_that_needs_too_much_memory_is_one_of_the_broken_files(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: str, view: View) -> Any:
        if path == "large.png":
            raise MemoryError
        return load_first(path, view)

    monkeypatch.setattr(inputs, "load_first", load)
    Path("large.png").touch()
    assert main(["predict", "run", "large.png", "photos"]) == 3
    said = capsys.readouterr()
    assert said.err == "imgcls: error: not a readable image: large.png (out of memory)\n"
    assert len([line for line in said.out.splitlines() if ".png" in line]) == 12


def test_files_with_several_frames_are_counted(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [Image.new("L", (9, 9), grey) for grey in (0, 99)]
    for name in ("a.gif", "b.png", "c.tiff"):
        frames[0].save(name, save_all=name != "c.tiff", append_images=frames[1:])
    for given, count in ((["photos", "a.gif"], "1 file"), (["b.png", "c.tiff", "a.gif"], "2 files")):
        assert main(["predict", "run", *given]) == 0
        expected = f"frames   used the first frame of {count} with several (animations, pages)\n"
        assert capsys.readouterr().err == expected


def test_files_of_other_suffixes_are_counted_and_ignored(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.txt", "b.txt", "c.mp4"):
        (photos / name).write_text("no image")
    for given in ("photos", "photos/*"):
        assert main(["predict", "run", given]) == 0
        assert "ignored  2 .txt, 1 .mp4 (not image files by their suffix)" in capsys.readouterr().err


def test_globs_folders_and_files_are_each_taken_once(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = [row["path"] for row in rows_of(capsys, "photos")]
    assert [row["path"] for row in rows_of(capsys, "photos/**/*.png", every[0], "photos")] == every
    assert rows_of(capsys, every[5], "photos/*/0[0-3].png")[0]["path"] == every[5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("*.jpg", "nothing matches *.jpg"),
        ("empty", "no images in empty"),
        ("https://example.org/a.png", "URLs are not supported"),
        ("gone.png", "no such file: gone.png"),
    ],
)
def test_nothing_to_do_is_an_error(given: str, message: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert main(["predict", "run", given]) == 3
    assert message in capsys.readouterr().err


NAMES = ["with space.png", "new\nline.png", "=1+1.png", "@x.png", "-dash.png", 'größe,"quoted".png', "[0].png"]


def test_file_names_of_any_kind_come_back(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = next(photos.glob("*/*.png"))
    Path("odd").mkdir()
    os.chdir("odd")
    for name in NAMES:
        shutil.copy(Path("..", source), name)
    Path(".run").symlink_to("../run")
    assert sorted(row["path"] for row in rows_of(capsys, ".", run=".run")) == sorted(f"./{name}" for name in NAMES)
    assert [row["path"] for row in rows_of(capsys, "./-dash.png", "[0].png", "new\nline.png", run=".run")] == [
        "./-dash.png", "[0].png", "new\nline.png",
    ]  # fmt: skip
    assert main(["predict", ".run", "input=*.png", "output=../rows.csv"]) == 0
    with open("../rows.csv", newline="", encoding="utf-8") as file:
        found = {row["path"] for row in csv.DictReader(file)}
    assert found == {f"'{name}" if name[0] in "=@-" else name for name in NAMES}
    assert main(["predict", ".run", "new\nline.png"]) == 0
    assert capsys.readouterr().out.startswith("new\\nline.png  ")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"), ("+1+cmd", "'+1+cmd"), ("-1+1", "'-1+1"), ("@A1", "'@A1"),
        ("\tx", "'\tx"), ("-1", "-1"), ("+2.5", "+2.5"), ("cat", "cat"), ("a=b", "a=b"),
    ],
)  # fmt: skip
def test_cells_that_a_spreadsheet_would_run_are_quoted(text: str, cell: str) -> None:
    row = {"path": "a.png", "label": text, "probability": 1.0, "topk": [{"label": text, "probability": 1.0}]}
    lines = list(csv.reader(prediction_rows.render([row], ".csv", 3, 1).splitlines()))
    assert lines[1][1] == cell


def test_a_long_path_is_cut_in_front_in_the_table_only(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = Path("a" * 60, "b.png")
    deep.parent.mkdir()
    shutil.copy(next(photos.glob("*/*.png")), deep)
    assert main(["predict", "run", str(deep)]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("..." + "a" * 39 + "/b.png  ")
    assert len(line) < 80


def test_an_output_of_another_kind_is_refused_at_once(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "run", "photos", "output=rows.xlsx"]) == 2
    assert "output: expected a file ending in .csv, .json or .jsonl, got 'rows.xlsx'" in capsys.readouterr().err


def test_what_looks_for_images_knows_the_suffixes_of_the_decoder() -> None:
    for suffix in SUFFIXES:
        Path(f"A{suffix.upper()}").touch()
    assert len(inputs.find_images(["."], Scan())) == len(SUFFIXES)


# --- from Python -----------------------------------------------------------------------------------------------------


def test_arrays_pil_images_and_files_give_the_same_rows(photos: Path) -> None:
    model = imgcls.load("run")
    path = next(photos.glob("*/*.png"))
    array = np.asarray(Image.open(path))
    kinds = [str(path), path, array, array[..., None], Image.fromarray(array), np.repeat(array[..., None], 3, axis=2)]
    rows = model.predict(kinds, topk=3)
    assert [row["path"] for row in rows] == [str(path), str(path), None, None, None, None]
    assert all(row["topk"] == rows[0]["topk"] for row in rows)
    assert model.predict(path)[0]["label"] == rows[0]["label"]
    assert model.predict([]) == []


def test_pil_images_take_the_path_of_files(photos: Path) -> None:
    model = imgcls.load("run")
    deep = Image.fromarray((np.arange(400, dtype=np.uint16) * 160).reshape(20, 20))
    clear = Image.new("RGBA", (9, 7), (0, 0, 0, 0))
    for image in (deep, clear):
        image.save("a.png")
        assert np.array_equal(model.pixels(image), model.pixels("a.png"))


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4), np.float32), np.zeros(4, np.uint8), np.zeros((4, 4, 9), np.uint8), np.zeros((0, 4), np.uint8), 3],
)
def test_other_things_are_refused_by_what_they_are(wrong: Any, photos: Path) -> None:
    with pytest.raises(DataError, match=r"expected|not a usable image"):
        imgcls.load("run").predict([wrong])


def test_preprocess_and_module_are_what_predict_computes_with(photos: Path) -> None:
    model, path = imgcls.load("run"), next(photos.glob("*/*.png"))
    with torch.inference_mode():
        shares = model.module(model.preprocess(path)).softmax(1)[0]
    row = model.predict([path], topk=10)[0]
    assert row["label"] == model.classes[int(shares.argmax())]
    assert row["probability"] == pytest.approx(float(shares.max()), abs=1e-5)


def test_loading_leaves_the_random_numbers_alone(photos: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    imgcls.load("run")
    assert torch.equal(torch.rand(2), expected)
