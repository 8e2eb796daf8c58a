"""Tables of the user's own images: columns by their usual names, one clear line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.cli.app import main
from imgcls.data.datasets.tables.image_table import imagelist
from imgcls.data.source import Source
from imgcls.errors import DataError

Capture = pytest.CaptureFixture[str]
COLORS = {"red": (200, 30, 30), "blue": (20, 20, 220)}


def pictures(folder: str = "pictures", count: int = 12) -> list[tuple[str, str]]:
    """This many files of each color, and the color of each."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    found = []
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        for i in range(count):
            pixels = np.clip(np.array(color) + rng.integers(-20, 20, (9, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(f"{folder}/{name}{i}.png")
            found.append((f"{name}{i}.png", name))
    return found


def table(text: str, name: str = "labels.csv") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return name


def read(where: str, **params: object) -> Source:
    names = ("images", "test", "path", "label", "split", "group", "rename", "encoding")
    usual = {**dict.fromkeys(names), "verify": False, "on_error": "error"}
    return imagelist(root=where, **(usual | params))  # type: ignore[arg-type]


def lines(rows: list[tuple[str, str]], *, mark: str = ",", more: str = "") -> str:
    return "".join(f"{path}{mark}{label}{more}\n" for path, label in rows)


@pytest.mark.parametrize(
    ("header", "name", "mark"),
    [
        ("path,label", "pictures/labels.csv", ","),
        ("Filename,Class", "pictures/labels.csv", ","),
        ("image;category", "pictures/labels.csv", ";"),
        ("image\tlabel", "pictures/labels.tsv", "\t"),
        ("img\ty", "pictures/labels.csv", "\t"),
        ("\ufefffile,target", "pictures/labels.csv", ","),
        ("id_code,diagnosis", "pictures/labels.csv", ","),
        ("Image,Id", "pictures/labels.csv", ","),
        ("picture,label", "pictures/labels.csv", ","),
        ("", "pictures/labels.txt", " "),
        ("path|label", "pictures/labels.csv", "|"),
        ("path,label", "pictures/labels.tsv", ","),
        ("# made by me\npath,label", "pictures/labels.csv", ","),
        ("file   class", "pictures/labels.txt", " "),
        ("file,class", "pictures/labels.txt", ","),
        ("", "pictures/labels.csv", ","),
    ],
)
def test_columns_are_found_by_their_usual_names(header: str, name: str, mark: str) -> None:
    rows = pictures()
    source = read(table(f"{header}\n" * bool(header) + lines(rows, mark=mark), name))
    assert source.classes == ("blue", "red")
    assert source.val is source.test is None
    assert source.train.paths is not None
    assert [Path(path).name for path in source.train.paths] == [path for path, _ in rows]
    assert [source.classes[label] for label in source.train.labels] == [label for _, label in rows]
    assert source.train.ids.tolist() == [path for path, _ in rows]


def test_paths_are_found_without_their_suffix_and_with_backslashes() -> None:
    rows = pictures("some/pictures")
    Path("some/pictures/red0.png").rename("some/pictures/red0.PNG")
    text = "id,label\n" + "".join(f"pictures\\{Path(path).stem},{label}\n" for path, label in rows)
    source = read(table(text, "some/labels.csv"))
    assert source.train.ids.tolist()[:2] == ["pictures/red0.PNG", "pictures/red1.png"]
    assert len(source.train) == 24


@pytest.mark.parametrize(
    ("column", "yes", "no", "other"),
    [("is_train", "1", "0", "test"), ("is_valid", "True", "False", "val"), ("is_test", "yes", "no", "test")],
)
def test_a_yes_or_no_column_names_the_split(column: str, yes: str, no: str, other: str) -> None:
    rows = pictures()
    trained, apart = (yes, no) if column == "is_train" else (no, yes)
    text = f"path,label,{column}\n" + "".join(f"{path},{label},{trained}\n" for path, label in rows[:9] + rows[12:20])
    text += "".join(f"{path},{label},{apart}\n" for path, label in rows[9:12] + rows[20:])
    source = read(table(text, "pictures/labels.csv"))
    assert {part: len(one) for part, one in source.parts.items()} == {"train": 17, other: 7}
    assert set(read("pictures/labels.csv", split="none").parts) == {"train"}


def test_a_table_without_a_header_loses_no_line() -> None:
    rows = [(path, "y" if label == "red" else "image") for path, label in pictures()]
    source = read(table(lines(rows), "pictures/labels.csv"))
    assert (source.classes, len(source.train)) == (("image", "y"), 24)
    source = read(table(lines(rows, more=",cam1"), "pictures/labels.csv"), split="none")
    assert len(source.train) == 24


def test_several_split_columns_are_refused() -> None:
    rows = pictures()
    where = table("path,label,is_valid,is_test\n" + lines(rows, more=",0,1"), "pictures/labels.csv")
    with pytest.raises(DataError, match=r"which column is the split\? It has is_valid, is_test; name one with"):
        read(where)
    assert len(read(where, split="none").train) == 24


def test_a_comment_does_not_decide_the_delimiter() -> None:
    rows = pictures()
    text = "# file, label\n\n" + lines(rows, mark=" ")
    assert len(read(table(text, "pictures/labels.txt")).train) == 24


def test_a_folder_is_not_treated_as_a_file() -> None:
    rows = pictures()
    Path("pictures/red0").mkdir()
    text = "id,label\n" + "".join(f"{Path(path).stem},{label}\n" for path, label in rows)
    assert "red0.png" in read(table(text, "pictures/labels.csv")).train.ids.tolist()


def test_skipping_does_not_hide_that_all_are_missing() -> None:
    where = table("path,label\na.png,red\nb.png,blue\n")
    with pytest.raises(DataError, match=r"no such file: .*a\.png \(2 of 2 are missing\)"):
        read(where, on_error="skip")


def test_unused_columns_and_rows_are_noted() -> None:
    rows = pictures()
    text = "id,path,label,split,width\n" + "".join(f"7,{path},{label},,8\n" for path, label in [*rows, *rows[:3]])
    text = text.replace("7,red5.png,red,,", "7,red5.png,red,test,")
    notes = read(table(text, "pictures/labels.csv")).notes
    assert notes == (
        "columns  path 'path', label 'label', split 'split'; not used: id, width",
        "rows     ignored 3 duplicate rows",
        "rows     23 without a split go into train",
    )


def test_missing_files_can_be_skipped_and_are_counted() -> None:
    rows = [*pictures(), ("gone.png", "red"), ("lost.png", "blue")]
    where = table("path,label\n" + lines(rows), "pictures/labels.csv")
    with pytest.raises(DataError, match=r"2 of 26 are missing"):
        read(where)
    source = read(where, on_error="skip")
    assert (len(source.train), source.skipped) == (24, 2)
    assert any("no such file: gone.png" in warning for warning in source.warnings)


def test_paths_relative_to_the_current_folder_are_recognized() -> None:
    rows = pictures("some/pictures")
    text = "path,label\n" + lines([(f"some/pictures/{path}", label) for path, label in rows])
    with pytest.raises(DataError, match=r"it is below the current folder: add dataset\.images=\."):
        read(table(text, "some/labels.csv"))
    assert len(read("some/labels.csv", images=".").train) == 24


def test_columns_and_the_folder_can_be_named() -> None:
    rows = pictures("elsewhere")
    text = "label,id,species\n" + "".join(f"0,{path},{label}\n" for path, label in rows)
    source = read(table(text), images="elsewhere", path="id", label="species")
    assert source.classes == ("blue", "red")
    absolute = "".join(f"{Path('elsewhere', path).resolve()},{label}\n" for path, label in rows)
    assert len(read(table(absolute)).train) == 24


def test_quoted_cells_spaces_and_empty_lines() -> None:
    rows = pictures()
    Path("pictures/red0.png").rename("pictures/a, b \u00e9.png")
    rows[0] = ('" a, b \u00e9.png"', "red")
    source = read(table("path, label\n\n" + lines(rows, more="  ") + "\n", "pictures/labels.csv"))
    assert len(source.train) == 24
    assert source.train.paths is not None
    assert source.train.paths[0].endswith("a, b \u00e9.png")


def test_numbers_are_sorted_by_their_value() -> None:
    paths = [path for path, _ in pictures()]
    rows = [(path, str(i % 12)) for i, path in enumerate(paths)]
    source = read(table("path,label\n" + lines(rows), "pictures/l.csv"))
    assert source.classes == tuple(map(str, range(12)))


def test_the_split_column_defines_the_splits() -> None:
    rows = pictures()
    words = ["train", "Training", "", "valid", "TEST", "train"]
    text = "path,label,split\n" + "".join(f"{p},{label},{words[i % 6]}\n" for i, (p, label) in enumerate(rows))
    source = read(table(text, "pictures/labels.csv"))
    assert {name: len(part) for name, part in source.parts.items()} == {"train": 16, "val": 4, "test": 4}


def test_a_path_listed_twice_is_used_once() -> None:
    rows = pictures()
    assert len(read(table("path,label\n" + lines([*rows, *rows]), "pictures/labels.csv")).train) == 24


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("", "it lists no images"),
        ("path,label\n", "it lists no images"),
        ("path,label\nred0.png,\n", "line 2: no label"),
        ("path,label\n,red\n", "line 2: no path"),
        ("path,label\nred0.png\n", "line 2: no label"),
        (
            "a,b\n1,2\n",
            "which column is the path? It has a, b; name one with dataset.path=COLUMN, or rename it to path",
        ),
        ("path,b,c\nred0.png,2,3\n", "which column is the label? It has path, b, c"),
        ("path,label\nred0.png,red\ngone.png,red\n", "line 3: no such file: pictures/gone.png; paths are relative to"),
        ("path,label\ngone.png,red\ngone2.png,red\n", "line 2: no such file: pictures/gone.png (2 of 2 are missing)"),
        ("path,label\nred0.png,red\nred0.png,blue\n", "red0.png is in line 2 and in line 3 with another label"),
        ("path,label,split\nred0.png,red,holdout\n", "line 2: unknown split 'holdout' (choices: train, val, test)"),
        ('path,label\nred0.png,"re\nd"\n', "line 2: the label 're\\nd' is not plain text"),
        ("path,label\nred0.png,\x1b[31m\n", "is not plain text"),
        ("path,label,split\nred0.png,red,train\nblue0.png,blue,val\n", "line 3: no training row has class 'blue'"),
    ],
)
def test_rows_that_cannot_be_used_are_named_with_their_line(text: str, needle: str) -> None:
    pictures()
    with pytest.raises(DataError) as caught:
        read(table(text, "pictures/labels.csv"))
    assert needle in str(caught.value)
    assert "pictures/labels.csv" in str(caught.value)


def test_a_table_of_test_images_alone_is_pooled() -> None:
    rows = pictures()
    source = read(table("path,label,split\n" + lines(rows, more=",test"), "pictures/labels.csv"))
    assert tuple(source.parts) == ("train",)
    assert source.warnings == ("labels.csv has no training rows: all rows are pooled and split again",)


def test_a_file_that_is_not_a_table_is_refused() -> None:
    with pytest.raises(DataError, match=r"no such file: gone\.csv"):
        read("gone.csv")
    Path("binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a table in UTF-8"):
        read("binary.csv")
    Path("folder.csv").mkdir()
    with pytest.raises(DataError, match="not a regular file"):
        read("folder.csv")
    with pytest.raises(DataError, match=r"no column 'x' \(dataset.path\); it has path, label"):
        read(table("path,label\na.png,b\n"), path="x")


@pytest.mark.process
@pytest.mark.parametrize("given", ["./pictures/labels.csv", pytest.param("labels.tsv", marks=pytest.mark.slow)])
def test_a_run_on_a_table(given: str, capsys: Capture) -> None:
    rows = pictures()
    mark = "\t" if given.endswith("tsv") else ","
    paths = rows if "/" in given else [(f"pictures/{path}", label) for path, label in rows]
    table(f"path{mark}label\n" + lines(paths, mark=mark), given)
    words = ["epochs=6", "run_dir=run", "threads=1", "loader=stream", "workers=1", "plots=false", "tensorboard=false"]
    assert main(["train", f"dataset={given}", *words]) == 0
    assert "data     labels: " in capsys.readouterr().err
    report = json.loads(Path("run/report.json").read_text())
    assert report["accuracy"] == 1.0
    assert report["dataset"] == "labels"
    assert main(["evaluate", "run", f"dataset={given}", "split=all"]) == 0
    assert main(["train", "resume=run", "epochs=7"]) == 0


def test_a_missing_table_is_named_at_once(capsys: Capture) -> None:
    assert main(["train", "dataset=./gone.csv"]) == 3
    assert "no such file: " in capsys.readouterr().err
    assert main(["train", "dataset=imagelist"]) == 2
    assert "missing required value 'dataset.root'" in capsys.readouterr().err


def test_a_choice_of_classes(capsys: Capture) -> None:
    assert main(["train", "dataset.classes=[3,'7']", "epochs=1", "run_dir=run", "threads=1", "model=linear"]) == 0
    report = json.loads(Path("run/report.json").read_text())
    assert [row["class"] for row in report["per_class"]] == ["3", "7"]
    assert report["n"] == 72
    assert main(["evaluate", "run", "split=val"]) == 0
    assert main(["train", "dataset.classes=[11]"]) == 2
    assert "dataset.classes: unknown class '11' (classes: 0, 1, 2" in capsys.readouterr().err
    assert main(["train", "dataset.classes=[]"]) == 2
