"""Commands replace only files that they wrote themselves."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.cli.app import main
from imgcls.reports.predictions import is_own_file

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(linear_run: Path) -> Path:
    """A copy of a finished run as ./run, and a picture to classify."""
    Image.new("L", (8, 8), 3).save("photo.png")
    return Path(shutil.copytree(linear_run, "run"))


def snapshot() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != ".lock"}


# name: content of a file that is not ours
TABLES = {
    "labels.csv": "path,label\nphoto.png,3\n",
    "scored.csv": "path,label,probability,note\nphoto.png,3,0.9,mine\n",
    "swapped.csv": "label,path,probability\n3,photo.png,0.9\n",
    "tab.csv": "path\tlabel\tprobability\nphoto.png\t3\t0.9\n",
    "lines.jsonl": '{"path": "photo.png", "label": "3"}\n',
    "mixed.jsonl": '{"path": "a", "label": "3", "probability": 1, "topk": []}\n{"path": "photo.png"}\n',
    "notes.json": '{"mine": true}\n',
    "list.json": '[{"path": "photo.png", "label": "3"}]\n',
    "numbers.json": "[1, 2]",
    "one.json": '{"path": "a", "label": "3", "probability": 1, "topk": []}\n',
    "odd.json": "not JSON",
    "bytes.csv": "\x00\x01",
}


@pytest.mark.parametrize("link", ["", "soft", "hard"])
@pytest.mark.parametrize("name", TABLES)
def test_predict_keeps_a_table_of_the_users(name: str, link: str, run: Path, capsys: Capture) -> None:
    Path(name).write_text(TABLES[name])
    target = f"link{Path(name).suffix}" if link else name
    if link:
        (os.symlink if link == "soft" else os.link)(name, target)
    before = snapshot()
    assert main(["predict", "run", "photo.png", f"output={target}"]) == 2
    line = capsys.readouterr().err.strip()
    other = f"link-predictions{Path(name).suffix}" if link else f"{Path(name).stem}-predictions{Path(name).suffix}"
    assert line.endswith(f"is kept; name another file, such as output={other}")
    assert snapshot() == before
    assert main(["predict", "run", "photo.png", f"output={other}"]) == 0


@pytest.mark.parametrize(
    "name",
    ["report.json", "config.yaml", "metrics.jsonl", "checkpoints/last.safetensors", "plots/curves.png", "split.npz"],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_predict_keeps_what_is_in_a_run(name: str, suffix: str, run: Path, capsys: Capture) -> None:
    (run / "plots").mkdir(exist_ok=True)
    (run / "plots/curves.png").write_bytes(Path("photo.png").read_bytes())
    os.symlink(run / name, f"link{suffix}")
    before = snapshot()
    assert main(["predict", "run", "photo.png", f"output=link{suffix}"]) == 2
    assert "name another file" in capsys.readouterr().err
    assert snapshot() == before


@pytest.mark.parametrize("name", ["report.json", "metrics.jsonl"])
def test_predict_does_not_become_a_runs_record(name: str, run: Path, capsys: Capture) -> None:
    (run / name).unlink()
    assert main(["predict", "run", "photo.png", f"output=run/{name}"]) == 2
    assert "the run's own record" in capsys.readouterr().err
    assert not (run / name).exists()


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "rows.jsonl"])
def test_predict_replaces_what_it_wrote_and_what_is_empty(name: str, run: Path) -> None:
    Path(name).touch()
    for topk in (3, 1, 10):
        assert main(["predict", "run", "photo.png", f"output={name}", f"topk={topk}"]) == 0
        assert is_own_file(Path(name))


CHANGES = {
    "a label": lambda text: text.replace('"label": "', '"label": "not ').replace("photo.png,", "photo.png,not "),
    "a row less": lambda text: "".join(text.splitlines(keepends=True)[:-1]),
    "a blank": lambda text: text[:-1] + " \n",
    "line ends": lambda text: text.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_predict_keeps_what_was_edited_since(name: str, change: str, run: Path, capsys: Capture) -> None:
    shutil.copy("photo.png", "other.png")
    words = ["predict", "run", "photo.png", "other.png", f"output={name}"]
    assert main(words) == 0
    Path(name).write_bytes(CHANGES[change](Path(name).read_text()).encode())
    before = snapshot()
    assert main(words) == 2
    assert "is not as predict wrote it there (edited or moved since), so it is kept; " in capsys.readouterr().err
    assert snapshot() == before
    assert main([*words, "overwrite=true"]) == 0
    assert main(words) == 0  # as it wrote it again


def test_predict_keeps_what_looks_like_its_own(run: Path, capsys: Capture) -> None:
    Path("rows.csv").write_text("path,label,probability\nphoto.png,3,0.9\n")
    assert main(["predict", "run", "photo.png", "output=rows.csv"]) == 2
    assert "type overwrite=true to replace it" in capsys.readouterr().err
    Path("labels.csv").write_text(TABLES["labels.csv"])
    assert main(["predict", "run", "photo.png", "output=labels.csv", "overwrite=true"]) == 2  # never predict's


def test_the_probability_of_the_positive_class_may_be_a_column() -> None:
    for header, is_own in (("path,label,probability,probability_sick", True), ("path,label,probability,score", False)):
        Path("rows.csv").write_text(f"{header}\na.png,sick,0.9,0.9\n")
        assert is_own_file(Path("rows.csv")) == is_own


FOREIGN = {
    "report.json": b'{"split": "mine"}',
    "predictions.npz": b"mine",
    "confusion_matrix.npz": b"mine",
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("folder", ["results", "run/evaluations/digits-test"])
def test_evaluate_keeps_files_of_the_users(name: str, folder: str, run: Path, capsys: Capture) -> None:
    Path(folder).mkdir(parents=True)
    Path(folder, name).write_bytes(FOREIGN[name])
    words = ["output=results"] if folder == "results" else []
    before = snapshot()
    assert main(["evaluate", "run", *words]) == 2
    assert f"{name} exists and is not a file that evaluate wrote, so it is kept" in capsys.readouterr().err
    assert snapshot() == before


@pytest.mark.parametrize("gone", [None, "config.yaml"])
def test_evaluate_never_writes_into_a_run_or_a_sweep(gone: str | None, run: Path, capsys: Capture) -> None:
    shutil.copytree(run, "old")
    if gone:
        Path("old", gone).unlink()
    Path("sweep").mkdir()
    Path("sweep/sweep.json").write_text('{"jobs": []}')
    before = snapshot()
    for folder in ("old", "sweep"):
        assert main(["evaluate", "run", f"output={folder}"]) == 2
        assert "name another folder" in capsys.readouterr().err
    assert snapshot() == before


def test_each_evaluation_has_its_own_folder(run: Path) -> None:
    small = ["dataset.test_limit=20"]
    kinds = {
        "digits-test": [],
        "digits-val": ["split=val"],
        "digits-test-tta-flip": ["tta=flip"],
        "digits-test-tta-shift": ["tta=shift"],
        "digits-test-fgsm": ["attack=fgsm"],
        "digits-test-tta-flip-pgd": ["tta=flip", "attack=pgd", "attack.steps=1"],
    }
    for count, words in enumerate(kinds.values(), start=1):
        assert main(["evaluate", "run", *words, *(small if "split=val" not in words else [])]) == 0
        assert len(list((run / "evaluations").iterdir())) == count
    assert {path.name for path in (run / "evaluations").iterdir()} == set(kinds)
    report = json.loads((run / "evaluations/digits-test-tta-flip-pgd/report.json").read_text())
    assert (report["tta"], report["attack"]["name"]) == ("flip", "pgd")
    assert main(["evaluate", "run", *small]) == 0  # its own again
    assert len(list((run / "evaluations").iterdir())) == len(kinds)


def test_a_folder_with_a_file_called_like_one_of_ours_is_not_a_new_runs(capsys: Capture) -> None:
    Path("mine").mkdir()
    np.savez("mine/split.npz", fold=[1, 2])
    before = snapshot()
    for words in (["run_dir=mine"], ["-m", "seed=0,1", "sweep_dir=mine"]):
        assert main(["train", "model=linear", *words]) == 2
        assert "name a new folder" in capsys.readouterr().err
    assert snapshot() == before
