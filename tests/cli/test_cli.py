"""The command line: help, flags, literal paths, the user's own parts, JSON, resume."""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import imgcls
from imgcls import evaluate, predict, train
from imgcls.cli import dispatch
from imgcls.cli.app import main
from imgcls.cli.arguments import parse_line
from imgcls.cli.commands import COMMANDS
from imgcls.compose.composer import Composer
from imgcls.compose.overrides import read_all
from imgcls.config import schema
from imgcls.config.components import Choice
from imgcls.config.migrations import FIRST_KEYS, completed
from imgcls.config.options import GROUPS, conf_dir, option_node, options
from imgcls.config.parsing import parse
from imgcls.config.schema import EvaluateConfig, PredictConfig, TrainConfig
from imgcls.errors import ConfigError, RunError
from tests.conftest import SMALL

Capture = pytest.CaptureFixture[str]


def composed(*words: str, **flags: str) -> dict[str, Any]:
    composer = Composer(**flags)
    return composer.table(read_all(words, composer.paths), "train")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """What ``train`` would have been called with; nothing is trained."""
    calls: list[TrainConfig] = []

    def note(config: TrainConfig, **keys: object) -> None:
        train.check(config)
        calls.append(config)

    monkeypatch.setattr(train, "train", note)
    return calls


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "linear"
    assert main(["train", "model=linear", *SMALL, f"run_dir={folder}"]) == 0
    return folder


# --- help and version ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"]])
def test_help_is_the_overview(argv: list[str], capsys: Capture) -> None:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for command in ("train", "evaluate", "predict"):
        assert f"imgcls {command}" in out
    assert out.index("dataset=./photos") < out.index("more") < out.index("resume=RUN")


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"imgcls {imgcls.__version__}\n"


