"""Two classes: the positive one, its threshold and its curves; and calibrated probabilities."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference

import imgcls
from imgcls import metrics
from imgcls.checkpoints import format as checkpoint_format
from imgcls.cli.app import main
from imgcls.data.datasets.digits import digits
from tests.conftest import DRAWN

Capture = pytest.CaptureFixture[str]
TWO = ("dataset.classes=[3,8]", "dataset.limit=null", "dataset.test_limit=null", "dataset.val_fraction=0.3")
WEAK = ("model=linear", "epochs=1", "optimizer.lr=0.001")  # a model that makes mistakes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on threes (positive) and eights, with its plots."""
    run = tmp_path_factory.mktemp("two") / "run"
    chosen = {word.partition("=")[0] for word in (*TWO, *WEAK)}
    words = [word for word in DRAWN if word.partition("=")[0] not in chosen]
    assert main(["train", *words, *TWO, *WEAK, "dataset.positive=3", f"run_dir={run}", "tensorboard=false"]) == 0
    return run


@pytest.fixture
def run(made: Path) -> str:
    """A copy of the run as ./run."""
    return shutil.copytree(made, "run")


def report_of(folder: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "report.json").read_text())
    return found


def scores_of(folder: str | Path) -> tuple[Any, Any]:
    """Probabilities of the threes, and which images are threes."""
    with np.load(Path(folder, "predictions.npz")) as file:
        column = file["classes"].tolist().index("3")
        return file["probabilities"][:, column], file["labels"] == column


def evaluated(*words: str) -> dict[str, Any]:
    assert main(["evaluate", "run", *words, "output=out"]) == 0
    return report_of("out")


def test_the_report_says_what_the_threshold_does(run: str) -> None:
    report, (scores, is_own) = report_of(run), scores_of(run)
    taken = scores >= report["threshold"]
    positive = report["positive"]
    assert positive["class"] == "3"
    assert positive["precision"] == pytest.approx(reference.precision_score(is_own, taken), abs=1e-9)
    assert positive["recall"] == pytest.approx(reference.recall_score(is_own, taken), abs=1e-9)
    assert report["roc_auc"] == pytest.approx(reference.roc_auc_score(is_own, scores), abs=1e-6)
    assert report == {**evaluated(), **{key: report[key] for key in ("train_seconds", "checkpoint")}}


def test_the_threshold_is_the_best_on_validation_by_f1_and_lies_in_the_checkpoint(run: str) -> None:
    report = evaluated("split=val")
    scores, is_own = scores_of("out")
    every = [reference.f1_score(is_own, scores >= score) for score in np.unique(scores)]
    assert reference.f1_score(is_own, scores >= report["threshold"]) == pytest.approx(max(every), abs=1e-12)
    meta = checkpoint_format.read(Path(run, "checkpoints", checkpoint_format.BEST)).meta
    assert (meta["positive"], meta["threshold"]) == ("3", report["threshold"])
    assert meta["temperature"] == report["temperature"] != 1


@pytest.mark.parametrize("word", ["at_recall=0.95", "at_precision=0.9"])
def test_a_wanted_recall_or_precision_holds_on_validation(word: str, run: str, capsys: Capture) -> None:
    key, _, wanted = word.partition("=")
    assert main(["evaluate", run, "split=val", word]) == 0
    folder = Path(run, "evaluations", f"digits-val-{key.replace('_', '-')}-{wanted}")
    report = report_of(folder)
    assert report["positive"][key.removeprefix("at_")] >= float(wanted)
    assert report[key] == float(wanted)
    assert f"3 from {report['threshold']:.3g}: precision" in capsys.readouterr().out
    again = evaluated(word)  # on test, with the threshold of validation
    assert again["threshold"] == report["threshold"]
    assert again["n"] != report["n"]


def test_the_folder_names_all_that_was_asked_for_in_order(run: str) -> None:
    assert main(["evaluate", run, "at_recall=0.5", "calibrated=true", "tta=flip", "attack=fgsm"]) == 0
    (folder,) = Path(run, "evaluations").iterdir()
    assert folder.name == "digits-test-tta-flip-fgsm-calibrated-at-recall-0.5"


