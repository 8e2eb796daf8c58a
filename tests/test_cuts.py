"""Cuts mean what they say: rows of public reports, each with its kin, through the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgcls.cli.app import main
from imgcls.data import datamodule
from imgcls.data import splits as cutting
from imgcls.data.copies import end
from imgcls.runs import fingerprint, tested
from imgcls.training import builder

Capture = pytest.CaptureFixture[str]
QUICK = ("model=linear", "epochs=1", "threads=1", "device=cpu", "plots=false", "tensorboard=false")


def picture(path: str | Path, seed: int) -> None:
    """A small file; those of the same seed are equal."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6), np.uint8)).save(path, "png")


def folders(root: str, counts: Sequence[int], seed: int = 0) -> None:
    """Class folders a, b, ... with that many pictures."""
    for label, count in enumerate(counts):
        for i in range(count):
            picture(Path(root, "abcdefghijklmnopqrstuvwxyz"[label], f"{i}.png"), seed + 1000 * label + i)


def table(path: str, rows: Sequence[str], header: str = "path,label,split") -> None:
    Path(path).write_text("\n".join([header, *rows]) + "\n")


def train(*words: str) -> int:
    """The exit code of a quick run, or of a resumed one."""
    given = {word.partition("=")[0] for word in words}
    quick = () if "resume" in given else tuple(word for word in QUICK if word.partition("=")[0] not in given)
    return main(["train", *quick, *words])


def parts(run: str = "run") -> dict[str, list[str]]:
    """The names of the images in each part."""
    with np.load(f"{run}/split.npz") as file:
        return {name: file[name].tolist() for name in ("train", "val", "test") if name in file.files}


def report(folder: str = "run") -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(folder, "report.json").read_text())
    return read


def contents(names: Sequence[str], root: str) -> set[bytes]:
    return {Path(root, name).read_bytes() for name in names}


# --- row 25: copies ---------------------------------------------------------------------------------------------------


def twice_in_a_folder(copy: Callable[[Path, Path], object] = shutil.copy) -> str:
    """Each file of two classes, and a copy of it beside it."""
    folders("photos", [20, 20])
    for path in sorted(Path("photos").rglob("*.png")):
        copy(path.absolute(), path.with_name(f"zz{path.name}"))
    return "photos"


def twice_in_a_table() -> str:
    folders("photos", [20, 20])
    shutil.copytree("photos", "again")
    rows = [f"{root}/{c}/{i}.png,{c}" for root in ("photos", "again") for c in "ab" for i in range(20)]
    table("labels.csv", rows, "path,label")
    return "labels.csv"


@pytest.mark.parametrize(
    "make",
    [twice_in_a_folder, partial(twice_in_a_folder, os.symlink), partial(twice_in_a_folder, os.link), twice_in_a_table],
)
def test_row_25_copies_stay_in_one_part(make: Callable[[], str], capsys: Capture) -> None:
    data = make()
    assert train(f"dataset=./{data}", "run_dir=run") == 0
    root = data if os.path.isdir(data) else "."
    found = {name: contents(names, root) for name, names in parts().items()}
    assert set(map(len, found.values())) != {0}
    assert not found["train"] & found["test"]
    assert not found["train"] & found["val"]
    assert not found["val"] & found["test"]
    assert len(parts()["test"]) == 16  # still a fifth of the 80 files
    assert "note     40 images are copies of another one, byte for byte" in capsys.readouterr().err
    assert main(["evaluate", "run"]) == 0  # the same cut
    assert train("resume=run", "epochs=2") == 0


def test_row_25_a_picture_in_two_classes_is_said_and_in_one_part(capsys: Capture) -> None:
    folders("photos", [20, 20])
    for i in range(20):
        shutil.copy(f"photos/a/{i}.png", f"photos/b/same{i}.png")
    assert train("dataset=./photos", "run_dir=run") == 0
    assert re.search(r"warning: 20 images are in two classes.*a/0\.png = b/same0\.png", capsys.readouterr().err)
    found = {name: contents(names, "photos") for name, names in parts().items()}
    assert not found["train"] & found["test"]