def imported(names: set[str], argv: list[str]) -> str:
    """Those of the modules that the command line imports."""
    code = (
        "import sys; from imgcls.cli import main; main(sys.argv[1:]); "
        f"sys.exit(', '.join({names} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["train", "--help"], ["nonsense"], ["train", "--foo"]])
def test_what_needs_no_torch_and_no_hydra_imports_neither(argv: list[str]) -> None:
    assert imported({"torch", "hydra", "omegaconf", "numpy", "PIL"}, argv) == ""


@pytest.mark.parametrize("argv", [["train", "--cfg", "job"], ["train", "epoch=3"]])
def test_a_configuration_that_is_only_printed_or_refused_imports_no_numpy(argv: list[str]) -> None:
    assert imported({"torch", "numpy", "PIL"}, argv) == ""


@pytest.mark.parametrize("argv", [["train", "epoch=3"], ["train", "--cfg=job"], ["evaluate", "a", "split=x"]])
def test_what_ends_before_training_imports_no_torch_and_no_numpy(argv: list[str]) -> None:
    code = (
        "import sys; from imgcls.cli import main; main(sys.argv[1:]); "
        "sys.exit(', '.join({'torch', 'numpy', 'PIL'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_file_its_dataclass_and_its_function(name: str) -> None:
    command = COMMANDS[name]
    node = option_node("", name)
    assert hasattr(schema, command.config)
    assert {one.key for one in command.arguments} <= {*node, *command.accepts}
    module, _, function = command.run.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    groups = {key for key in command.accepts if key in GROUPS}
    names = {"plotter"} if command.allows_multirun else {"own_names", *groups}
    assert next(iter(parameters)) == "config"
    assert {one for one, each in parameters.items() if each.kind is each.KEYWORD_ONLY} == names | {"is_quiet"}


@pytest.mark.parametrize("argv", [["train", "--help"], ["--help", "train"], ["help", "train"], ["train", "help"]])
def test_help_of_a_command_may_be_asked_for_in_any_order(argv: list[str], capsys: Capture) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("usage: imgcls train")


def test_help_of_train_lists_every_option_and_every_key(capsys: Capture) -> None:
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for group in GROUPS:
        start = out.index(f"  {group:<10} ")
        listed = out[start : start + 2500].replace("*", "").replace("\n", " ").replace(",", " ").split()
        assert set(options(group)) <= set(listed)
    table = yaml.safe_load((conf_dir() / "train.yaml").read_text(encoding="utf-8"))
    for key, value in table.items():
        for name in [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]:
            assert f"\n  {name} " in out or name == "defaults", name
    assert "auto*" in out
    assert "\n  optimizer.lr            auto  " in out
    assert max(map(len, out.splitlines())) <= 80


def test_help_of_train_shows_the_keys_of_the_options_that_are_named(capsys: Capture) -> None:
    assert main(["train", "model=mlp", "optimizer=sgd", "epochs=3", "dataset=./photos", "--help"]) == 0
    out = capsys.readouterr().out
    assert "\n  model.hidden " in out
    assert "\n  optimizer.momentum " in out
    assert "optimizer.beta1" not in out


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_help_of_the_others_lists_every_key(command: str, capsys: Capture) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    for key in yaml.safe_load((conf_dir() / f"{command}.yaml").read_text(encoding="utf-8")):
        assert f"\n  {key} " in out
    assert "checkpoint              (required)" in out


def test_help_lists_the_users_own_options(capsys: Capture) -> None:
    Path("own/model/deep").mkdir(parents=True)
    Path("own/model/mine.yaml").write_text("name: lenet\n")
    Path("own/model/deep/other.yaml").write_text("name: lenet\n")
    assert main(["train", "--config-dir=own", "--help"]) == 0
    assert "airbench, auto*, convnet, deep/other, lenet, linear, mine, mlp" in capsys.readouterr().out.replace(
        "\n             ", " "
    )


def test_help_lists_each_experiment_with_what_its_header_says(capsys: Capture) -> None:
    Path("own/experiment/deep").mkdir(parents=True)
    Path("own/experiment/deep/mine.yaml").write_text("# @package _global_\n# Quick and rough.\n# more\nseed: 3\n")
    Path("own/experiment/mute.yaml").write_text("# @package _global_\nseed: 3\n")
    assert main(["train", "--config-dir=own", "--help"]) == 0
    out = capsys.readouterr().out
    assert "  experiment cifar10_airbench, deep/mine, " in out.replace("\n             ", " ")
    assert ", mnist_99, mute, " in out.replace("\n             ", " ")
    assert "\nexperiments (experiment=NAME: options and keys at once; the command line\ntakes precedence)\n" in out
    assert "\n  deep/mine               Quick and rough.\n  mnist_99                MNIST to 99%" in out
    assert "\n  mute\n" in out
    assert "more" not in out.partition("keys (")[0]


def test_help_of_an_experiment_shows_its_values_and_the_keys_of_its_options(capsys: Capture) -> None:
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text(MINE)
    assert main(["train", "--config-dir=own", "experiment=mine", "--help"]) == 0
    out = capsys.readouterr().out
    for needle in ("epochs                  1 ", "model.hidden            [7] ", "dataset.limit           200 "):
        assert f"\n  {needle}" in out
    assert main(["train", "--config-dir=own", "experiment=mine", "model=linear", "--help"]) == 0
    assert "model.hidden" not in capsys.readouterr().out


# --- words and flags -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "epochs=3", "model=mlp", "--json", "-m"],
        ["--json", "-m", "train", "epochs=3", "model=mlp"],
        ["-m", "train", "epochs=3", "--json", "model=mlp"],
        ["train", "--multirun", "--epochs=3", "--json", "--model=mlp"],
    ],
)
def test_flags_may_be_anywhere(argv: list[str]) -> None:
    line = parse_line(argv)
    assert (line.command, line.words) == ("train", ["epochs=3", "model=mlp"])
    assert line.flags == {"json": True, "multirun": True}


@pytest.mark.parametrize("flag", [["--config-dir", "a b"], ["--config-dir=a b"], ["-cd", "a b"], ["-cd=a b"]])
def test_a_flag_takes_its_value_either_way(flag: list[str]) -> None:
    assert parse_line(["train", *flag, "x=1"]).flags == {"config_dir": "a b"}


