"""imgcls compare: which question is answered, what is compared, what is refused."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy import stats

from imgcls.cli.app import main
from imgcls.metrics import wilson

Capture = pytest.CaptureFixture[str]
Make = Callable[..., str]
COUNT = 120


@pytest.fixture
def make(linear_run: Path) -> Make:
    """A function that makes a run's folder of fabricated test results: right or wrong by ``correct``, (N,)."""
    table = yaml.safe_load((linear_run / "config.yaml").read_text())
    report = json.loads((linear_run / "report.json").read_text())

    def run(name: str, correct: Any, *, seed: int = 0, ids: Any = None, split: str = "test", **settings: Any) -> str:
        folder = Path(name)
        folder.mkdir(parents=True)
        config = {**table, "seed": seed, "run_dir": name}
        for key, value in settings.items():
            group, _, inner = key.partition("__")
            config[group] = {**config[group], inner: value} if inner else value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "report.json").write_text(json.dumps({**report, "split": split}))
        write_predictions(folder, np.asarray(correct, bool), ids)
        return name

    return run


def write_predictions(folder: Path, correct: NDArray[np.bool_], ids: Any = None, *, classes: str = "abc") -> None:
    ids = np.arange(len(correct)) if ids is None else np.asarray(ids)
    labels = (ids % 3 if ids.dtype.kind == "i" else np.arange(len(ids)) % 3).astype(np.int64)
    probabilities = np.eye(3, dtype=np.float32)[np.where(correct, labels, (labels + 1) % 3)]
    key = "index" if ids.dtype.kind == "i" else "path"
    arrays: dict[str, Any] = {
        "labels": labels,
        "probabilities": probabilities,
        key: ids,
        "classes": np.array([*classes]),
    }
    np.savez(folder / "predictions.npz", **arrays)


def draw(seed: int, chance: float = 0.8) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(COUNT) < chance


def result(capsys: Capture, *words: str) -> Any:
    capsys.readouterr()
    assert main(["compare", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# --- the two questions -----------------------------------------------------------------------------------------------


def test_two_runs_are_two_checkpoints(make: Make, capsys: Capture) -> None:
    a, b = draw(1, 0.9), draw(2, 0.7)
    found = result(capsys, make("a", a), make("b", b, seed=3, optimizer__lr=0.5))
    assert found["question"] == "checkpoints"
    first, second = found["runs"]
    assert (first["name"], first["n"], first["seeds"]) == ("a", COUNT, [0])
    assert second["seeds"] == [3]
    assert first["accuracy"] == pytest.approx(a.mean())
    assert first["ci95"] == pytest.approx(wilson(float(a.mean()), COUNT))
    (pair,) = found["pairs"]
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    assert (pair["a"], pair["b"], pair["only_a"], pair["only_b"]) == ("a", "b", only_a, only_b)
    assert pair["difference"] == pytest.approx(a.mean() - b.mean())
    assert pair["p_value"] == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, abs=1e-9)
    assert pair["ci95"][0] < pair["difference"] < pair["ci95"][1]
    assert pair["examples_b"] == np.flatnonzero(b & ~a)[:20].tolist()
    assert found["config_differs"] == {"optimizer.lr": {"a": 0.005, "b": 0.5}, "seed": {"a": 0, "b": 3}}


def test_runs_that_differ_in_the_seed_alone_are_recipes_paired_by_it(make: Make, capsys: Capture) -> None:
    runs = {lr: [draw(10 * i + int(10 * lr), 0.6 + lr / 2) for i in range(3)] for lr in (0.1, 0.5)}
    words = [make(f"{lr}-{i}", runs[lr][i], seed=i, optimizer__lr=lr) for i in (2, 0, 1) for lr in runs]
    found = result(capsys, *words)
    assert found["question"] == "recipes"
    assert [one["name"] for one in found["runs"]] == ["optimizer.lr=0.1", "optimizer.lr=0.5"]
    assert [one["seeds"] for one in found["runs"]] == [[0, 1, 2]] * 2
    assert found["runs"][0]["folders"] == ["0.1-0", "0.1-1", "0.1-2"]
    (pair,) = found["pairs"]
    a, b = ([run.mean() for run in runs[lr]] for lr in runs)
    assert pair["p_seeds"] == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=1e-9)
    assert pair["p_value"] == max(pair["p_seeds"], pair["p_images"])
    assert "paired t-test over 3 seeds" in pair["test"]
    gain = np.mean(runs[0.1], axis=0) - np.mean(runs[0.5], axis=0)
    assert (pair["only_a"], pair["only_b"]) == (int((gain > 1e-9).sum()), int((gain < -1e-9).sum()))
    assert found["config_differs"] == {"optimizer.lr": {"optimizer.lr=0.1": 0.1, "optimizer.lr=0.5": 0.5}}