def test_row_25_a_class_of_nothing_but_copies_can_be_learned() -> None:
    folders("photos", [10, 10])
    picture("photos/c/1.png", 3)  # as a/3.png
    for seed in range(5):
        assert train("dataset=./photos", f"dataset.split_seed={seed}", f"run_dir=run{seed}") == 0
        assert "c/1.png" in parts(f"run{seed}")["train"]


@pytest.mark.parametrize(
    ("names", "pictures", "words"),
    [
        ("a b", 1, "all 20 images are copies of one picture, byte for byte: there is nothing to learn; add other"),
        ("a", 1, "all 20 images are copies of one picture, byte for byte: there is nothing to learn; add other"),
        ("a b", 2, "the 20 images are copies of 2 different ones, byte for byte, and each class needs one"),
        ("a", 2, "the 20 images are copies of 2 different ones, byte for byte, and 20% of 2 different ones is not one"),
    ],
)
def test_row_25_a_data_set_of_copies_of_few_pictures_cannot_be_cut(
    names: str, pictures: int, words: str, capsys: Capture
) -> None:
    for i in range(20):
        name = names.split()[i % len(names.split())]
        picture(f"photos/{name}/{i}.png", i % 2 if pictures == 2 else min(i, pictures - 1))
    assert train("dataset=./photos", "run_dir=run") == 3
    assert words in capsys.readouterr().err


def test_row_25_classes_of_copies_of_one_picture_are_named(capsys: Capture) -> None:
    folders("photos", [9, 9, 9])
    for i in range(9):
        picture(f"photos/b/{i}.png", 7000)
    assert train("dataset=./photos", "run_dir=run") == 0
    assert "the images of b (9) are copies of one picture, byte for byte; add other images" in capsys.readouterr().err
    folders("parts/train", [6, 6], seed=50)
    folders("parts/test", [6, 6])
    for name in "ab":
        for i in range(6):
            picture(f"parts/train/{name}/{i}.png", 7000)
    assert train("dataset=./parts", "run_dir=other") == 0
    said = capsys.readouterr().err
    assert "all 12 images are copies of one picture, byte for byte: there is nothing to learn" in said


def test_row_25_without_copies_nothing_is_said_and_the_cut_is_the_plain_one(capsys: Capture) -> None:
    folders("photos", [20, 20])
    assert train("dataset=./photos", "run_dir=run") == 0
    assert "copies" not in capsys.readouterr().err


# --- row 26: another data set is whole --------------------------------------------------------------------------------


def hold_flat() -> str:
    folders("hold", [9, 9, 9], 500)
    return "./hold"


def hold_wrapped() -> str:
    folders("hold/photos", [9, 9, 9], 500)
    return "./hold"


def hold_with_a_part(name: str) -> Callable[[], str]:
    def make() -> str:
        folders(f"hold/{name}", [9, 9, 9], 500)
        return "./hold"

    return make


def hold_table(part: str) -> Callable[[], str]:
    def make() -> str:
        folders("hold", [9, 9, 9], 500)
        table("some.csv", [f"hold/{c}/{i}.png,{c},{part}" for c in "abc" for i in range(9)])
        return "./some.csv"

    return make


def hold_plain_table() -> str:
    folders("hold", [9, 9, 9], 500)
    table("some.csv", [f"hold/{c}/{i}.png,{c}" for c in "abc" for i in range(9)], "path,label")
    return "./some.csv"


def hold_flags() -> str:
    folders("hold", [9, 9, 9], 500)
    table("some.csv", [f"hold/{c}/{i}.png,{c},1" for c in "abc" for i in range(9)], "path,label,is_test")
    return "./some.csv"


