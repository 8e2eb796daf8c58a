"""conf/ and the code agree; values become what their annotations say, or an error that names the key."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml

from imgcls.attacks import ATTACKS
from imgcls.compose import experiments
from imgcls.config.components import Component, select
from imgcls.config.migrations import FIRST_KEYS, completed, completed_node
from imgcls.config.options import GROUPS, conf_dir, option_node, options
from imgcls.config.parsing import convert, parse, reject_forbidden
from imgcls.config.schema import (
    CompareConfig,
    DataConfig,
    EvaluateConfig,
    PredictConfig,
    ReproduceConfig,
    TrainConfig,
    every_of,
)
from imgcls.config.types import Count, Fraction, LearningRate, Range, Seed
from imgcls.config.yaml_files import read_yaml
from imgcls.data import DATASETS
from imgcls.data.splits import SplitOptions
from imgcls.data.transforms.augment import AUGMENTS
from imgcls.errors import ConfigError
from imgcls.losses import LOSSES
from imgcls.models import MODELS
from imgcls.models.build import MODEL_CONTEXT
from imgcls.models.finetune import ModelOptions
from imgcls.optim.optimizers import OPTIMIZERS
from imgcls.optim.schedules import SCHEDULERS
from imgcls.text import closest, show

TABLES: dict[str, dict[str, Callable[..., Any]]] = {
    "model": MODELS,
    "dataset": DATASETS,
    "optimizer": OPTIMIZERS,
    "scheduler": SCHEDULERS,
    "loss": LOSSES,
    "augment": AUGMENTS,
    "attack": ATTACKS,
}
CHOSEN_LATER = {"model": "auto", "augment": "default"}  # what the data decides
CONTEXT = {"model": MODEL_CONTEXT}
PARTS_GROUPS = tuple(group for group in GROUPS if group != "experiment")
OPTIONS = [(group, name) for group in PARTS_GROUPS for name in options(group)]
ENTRIES = [(group, name) for group, table in TABLES.items() for name in table]


# --- conf/ and the tables --------------------------------------------------------------------------------------------


def test_the_groups_are_the_folders_of_conf() -> None:
    assert set(GROUPS) == {*TABLES, "experiment"} == {path.name for path in conf_dir().iterdir() if path.is_dir()}


@pytest.mark.parametrize("group", PARTS_GROUPS)
def test_each_table_has_an_option_for_each_entry(group: str) -> None:
    assert {*TABLES[group], *filter(None, [CHOSEN_LATER.get(group)])} == set(options(group))


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_can_be_selected_unchanged(group: str, name: str) -> None:
    node = option_node(group, name)
    assert node["name"] == name
    if CHOSEN_LATER.get(group) == name:
        assert list(node) == ["name"]
    else:
        component = select(TABLES[group], node, group, context=CONTEXT.get(group, ()))
        assert component.node == node


def keyword_only(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: one for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}


@pytest.mark.parametrize(("group", "name"), ENTRIES)
def test_every_entrys_parameters_are_the_keys_of_its_file(group: str, name: str) -> None:
    assert set(keyword_only(TABLES[group][name])) == set(option_node(group, name)) - {"name"}


@pytest.mark.parametrize(("group", "name"), ENTRIES)
def test_defaults_are_in_conf_and_nowhere_else(group: str, name: str) -> None:
    function = TABLES[group][name]
    bare = function.func if isinstance(function, partial) else function
    assert all(one.default is one.empty for one in inspect.signature(bare).parameters.values())


@pytest.mark.parametrize(("group", "name"), ENTRIES)
def test_every_parameter_has_a_type(group: str, name: str) -> None:
    assert all(one.annotation is not one.empty for one in keyword_only(TABLES[group][name]).values())


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda path: str(path.relative_to(conf_dir())))
def test_every_file_of_conf_is_good_yaml_and_explains_each_key(path: Path) -> None:
    read_yaml(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    if path.parent.name == "experiment":  # its keys are explained with their defaults, the rest by its header
        assert lines[0] == experiments.PACKAGE
        assert experiments.read(path.stem, None).about
        assert any(line.startswith("# ") and f"imgcls train experiment={path.stem}" in line for line in lines)
        return
    for line in lines:
        key = line.strip().partition(":")[0]
        if line and not line.startswith(("#", "  - ")) and key not in ("name", "defaults", *GROUPS):
            assert "  # " in line or " # " in line, line


@pytest.mark.parametrize(
    ("command", "cls"),
    [
        *(("train", TrainConfig), ("evaluate", EvaluateConfig), ("predict", PredictConfig), ("data", DataConfig)),
        *(("compare", CompareConfig), ("reproduce", ReproduceConfig)),
    ],
)
def test_every_command_has_a_default_for_each_field_and_no_other(command: str, cls: Any) -> None:
    table = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text(encoding="utf-8")) or {}
    chosen = {next(iter(one)) for one in table.pop("defaults", []) if isinstance(one, dict)}
    assert {*table, *chosen} == set(cls.__dataclass_fields__)
    assert chosen <= set(GROUPS)
    if command == "train":
        assert set(table["dataset"]) == set(SplitOptions.__dataclass_fields__)
        assert set(table["model"]) == set(ModelOptions.__dataclass_fields__)


@pytest.mark.parametrize("cls", [TrainConfig, EvaluateConfig, PredictConfig, SplitOptions])
def test_no_dataclass_holds_a_default(cls: Any) -> None:
    assert all(one.default is one.empty for one in inspect.signature(cls).parameters.values())


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "result"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (1e-3, LearningRate, 1e-3),
        (0, Fraction, 0.0),
        (2**63 - 1, Seed, 2**63 - 1),
        (True, bool, True),
        ("a", str, "a"),
        (None, int | None, None),
        (4, int | None, 4),
        ("auto", Literal["auto"] | Count, "auto"),
        (4, Literal["auto"] | Count, 4),
        ("auto", Literal["auto"] | bool, "auto"),
        (False, Literal["auto"] | bool, False),
        (True, Literal["auto"] | bool, True),
        ([1, 2], list[int], [1, 2]),
        ([], list[Count], []),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([1, "a"], tuple[int, str], (1, "a")),
        ({"a": 1}, dict[str, Any], {"a": 1}),
        ("whatever", Path, "whatever"),
        ([1], Any, [1]),
    ],
)
def test_a_value_becomes_its_kind(value: Any, kind: Any, result: Any) -> None:
    converted = convert(value, kind, "key")
    assert converted == result
    assert type(converted) is type(result)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (3.0, int, "key: expected an integer, got 3.0"),
        (True, int, "key: expected an integer, got true"),
        ("3", int, "key: expected an integer, got '3'"),
        (None, int, "key: expected an integer, got null"),
        (True, float, "key: expected a number, got true"),
        ("1e-3", float, "key: expected a number, got '1e-3'"),
        (math.nan, float, "key: must be finite, got nan"),
        (-math.inf, float, "key: must be finite, got -inf"),
        (1, bool, "key: expected true or false, got 1"),
        (3, str, "key: expected text, got 3"),
        (
            False,
            str,
            "key: expected text, got false (YAML reads an unquoted yes, no, on or off as a boolean; quote it)",
        ),
        (0, Count, "key: must be at least 1 and at most 1,000,000, got 0"),
        (1, Fraction, "key: must be at least 0 and below 1, got 1"),
        (-1, Seed, "key: must be at least 0 and at most 9,223,372,036,854,775,807, got -1"),
        (2.5, Annotated[float, Range(low=0.5, high=2)], "key: must be at least 0.5 and at most 2, got 2.5"),
        ("b", Literal["a", "c"], "key: unknown 'b' (choices: a, c)"),
        ("smal", Literal["small", "large"], "key: unknown 'smal'; did you mean 'small'? (choices: small, large)"),
        ("many", Literal["auto"] | Count, "key: expected an integer, got 'many'"),
        ("yes", Literal["auto"] | bool, "key: unknown 'yes' (choices: auto, true, false)"),
        ("ture", Literal["auto"] | bool, "key: unknown 'ture'; did you mean 'true'? (choices: auto, true, false)"),
        (1, Literal["auto"] | bool, "key: unknown 1 (choices: auto, true, false)"),
        ("true", Literal["auto"] | bool, "key: unknown 'true' (choices: auto, true, false)"),
        ([True], Literal["auto"] | bool, "key: unknown [true] (choices: auto, true, false)"),
        (None, Literal["auto"] | bool, "key: unknown null (choices: auto, true, false)"),
        (0, Literal["auto"] | Count, "key: must be at least 1 and at most 1,000,000, got 0"),
        ("x", int | None, "key: expected an integer, got 'x'"),
        (3, list[int], "key: expected a list such as [1,2], got 3"),
        ([1, "a"], list[int], "key[1]: expected an integer, got 'a'"),
        ([1], tuple[int, int], "key: expected 2 values, got 1"),
        ([1], dict[str, int], "key: expected a group of keys, got [1]"),
    ],
)
def test_a_value_of_another_kind_is_refused(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(value, kind, "key")
    assert str(caught.value) == message


def test_values_are_shown_as_they_would_be_typed() -> None:
    assert [show(value) for value in (None, True, 1.5, "a", [1, "a", None], {"a": {"b": False}})] == [
        "null",
        "true",
        "1.5",
        "'a'",
        "[1, 'a', null]",
        "{a: {b: false}}",
    ]
    assert show("x" * 1000) == f"'{'x' * 100}...'"


@pytest.mark.parametrize(
    ("value", "result"),
    [(None, (None, None)), (200, (200, None)), ("30s", (None, 30.0)), ("0.5s", (None, 0.5))],
)
def test_checkpoint_every_is_steps_or_seconds(value: Any, result: Any) -> None:
    assert every_of(value) == result


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "", "s", "0s", "-1s", "infs", "30", "30m", [200]])
def test_checkpoint_every_is_nothing_else(value: Any) -> None:
    with pytest.raises(ValueError, match=r"checkpoint_every: expected steps \(200\) or seconds \(30s\)"):
        every_of(value)


# --- words -----------------------------------------------------------------------------------------------------------

KEYS = (
    "epochs",
    "batch_size",
    "seed",
    "device",
    "compile",
    "experiment",
    "model",
    "model.name",
    "dataset",
    "dataset.name",
    "dataset.image_size",
    "optimizer.lr",
    "optimizer.beta1",
    "optimizer.weight_decay",
    "scheduler.warmup_epochs",
)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("epoch", "epochs"),
        ("Epochs", "epochs"),
        ("batchsize", "batch_size"),
        ("lr", "optimizer.lr"),
        ("optimizer.lrr", "optimizer.lr"),
        ("optimiser.lr", "optimizer.lr"),
        ("scheduler.lr", "optimizer.lr"),
        ("image_size", "dataset.image_size"),
        ("datset.name", "dataset.name"),
        ("warmup", None),
        ("optimizer.momentum", None),
        ("experment", "experiment"),
        ("experiments", "experiment"),
        ("compiler", "compile"),
        ("complie", "compile"),
        ("x" * 10_000, None),
    ],
)
def test_the_closest_key_is_the_one_that_was_meant(word: str, meant: str | None) -> None:
    assert closest(word, KEYS) == meant


# --- tables of values ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Little:
    count: Count
    name: str | None

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("name: bad")


def test_a_table_becomes_a_dataclass() -> None:
    assert parse(Little, {"count": 3, "name": None}) == Little(count=3, name=None)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"count": 3, "name": "a", "cuont": 4}, "unknown key 'part.cuont'; did you mean 'part.count' (now 3)?"),
        ({"count": 3, "name": "a", "zzz": {"deep": 1}}, "unknown key 'part.zzz.deep'; imgcls COMMAND --help lists"),
        ({"count": 3}, "missing required value 'part.name'"),
        ({"count": 0, "name": "a"}, "part.count: must be at least 1"),
        ({"count": 3, "name": "bad"}, "name: bad"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Little, table, "part.")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("key", ["_target_", "_partial_", "_args_", "_recursive_", "_convert_"])
def test_no_configuration_names_code_to_call(key: str) -> None:
    for table in ({key: 1}, {"a": {key: 1}}, {"a": [{"b": {key: 1}}]}):
        with pytest.raises(ConfigError, match=f"'{key}' is not allowed"):
            reject_forbidden(table)
    reject_forbidden({"a": [{"b": key}]})


def test_no_configuration_is_bottomless() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(ConfigError, match="a: nested more than 20 levels deep"):
        reject_forbidden(endless)


# --- what earlier versions have stored -------------------------------------------------------------------------------

FIRST = """
model: {num_classes: null, name: auto}
dataset: {image_size: null, channels: null, val_fraction: 0.1, test_fraction: 0.2, split_seed: 0, limit: null,
  test_limit: null, name: digits}