def test_recipes_of_other_seeds_are_not_paired(make: Make, capsys: Capture) -> None:
    a = [make(f"a{i}", draw(i), seed=i) for i in range(2)]
    b = [make(f"b{i}", draw(50 + i), seed=i, model__name="mlp") for i in range(3)]
    found = result(capsys, *a, *b)
    assert [one["name"] for one in found["runs"]] == ["model=linear", "model=mlp"]
    accuracies = [draw(i).mean() for i in range(2)], [draw(50 + i).mean() for i in range(3)]
    expected: Any = stats.ttest_ind(*accuracies, equal_var=False)
    assert found["pairs"][0]["p_seeds"] == pytest.approx(expected.pvalue, abs=1e-9)


def test_one_run_of_a_recipe_is_no_recipe(make: Make, capsys: Capture) -> None:
    words = [make("a", draw(0)), make("b", draw(1), seed=1), make("c", draw(2), optimizer__lr=0.5)]
    found = result(capsys, *words)
    assert found["question"] == "checkpoints"
    assert [(one["a"], one["b"]) for one in found["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_keys_that_change_no_result_make_no_other_recipe(make: Make, capsys: Capture) -> None:
    a = [make(f"a{i}", draw(i), seed=i, plots=bool(i), checkpoint_every=i or None) for i in range(2)]
    b = [make(f"b{i}", draw(9 + i), seed=i, clip_grad=1.0) for i in range(2)]
    found = result(capsys, *a, *b)
    assert [one["name"] for one in found["runs"]] == ["clip_grad=null", "clip_grad=1.0"]


def test_a_copy_of_a_run_does_not_count_as_another_seed(make: Make, capsys: Capture) -> None:
    words = [make(f"{lr}-{i}", draw(i), seed=i, optimizer__lr=lr) for i in range(2) for lr in (0.1, 0.5)]
    shutil.copytree("0.1-0", "copy")
    assert main(["compare", *words, "copy", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "imgcls: warning: copy is a copy of 0.1-0 and is left out\n"
    assert json.loads(out)["runs"][0]["seeds"] == [0, 1]


# --- sweeps, evaluations ---------------------------------------------------------------------------------------------


def test_a_sweep_is_its_tested_jobs(make: Make, capsys: Capture) -> None:
    for i in range(2):
        make(f"sweep/{i}", draw(i), seed=i)
    Path("sweep/2").mkdir()
    Path("sweep/sweep.json").write_text("{}")
    assert main(["compare", "sweep/", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "imgcls: warning: sweep: jobs without test results are left out: 2\n"
    assert [one["name"] for one in json.loads(out)["runs"]] == ["sweep/0", "sweep/1"]


def test_two_sweeps_of_one_recipe_are_compared_as_two(make: Make, capsys: Capture) -> None:
    for sweep, first in (("before", 0), ("after", 5)):
        for i in range(3):
            make(f"{sweep}/{i}", draw(first + i), seed=first + i)
        Path(sweep, "sweep.json").write_text("{}")
    found = result(capsys, "before", "after")
    assert found["question"] == "recipes"
    assert [(one["name"], one["seeds"]) for one in found["runs"]] == [("before", [0, 1, 2]), ("after", [5, 6, 7])]
    assert found["config_differs"] == {}


def test_an_evaluation_has_the_configuration_of_its_run(linear_run: Path, capsys: Capture) -> None:
    shutil.copytree(linear_run, "run")
    assert main(["evaluate", "run", "tta=shift"]) == 0
    found = result(capsys, "run", "run/evaluations/digits-test-tta-shift")
    assert found["config_differs"] == {"tta": {"run": "none", "run/evaluations/digits-test-tta-shift": "shift"}}
    report = json.loads(Path("run/report.json").read_text())
    assert found["runs"][0]["accuracy"] == report["accuracy"]
    assert found["runs"][0]["ci95"] == report["accuracy_ci95"]


def test_latest_and_the_best_checkpoint_are_runs(linear_run: Path, make: Make, capsys: Capture) -> None:
    shutil.copytree(linear_run, "outputs/new")
    shutil.copytree(linear_run, "other")
    found = result(capsys, "latest", "other/checkpoints/best.safetensors")
    assert [one["name"] for one in found["runs"]] == ["outputs/new", "other/checkpoints/best.safetensors"]
    assert (found["pairs"][0]["difference"], found["pairs"][0]["p_value"], found["config_differs"]) == (0, 1, {})


# --- the images ------------------------------------------------------------------------------------------------------


def test_images_are_matched_by_name_not_by_place(make: Make, capsys: Capture) -> None:
    a, order = draw(3), np.random.default_rng(0).permutation(COUNT)
    found = result(capsys, make("a", a), make("b", a[order], seed=1, ids=order))
    assert (found["pairs"][0]["only_a"], found["pairs"][0]["only_b"]) == (0, 0)


def test_the_images_on_which_runs_disagree_are_listed(make: Make, capsys: Capture) -> None:
    paths = [f"=x/{i}.png" for i in range(COUNT)]
    a, b = draw(1), draw(2)
    words = [make("a", a, ids=paths), make("b", b, ids=paths), "output=list.csv"]
    assert main(["compare", *words]) == 0
    with open("list.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "true", "a", "b"]
    assert [row[0] for row in rows] == [f"'=x/{i}.png" for i in np.flatnonzero(a != b)]
    assert all((row[1] == row[2]) != (row[1] == row[3]) for row in rows)
    assert main(["compare", *words]) == 2
    assert "output: list.csv exists" in capsys.readouterr().err


def _other_labels(folder: Path) -> None:
    with np.load(folder / "predictions.npz") as file:
        arrays = dict(file)
    arrays["labels"][:2] = (arrays["labels"][:2] + 1) % 3
    np.savez(folder / "predictions.npz", **arrays)


def _split(folder: Path, sizes: int) -> None:
    np.savez(folder / "split.npz", **{"test": np.arange(3), "test.fingerprint": np.full(3, sizes)})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda b: write_predictions(b, draw(0)[:-1]), "120 and 119"),
        (lambda b: write_predictions(b, draw(0), np.arange(COUNT) + 6), "6 of 120 are of the first alone"),
        (lambda b: write_predictions(b, draw(0), [f"{i}.png" for i in range(COUNT)]), "numbered images and named ones"),
        (lambda b: write_predictions(b, draw(0), classes="abd"), "the classes a, b, c and a, b, d"),
        (_other_labels, "2 images have other labels"),
        (lambda b: (_split(Path("a"), 5), _split(b, 6)), "of the same names, but other files"),
        (
            lambda b: (b / "report.json").write_text((b / "report.json").read_text().replace("test", "val")),
            "test and val",
        ),
    ],
)
def test_other_test_sets_are_refused(make: Make, capsys: Capture, change: Callable[[Path], object], why: str) -> None:
    words = [make("a", draw(0)), make("b", draw(1))]
    result(capsys, *words)
    change(Path("b"))
    assert main(["compare", *words]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("imgcls: error: a and b were not tested on the same images: ")
    assert why in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["a"], 2, "compare needs two or more runs"),
        (["a", "a/"], 2, "a is given twice"),
        (["a", "b", "output=list.txt"], 2, "output: expected FILE.csv"),
        (["a", "nowhere"], 3, "no such run: nowhere"),
        (["a", "a/config.yaml"], 3, "give its folder"),
        (["a", "empty"], 3, "empty is neither a run, a sweep nor an evaluation"),
        (["a", "untested"], 3, "untested has no predictions.npz"),
        (["a", "damaged"], 3, "damaged: its test results are damaged"),
        (["a", "odd"], 3, "its arrays do not fit one another"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    make: Make, capsys: Capture, words: list[str], code: int, said: str
) -> None:
    for name in ("a", "b", "untested", "damaged", "odd"):
        make(name, draw(0))
    Path("empty").mkdir()
    Path("untested/predictions.npz").unlink()
    Path("damaged/predictions.npz").write_bytes(b"PK\3\4")
    np.savez("odd/predictions.npz", labels=np.arange(3), probabilities=np.eye(2), classes=["a"], index=np.arange(3))
    assert main(["compare", *words]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


# --- text, start-up --------------------------------------------------------------------------------------------------


def test_the_text_says_which_question_it_answers(make: Make, capsys: Capture) -> None:
    words = [make(f"{lr}-{i}", draw(i, 0.6 + lr / 2), seed=i, optimizer__lr=lr) for i in range(3) for lr in (0.1, 0.5)]
    assert main(["compare", *words]) == 0
    out = capsys.readouterr().out
    assert out.startswith("question which of these recipes is better")
    assert "0 to 2        optimizer.lr=0.1\n" in out
    assert "differs  optimizer.lr: 0.1 (1), 0.5 (2)" in out
    assert main(["compare", "0.1-0", "0.5-0"]) == 0
    assert "question which of these checkpoints is better" in (out := capsys.readouterr().out)
    assert "test     McNemar, exact" in out
    assert main(["compare", "0.1-0", "0.1-1"]) == 0
    assert "of one\n         recipe" in capsys.readouterr().out
    more = [make(f"more-{i}", draw(i), seed=i) for i in range(8)]
    assert main(["compare", *more]) == 0
    out = capsys.readouterr().out
    assert "... 7 of 28 pairs, those with the best; --json has all" in out
    assert max(map(len, out.splitlines())) <= 80


def test_other_versions_are_warned_of(make: Make, capsys: Capture) -> None:
    words = [make("a", draw(0)), make("b", draw(1))]
    Path("a/provenance.json").write_text(json.dumps({"git_commit": "1" * 40}))
    Path("b/provenance.json").write_text(json.dumps({"git_commit": "2" * 40}))
    assert main(["compare", *words]) == 0
    assert "different versions: git commit 111111111111, 222222222222" in capsys.readouterr().err


@pytest.mark.process
def test_neither_torch_nor_matplotlib_is_imported(make: Make) -> None:
    words = ["compare", make("a", draw(0)), make("b", draw(1))]
    code = (
        "import sys; from imgcls.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(', '.join({'torch', 'matplotlib', 'sklearn'} & set(sys.modules)) or code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
