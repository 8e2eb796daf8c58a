"""Runs whose learning rate auto chose: said, stored, kept when they are resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from imgcls.checkpoints.format import LAST, read
from imgcls.cli.app import main
from imgcls.config.schema import TrainConfig
from imgcls.optim import automatic
from imgcls.optim.automatic import Row
from imgcls.runtime.session import session
from imgcls.training.builder import Run, build
from imgcls.training.earlier_run import settled
from imgcls.training.spec import RunSpec
from tests.conftest import SMALL

Capture = pytest.CaptureFixture[str]
FEW = [word for word in SMALL if not word.startswith("batch_size")]
WORDS = ["train", *SMALL, "model=linear", "run_dir=run"]
OWN = "model.name=my_net:Net"
BIG = ["train", *FEW, OWN, "dataset.image_size=66", "batch_size=128", "run_dir=run"]  # as photos are


def stored() -> dict[str, Any]:
    """The learning rate, as each file of the run has it."""
    config, report = (Path("run", name).read_text() for name in ("config.yaml", "report.json"))
    meta = read(Path("run/checkpoints", LAST)).meta
    chosen = {"report": json.loads(report)["chosen"]["lr"], "checkpoint": meta["chosen"]["lr"]}
    return {"config": yaml.safe_load(config)["optimizer"]["lr"], "its": meta["config"]["optimizer"]["lr"], **chosen}


def said(capsys: Capture) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture(autouse=True)
def _net(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net of the user's own, behind OWN."""
    Path("my_net.py").write_text(
        "from torch import nn\n"
        "def Net(num_classes): return nn.Sequential(nn.AvgPool2d(33), nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))


def built(config: TrainConfig) -> Run:
    with session("cpu", "fp32", 1) as runtime:
        return build(config, RunSpec.from_config(config), runtime, {})


@pytest.mark.parametrize(
    ("words", "rate", "why"),
    [
        (WORDS, 0.005, "adamw, images of up to 64 pixels"),
        ([*WORDS, "optimizer=sgd"], 0.05, "sgd, images of up to 64 pixels"),
        (BIG, 0.002, "adamw, a net from scratch: 0.001 at batch 32"),
        ([*BIG, "optimizer=adam"], 0.0012, "adam takes 0.6 times adamw's, a net from scratch: 0.001 at batch 32"),
    ],
)
def test_the_rate_is_said_and_stored(words: list[str], rate: float, why: str, capsys: Capture) -> None:
    assert main(words) == 0
    text = said(capsys)
    assert f"; {dict(word.split('=') for word in words[1:]).get('optimizer', 'adamw')} lr {rate:g}, onecycle" in text
    assert f" lr {rate:g} (auto: {why}) " in text
    assert set(stored().values()) == {rate}
    rows = [json.loads(row) for row in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["lr"] < rate


def test_a_given_rate_is_taken_as_it_is(capsys: Capture) -> None:
    assert main([*WORDS, "optimizer.lr=1/8"]) == 0
    assert "(auto: adamw" not in said(capsys)
    assert stored()["report"] == stored()["checkpoint"]


def test_a_resumed_run_keeps_its_rate(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Though the table is another one now."""
    assert main(BIG) == 0
    monkeypatch.setattr(automatic, "SCRATCH", Row("another net", adamw=0.3, sgd=0.3))
    capsys.readouterr()
    assert main(["train", "resume=run", OWN, "epochs=3", "optimizer.lr=auto"]) == 0
    assert "adamw lr 0.002, onecycle" in said(capsys)
    assert set(stored().values()) == {0.002}
    assert main(["train", "resume=run", "optimizer.lr=0.1"]) == 2
    assert "optimizer.lr is 0.002 in run and cannot become 0.1 on resume" in said(capsys)


def test_a_stored_auto_is_damage(capsys: Capture) -> None:
    """It became a number when the run began."""
    assert main(WORDS) == 0
    path = Path("run/config.yaml")
    path.write_text(path.read_text().replace("lr: 0.005\n", "lr: auto\n"))
    assert main(["train", "resume=run"]) == 3
    assert "config.yaml: damaged (optimizer.lr: expected a number, got 'auto')" in said(capsys)


def test_micro_batches_are_one_batch(config: Any) -> None:
    one, other = (built(config(OWN, "dataset.image_size=66", f"accumulate={n}")) for n in (1, 4))
    assert one.recipe.base_lrs == other.recipe.base_lrs == (0.001, 0.001)


def test_an_earlier_run_is_weights(config: Any, linear_run: Path) -> None:
    run = built(settled(config(f"model.pretrained={linear_run}")))
    assert run.rate_why.startswith("adamw, a net from weights: ")
    assert run.recipe.base_lrs[0] == automatic.WEIGHTS.adamw


def test_a_users_own_optimizer_keeps_its_own_key(config: Any) -> None:
    Path("my_rates.py").write_text(
        "import torch\ndef auto(groups, lr: str = 'auto'):\n    return torch.optim.SGD(groups, lr={'auto': 7.0}[lr])\n"
    )
    for words, lr in ((("optimizer.lr=auto",), "auto"), ((), None)):
        run = built(config("model=linear", "optimizer.name=my_rates:auto", *words))
        assert (run.recipe.base_lrs[0], run.rate_why, run.chosen["lr"]) == (7.0, "", lr)


def test_muons_rate_for_the_rest_stays_a_number(config: Any, capsys: Capture) -> None:
    assert built(config("model=mlp", "optimizer=muon")).recipe.base_lrs == (0.02, 0.003, 0.003)
    assert main(["train", "optimizer=muon", "optimizer.adamw_lr=auto"]) == 2
    assert "optimizer.adamw_lr: expected a number, got 'auto'" in said(capsys)