optimizer: {name: adamw, lr: 0.005, beta1: 0.9, beta2: 0.999, eps: 1.0e-08, weight_decay: 0.01}
scheduler: {name: onecycle, warmup_epochs: null, final_factor: 0.0}
loss: {name: cross_entropy, label_smoothing: 0.0}
augment: {name: default}
epochs: 20
batch_size: auto
seed: 0
device: auto
precision: auto
deterministic: false
threads: null
loader: auto
workers: auto
checkpoint_every: null
run_dir: null
resume: null
sweep_dir: null
"""  # a config.yaml of version 0.1.0


def test_a_configuration_of_the_first_version_gets_the_keys_that_came_later() -> None:
    table = yaml.safe_load(FIRST)
    assert set(table) == FIRST_KEYS
    whole = completed(table)
    assert set(whole) == set(TrainConfig.__dataclass_fields__)
    for key, value in table.items():
        assert whole[key] == ({**whole[key], **value} if isinstance(value, dict) else value)
    assert whole["attack"] == {"name": "none"}
    assert (whole["model"]["pretrained"], whole["dataset"]["classes"]) == (False, None)
    assert (whole["experiment"], whole["compile"]) == (None, option_node("", "train")["compile"])
    parse(TrainConfig, whole)


@pytest.mark.parametrize("name", ["cifar10", "imagefolder"])
def test_the_default_augmentation_of_earlier_versions_stays_what_it_was(name: str) -> None:
    """With black coming in, also of large images, and beside keys that were given."""
    dataset = {key: value for key, value in option_node("dataset", name).items() if key != "fit"}
    older = {"dataset": dataset, "augment": {"name": "default", "mixup": 0.2}}
    assert completed(older)["augment"] == {"name": "default", "mixup": 0.2, "border": "black"}
    newer = {**older, "dataset": dataset | {"fit": "crop"}}
    assert completed(newer)["augment"] == older["augment"]


def test_what_is_stored_is_not_completed_over() -> None:
    newer = {"experiment": "mnist_99", "compile": "auto", "ema": 0.5}
    given = yaml.safe_load(FIRST) | newer
    assert {key: completed(given)[key] for key in newer} == newer
    of_old = {"name": "imagefolder", "root": "photos"}
    assert completed_node("dataset", of_old | {"verify": True}, with_keys=False) == of_old | {
        "follow_links": True,
        "rename": None,
        "verify": True,
        "on_error": "error",
        "layout": "old",
        "group": None,
    }


@pytest.mark.parametrize("key", sorted(FIRST_KEYS))
def test_a_key_that_every_version_has_stored_is_not_made_up(key: str) -> None:
    table = yaml.safe_load(FIRST)
    del table[key]
    with pytest.raises(ConfigError, match=f"missing required value '{key}'"):
        parse(TrainConfig, completed(table))


# --- components ------------------------------------------------------------------------------------------------------


def part(context: int, *, width: Count, rate: Fraction) -> tuple[int, int, float]:
    return context, width, rate


PARTS = {"part": part}


def test_a_component_is_called_with_its_parameters() -> None:
    component = select(PARTS, {"name": "part", "width": 4, "rate": 0}, "model")
    assert component == Component("model", "part", part, {"width": 4, "rate": 0.0})
    assert component(7) == (7, 4, 0.0)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "prat"}, "model: unknown 'prat'; did you mean 'part'? (choices: part)"),
        ({"name": None}, "model.name: expected text, got null"),
        ({"name": "part", "width": 4}, "missing required value 'model.rate'"),
        ({"name": "part", "width": 4, "rate": 2}, "model.rate: must be at least 0 and below 1, got 2"),
        ({"name": "part", "widht": 4, "rate": 0}, "unknown key 'model.widht'; did you mean 'model.width' (now null)?"),
        ({"name": "part", "context": 1}, "unknown key 'model.context'; model=part has model.width, model.rate"),
        ({"name": "part", "num_classe": 1}, "unknown key 'model.num_classe'; did you mean 'model.num_classes'"),
    ],
)
def test_a_node_that_does_not_fit_is_refused(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select(PARTS, node, "model")
    assert str(caught.value).startswith(message)


def test_a_value_error_of_a_component_becomes_a_configuration_error() -> None:
    def picky(*, width: Count) -> None:
        raise ValueError("width must be even")

    with pytest.raises(ConfigError, match=r"^model: width must be even$"):
        select({"picky": picky}, {"name": "picky", "width": 3}, "model")()


OWN = """
from typing import Annotated

