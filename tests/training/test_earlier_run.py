"""model.pretrained=RUN: the body, the head's rows of classes with the same name, and how images are seen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from imgcls.checkpoints import format as checkpoint_format
from imgcls.cli.app import main
from imgcls.cli.dispatch import _pinned
from imgcls.errors import ConfigError
from imgcls.runs.folder import best_checkpoint
from imgcls.sweeps import local as sweep
from imgcls.training.earlier_run import earlier_run
from tests.conftest import SMALL

Capture = pytest.CaptureFixture[str]
STILL = ["optimizer=sgd", "optimizer.lr=1e-30", "optimizer.weight_decay=0", *SMALL]  # weights stay as they began


def words(*classes: str, **keys: str) -> list[str]:
    """A run on these digits only."""
    named = ",".join(f"'{name}'" for name in classes)
    return ["train", f"dataset.classes=[{named}]", *STILL, *(f"{key.replace('__', '.')}={keys[key]}" for key in keys)]


def head(run: str) -> tuple[list[str], torch.Tensor]:
    found = best_checkpoint(run)
    return found.meta["classes"], found.tensors["model.classifier.fc3.weight"]


def photos(folder: str, *classes: str, count: int = 12, side: int = 20) -> Path:
    """Class folders of gray PNGs of more than 8 bits, of two shapes."""
    for number, name in enumerate(classes):
        Path(folder, name).mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng([number, i, side])
            pixels = rng.integers(0, 900, (side, side + i % 3), dtype=np.uint16)
            Image.fromarray(pixels).save(Path(folder, name, f"{i}.png"))
    return Path(folder)


def err_of(capsys: Capture) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_body_and_rows_of_the_same_classes_are_taken(lenet_run: Path, capsys: Capture) -> None:
    assert main(words("7", "2", model__pretrained=str(lenet_run), run_dir="b")) == 0
    assert f"from {lenet_run}: body and the head's rows of 2, 7; images seen as there" in err_of(capsys)
    before, after = best_checkpoint(str(lenet_run)), best_checkpoint("b")
    classes, rows = head("b")
    assert torch.equal(rows, before.tensors["model.classifier.fc3.weight"][[int(name) for name in classes]])
    assert torch.equal(after.tensors["model.features.conv1.weight"], before.tensors["model.features.conv1.weight"])
    assert after.meta["preprocessing"] == before.meta["preprocessing"]
    assert yaml.safe_load(Path("b/config.yaml").read_text())["model"]["name"] == "lenet"


def test_rows_of_new_classes_are_new(capsys: Capture) -> None:
    assert main(words("1", "2", "3", model="lenet", model__hidden="[9]", run_dir="a")) == 0
    capsys.readouterr()
    assert main(words("3", "8", "1", model__pretrained="a", run_dir="b", seed="5")) == 0
    assert "from a: body and the head's rows of 1, 3; new: 8; images seen as there" in err_of(capsys)
    found, old = best_checkpoint("b"), best_checkpoint("a")
    assert found.meta["classes"] == ["1", "3", "8"]
    assert old.meta["classes"] == ["1", "2", "3"]
    rows, before = (one.tensors["model.classifier.fc2.weight"] for one in (found, old))
    assert torch.equal(rows[:2], before[[0, 2]])
    assert not any(torch.equal(rows[2], row) for row in before)


def test_the_same_classes_keep_every_weight_and_the_average(capsys: Capture) -> None:
    assert main(["train", "dataset.classes=['1','2']", *SMALL, "model=linear", "ema=0.5", "run_dir=a"]) == 0
    capsys.readouterr()
    assert main(words("1", "2", model__pretrained="a/checkpoints/last.safetensors", run_dir="b")) == 0
    assert "from a/checkpoints/last.safetensors: all weights, of the same 2 classes" in err_of(capsys)
    last = checkpoint_format.read(Path("a/checkpoints/last.safetensors")).tensors
    assert torch.equal(best_checkpoint("b").tensors["model.1.weight"], last["ema.1.weight"])
    assert not torch.equal(last["model.1.weight"], last["ema.1.weight"])


def test_images_are_seen_as_before_unless_a_key_says_otherwise(capsys: Capture) -> None:
    photos("one", "cat", "dog")
    quick = ["epochs=1", "batch_size=8", "plots=false", "tensorboard=false", "threads=1", "model=linear"]
    seen = ["dataset.fit=pad", "dataset.crop_share=0.9", "dataset.background=black", "dataset.image_size=[10,12]"]
    assert main(["train", "dataset=./one", *quick, *seen, "run_dir=a"]) == 0
    photos("two", "dog", "cat", "bird", side=14)
    again = ["train", "dataset=./two", *quick[:-1], "model.pretrained=a"]
    assert main([*again, "run_dir=b"]) == 0
    before, after = (best_checkpoint(run).meta["preprocessing"] for run in ("a", "b"))
    assert before["depth"] is not None
    assert after == before
    assert "body and the head's rows of cat, dog; new: bird" in err_of(capsys)
    assert main([*again, "dataset.background=[1,2,3]", "dataset.fit=squash", "dataset.depth=[0,100]", "run_dir=c"]) == 0
    other = best_checkpoint("c").meta["preprocessing"]
    assert (other["background"], other["fit"], other["depth"]) == ([1, 2, 3], "squash", [0.0, 100.0])
    assert other["mean"] == before["mean"]


def test_a_run_says_what_the_earlier_one_was_trained_on(capsys: Capture) -> None:
    photos("one", "cat", "dog", count=20)
    quick = ["epochs=1", "batch_size=8", "plots=false", "tensorboard=false", "threads=1", "dataset.image_size=8"]
    assert main(["train", "dataset=./one", *quick, "model=linear", "run_dir=a"]) == 0
    again = ["train", "dataset=./one", *quick, "model.pretrained=a"]
    capsys.readouterr()
    assert main([*again, "run_dir=b"]) == 0
    assert "were used to train" not in err_of(capsys)
    assert main([*again, "dataset.split_seed=3", "run_dir=c"]) == 0
    assert "test images were used to train a: the accuracy will look too high" in err_of(capsys)
    shutil.copytree("one", "copy")
    assert main(["train", "dataset=./copy", *again[2:], "dataset.split_seed=3", "run_dir=d"]) == 0
    assert "were used to train a" in err_of(capsys)


def test_it_resumes_without_the_earlier_run(capsys: Capture) -> None:
    assert main(words("1", "2", model="lenet", run_dir="a")) == 0
    assert main(words("2", "3", model__pretrained="a", run_dir="whole")) == 0
    shutil.copytree("whole", "b")
    shutil.rmtree("a")
    capsys.readouterr()
    assert main(["train", "resume=b", "epochs=3"]) == 0
    assert "began from a" in err_of(capsys)
    assert best_checkpoint("b").meta["preprocessing"] == best_checkpoint("whole").meta["preprocessing"]
    Path("empty").mkdir()
    shutil.copy("b/config.yaml", "empty")
    shutil.copy("b/split.npz", "empty")
    assert main(["train", "resume=empty"]) == 3  # before its first checkpoint it needs the weights
    assert "model.pretrained: no such run or file: " in err_of(capsys)


@pytest.mark.parametrize(
    ("given", "code", "needle"),
    [
        (["model=mlp"], 2, "model: mlp cannot go on from {run}, whose model is lenet; leave model out"),
        (
            ["model=lenet", "model.dropout=0.5"],
            2,
            "model.dropout is 0.5 here, but 0.0 in {run}; leave model=lenet out to take its parameters from that run",
        ),
        (
            ["dataset.channels=3"],
            2,
            "do not fit (features.conv1.weight is [6, 3, 5, 5] here, [6, 1, 5, 5] there); leave model",
        ),
        (["model.hidden=[7,5]"], 2, "do not fit (classifier.fc1.weight is [7, "),
        (["model.hidden=[]"], 2, "do not fit (classifier.fc1.weight is [10, "),
        (["model.widht=3"], 2, "unknown key 'model.widht'"),
        (["model.pretrained=./nothing"], 3, "model.pretrained: no such run or file: "),
        (["model.pretrained=."], 3, "not a run folder (there is no checkpoints/best.safetensors in it)"),
        (["model.pretrained=latest"], 3, "there is no run under "),
    ],
)
def test_another_model_is_one_line(given: list[str], code: int, needle: str, lenet_run: Path, capsys: Capture) -> None:
    run = [] if any("pretrained" in word for word in given) else [f"model.pretrained={lenet_run}"]
    assert main(["train", *given, *run, *SMALL]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert needle.format(run=lenet_run) in lines[-1]
    assert not Path("outputs").exists()


def test_own_code_is_imported_only_if_it_is_named_again(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from torch import nn\n"
        "def net(num_classes, width=3):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, num_classes))\n"
    )
    Path("nets_to_go_on.py").write_text(text)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    own = "nets_to_go_on:net"
    assert main(words("1", "2", model__name=own, model__width="5", run_dir="a")) == 0
    assert main(words("1", "3", model__pretrained="a", run_dir="b")) == 2
    assert f"a is of your own code; if you trust it, add model.name={own}" in err_of(capsys)
    assert main(words("1", "3", model__pretrained="a", model__name=own, run_dir="b")) == 0
    assert best_checkpoint("b").meta["model"] == {"name": own, "width": 5}


def test_the_jobs_of_a_sweep_go_on_from_the_same_run(linear_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(linear_run, "outputs/one")
    jobs: list[list[str]] = []
    monkeypatch.setattr(sweep.Launcher, "run", lambda _, job: jobs.append([word.lower() for word in job.plan.words]))
    main(["train", "-m", "model.pretrained=latest,false", "seed=0,1"])
    starts = ["model.pretrained=outputs/one", "model.pretrained=false"]
    assert jobs == [[start, f"seed={seed}"] for start in starts for seed in (0, 1)]
    assert main(["train", "-m", "model=mlp", "model.pretrained=latest", "seed=0,1"]) == 2
    assert len(jobs) == 4


def test_latest_is_the_run_that_is_the_latest_when_the_command_is_typed() -> None:
    for number, name in enumerate(("one", "two")):
        config = Path("outputs", name, "config.yaml")
        config.parent.mkdir(parents=True)
        config.write_text("")
        os.utime(config, (number, number))
    assert _pinned("model.pretrained=false,latest") == "model.pretrained=false,outputs/two"
    assert _pinned("resume=latest") == "resume=latest"


def test_a_model_without_a_head_goes_on_with_the_same_classes_only(linear_run: Path) -> None:
    run = earlier_run(str(linear_run), best_checkpoint(str(linear_run)).meta)
    with pytest.raises(ConfigError, match="no layer with an output for each class, so it can go on from"):
        run.load(torch.nn.Module(), ("a", "b"))
