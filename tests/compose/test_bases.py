"""Setting plain values on a kept base does what composing all of it with Hydra does: the same table or error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgcls.compose import bases
from imgcls.compose.composer import Composer
from imgcls.compose.hydra_config import Composed, compose_words
from imgcls.compose.overrides import read_all
from imgcls.config.options import as_yaml
from imgcls.config.schema import TrainConfig
from imgcls.errors import ConfigError
from imgcls.sweeps.plan import plan
from tests.cli.test_bad_inputs import EVERY

# fmt: off
VALUES = (
    "0", "-1", "+1", "1_000", "007", "1e-3", "1.5E+3", ".5", "5.", "1e400", "nan", "-INF", "9" * 50, "abc", "a-b",
    "a.b", "a/b", "--1", "0x1f", "null", "Null", "true", "FALSE", "auto", "'x'", '"x"', "'null'", "'1'", "'a,b'", "[]",
    "[1,2]", "[1, 'a', null]", "[[1],[2]]", "{a: 1}", "{a:{b:1}}", "${seed}", "'${seed}'", "[${seed}]", "\\${x}", "???",
    "'???'", "a b", "a=b", "a:b", "int(3)", "str([1])", "1,2", "range(1,3)", "é", "'é'", "$x", "%", "*", "1e", "e1",
    "_", "1-2", "- 1", "~", "a#b", "[???]", "{a: ???}", "[{a: 1}]",
)
OTHERS = [
    (), ("epochs=3", "seed=4", "optimizer.lr=0.1"), ("~model.num_classes",), ("~optimizer.lr",), ("~seed",), ("~nope",),
    ("epochs.deeper=1",), ("optimizer.lr.deeper=1",), ("model=mlp", "model.hidden.deeper=1"), ("zzz=1",),
    ("zzz.deep=1",),
    ("model=mlp", "model.hidden=[7]"), ("model=mlp", "model.hidden={a: 1}"), ("model.new=1",), ("model.new={a: 1}",),
    ("class_weights={a b: 2}",), ("class_weights.a=2",), ("model.name=my:Net", "model.width=3"), ("model.name=mlp",),
    ("dataset=./a b", "dataset.limit=3"), ("dataset=imagefolder",), ("dataset=imagefolder", "dataset.root=x"),
    ("dataset=./a.csv", "dataset.split=null"), ("seed=${epochs}", "epochs=3"), ("epochs=${seed}", "seed=${epochs}"),
    ("experiment=mnist_99",), ("experiment=mnist_99", "epochs=3"), ("experiment=mnist_99", "model=mlp", "seed=1"),
    ("experiment=mnist_99", "loss=focal"), ("experiment=null", "epochs=2"), ("~experiment",), ("resume=null",),
    ("sweep_dir=x", "seed=1"), ("_x=1",), ("a-b=1",), ("1.2=3",), ("null=1",), ("optimizer=sgd", "optimizer.lr=1"),
    ("augment=strong", "augment.erasing=0"), ("model=vgg16", "model.dropout=0.1"), ("model.x._target_=1",), ("seed=",),
]
# fmt: on
EACH = [
    (choice, f"{key}={VALUES[(5 * i + j) % len(VALUES)]}") for i, (choice, key) in enumerate(EVERY) for j in range(5)
]
CASES = OTHERS + EACH


def composed(words: tuple[str, ...], *, start: str = "train", **flags: str) -> str:
    """The table as YAML, so that its order counts too; or the error."""
    composer = Composer(**flags)
    try:
        return as_yaml(composer.table(read_all(words, composer.paths), start))
    except ConfigError as error:
        return f"{type(error).__name__}: {error}"


@pytest.fixture
def different(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function from cases to those in which the two ways differ."""

    def find(cases: list[tuple[str, ...]], **flags: str) -> list[tuple[tuple[str, ...], str, str]]:
        quick = [composed(words, **flags) for words in cases]
        with monkeypatch.context() as patch:
            patch.setattr(Composer, "_without_hydra", lambda *_: None)
            whole = [composed(words, **flags) for words in cases]
        return [three for three in zip(cases, quick, whole, strict=True) if three[1] != three[2]]

    return find


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The words of each time that Hydra composes a base; none is kept from before."""
    made: list[list[str]] = []

    def note(words: list[str], *rest: Any) -> Composed:
        made.append(list(words))
        return compose_words(words, *rest)

    monkeypatch.setattr(bases, "compose_words", note)
    monkeypatch.setattr(bases, "_kept", {})
    return made


def test_both_ways_agree_on_a_sample(different: Any) -> None:
    assert different(CASES[::31]) == []


@pytest.mark.slow
def test_both_ways_agree_on_every_key(different: Any) -> None:
    assert len(CASES) > 450
    assert different(CASES) == []


def test_both_ways_agree_on_the_other_commands(different: Any) -> None:
    for start in ("evaluate", "predict"):
        words = [("checkpoint=a b", "device=cpu"), ("threads=2",), ("checkpoint=a", "devce=cpu")]
        assert different(words, start=start) == []


def test_hydra_composes_once_for_the_same_choices(calls: list[list[str]]) -> None:
    for words in (("seed=1",), ("optimizer.lr=0.1", "epochs=3"), ("epoch=3",), ("run_dir=a b",), ("epochs=[1,2]",)):
        composed(words)
    assert calls == [[]]
    for words in (("model=mlp", "seed=1"), ("model.hidden=[3]", "model=mlp"), ("model.name=mlp",)):
        composed(words)
    assert calls == [[], ["model=mlp"]]


def test_a_table_can_be_changed_without_changing_the_next_one() -> None:
    composer = Composer()
    first = composer.table(read_all(["model=mlp"], composer.paths), "train")
    first["model"]["hidden"].append(3)
    first["model"]["width"] = 3
    again = composer.table(read_all(["model=mlp"], composer.paths), "train")
    assert again["model"]["hidden"] != first["model"]["hidden"]
    assert "width" not in again["model"]


def test_a_sweep_of_a_thousand_jobs_is_composed_once(calls: list[list[str]]) -> None:
    checked: list[TrainConfig] = []
    plans, _, _ = plan(Composer(), ["optimizer.lr=range(0.001,0.1,0.001)", "seed=range(0,10)"], checked.append)
    assert calls == [[]]
    assert len({one.digest for one in plans}) == len(plans) == len(checked) == 1000
    assert {config.seed for config in checked} == set(range(10))
    assert len({config.optimizer["lr"] for config in checked}) == 100


# --- the user's own --config-dir -------------------------------------------------------------------------------------


def write(name: str, text: str) -> None:
    Path("own", name).parent.mkdir(parents=True, exist_ok=True)
    Path("own", name).write_text(text)


def test_a_changed_file_of_a_config_dir_is_read_again(calls: list[list[str]]) -> None:
    write("model/mine.yaml", "name: mlp\nhidden: [3]\nactivation: relu\nbatch_norm: false\ndropout: 0.0\n")
    words = ("model=mine", "seed=1")
    assert "- 3" in composed(words, config_dir="own")
    assert composed(words, config_dir="own") == composed(words, config_dir="own")
    assert len(calls) == 1
    write("model/mine.yaml", "name: mlp\nhidden: [4]\nactivation: relu\nbatch_norm: false\ndropout: 0.0\n")
    assert "- 4" in composed(words, config_dir="own")
    Path("own/model/mine.yaml").unlink()
    assert "unknown 'mine'" in composed(words, config_dir="own")


def test_a_file_that_takes_the_place_of_ours_is_seen(calls: list[list[str]]) -> None:
    Path("own").mkdir()
    assert "name: digits" in composed(("seed=1",), config_dir="own")
    write("dataset/digits.yaml", "name: mnist\nroot: null\ndownload: true\n")
    assert "name: mnist" in composed(("seed=1",), config_dir="own")
    write("train.yaml", "defaults: [_self_]\nseed: 3\n")
    assert composed((), config_dir="own") == "experiment: null\nseed: 3\n".replace(
        "experiment: null\nseed: 3", "seed: 3\nexperiment: null"
    )
    assert len(calls) == 3


@pytest.mark.parametrize(
    "cases",
    [
        [("model=mine",), ("model=mine", "model.dropout=0.1", "epochs=3"), ("model=code",), ("model=variable",)],
        [("experiment=quick",), ("experiment=quick", "class_weights=auto"), ("experiment=quick", "class_weights.a=4")],
        [("zone=a",), ("zone=b",), ("zone.a=1",), ("experiment=quick", "model.freeze=false", "epochs=2")],
    ],
    ids=["model", "experiment", "group"],
)
def test_both_ways_agree_on_a_config_dir(cases: list[tuple[str, ...]], different: Any) -> None:
    write("model/mine.yaml", "name: mlp\nhidden: ['${epochs}']\nactivation: relu\nbatch_norm: false\ndropout: ???\n")
    write("model/code.yaml", "name: my:Net\nx: {_target_: os.system}\n")
    write("model/variable.yaml", "name: ${oc.env:HOME}\n")
    write(
        "experiment/quick.yaml", "# @package _global_\nepochs: 1\nmodel: {freeze: true}\nclass_weights: {a: 2, b: 3}\n"
    )
    write("zone/a.yaml", "x: 1\n")
    assert different(cases, config_dir="own") == []


def test_both_ways_agree_on_a_broken_file_of_a_config_dir(different: Any) -> None:
    write("broken.yaml", "seed: 1\nseed: 2\n")
    assert different([(), ("seed=3",)], config_dir="own", config_name="broken") == []