class Net:
    def __init__(self, num_classes: int, width: int = 8, *, depth: "int" = 2, odd: "Nowhere" = 0):
        self.it = (num_classes, width, depth, odd)

def free(**params): return params

def needs(width): return width

def broken(): raise TypeError("no luck")

number = 3
"""


@pytest.fixture
def _own_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Path("own_parts.py").write_text(OWN, encoding="utf-8")
    Path("own_broken.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own_parts", None)


@pytest.mark.usefixtures("_own_module")
def test_own_code_gets_its_parameters_and_the_context_it_accepts() -> None:
    component = select({}, {"name": "own_parts:Net", "width": 16}, "model", context=("num_classes", "channels"))
    assert str(Path.cwd()) in sys.path
    assert component(num_classes=10, channels=1).it == (10, 16, 2, 0)
    assert select({}, {"name": "own_parts:free", "a": [1]}, "model")() == {"a": [1]}


@pytest.mark.usefixtures("_own_module")
@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "own_parts:Net", "widht": 16}, "unknown key 'model.widht'; did you mean 'model.width' (now 8)?"),
        ({"name": "own_parts:Net", "num_classes": 16}, "unknown key 'model.num_classes'"),
        ({"name": "own_parts:needs"}, "missing required value 'model.width'"),
        ({"name": "own_parts:nothing"}, "model.name=own_parts:nothing: cannot import it (AttributeError"),
        ({"name": "own_parts:number"}, "model.name=own_parts:number: expected a class or a function, got int"),
        ({"name": "own_broken:Net"}, "model.name=own_broken:Net: cannot import it (ZeroDivisionError"),
    ],
)
def test_own_code_that_does_not_fit_is_refused(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select({}, node, "model", context=("num_classes",))
    assert str(caught.value).startswith(message)


@pytest.mark.usefixtures("_own_module")
def test_own_code_that_fails_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^model.name=own_parts:broken: no luck$"):
        select({}, {"name": "own_parts:broken"}, "model")()


@pytest.mark.usefixtures("_own_module")
def test_a_name_from_a_stored_configuration_is_not_imported() -> None:
    with pytest.raises(ConfigError, match=r"if you trust it, add model\.name=own_parts:Net"):
        select({}, {"name": "own_parts:Net"}, "model", trusted=False)
    with pytest.raises(ConfigError, match="only model, dataset, optimizer can name your own code"):
        select({}, {"name": "own_parts:free"}, "loss")
    assert "own_parts" not in sys.modules
    assert str(Path.cwd()) not in sys.path