def test_calibrated_probabilities_are_the_softmax_at_the_temperature(run: str) -> None:
    plain, report = report_of(run), evaluated("calibrated=true")
    before, after = (np.float64(scores_of(folder)[0]) for folder in (run, "out"))
    odds = ((1 - before) / before) ** (1 / report["temperature"])
    assert after == pytest.approx(1 / (1 + odds), abs=1e-5)
    assert report["calibrated"] is True
    for key in ("ece", "ece_calibrated", "temperature", "accuracy"):
        assert report[key] == plain[key]
    for name in ("precision", "recall", "f1"):
        assert report["positive"][name] == plain["positive"][name]
    assert report["loss"] != plain["loss"]


def test_calibration_helps_on_the_images_that_it_was_fitted_to(run: str) -> None:
    assert evaluated("split=val", "calibrated=true")["loss"] < evaluated("split=val")["loss"]


def test_the_curves_are_drawn(made: Path) -> None:
    for name in ("roc_curve.png", "precision_recall_curve.png"):
        with Image.open(made / "plots" / name) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
            assert len(np.unique(pixels, axis=0)) > 20


def test_ten_classes_have_neither_threshold_nor_curves(linear_run: Path) -> None:
    report = report_of(linear_run)
    assert report["threshold"] is report["positive"] is None
    assert report["temperature"] > 0
    assert report["ece_calibrated"] >= 0


# --- predict ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos() -> str:
    """Threes and eights as files."""
    train = digits().train
    assert train.pixels is not None
    Path("photos").mkdir()
    for i in np.flatnonzero(np.isin(train.labels, (3, 8)))[:40]:
        Image.fromarray(train.pixels[i, :, :, 0]).save(f"photos/{i}.png")
    return "photos"


