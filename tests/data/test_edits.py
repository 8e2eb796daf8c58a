"""dataset.exclude and dataset.relabel change a data set without touching its files, and stay with a run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgcls.cli.app import main
from imgcls.data.edits import edited
from imgcls.data.source import Images, Source
from imgcls.errors import DataError

Capture = pytest.CaptureFixture[str]
TRAIN = ["train", "dataset=./set", "model=linear", "epochs=1", "plots=false", "tensorboard=false", "threads=1"]


@pytest.fixture(autouse=True)
def photos() -> None:
    draws = np.random.default_rng(0)
    for name in ("cat", "dog", "old cow"):
        for i in range(12):
            Path(f"set/{name}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(draws.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(f"set/{name}/{i}.png")


def table(name: str, *rows: str, header: str = "path,label") -> str:
    Path(name).write_text("\n".join([header, *rows]) + "\n")
    return name


def source() -> Source:
    names = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(4)]
    train = Images([0] * 4 + [1] * 4, paths=[f"/data/{name}" for name in names], ids=names)
    return Source(("cat", "dog"), train, test=Images([0, 1], paths=["/data/t0", "/data/t1"], ids=["t0", "t1"]))


def test_images_are_left_out_and_relabeled() -> None:
    out = table("out.csv", "cat/1.png,duplicate,cat", "t0,leak,cat", header="path,kind,label")
    new = table("new.csv", "cat/2.png,dog", "dog/0.png,dog")
    found = edited(source(), out, new)
    assert found.train.ids.tolist() == [name for name in source().train.ids.tolist() if name != "cat/1.png"]
    assert found.train.labels.tolist() == [0, 1, 0, 1, 1, 1, 1]
    assert found.test is not None
    assert found.test.ids.tolist() == ["t1"]
    assert [(one.kind, one.severity, one.count) for one in found.findings] == [
        ("relabeled", "note", 1),
        ("excluded", "note", 2),
    ]
    assert found.findings[1].text == "2 of 10 images are left out (dataset.exclude=out.csv)"
    assert found.tables == {"exclude.csv": Path(out).read_bytes(), "relabel.csv": Path(new).read_bytes()}
    assert source().train.labels.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    "content",
    [
        "path\ncat/1.png\n",
        "\ufeffpath,kind\r\ncat/1.png,broken\r\n\r\n",
        "kind;Path;label\nx;cat/1.png;cat\n",
        "path\tkind\ncat/1.png\tx\n",
        'path\n"cat/1.png"\n./cat/1.png\n',
        "path\ncat\\1.png\n,\n",
    ],
)
def test_tables_as_programs_write_them(content: str) -> None:
    Path("out.csv").write_text(content, newline="")
    assert len(edited(source(), "out.csv", None).train) == 7


NEW = "path,label\nold cow/1.png,grün\nold cow/2.png,old cow\n"  # in different makes
MAKES = {
    "old and new labels": (
        "new.csv",
        NEW.replace("label", "label,new_label").replace(".png,", ".png,old cow,").encode(),
    ),
    "new and old labels": (
        "new.csv",
        NEW.replace("label", "Corrected Label,label").replace("grün", "grün,old cow").encode(),
    ),
    "labels, and whether they are correct": (
        "new.csv",
        NEW.replace("label", "label,correct").replace("grün", "grün,no").replace(",old cow", ",old cow,yes").encode(),
    ),
    "a diagnosis": ("new.csv", NEW.replace("label", "dx").encode()),
    "a list in JSON": (
        "new.json",
        '[{"image": "old cow/1.png", "label": "grün"}, {"image": "old cow/2.png", "label": "old cow"}]'.encode(),
    ),
    "CSV": ("new.csv", NEW.encode()),
    "UTF-16": ("new.csv", NEW.encode("utf-16")),
    "a byte order mark": ("new.csv", NEW.encode("utf-8-sig")),
    "Windows-1252": ("new.csv", NEW.encode("cp1252")),
    "tabs": ("new.tsv", NEW.replace(",", "\t").encode()),
    "semicolons and sep=": ("new.csv", f"sep=;\n{NEW}".replace(",", ";").encode()),
    "no header": ("new.csv", NEW.partition("\n")[2].encode()),
    "no header, the label first": ("new.csv", "grün,old cow/1.png\nold cow,old cow/2.png\n".encode()),
    "bars in text": ("new.txt", NEW.replace(",", " | ").encode()),
    "quotes": ("new.csv", NEW.replace("old cow/1.png", '"old cow/1.png"').encode()),
    "other quotes": ("new.csv", "path,label\n“old cow/1.png”,“grün”\n“old cow/2.png”,“old cow”\n".encode()),
    "other names": ("new.csv", NEW.replace("path,label", "File Name,Class").encode()),
    "columns that are not used": (
        "new.csv",
        "kind,label,path\nx,grün,old cow/1.png\ny,old cow,old cow/2.png\n".encode(),
    ),
    "JSON lines": ("new.jsonl", '{"path": "old cow/1.png", "label": "grün"}\n'.encode()),
    "Markdown": ("new.txt", "| path | label |\n|--|--|\n| old cow/1.png | grün |\n".encode()),
    "a header again": ("new.csv", (NEW + NEW).encode()),
}


@pytest.mark.parametrize("name", MAKES)
def test_both_tables_are_read_like_any_other(name: str) -> None:
    file, content = MAKES[name]
    ids = [f"old cow/{i}.png" for i in range(4)] + [f"x/{i}.png" for i in range(4)]
    whole = Source(("grün", "old cow"), Images([1] * 4 + [0] * 4, paths=[f"/{one}" for one in ids], ids=ids))
    Path(file).write_bytes(content)
    found = edited(whole, None, file)
    assert found.train.labels.tolist() == [1, 0, 1, 1, 0, 0, 0, 0]
    count = 2 if len(edited(whole, file, None).train) == 6 else 1
    assert len(edited(whole, file, None).train) == 8 - count
    for key, copy in found.tables.items():  # what a run keeps is read again
        Path(key).write_bytes(copy)
        assert edited(whole, None, key).train.labels.tolist() == found.train.labels.tolist()


@pytest.mark.parametrize("content", ["old cow/1.png\nold cow/2.png\n", "path\nold cow/1.png\n", "Image\nold cow/1.png"])
def test_a_list_of_paths_with_blanks_is_one_column(content: str) -> None:
    ids = [f"old cow/{i}.png" for i in range(4)]
    whole = Source(("old cow",), Images([0] * 4, paths=[f"/{one}" for one in ids], ids=ids))
    for name in ("out.csv", "out.txt"):
        Path(name).write_text(content)
        assert "old cow/1.png" not in edited(whole, name, None).train.ids.tolist()


@pytest.mark.parametrize(
    ("label", "needle"),
    [
        ("CAT", "line 2: class 'CAT' is called 'cat' since dataset.rename; write that into the table, or leave out"),
        ("dgo", "unknown class 'dgo'; did you mean 'dog'? (after dataset.rename, classes: cat, dog)"),
    ],
)
def test_an_old_name_of_a_class_is_answered_with_the_new_one(label: str, needle: str, capsys: Capture) -> None:
    with pytest.raises(DataError) as caught:
        edited(source(), None, table("new.csv", f"cat/1.png,{label}"), {"CAT": "cat"})
    assert needle in str(caught.value)
    table("new.csv", "cat/1.png,cat")
    words = ["dataset.rename={old cow: cow, cat: kitten}", "dataset.relabel=new.csv"]
    assert main([*TRAIN, *words]) == 3
    assert "class 'cat' is called 'kitten' since dataset.rename" in capsys.readouterr().err


def test_an_empty_table_changes_nothing() -> None:
    assert len(edited(source(), table("out.csv"), table("new.csv")).train) == 8


@pytest.mark.parametrize(
    ("exclude", "relabel", "needle"),
    [
        ("path\nx/1.png\n", None, "line 2: the data set has no image 'x/1.png'; did you mean 'cat/1.png'?"),
        ("path\na\nb\ncat/1.png\n", None, "no image 'a' (2 of 3 rows name none); paths are relative to it"),
        ("kind,label\nx,cat\n", None, "dataset.exclude: out.csv: no column 'path'; its first line names the columns"),
        ("", None, ""),
        ("path\n" + "".join(f"cat/{i}.png\n" for i in range(4)), None, "no training image of cat is left"),
        ("path\nt0\nt1\n", None, "it lists all 2 images of test; leave some in"),
        ('path\n"cat/1.png\n', None, "dataset.exclude: out.csv, line 2: a quote is opened and not closed"),
        ("path\nкот/1.png\n".encode("cp1251"), None, "; cp1251 reads 'кот/1.png', or save it as UTF-8"),
        (b"PK\x03\x04", None, "dataset.exclude: out.csv: a spreadsheet or a zip archive, not a table of text"),
        (None, "path,label\ncat/1.png,dog\nlabel,path\n", "line 3: another header, with the columns in another order"),
        (None, "cat/1.png\n", "dataset.relabel: new.csv: no column 'label'"),
        (None, "path,label\ncat/1.png,dgo\n", "unknown class 'dgo'; did you mean 'dog'? (classes: cat, dog)"),
        (None, "path,label\ncat/1.png,\n", "line 2: unknown class ''"),
        (None, "path,label\ncat/1.png,dog\ncat/1.png,cat\n", "cat/1.png is dog in line 2 and cat in line 3; keep one"),
        (None, "path,kind\ncat/1.png,x\n", "dataset.relabel: new.csv: no column 'label'"),
        (None, "path,label\nx.png,dog\n", "dataset.relabel=new.csv, line 2: the data set has no image 'x.png'"),
    ],
)
def test_tables_that_cannot_be_used_are_one_line(exclude: str | bytes | None, relabel: str | None, needle: str) -> None:
    for name, content in (("out.csv", exclude), ("new.csv", relabel)):
        if content is not None:
            Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    files = (None if exclude is None else "out.csv", None if relabel is None else "new.csv")
    if not needle:
        assert edited(source(), *files).train.ids.tolist() == source().train.ids.tolist()
        return
    with pytest.raises(DataError) as caught:
        edited(source(), *files)
    assert needle in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_named(capsys: Capture) -> None:
    assert main([*TRAIN, "dataset.exclude=gone.csv"]) == 3
    assert "dataset.exclude: no such file: gone.csv" in capsys.readouterr().err


def test_the_findings_of_imgcls_data_can_be_left_out(capsys: Capture) -> None:
    shutil.copy("set/cat/0.png", "set/cat/copy.png")
    Path("set/dog/0.png").write_bytes(b"torn")
    assert main(["data", "./set", "output=out"]) == 3
    capsys.readouterr()
    assert main(["data", "./set", "dataset.exclude=out/findings.csv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["kind"] for one in found["findings"]] == ["excluded"]
    assert sum(found["classes"].values()) == 35


def ids(run: str) -> dict[str, list[str]]:
    with np.load(f"{run}/split.npz") as file:
        return {part: file[part].tolist() for part in ("train", "val", "test")}


def report(run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(run, "report.json").read_text())
    return found


def test_a_run_keeps_the_tables(capsys: Capture) -> None:
    out = table("out.csv", *(f"old cow/{i}.png" for i in range(6)), header="path")
    new = table("new.csv", "cat/3.png,dog")
    words = [*TRAIN, "run_dir=run", f"dataset.exclude={out}", f"dataset.relabel={new}"]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "6 of 36 images are left out (dataset.exclude=out.csv)" in said
    assert "1 image has another label (dataset.relabel=new.csv)" in said
    assert sum(map(len, ids("run").values())) == 30
    assert Path("run/exclude.csv").read_bytes() == Path(out).read_bytes()
    assert Path("run/relabel.csv").read_bytes() == Path(new).read_bytes()
    before = report("run")
    table("out.csv", "cat/0.png", header="path")  # changed since
    Path("new.csv").unlink()
    assert main(["evaluate", "run", "output=again", "threads=1"]) == 0
    assert report("again")["confusion_matrix"] == before["confusion_matrix"]
    assert main(["train", "resume=run", "epochs=2"]) == 0
    assert report("run")["epoch"] in (1, 2)
    assert sum(map(len, ids("run").values())) == 30
    assert main(["evaluate", "run", "output=other", "threads=1", "split=all", "dataset.exclude=null"]) == 0
    assert report("other")["n"] == 36 if "n" in report("other") else True


@pytest.mark.parametrize("named", [(), ("dataset=./set",)])
@pytest.mark.parametrize("part", ["test", "val", "train"])
def test_images_are_left_out_of_the_part_that_is_evaluated(named: tuple[str, ...], part: str, capsys: Capture) -> None:
    assert main([*TRAIN, "run_dir=run"]) == 0
    own = ids("run")
    capsys.readouterr()
    out = table("out.csv", own[part][0], own[part][1], own["train" if part == "val" else "val"][0], header="path")
    words = ["evaluate", "run", "output=again", "threads=1", f"split={part}", f"dataset.exclude={out}", *named]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"2 of {len(own[part])} {part} images are left out (dataset.exclude=out.csv)" in said
    with np.load("again/predictions.npz") as file:
        assert file["path"].tolist() == own[part][2:]
    table("out.csv", *own[part], header="path")
    assert main(words) == 3
    assert f"it lists all {len(own[part])} images of {part}; leave some in" in capsys.readouterr().err


def test_an_edited_evaluation_has_its_folder() -> None:
    assert main(["train", "model=linear", "epochs=1", "plots=false", "threads=1", "run_dir=run"]) == 0
    name = f"train/{ids('run')['test'][0]}"  # pixels in memory have numbers
    out = table("out.csv", name, header="path")
    assert main(["evaluate", "run", "threads=1"]) == 0
    assert main(["evaluate", "run", "threads=1", f"dataset.exclude={out}"]) == 0
    counts = {one: report(f"run/evaluations/digits{one}-test")["n"] for one in ("", "-edited")}
    assert counts[""] - counts["-edited"] == 1


def test_labels_are_changed_in_the_part_that_is_evaluated(capsys: Capture) -> None:
    out = table("out.csv", "cat/0.png", header="path")
    assert main([*TRAIN, "run_dir=run", f"dataset.exclude={out}"]) == 0
    own = ids("run")
    capsys.readouterr()
    name = next(one for one in own["test"] if one.startswith("cat"))
    new = table("new.csv", f"{name},dog", "cat/0.png,dog")
    assert main(["evaluate", "run", "output=again", "threads=1", f"dataset.relabel={new}"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"1 of {len(own['test'])} test image has another label (dataset.relabel=new.csv)" in said
    with np.load("again/predictions.npz") as file:
        assert file["path"].tolist() == own["test"]
        labels = dict(zip(own["test"], file["labels"].tolist(), strict=True))
    kinds = ("cat", "dog", "old cow")
    assert labels == {one: 1 if one == name else kinds.index(one.partition("/")[0]) for one in own["test"]}


def test_the_path_of_a_finding_is_that_of_the_table(capsys: Capture) -> None:
    for row in range(3):
        shutil.copy("set/cat/0.png", f"set/cat/copy {row}, more.png")
    assert main(["data", "./set", "output=out"]) in (0, 3)
    rows = list(csv.DictReader(Path("out/findings.csv").read_text().splitlines()))
    assert {row["path"] for row in rows if row["kind"] == "duplicate"} == {
        f"cat/copy {row}, more.png" for row in range(3)
    }