@pytest.mark.parametrize(
    "words",
    [
        ["epochs=3", "optimizer.lr=0.1"],
        ["epochs", "=", "3", "optimizer.lr", "=", "0.1"],
        ["epochs=", "3", "optimizer.lr", "=0.1"],
        ["--epochs=3", "--optimizer.lr=0.1"],
        ["+epochs=3", "++optimizer.lr=0.1"],
    ],
)
def test_a_key_and_its_value_in_every_form(words: list[str], trained: list[TrainConfig]) -> None:
    assert main(["train", *words]) == 0
    assert (trained[0].epochs, trained[0].optimizer["lr"]) == (3, 0.1)


def test_words_after_two_dashes_are_files() -> None:
    line = parse_line(["predict", "latest", "--", "-odd.png", "--json"])
    assert line.literal == ["-odd.png", "--json"]
    assert line.flags == {}


# --- --cfg job -------------------------------------------------------------------------------------------------------


def test_the_printed_configuration_is_the_one_that_would_run(capsys: Capture) -> None:
    words = ["model=mlp", "model.hidden=[7]", "optimizer=sgd", "dataset=./ph otos", "checkpoint_every=30s"]
    assert main(["train", *words, "--cfg", "job"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    table = yaml.safe_load(out)
    expected = composed(*words)
    expected["dataset"]["root"] = str(Path.cwd() / "ph otos")
    assert table == expected
    own = option_node("model", "mlp") | option_node("", "train")["model"] | {"hidden": [7]}
    assert parse(TrainConfig, table).model == own
    assert list(Path.cwd().iterdir()) == []


def test_a_printed_configuration_can_be_started_from(capsys: Capture, trained: list[TrainConfig]) -> None:
    assert main(["train", "model=mlp", "epochs=7", "--cfg=job"]) == 0
    Path("own").mkdir()
    Path("own/mine.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["train", "--config-dir=own", "--config-name=mine", "seed=3"]) == 0
    assert trained[0] == parse(TrainConfig, composed("model=mlp", "epochs=7", "seed=3"))


def test_evaluate_and_predict_print_theirs_too(capsys: Capture) -> None:
    assert main(["evaluate", "a run", "split=val", "--cfg", "job"]) == 0
    table = yaml.safe_load(capsys.readouterr().out)
    assert (table["checkpoint"], table["split"], table["output"]) == ("a run", "val", None)
    assert main(["predict", "a", "b=c.png", "--cfg", "job"]) == 2
    assert main(["predict", "a", "./b=c.png", "d", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["input"] == ["./b=c.png", "d"]


# --- paths are taken literally ----------------------------------------------------------------------------------------

ODD_NAMES = ["a b", "a=b", "=", "a,b", "a[0]", "{a}", "(a)", "Übung-日本", "it's", 'say "hi"', "${x}", "${oc.env:HOME}"]
ODD_NAMES += ["a\\b", "#a", "~a", "null ", "???", "-a", "a:b", "%20", "__path_0__"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_path_is_taken_literally(name: str, trained: list[TrainConfig]) -> None:
    words = [f"dataset=./{name}", f"run_dir=runs/{name}"]
    assert main(["train", *words]) == 0
    assert trained[0].dataset["name"] == "imagefolder"
    assert trained[0].dataset["root"] == str(Path.cwd() / name)
    assert trained[0].run_dir == f"runs/{name}"


@pytest.mark.parametrize("name", ODD_NAMES[::3])
def test_a_path_of_evaluate_and_predict_is_taken_literally(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(evaluate, "evaluate", lambda config, **more: calls.append((config, more["dataset"])))
    monkeypatch.setattr(predict, "predict", lambda config, *rest, **more: calls.append(config))
    assert main(["evaluate", f"./{name}", f"output={name}", f"dataset=./{name}"]) == 0
    config, dataset = calls[0]
    assert isinstance(config, EvaluateConfig)
    assert (config.checkpoint, config.output, dataset.changes) == (f"./{name}", name, {})
    assert (dataset.node["name"], dataset.node["root"]) == ("imagefolder", str(Path.cwd() / name))
    assert main(["predict", f"checkpoint={name}", f"input={name}", f"./{name}", f"output=./{name}.csv"]) == 0
    assert isinstance(calls[1], PredictConfig)
    assert calls[1].checkpoint == name
    assert calls[1].input == [name, f"./{name}"]
    assert calls[1].output == f"./{name}.csv"


def test_a_folder_without_a_slash_is_a_data_set_and_an_option_comes_first(trained: list[TrainConfig]) -> None:
    Path("photos").mkdir()
    Path("digits").mkdir()
    assert main(["train", "dataset=photos"]) == 0
    assert main(["train", "dataset=digits"]) == 0
    assert main(["train", "dataset=imagefolder", "dataset.root=photos"]) == 0
    assert [config.dataset["name"] for config in trained] == ["imagefolder", "digits", "imagefolder"]
    assert trained[0].dataset["root"] == trained[2].dataset["root"] == str(Path.cwd() / "photos")


def test_null_is_no_path(trained: list[TrainConfig]) -> None:
    assert main(["train", "run_dir=null", "resume=null", "sweep_dir=null"]) == 0
    assert trained[0].run_dir is None


# --- Hydra's grammar -------------------------------------------------------------------------------------------------


def test_values_are_read_as_hydra_reads_them() -> None:
    table = composed("seed=${epochs}", "epochs=0x10", "model=mlp", "model.hidden=[1, 2,3]", "run_dir=null")
    assert (table["epochs"], table["model"]["hidden"]) == ("0x10", [1, 2, 3])
    assert composed("seed=${epochs}")["seed"] == composed()["epochs"]
    assert composed("device='cpu'")["device"] == composed('device="cpu"')["device"] == "cpu"
    assert composed("model.name=mlp")["model"]["name"] == "mlp"


def test_a_key_with_a_default_elsewhere_can_be_removed() -> None:
    assert "num_classes" in composed()["model"]
    assert "num_classes" not in composed("~model.num_classes")["model"]


# --- experiment ------------------------------------------------------------------------------------------------------

MINE = """# @package _global_
# Quick and rough.
defaults:
  - override /model: mlp
  - override /optimizer: sgd

epochs: 1
threads: 1

model:
  hidden: [7]

dataset:
  limit: 200
  test_limit: 60
"""


@pytest.fixture
def mine() -> Path:
    """The user's own experiment ``mine`` in own/."""
    path = Path("own/experiment/mine.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(MINE)
    return path


def test_an_experiment_chooses_options_and_sets_keys() -> None:
    plain, table = composed("model=convnet", "dataset=mnist"), composed("experiment=mnist_99")
    changed = {key: table[key] for key in table if table[key] != plain[key]}
    changed["dataset"] = {key: value for key, value in table["dataset"].items() if value != plain["dataset"][key]}
    assert changed.items() >= {"experiment": "mnist_99", "epochs": 1, "dataset": {"val_fraction": 0.0}}.items()
    assert (table["model"]["name"], table["dataset"]["name"], plain["experiment"]) == ("convnet", "mnist", None)


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_is_a_whole_configuration(name: str, trained: list[TrainConfig]) -> None:
    assert main(["train", f"experiment={name}", "device=cpu", "precision=fp32"]) == 0
    assert trained[0].experiment == name


@pytest.mark.usefixtures("mine")
def test_the_command_line_takes_precedence_over_the_experiment_in_any_order() -> None:
    before = composed("experiment=mine", config_dir="own")
    for word, key, value in [
        ("epochs=5", "epochs", 5),
        ("model.hidden=[3,4]", "model.hidden", [3, 4]),
        ("dataset.limit=null", "dataset.limit", None),
        ("optimizer=adam", "optimizer.name", "adam"),
        ("optimizer.name=adam", "optimizer.name", "adam"),
        ("dataset=./a b", "dataset.name", "imagefolder"),
    ]:
        table = composed(word, "experiment=mine", config_dir="own")
        assert table == composed("experiment=mine", word, config_dir="own")
        group, _, param = key.partition(".")
        assert (table[group][param] if param else table[group]) == value
        untouched = {"experiment", "epochs", "threads", "model", "optimizer", "dataset"} - {group}
        assert {one: table[one] for one in untouched} == {one: before[one] for one in untouched}
    assert composed("dataset=./a b", "experiment=mine", config_dir="own")["dataset"]["limit"] == 200


@pytest.mark.usefixtures("mine")
def test_a_typed_group_takes_precedence_and_the_experiments_keys_for_its_own_option_can_be_left_out(
    capsys: Capture,
) -> None:
    assert main(["train", "--config-dir=own", "experiment=mine", "model=linear", "--cfg=job"]) == 2
    err = capsys.readouterr().err
    assert "own/experiment/mine.yaml: unknown key 'model.hidden'; model=linear has model.num_classes, " in err
    assert err.endswith("; ~model.hidden leaves it out\n")
    table = composed("experiment=mine", "model=linear", "~model.hidden", config_dir="own")
    assert table["model"] == option_node("", "train")["model"] | {"name": "linear"}
    assert composed("experiment=mnist_99", "model=mlp")["model"] == composed("model=mlp")["model"]


@pytest.mark.usefixtures("mine", "_own")
def test_own_code_works_with_an_experiment(trained: list[TrainConfig], mine: Path) -> None:
    mine.write_text(MINE.replace("hidden: [7]", "width: 9"))
    words = ["--config-dir=own", "experiment=mine"]
    assert main(["train", *words, "model.name=cli_parts:Net"]) == 0
    assert main(["train", *words, "model.name=cli_parts:Net", "model.width=3"]) == 0
    mine.write_text("# @package _global_\nmodel: {name: 'cli_parts:Net', width: 8}\n")
    assert main(["train", *words]) == 0
    assert [config.model["width"] for config in trained] == [9, 3, 8]
    assert {config.model["name"] for config in trained} == {"cli_parts:Net"}


def test_no_experiment_is_the_default_and_can_be_typed() -> None:
    assert composed() == composed("experiment=null") == composed("~experiment")
    assert composed()["experiment"] is None


def test_an_experiment_may_build_on_another_and_be_chosen_by_a_file(mine: Path) -> None:
    (mine.parent / "deep").mkdir()
    (mine.parent / "deep/more.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /experiment/mine\n  - override /optimizer: adam\nthreads: 2\n"
    )
    table = composed("experiment=deep/more", config_dir="own")
    assert (table["model"]["hidden"], table["optimizer"]["name"], table["threads"]) == ([7], "adam", 2)
    assert table["experiment"] == "deep/more"
    Path("own/start.yaml").write_text("defaults: [train, {override experiment: mine}, _self_]\nseed: 5\n")
    table = composed(config_dir="own", config_name="start")
    assert (table["model"]["hidden"], table["seed"], table["experiment"]) == ([7], 5, "mine")
    none = composed("experiment=null", config_dir="own", config_name="start")
    assert (none["experiment"], none["model"]["name"]) == (None, "auto")


def test_the_users_own_experiment_comes_before_ours(mine: Path) -> None:
    mine.rename(mine.with_name("mnist_99.yaml"))
    assert composed("experiment=mnist_99", config_dir="own")["model"]["name"] == "mlp"


def test_a_printed_experiment_can_be_started_from(capsys: Capture, mine: Path, trained: list[TrainConfig]) -> None:
    assert main(["train", "--config-dir=own", "experiment=mine", "--cfg=job"]) == 0
    Path("own/printed.yaml").write_text(capsys.readouterr().out)
    mine.unlink()
    assert main(["train", "--config-dir=own", "--config-name=printed"]) == 0
    assert (trained[0].experiment, trained[0].model["hidden"]) == ("mine", [7])


@pytest.mark.usefixtures("mine")
def test_a_run_of_an_experiment_is_recorded_evaluated_used_and_resumed(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", "--config-dir=own", "experiment=mine", "run_dir=run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    shutil.rmtree("own")  # the run needs nothing but its folder
    stored = yaml.safe_load(Path("run/config.yaml").read_text())
    assert (stored["experiment"], stored["epochs"], stored["model"]["hidden"]) == ("mine", 1, [7])
    assert main(["evaluate", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == report["accuracy"]
    Image.new("L", (8, 8), 40).save("a.png")
    assert main(["predict", "run", "a.png", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    calls: list[TrainConfig] = []
    monkeypatch.setattr(train, "resume", lambda config, *rest, **more: calls.append(config))
    assert main(["train", "resume=run", "epochs=2"]) == 0
    assert main(["train", "resume=run", "experiment=mine"]) == 0  # what is the same may be repeated
    assert [(config.experiment, config.epochs) for config in calls] == [("mine", 2), ("mine", 1)]
    assert main(["train", "resume=run", "experiment=mnist_99"]) == 2
    assert "experiment is 'mine' in run and cannot become 'mnist_99' on resume" in capsys.readouterr().err


def test_compile_is_auto_true_or_false(trained: list[TrainConfig]) -> None:
    for word in ("auto", "true", "false", "True"):
        assert main(["train", f"compile={word}"]) == 0
    assert [config.compile for config in trained] == ["auto", True, False, True]
    assert composed()["compile"] is False


# --- the user's own --------------------------------------------------------------------------------------------------

PARTS = """
import torch
from imgcls.data import Images, Source
import numpy as np

class Net(torch.nn.Module):
    def __init__(self, channels, image_size, num_classes, width: int = 4, deep: bool = False):
        super().__init__()
        self.all = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(channels * image_size[0] * image_size[1], width),
            torch.nn.ReLU(), torch.nn.Linear(width, num_classes))

    def forward(self, images):
        return self.all(images)

def data(count: int = 60):
    labels = np.arange(count) % 3
    pixels = (labels[:, None, None] * np.ones((1, 8, 8)) * 90).astype("u1")
    return Source(("a", "b", "c"), Images(labels, pixels=pixels))

def slow(groups, lr: float = 0.1):
    return torch.optim.SGD(groups, lr=lr)
"""


@pytest.fixture
def _own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Path("cli_parts.py").write_text(PARTS, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    sys.modules.pop("cli_parts", None)


@pytest.mark.usefixtures("_own")
def test_the_users_own_model_is_checked_against_its_signature(capsys: Capture, trained: list[TrainConfig]) -> None:
    assert main(["train", "model.name=cli_parts:Net", "model.width=6", "model.num_classes=10"]) == 0
    own = option_node("", "train")["model"] | {"name": "cli_parts:Net", "num_classes": 10, "width": 6}
    assert trained[0].model == own
    for word, needle in {
        "model.widht=6": "unknown key 'model.widht'; did you mean 'model.width' (now 4)?",
        "model.channels=6": "unknown key 'model.channels'",
        "model.width=wide": "model.width: expected an integer, got 'wide'",
        "model.deep=1": "model.deep: expected true or false, got 1",
    }.items():
        assert main(["train", "model.name=cli_parts:Net", word]) == 2
        assert needle in capsys.readouterr().err
    assert len(trained) == 1


@pytest.mark.usefixtures("_own")
def test_the_working_folder_is_importable_only_for_own_code(trained: list[TrainConfig]) -> None:
    assert main(["train", "model=mlp"]) == 0
    assert str(Path.cwd()) not in sys.path
    assert main(["train", "model.name=cli_parts:Net"]) == 0
    assert str(Path.cwd()) in sys.path
    assert len(trained) == 2


@pytest.mark.usefixtures("_own")
def test_own_files_of_every_kind_train_together(capsys: Capture) -> None:
    for name, text in {
        "model/net": "name: cli_parts:Net\nwidth: 5\n",
        "dataset/three": "name: cli_parts:data\n",
        "optimizer/slow": "name: cli_parts:slow\nlr: 0.2\n",
        "model/lenet": "name: linear\n",  # the user's own file comes before ours
    }.items():
        Path("own", name).parent.mkdir(parents=True, exist_ok=True)
        Path("own", f"{name}.yaml").write_text(text)
    words = ["--config-dir=own", "dataset=three", "dataset.count=80", "epochs=1", "run_dir=run"]
    assert main(["train", "model=net", "optimizer=slow", *words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(Path("run/report.json").read_text())
    assert (report["model"], report["n"]) == ("cli_parts:Net", 16)
    assert yaml.safe_load(Path("run/config.yaml").read_text())["optimizer"] == {"name": "cli_parts:slow", "lr": 0.2}
    assert composed("model=lenet", config_dir="own")["model"]["name"] == "linear"
    # a checkpoint may import it only if it is named again
    assert main(["evaluate", "run"]) == 2
    assert "add model.name=cli_parts:Net" in capsys.readouterr().err
    assert main(["evaluate", "run", "model.name=cli_parts:Net"]) == 2
    assert "add dataset.name=cli_parts:data" in capsys.readouterr().err
    assert main(["evaluate", "run", "model.name=cli_parts:Net", "dataset.name=cli_parts:data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == report["accuracy"]


# --- --json ----------------------------------------------------------------------------------------------------------


def test_json_of_evaluate_is_its_report(run: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(run), "split=val", "output=here", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("here/report.json").read_text())


def test_json_of_predict_is_its_rows(run: Path, capsys: Capture) -> None:
    Image.new("L", (8, 8), 40).save("ä b.png")
    assert main(["predict", str(run), "ä b.png", "topk=2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in rows] == ["ä b.png"]
    assert len(rows[0]["topk"]) == 2


def test_json_stays_json_when_something_fails(run: Path, capsys: Capture) -> None:
    Image.new("L", (8, 8), 40).save("good.png")
    Path("bad.png").write_text("no image")
    assert main(["predict", str(run), "good.png", "bad.png", "--json"]) == 3
    out, err = capsys.readouterr()
    assert [row["path"] for row in json.loads(out)] == ["good.png"]
    assert "bad.png" in err


# --- evaluate's data set ---------------------------------------------------------------------------------------------


def test_evaluate_changes_the_runs_own_data_set_or_takes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(evaluate, "evaluate", lambda config, **more: calls.append((more["dataset"], more["own_names"])))
    assert main(["evaluate", "a", "dataset.limit=30", "dataset.root=b c"]) == 0
    assert main(["evaluate", "a", "dataset=mnist", "dataset.limit=30"]) == 0
    assert main(["evaluate", "a", "dataset.name=mnist"]) == 0
    assert main(["evaluate", "a", "dataset.name=my:data", "dataset.count=3", "model.name=my:Net"]) == 0
    assert calls[0] == (Choice(None, {"limit": 30, "root": "b c"}), frozenset())
    assert (calls[1][0].node["name"], calls[1][0].node["limit"], calls[1][0].changes) == ("mnist", 30, {"limit": 30})
    assert calls[2][0].node == composed("dataset=mnist")["dataset"]
    assert calls[3] == (Choice(None, {"name": "my:data", "count": 3}), frozenset({"my:data", "my:Net"}))


# --- resume ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_run(run: Path) -> str:
    """A run that a test may resume."""
    shutil.copytree(run, "mine")
    return "mine"


def test_resume_takes_what_does_not_change_the_result(
    own_run: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[TrainConfig] = []
    monkeypatch.setattr(train, "resume", lambda config, *rest, **more: calls.append(config) or {"n": 3})
    words = ["epochs=9", "device=cpu", "workers=1", "threads=2", "loader=stream", "checkpoint_every=5s"]
    assert main(["train", f"resume={own_run}", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"n": 3}
    config = calls[0]
    assert (config.epochs, config.device, config.workers, config.threads) == (9, "cpu", 1, 2)
    assert (config.loader, config.checkpoint_every, config.model["name"]) == ("stream", "5s", "linear")


def test_a_run_made_before_a_key_existed_can_be_resumed(
    own_run: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[TrainConfig] = []
    monkeypatch.setattr(train, "resume", lambda config, *rest, **more: calls.append(config))
    path = Path(own_run, "config.yaml")
    table = yaml.safe_load(path.read_text())
    older = {key: value for key, value in table.items() if key in FIRST_KEYS}
    path.write_text(yaml.safe_dump(older))
    assert main(["train", f"resume={own_run}", "epochs=3"]) == 0
    assert vars(calls[0]) == completed(older) | {"epochs": 3}
    assert main(["train", f"resume={own_run}", "compile=true"]) == 2
    assert "compile is false in mine and cannot become true on resume" in capsys.readouterr().err


FIXED = ["seed=1", "batch_size=16", "model=mlp", "optimizer.lr=0.1", "dataset.limit=100", "precision=bf16", "run_dir=x"]
FIXED += ["scheduler=cosine", "dataset=mnist", "augment=none", "deterministic=true", "loss.label_smoothing=0.1"]


@pytest.mark.parametrize("word", FIXED)
def test_resume_refuses_what_changes_the_result(word: str, own_run: str, capsys: Capture) -> None:
    assert main(["train", f"resume={own_run}", word]) == 2
    err = capsys.readouterr().err
    key, _, value = word.partition("=")
    assert err.startswith(f"imgcls: error: {key} is ")
    assert value in err
    assert (
        "only epochs, device, workers, threads, loader, dataset.root, dataset.images, checkpoint_every can be changed"
        in err
    )
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("word", "needle"),
    [
        ("epoch=9", "unknown key 'epoch'; did you mean 'epochs' (now 2)?"),
        ("epochs=0", "epochs: must be at least 1"),
        ("workers=many", "workers: expected an integer"),
        ("loader=streaming", "loader: unknown 'streaming'; did you mean 'stream'?"),
        ("epochs=3,4", "several values for epochs"),
        ("~epochs", "'~epochs' cannot be removed here"),
        ("devices=2", "unknown key 'devices'"),
    ],
)
def test_resume_refuses_what_train_refuses(word: str, needle: str, own_run: str, capsys: Capture) -> None:
    assert main(["train", f"resume={own_run}", word]) == 2
    assert needle in capsys.readouterr().err


def test_what_is_the_same_may_be_repeated_on_resume(own_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "resume", lambda *args, **more: None)
    assert main(["train", f"resume={own_run}", "model=linear", "dataset.limit=200", "seed=0", "epochs=3"]) == 0


@pytest.mark.parametrize("content", ["- a\n", "a: [\n", "", "model: {_target_: os.system}\n"])
def test_a_damaged_configuration_of_a_run(content: str, own_run: str, capsys: Capture) -> None:
    Path(own_run, "config.yaml").write_text(content)
    assert main(["train", f"resume={own_run}", "epochs=3"]) in (2, 3)
    err = capsys.readouterr().err
    assert err.startswith("imgcls: error: ")
    assert err.count("\n") == 1


def test_the_printed_configuration_of_a_resumed_run_is_the_changed_one(own_run: str, capsys: Capture) -> None:
    assert main(["train", f"resume={own_run}", "epochs=9", "--cfg", "job"]) == 0
    table = yaml.safe_load(capsys.readouterr().out)
    assert table == yaml.safe_load(Path(own_run, "config.yaml").read_text()) | {"epochs": 9}


# --- how errors end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a\nb"), 2, "imgcls: error: a b"),
        (RunError("no"), 1, "imgcls: error: no"),
        (OSError(28, "No space left on device", "x/y"), 1, "imgcls: error: No space left on device: x/y"),
        (MemoryError(), 1, "imgcls: error: out of memory; try a smaller batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), 1, "imgcls: error: out of memory"),
        (KeyError("x"), 1, "imgcls: error: KeyError: 'x' (--debug shows where)"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_end_is_one_line(
    error: BaseException, code: int, line: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> int:
        raise error

    monkeypatch.setattr(dispatch, "_train", fail)
    assert main(["train"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert len(err.strip().splitlines()) == 1
    if code != 130:
        assert main(["train", "--debug"]) == code
        assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    command = f"{sys.executable} -m imgcls train --cfg job | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "e0\n"
    assert done.stderr == ""


def test_an_interrupt_that_a_library_covers_up_is_still_one(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def half_open(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise UnboundLocalError("f")  # noqa: B904 - as an exit stack may

    monkeypatch.setattr("imgcls.cli.dispatch.parse_line", half_open)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "\ninterrupted; the last checkpoint, if any, is kept\n"