WHOLE: dict[str, Callable[[], str]] = {
    "flat": hold_flat,
    "wrapped": hold_wrapped,
    "below test": hold_with_a_part("test"),
    "below Testing": hold_with_a_part("Testing"),
    "below val": hold_with_a_part("val"),
    "table": hold_plain_table,
    "table, test": hold_table("test"),
    "table, Testing": hold_table("Testing"),
    "table, val": hold_table("val"),
    "table, is_test": hold_flags,
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("split", [(), ("split=test",), ("split=all",)])
def test_row_26_another_data_set_without_a_train_part_is_evaluated_whole(
    name: str, split: tuple[str, ...], capsys: Capture
) -> None:
    folders("photos", [12, 12, 12])
    assert train("dataset=./photos", "run_dir=run") == 0
    hold = WHOLE[name]()
    capsys.readouterr()
    assert main(["evaluate", "run", f"dataset={hold}", "output=out", *split]) == 0
    assert report("out")["n"] == 27
    said = capsys.readouterr().err
    assert "split again" not in said
    assert ": 27 " in said


def test_row_26_with_an_empty_class_it_is_evaluated_whole_too(capsys: Capture) -> None:
    folders("photos", [9, 9])
    assert train("dataset=./photos", "run_dir=run") == 0
    folders("hold", [12, 0], seed=500)
    Path("hold/a").rename("hold/A")
    Path("hold/b").mkdir()
    assert main(["evaluate", "run", "dataset=./hold", "dataset.rename={A: a}", "output=out", "threads=1"]) == 0
    assert report("out")["n"] == 12


def test_row_26_a_part_that_it_names_is_that_part(capsys: Capture) -> None:
    folders("photos", [12, 12, 12])
    assert train("dataset=./photos", "run_dir=run") == 0
    folders("hold", [9, 9, 9], 500)
    rows = [f"hold/{c}/{i}.png,{c},{'val' if i < 2 else 'test'}" for c in "abc" for i in range(9)]
    table("some.csv", rows)
    for words, count in ((("split=val",), 6), (("split=test",), 21), ((), 21), (("split=all",), 27)):
        assert main(["evaluate", "run", "dataset=./some.csv", "output=out", *words]) == 0
        assert report("out")["n"] == count
    capsys.readouterr()
    assert main(["evaluate", "run", "dataset=./hold", "split=train"]) == 2
    assert "split: hold has no train part; split=all evaluates every image" in capsys.readouterr().err


def test_row_26_with_a_train_part_or_the_runs_own_it_is_cut_as_before(capsys: Capture) -> None:
    folders("photos", [12, 12, 12])
    assert train("dataset=./photos", "run_dir=run") == 0
    folders("hold/train", [9, 9, 9], 500)
    folders("hold/test", [2, 2, 2], 900)
    capsys.readouterr()
    for words, count in ((("dataset=./hold",), 6), ((), 7), (("dataset=./photos",), 7), (("dataset=photos/",), 7)):
        assert main(["evaluate", "run", "output=out", *words]) == 0
        assert report("out")["n"] == count


def test_row_26_a_sample_of_it_can_be_taken() -> None:
    folders("photos", [12, 12, 12])
    assert train("dataset=./photos", "run_dir=run") == 0
    hold_flat()
    assert main(["evaluate", "run", "dataset=./hold", "dataset.test_limit=10", "output=out"]) == 0
    assert report("out")["n"] == 10


@pytest.mark.parametrize("where", ["copy", "moved"])
def test_row_26_trained_images_in_it_are_warned_about(where: str, capsys: Capture) -> None:
    folders("photos", [12, 12, 12])
    assert train("dataset=./photos", "run_dir=run") == 0
    (shutil.copytree if where == "copy" else shutil.move)("photos", "elsewhere")
    count = len(parts()["train"])
    capsys.readouterr()
    assert main(["evaluate", "run", "dataset=./elsewhere"]) == 0
    assert f"warning: {count} of these 36 images were used in training" in capsys.readouterr().err


# --- row 27: limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "limit"), [([300, 5], 20), ([300, 5, 1], 3), ([40] * 9 + [1], 12), ([60, 60, 2], 30)]
)
def test_row_27_no_class_vanishes(counts: list[int], limit: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    for seed in range(5):
        sample = cutting.stratified(labels, limit, seed, take_one=True)[1]
        assert len(sample) == limit
        assert set(labels[sample]) == set(range(len(counts)))


def test_row_27_through_the_command_line(capsys: Capture) -> None:
    folders("photos", [120, 5])
    assert train("dataset=./photos", "dataset.limit=20", "run_dir=run") == 0
    assert {name[0] for name in parts()["train"]} == {"a", "b"}
    folders("many", [4] * 12)
    capsys.readouterr()
    assert train("dataset=./many", "dataset.limit=11") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "dataset.limit=11 is fewer than the 12 classes (a, b, c" in said
    assert "dataset.limit=12 or more" in said
    assert train("dataset=./many", "dataset.limit=12", "run_dir=least") == 0
    assert len(parts("least")["train"]) == 12
    assert train("dataset=./many", "dataset.limit=2", "dataset.classes=[a,b]", "run_dir=some") == 0


# --- row 28: ties -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 4])
def test_row_28_ties_are_drawn_by_the_seed(size: int) -> None:
    labels = np.repeat(np.arange(30), size)
    count = round(len(labels) * 0.2)
    chosen = [tuple(sorted(set(labels[cutting.stratified(labels, count, seed)[1]].tolist()))) for seed in range(4)]
    assert len(set(chosen)) == 4
    assert all(one != tuple(range(len(one))) for one in chosen)
    again = cutting.stratified(labels, count, 2)[1]
    assert np.array_equal(again, cutting.stratified(labels, count, 2)[1])


def test_row_28_ties_of_unequal_classes_are_ties_too() -> None:
    labels = np.repeat([0, 1], [5, 25])  # a tenth: 0.5 and 2.5
    rare = [0 in labels[cutting.stratified(labels, 3, seed)[1]] for seed in range(20)]
    assert 4 < sum(rare) < 16


def test_row_28_a_cut_without_ties_is_the_one_of_before() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = np.repeat(np.arange(6), rng.choice(np.arange(7, 60), 6, replace=False))
        count = int(rng.integers(3, len(labels)))
        remainders = np.bincount(labels) * count % len(labels)
        if len(set(remainders.tolist())) == 6:
            old, new = (cutting.stratified(labels, count, 7, "test", rule=rule)[1] for rule in (1, 2))
            assert np.array_equal(old, new)


def test_row_28_classes_that_a_part_lacks_are_named(capsys: Capture) -> None:
    folders("photos", [3] * 20)
    assert train("dataset=./photos", "run_dir=run") == 0
    said = capsys.readouterr().err
    present = {name[0] for name in parts()["test"]}
    assert f"warning: {20 - len(present)} of 20 classes have no image in test (3 images each)" in said
    assert "dataset.test_fraction=0.34 takes one of 3" in said
    assert train("dataset=./photos", "dataset.test_fraction=0.34", "run_dir=more") == 0
    assert len({name[0] for name in parts("more")["test"]}) == 20


def test_row_28_one_picture_of_each_class_cannot_be_cut(capsys: Capture) -> None:
    folders("photos", [1] * 5)
    assert train("dataset=./photos") == 3
    (said,) = capsys.readouterr().err.splitlines()
    assert "too few images to split: each of the 5 classes has one" in said
    assert "fraction" not in said  # which could not help
    folders("few", [2])
    assert train("dataset=./few") == 3
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("or take more of them with dataset.test_fraction=0.5")
    assert train("dataset=./few", "dataset.test_fraction=0.5") == 0


# --- row 30: groups and folds -----------------------------------------------------------------------------------------


def patients(count: int = 12, each: int = 4) -> None:
    """Class folders with several pictures of each patient."""
    for i in range(count * each):
        picture(f"photos/{'ab'[i // each % 2]}/patient{i // each}_{i % each}.png", i)


def owners(names: Sequence[str]) -> set[str]:
    return {re.findall(r"patient\d+", name)[0] for name in names}


def test_row_30_a_patient_stays_in_one_part_in_every_command(capsys: Capture) -> None:
    patients()
    assert main(["data", "./photos"]) == 0
    assert "dataset.group='(patient[_ -]?\\d+)' keeps each in one part" in " ".join(capsys.readouterr().out.split())
    assert train("dataset=./photos", r"dataset.group=(patient[_ -]?\d+)", "run_dir=run") == 0
    said = capsys.readouterr().err
    assert r"groups   12 by '(patient[_ -]?\d+)' in the path, 4 images each" in said
    assert "test: a stratified 17% of all, 2 of 12 groups (dataset.group)" in said
    assert "the file names hold an id" not in said
    found = {name: owners(names) for name, names in parts().items()}
    assert not found["train"] & found["test"] | found["train"] & found["val"] | found["val"] & found["test"]
    before = report()
    assert (before["group"], before["fold"]) == (r"(patient[_ -]?\d+)", None)
    assert main(["evaluate", "run"]) == 0
    assert train("resume=run", "epochs=2") == 0


def test_row_30_folds_test_each_picture_once() -> None:
    patients()
    rows = [f"photos/{'ab'[i // 4 % 2]}/patient{i // 4}_{i % 4}.png,{'ab'[i // 4 % 2]},P {i // 4}" for i in range(48)]
    table("labels.csv", rows, "path,label,Who, of them")
    tested: list[str] = []
    for fold in range(3):
        words = ("dataset=./labels.csv", "dataset.folds=3", f"dataset.fold={fold}", "dataset.group=2")
        assert train(*words, f"run_dir=run{fold}") == 0
        found = parts(f"run{fold}")
        assert not owners(found["test"]) & owners(found["train"])
        assert (report(f"run{fold}")["fold"], report(f"run{fold}")["folds"]) == (fold, 3)
        tested += found["test"]
    assert sorted(tested) == sorted(row.partition(",")[0] for row in rows)
    assert main(["evaluate", "run1", "dataset.fold=0"]) == 3  # the model was trained on these


def test_row_30_copies_of_two_patients_keep_both_together() -> None:
    patients()
    for i in range(6):
        shutil.copy(f"photos/a/patient{2 * i}_0.png", f"photos/b/patient{2 * i + 1}_9.png")
    assert train("dataset=./photos", r"dataset.group=patient\d+", "run_dir=run") == 0
    for names in parts().values():
        assert len({int(one[7:]) // 2 for one in owners(names)}) * 2 == len(owners(names))  # in pairs


def test_row_30_imgcls_data_points_at_the_column(capsys: Capture) -> None:
    patients()
    rows = [f"photos/{'ab'[i // 4 % 2]}/patient{i // 4}_{i % 4}.png,{'ab'[i // 4 % 2]},P{i // 4}" for i in range(48)]
    table("labels.csv", rows, "path,label,video")
    assert main(["data", "./labels.csv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    assert any(one["advice"].endswith(": dataset.group=video") for one in found if one["kind"] == "id_column")
    assert main(["data", "./labels.csv", "dataset.group=video", "--json"]) == 0
    assert "id_column" not in {one["kind"] for one in json.loads(capsys.readouterr().out)["findings"]}


@pytest.mark.parametrize("data", ["ties", "copies"])
def test_a_run_of_before_keeps_its_cut(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if data == "ties":
        folders("photos", [3] * 20)
    else:
        twice_in_a_folder()

    def old_cut(*args: Any, **keys: Any) -> Any:
        return cutting.split(*args, **(keys | {"rule": 1, "groups": None}))

    def old_file(folder: Path, given: Any) -> None:
        write(folder, given)
        with np.load(folder / "split.npz") as file:
            arrays = {name: file[name] for name in file.files if name != "rule"}
        np.savez(folder / "split.npz", **arrays)

    def old_metadata(run: builder.Run) -> dict[str, Any]:
        return {key: value for key, value in describe(run).items() if key != "cut_rule"}

    write, describe = fingerprint.write_split, builder.checkpoint_metadata
    with monkeypatch.context() as patch:
        patch.setattr(datamodule, "split", old_cut)
        patch.setattr(fingerprint, "write_split", old_file)
        patch.setattr("imgcls.train.checkpoint_metadata", old_metadata)
        assert train("dataset=./photos", "run_dir=run") == 0
    assert train("dataset=./photos", "run_dir=new") == 0
    assert parts("new") != parts()
    before = parts()
    assert main(["evaluate", "run"]) == 0
    assert train("resume=run", "epochs=2") == 0
    assert main(["evaluate", "run", "split=val"]) == 0
    assert parts() == before
    shutil.copy("run/checkpoints/best.safetensors", "alone.safetensors")
    assert main(["evaluate", "alone.safetensors", "output=out"]) == 0
    with np.load("out/predictions.npz") as file:
        assert file["path"].tolist() == before["test"]


# --- row 29: pictures that moved --------------------------------------------------------------------------------------


def test_row_29_pictures_that_moved(capsys: Capture) -> None:
    folders("photos", [12, 12])
    assert train("dataset=./photos", "run_dir=run") == 0
    before = parts()
    Path("disk").mkdir()
    shutil.move("photos", "disk/archive")
    assert train("resume=run", "epochs=2", "dataset.root=disk/archive") == 0
    assert parts() == before
    assert main(["evaluate", "run"]) == 0
    Image.new("L", (60, 60)).save("disk/archive/a/0.png")
    capsys.readouterr()
    assert train("resume=run", "epochs=3", "dataset.root=./disk/archive") == 3
    assert "the data set has changed since run was trained" in capsys.readouterr().err
    folders("others", [11, 12])
    assert train("resume=run", "epochs=3", "dataset.root=others") == 3


def test_row_29_a_table_and_its_pictures_that_moved(capsys: Capture) -> None:
    folders("photos", [12, 12])
    rows = [f"{c}/{i}.png,{c}" for c in "ab" for i in range(12)]
    table("labels.csv", rows, "path,label")
    assert train("dataset=./labels.csv", "dataset.images=photos", "run_dir=run") == 0
    shutil.move("photos", "moved")
    assert train("resume=run", "epochs=2", "dataset.images=moved") == 0
    shutil.move("labels.csv", "moved/list.csv")
    assert train("resume=run", "epochs=3", "dataset.root=moved/list.csv") == 0
    capsys.readouterr()
    assert train("resume=run", "epochs=4", "dataset.split_seed=1") == 2
    assert "dataset.split_seed is 0 in run and cannot become 1" in capsys.readouterr().err


# --- row 30: names with an id -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("patient{i:03}_{j}.png", True),
        ("Subject-{i}.{j}.png", True),
        ("slide{i}/tile{j}.png", True),
        ("img{i:03}_{j}.png", False),
        ("{i}_{j}.png", False),
        ("patient{i}{j}.png", False),
    ],
)
def test_row_30_an_id_in_the_file_names_is_pointed_at(name: str, is_id: bool, capsys: Capture) -> None:
    for i in range(12):
        for j in range(4):
            picture(Path("photos", "ab"[i % 2], name.format(i=i, j=j)), 10 * i + j)
    assert train("dataset=./photos", "run_dir=run") == 0
    assert ("note     the file names hold an id" in capsys.readouterr().err) is is_id


# --- test=false, and who used the test images -------------------------------------------------------------------------


def test_without_a_test_the_test_images_are_not_opened(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    folders("photos", [15, 15])
    assert train("dataset=./photos", "run_dir=before") == 0
    for i, name in enumerate(parts("before")["test"]):
        Path("photos", name).write_bytes(b"no image" * (i + 1))
    capsys.readouterr()
    assert train("dataset=./photos", "test=false", "run_dir=run") == 0
    said = capsys.readouterr()
    assert said.out.lstrip().startswith("val      ")
    assert "the test images are left alone (test=false)" in said.out
    assert (report()["split"], report()["n"]) == ("val", len(parts()["val"]))
    assert parts()["test"] == parts("before")["test"]
    assert main(["predict", "run", "photos/a"]) in (0, 3)
    assert main(["evaluate", "run"]) == 3  # now they are read


def test_a_run_without_a_test_can_be_drawn_resumed_and_tested_later(capsys: Capture) -> None:
    folders("photos", [15, 15])
    assert train("dataset=./photos", "test=false", "plots=true", "run_dir=run") == 0
    assert Path("run/plots/confusion_matrix.png").is_file()
    assert train("resume=run", "epochs=2") == 0
    assert report()["split"] == "val"
    capsys.readouterr()
    assert train("resume=run", "epochs=3", "test=true") == 2
    assert train("dataset=./photos", "run_dir=first") == 0
    assert "images, never used before;" in capsys.readouterr().out
    assert main(["evaluate", "run"]) == 0
    assert report("run/evaluations/photos-test")["split"] == "test"
    capsys.readouterr()
    assert train("dataset=./photos", "run_dir=second") == 0
    assert "images, tested by 2 runs here before;" in capsys.readouterr().out  # one of them by evaluate


def test_with_neither_test_nor_val_there_are_no_figures(capsys: Capture) -> None:
    folders("photos", [15, 15])
    assert train("dataset=./photos", "test=false", "dataset.val_fraction=0", "run_dir=run") == 0
    assert (report()["split"], report()["n"], report()["accuracy"]) == (None, 0, None)
    assert "the test images are left alone" in capsys.readouterr().out
    assert train("resume=run") == 0
    assert main(["evaluate", "run"]) == 0


def test_the_test_line_counts_the_runs_here_that_used_the_same_images(capsys: Capture) -> None:
    folders("photos", [15, 15])
    folders("others", [15, 15], 70)
    said = []
    for words in (
        ("dataset=./photos",),
        ("dataset=./photos", "seed=1"),
        ("dataset=./others",),
        ("dataset=./photos", "dataset.split_seed=1"),
        ("dataset=./photos", "epochs=2"),
        ("dataset=./photos", "run_dir=elsewhere/run"),
    ):
        assert train(*words) == 0
        said.append(capsys.readouterr().out.split("images, ")[1].split(";")[0])
    never = "never used before"
    assert said == [never, "tested by 1 run here before", never, never, "tested by 2 runs here before", never]
    assert train("resume=outputs/linear-photos-2", "epochs=2") == 0
    assert "used before by the shorter run, tested by 2 runs here before" in capsys.readouterr().out


def test_the_jobs_of_a_sweep_count_and_little_is_read() -> None:
    folders("photos", [15, 15])
    assert train("dataset=./photos", "run_dir=outputs/one") == 0
    for job in range(3):
        shutil.copytree("outputs/one", f"outputs/sweep-1/{job}")
    assert tested.tested_before(Path("outputs/sweep-1/0")) == "tested by 2 runs here before"
    Path("outputs/sweep-1/sweep.json").write_text("{}")
    assert tested.tested_before(Path("outputs/sweep-1/0")) == "tested by 3 runs here before"
    assert tested.tested_before(Path("outputs/one")) == "tested by 3 runs here before"
    for damaged in ("split.npz", "report.json"):
        Path("outputs/sweep-1/1", damaged).write_bytes(b"?")
    assert tested.tested_before(Path("outputs/one")) == "tested by 2 runs here before"


def test_a_pipe_among_the_test_images_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert end(str(tmp_path / "a.png")) == b""
