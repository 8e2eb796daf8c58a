"""imgcls reproduce: a run once more, bit for bit; and what a run stores about itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from imgcls import files
from imgcls.checkpoints import format as checkpoint_format
from imgcls.cli.app import main
from imgcls.runs import provenance
from tests.conftest import QUIET, SMALL

Capture = pytest.CaptureFixture[str]
BEST = Path("checkpoints", checkpoint_format.BEST)


@pytest.fixture
def run(linear_run: Path) -> Path:
    """A finished run, to be changed."""
    shutil.copytree(linear_run, "run")
    return Path("run")


def rewrite(path: Path, change: Callable[[checkpoint_format.Checkpoint], checkpoint_format.Checkpoint]) -> None:
    """Replace a checkpoint by a changed one that is whole."""
    new = change(checkpoint_format.read(path))
    meta = {key: value for key, value in new.meta.items() if key not in ("format", "sha256")}
    files.write_whole(path, *checkpoint_format.encode(new.tensors, meta))


def with_chosen(path: Path, **chosen: Any) -> None:
    rewrite(path, lambda one: replace(one, meta={**one.meta, "chosen": {**one.meta["chosen"], **chosen}}))


def reproduced(capsys: Capture, *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert main(["reproduce", *words, "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    for key in ("git_commit", "git_dirty"):  # the shared run may be trained in another folder
        found["environment_differs"].pop(key, None)
    return found


# --- the same --------------------------------------------------------------------------------------------------------


def test_a_run_comes_out_the_same(run: Path, capsys: Capture) -> None:
    found = reproduced(capsys, "run", "run_dir=again")
    assert (found["run"], found["reproduction"]) == ("run", "again")
    assert (found["weights_match"], found["metrics_match"], found["environment_differs"]) == (True, True, {})
    assert found["tensors"] == 4  # weight and bias, best and last
    assert torch.equal(*(checkpoint_format.read(one / BEST).tensors["model.1.weight"] for one in (run, Path("again"))))


def test_the_text_says_so_and_a_checkpoint_or_latest_may_be_named(run: Path, capsys: Capture) -> None:
    shutil.move(run, "outputs/old")
    assert main(["reproduce", "outputs/old/checkpoints/best.safetensors"]) == 0
    out, err = capsys.readouterr()
    assert "weights  the same to the last bit: 4 tensors" in out
    assert "metrics  the same in every epoch and in the report" in out
    assert "run      outputs/linear-digits-1" in err
    assert main(["reproduce", "latest", "run_dir=again", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "outputs/linear-digits-1"


def test_what_auto_became_counts_not_what_it_would_become(run: Path, capsys: Capture) -> None:
    table = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**table, "threads": None}))
    for name in (checkpoint_format.BEST, checkpoint_format.LAST):
        with_chosen(run / "checkpoints" / name, loader="stream", threads=1)
    found = reproduced(capsys, "run", "run_dir=again")
    assert (found["weights_match"], found["metrics_match"], found["environment_differs"]) == (True, True, {})
    assert yaml.safe_load(Path("again/config.yaml").read_text())["loader"] == "stream"


def photos() -> None:
    for i in range(40):
        path = Path("photos", ("cat", "dog")[i % 2], f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def test_tables_of_changes_are_those_that_the_run_stored(capsys: Capture) -> None:
    photos()
    Path("bad.csv").write_text("path\ncat/0.png\n")
    words = ["train", "dataset=./photos", "model=linear", "epochs=1", *QUIET, "threads=1", "dataset.exclude=bad.csv"]
    assert main([*words, "run_dir=run"]) == 0
    Path("bad.csv").unlink()
    found = reproduced(capsys, "run", "run_dir=again")
    assert (found["weights_match"], found["metrics_match"]) == (True, True)


# --- not the same ----------------------------------------------------------------------------------------------------


def test_another_seed_is_not_the_same(run: Path, capsys: Capture) -> None:
    table = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**table, "seed": 1}))
    found = reproduced(capsys, "run", "run_dir=again", code=1)
    assert (found["weights_match"], found["metrics_match"]) == (False, False)
    assert found["largest_difference"] > 0
    assert found["metrics_differ"]["epoch 1: train_loss"].keys() == {"before", "now"}
    assert main(["reproduce", "run"]) == 1
    out, err = capsys.readouterr()
    assert "weights  different: 4 of 4 tensors, by " in out
    assert "epoch 1: train_loss was 2." in out
    assert err.endswith("imgcls: error: outputs/linear-digits-1 is not the same as run\n")


def test_a_single_bit_is_seen_and_what_may_be_behind_it_is_named(run: Path, capsys: Capture) -> None:
    def flip(one: checkpoint_format.Checkpoint) -> checkpoint_format.Checkpoint:
        weights = one.tensors["model.1.weight"].clone()
        weights[0, 0] = torch.nextafter(weights[0, 0], torch.tensor(9.0))
        meta = {**one.meta, "versions": {**one.meta["versions"], "torch": "1.0"}}
        return replace(one, tensors={**one.tensors, "model.1.weight": weights}, meta=meta)

    rewrite(run / BEST, flip)
    found = reproduced(capsys, "run", "run_dir=again", code=1)
    assert (found["weights_match"], found["metrics_match"], found["tensors_differ"]) == (False, True, 1)
    assert found["environment_differs"] == {"versions.torch": {"before": "1.0", "now": torch.__version__}}


def test_a_figure_of_the_report_is_seen(run: Path, capsys: Capture) -> None:
    report = json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps({**report, "accuracy": 0.5}))
    found = reproduced(capsys, "run", "run_dir=again", code=1)
    assert (found["weights_match"], found["metrics_match"]) == (True, False)
    assert found["metrics_differ"] == {"report: accuracy": {"before": 0.5, "now": report["accuracy"]}}


def test_a_run_that_was_trained_on_is_not_one_run(run: Path, capsys: Capture) -> None:
    assert main(["train", "resume=run", "epochs=3"]) == 0
    found = reproduced(capsys, "run", "run_dir=again", code=1)
    assert found["environment_differs"] == {
        "epochs asked for, one after the other": {"before": [2, 3], "now": [3]},
    }


# --- refused ---------------------------------------------------------------------------------------------------------


def refused(capsys: Capture, *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["reproduce", *words])
    out, err = capsys.readouterr()
    assert (out, err.count("imgcls: error:"), "Traceback" in err) == ("", 1, False)
    return code, err


def test_what_cannot_be_run_again_is_refused_before_training(run: Path, capsys: Capture) -> None:
    assert refused(capsys, "nowhere")[0] == 3
    code, err = refused(capsys, "run", "run_dir=run")
    assert code == 2
    assert "run_dir: run is not empty" in err
    with_chosen(run / BEST, device="cuda")
    code, err = refused(capsys, "run")
    assert code == 2
    assert "run was trained on cuda, which is not here" in err
    assert "device=cpu runs it all the same" in err
    assert main(["reproduce", "run", "device=cpu", "run_dir=again"]) == 0
    (run / "report.json").unlink()
    code, err = refused(capsys, "run")
    assert code == 3
    assert "run is not finished; finish it first: imgcls train resume=run" in err


def test_other_images_are_refused_before_training(capsys: Capture) -> None:
    photos()
    assert main(["train", "dataset=./photos", "model=linear", "epochs=1", *QUIET, "threads=1", "run_dir=run"]) == 0
    shutil.copy("photos/dog/1.png", "photos/dog/more.png")
    code, err = refused(capsys, "run", "run_dir=again")
    assert code == 3
    assert "the data set has changed since run was trained" in err
    assert not Path("again").exists()


def test_the_users_own_code_must_be_named_again(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("net_again.py").write_text(
        "import torch\ndef net(num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert main(["train", "model.name=net_again:net", *SMALL, "run_dir=run"]) == 0
    code, err = refused(capsys, "run")
    assert code == 2
    assert "model.name=net_again:net" in err
    assert reproduced(capsys, "run", "model.name=net_again:net", "run_dir=again")["weights_match"]


# --- provenance.json -------------------------------------------------------------------------------------------------


def git(*words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)


def test_a_run_stores_what_it_was_made_with(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    git("init", "-q")
    Path("code.py").write_text("1\n")
    git("add", "code.py")
    git("commit", "-qm", "first")
    monkeypatch.setattr(sys, "argv", ["/bin/imgcls", "train", "run_dir=a b"])
    assert main(["train", *SMALL, "model=linear", "run_dir=run"]) == 0
    first = provenance.read_provenance(Path("run"))
    assert first["command"] == "imgcls train 'run_dir=a b'"
    assert first["git_commit"] == checkpoint_format.read(Path("run") / BEST).meta["git_commit"]
    assert len(first["git_commit"]) == 40
    assert (first["git_dirty"], first["epochs"], first["processes"], first["resumed"]) == (False, 2, 1, [])
    assert first["versions"] == provenance.versions()
    Path("code.py").write_text("2\n")
    monkeypatch.setattr(sys, "argv", ["/x/imgcls/__main__.py", "train", "resume=run"])
    assert main(["train", "resume=run", "epochs=3"]) == 0
    second = provenance.read_provenance(Path("run"))
    (resumed,) = second.pop("resumed")
    assert second == {key: value for key, value in first.items() if key != "resumed"}
    assert (resumed["command"], resumed["git_dirty"], resumed["epochs"]) == ("imgcls train resume=run", True, 3)
    assert resumed["step"] == 12


def test_the_fingerprint_of_the_data_is_that_of_the_images_not_of_the_run(run: Path) -> None:
    before = provenance.read_provenance(run)["data_fingerprint"]
    assert len(before) == 64
    words = [word for word in SMALL if not word.startswith(("dataset.limit", "epochs"))]
    for name, more in (("same", ("dataset.limit=200", "seed=5")), ("other", ("dataset.limit=199",))):
        assert main(["train", *words, *more, "epochs=1", "model=linear", f"run_dir={name}"]) == 0
        found = provenance.read_provenance(Path(name))["data_fingerprint"]
        assert (found == before) == (name == "same")


def test_without_git_and_in_another_program_there_is_less_to_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["notebook.py", "a b"])
    assert provenance.git_state() == {"git_commit": None, "git_dirty": None}
    assert provenance.command() == "notebook.py 'a b'"
    assert provenance.read_provenance(Path.cwd()) == {}