def predicted(capsys: Capture, *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["predict", "run", "photos", *words, "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_rows_have_the_probability_of_the_positive_class(run: str, photos: str, capsys: Capture) -> None:
    rows = predicted(capsys, "topk=2")
    for row in rows:
        assert list(row) == ["path", "label", "probability", "topk", "probability_3"]
        assert row["probability_3"] == next(top["probability"] for top in row["topk"] if top["label"] == "3")
        assert row["label"] == ("3" if row["probability_3"] > 0.5 else "8")
    for _ in range(2):  # the second time it is known as predict's own file
        assert main(["predict", run, photos, "topk=2", "output=rows.csv"]) == 0
    with open("rows.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["path", "label", "probability", "label_2", "probability_2", "probability_3"]
    assert [float(row["probability_3"]) for row in table] == [row["probability_3"] for row in rows]
    assert imgcls.load(run).predict([rows[0]["path"]])[0]["probability_3"] == pytest.approx(rows[0]["probability_3"])


@pytest.mark.parametrize("threshold", ["0", "0.6", "0.7", "1", "auto"])
def test_the_threshold_decides(threshold: str, run: str, photos: str, capsys: Capture) -> None:
    limit = report_of(run)["threshold"] if threshold == "auto" else float(threshold)
    rows = predicted(capsys, f"threshold={threshold}", "topk=2")
    for row in rows:
        assert row["label"] == ("3" if row["probability_3"] >= limit else "8")
        assert row["topk"][0] == {"label": row["label"], "probability": row["probability"]}
        assert sum(top["probability"] for top in row["topk"]) == pytest.approx(1, abs=1e-6)
    assert len({row["label"] for row in rows}) == (1 if threshold in "01" else 2)


def test_the_automatic_threshold_takes_the_same_images_calibrated(run: str, photos: str, capsys: Capture) -> None:
    plain, calibrated = (predicted(capsys, "threshold=auto", *more) for more in ((), ("calibrated=true",)))
    assert [row["label"] for row in plain] == [row["label"] for row in calibrated]
    assert [row["probability"] for row in plain] != [row["probability"] for row in calibrated]
    assert main(["predict", run, photos, "threshold=auto", "calibrated=true"]) == 0
    said = capsys.readouterr().err
    assert "3 from a probability of" in said
    assert "(auto: the best F1 on validation)" in said
    assert "calibrated with the temperature" in said


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "evaluate RUN at_recall=0.9 at_precision=0.9": "at_recall: at_precision chooses the threshold too; leave one",
    "evaluate RUN at_recall=95": "at_recall: must be above 0 and at most 1, got 95",
    "evaluate RUN dataset.positive=8": "dataset.positive: stored in the checkpoint with its threshold; leave it out",
    "evaluate TEN at_recall=0.9": "at_recall: needs a model of two classes; this one has 10",
    "predict TEN photos threshold=auto": "threshold: needs a model of two classes; this one has 10",
    "predict RUN photos threshold=1.5": "threshold: must be at least 0 and at most 1, got 1.5",
    "predict RUN photos threshold=best": "threshold: ",
    "predict RUN photos calibrated=yes": "calibrated: expected true or false, got 'yes'",
    "train dataset.positive=3": "dataset.positive: names one of two classes, but there are 10; leave it out",
    "train dataset.classes=[3,8] dataset.positive=9": "dataset.positive: unknown class '9' (classes: 3, 8)",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line(line: str, run: str, photos: str, linear_run: Path, capsys: Capture) -> None:
    words = [{"RUN": run, "TEN": str(linear_run)}.get(word, word) for word in line.split()]
    assert main(words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"imgcls: error: {MISTAKES[line]}")


def test_a_precision_out_of_reach_is_one_line(run: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that takes eights for threes more surely than threes."""
    softmax = metrics.softmax
    monkeypatch.setattr(metrics, "softmax", lambda logits: softmax(logits)[:, ::-1])
    assert main(["evaluate", run, "at_precision=0.99"]) == 2
    assert (
        "at_precision: 0.99 is out of reach on the 86 val images: the most" in capsys.readouterr().err.splitlines()[-1]
    )


def test_a_run_without_validation_has_no_threshold_and_no_temperature(photos: str, capsys: Capture) -> None:
    words = [word for word in DRAWN if not word.startswith(("dataset.", "epochs="))]
    own = ("dataset.classes=[3,8]", "dataset.val_fraction=0", "plots=false", "tensorboard=false", "run_dir=run")
    assert main(["train", *words, *WEAK, *own]) == 0
    assert "positive class: 8, the second of two (dataset.positive=3 for the other)" in capsys.readouterr().err
    assert report_of("run")["threshold"] is report_of("run")["temperature"] is None
    for word, said in {
        "at_recall=0.9": "at_recall: needs the run's validation images, but digits has no val split",
        "calibrated=true": "calibrated: the temperature is fitted on validation when a run saves its best checkpoint",
    }.items():
        assert main(["evaluate", "run", word]) == 2
        assert said in capsys.readouterr().err
    assert main(["predict", "run", photos, "threshold=auto"]) == 2
    assert "such as threshold=0.5" in capsys.readouterr().err


def test_a_threshold_is_chosen_on_the_runs_own_images_wherever_they_are(capsys: Capture) -> None:
    """Class folders that were moved after training, and the model on another folder."""
    train = digits().train
    assert train.pixels is not None
    for i in np.flatnonzero(np.isin(train.labels, (3, 8)))[:120]:
        folder = Path("before" if i % 3 else "other", str(train.labels[i]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(train.pixels[i, :, :, 0]).save(folder / f"{i}.png")
    more = ("epochs=2", "threads=1", "plots=false", "tensorboard=false", "dataset.val_fraction=0.4", "run_dir=run")
    assert main(["train", "dataset=./before", "model=linear", *more]) == 0
    here, other = evaluated("at_recall=0.8"), evaluated("at_recall=0.8", "dataset=./other")
    Path("before").rename("after")
    moved = evaluated("at_recall=0.8", "dataset.root=after")
    assert here["threshold"] == other["threshold"] == moved["threshold"]
    assert here["n"] == moved["n"] < other["n"] == sum(1 for _ in Path("other").rglob("*.png"))
