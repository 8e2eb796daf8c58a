"""Whatever a person may mistype ends in one line that says what to type instead, and makes nothing on disk.

The row numbers are those of docs/bad-inputs.md in the project's notes: 1 to 25 the command line, 26 to 52 values.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from imgcls.cli import app
from imgcls.cli.app import main
from imgcls.config.options import conf_dir
from imgcls.config.yaml_files import read_yaml
from imgcls.errors import ConfigError
from imgcls.runs import folder as run_folders
from tests.conftest import QUIET

Capture = pytest.CaptureFixture[str]


def everything() -> list[str]:
    return sorted(str(path) for path in Path.cwd().rglob("*") if "__pycache__" not in path.parts)


def refused(capsys: Capture, argv: list[str], *needles: str, code: int = 2) -> str:
    """Run it, check that it ends as it should, return the line."""
    before = everything()
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert everything() == before
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert [line.startswith("imgcls: error: ") for line in lines] == [False] * (len(lines) - 1) + [True]
    assert "Traceback" not in err
    assert "__path_" not in err
    for needle in needles:
        assert needle in lines[-1]
    return lines[-1]


# fmt: off
ROWS: list[tuple[str, str, list[str], tuple[str, ...]]] = [
    ("2", "trian", [], ("unknown command 'trian'; did you mean 'train'?",)),
    ("3", "train", ["model=lenett"], ("model: unknown 'lenett'; did you mean 'lenet'?", "choices: airbench, auto, c")),
    ("4", "train", ["modl=lenet"], ("unknown key 'modl'; did you mean 'model'?",)),
    ("5", "train", ["optimizer.lrr=0.1"], ("unknown key 'optimizer.lrr'; did you mean 'optimizer.lr' (now 'auto')?",)),
    ("6 +", "train", ["+optimizer.lrr=0.1"], ("unknown key 'optimizer.lrr'",)),
    ("6 ++", "train", ["++optimizer.lrr=0.1"], ("unknown key 'optimizer.lrr'",)),
    ("7", "train", ["optimizer.lr"], ("expected key=value, got 'optimizer.lr'",)),
    ("8", "train", ["optimizer.lr="], ("optimizer.lr: empty value",)),
    ("9", "train", ["=3"], ("missing key before '='",)),
    ("10", "train", [""], ("empty argument",)),
    ("11", "train", ["optimizer.lr==3"], ("bad value '=3' for optimizer.lr",)),
    ("12", "train", ["optimizer.lr=[1,2"], ("optimizer.lr: unclosed '['",)),
    ("13", "train", ["optimizer.lr=0.1,0.2"], ("several values for optimizer.lr; add --multirun",)),
    ("14 letter", "train", ["optimízer.lr=3"], ("unexpected character 'í' in key",)),
    ("14 full-width", "train", ["epochs=３"], ("epochs", "unexpected character '３'")),
    ("15", "train", ["--foo"], ("unknown flag --foo",)),
    ("16", "train", ["--config-dir=/nonexistent"], ("--config-dir: no such folder: /nonexistent",)),
    ("16 long", "train", [f"--config-dir={'a' * 300}"], ("--config-dir: no such folder: aaa",)),
    ("17", "train", ["--config-name=nope"], ("--config-name: no file nope.yaml in",)),
    ("18", "train", ["--experimental-rerun", "x.pickle"], ("flag --experimental-rerun is not supported",)),
    ("19", "train", ["model=../../etc/passwd"], ("model: unknown '../../etc/passwd'",)),
    ("20", "train", ["epochs=1", "epochs=2"], ("epochs is given twice",)),
    ("23 nothing", "predict", [], ("missing RUN and INPUT",)),
    ("23 no run", "predict", ["input=x.png"], ("missing RUN",)),
    ("23 no image", "predict", ["latest"], ("missing INPUT",)),
    ("23 evaluate", "evaluate", [], ("missing RUN",)),
    ("26", "train", ["optimizer.lr=abc"], ("optimizer.lr: expected a number, got 'abc'",)),
    ("27 nan", "train", ["optimizer.lr=nan"], ("optimizer.lr: must be finite",)),
    ("27 inf", "train", ["optimizer.lr=inf"], ("optimizer.lr: must be finite",)),
    ("27 -inf", "train", ["optimizer.lr=-inf"], ("optimizer.lr: must be finite",)),
    ("28 negative", "train", ["optimizer.lr=-0.1"], ("optimizer.lr: must be above 0 and at most 1,000, got -0.1",)),
    ("28 zero", "train", ["optimizer.lr=0"], ("optimizer.lr: must be above 0 and at most 1,000, got 0",)),
    ("29", "train", ["epochs=-5"], ("epochs: must be at least 1",)),
    ("30 fraction", "train", ["epochs=1.5"], ("epochs: expected an integer, got 1.5",)),
    ("30 exponent", "train", ["epochs=1e9"], ("epochs: expected an integer",)),
    ("30 true", "train", ["epochs=true"], ("epochs: expected an integer, got true",)),
    ("31", "train", ["epochs=10000000000"], ("epochs: must be at least 1 and at most 1,000,000",)),
    ("32", "train", ["seed=99999999999999999999"], ("seed: must be at least 0 and at most 9,223,372,036,854,775,807",)),
    ("33 zero", "train", ["batch_size=0"], ("batch_size: must be at least 1",)),
    ("33 negative", "train", ["batch_size=-1"], ("batch_size: must be at least 1",)),
    ("34 negative", "train", ["workers=-1"], ("workers: must be at least 0 and at most 256",)),
    ("34 many", "train", ["workers=10000"], ("workers: must be at least 0 and at most 256",)),
    ("35", "train", ["model.num_classes=100"], ("model.num_classes: got 100", "10 classes")),
    ("36", "train", ["model.num_classes=1000000000"], ("model.num_classes: must be at least 1 and at most 100,000",)),
    ("37 zero", "train", ["dataset.image_size=0"], ("dataset.image_size: must be at least 1",)),
    ("37 large", "train", ["dataset.image_size=100000"], ("dataset.image_size: must be at least 1 and at most 4,096",)),
    ("38 null", "train", ["optimizer=null"], ("optimizer: expected one of its options, got null", "adamw")),
    ("38 number", "train", ["optimizer=3"], ("optimizer: expected one of its options, got 3", "adamw")),
    ("39 key", "train", ["seed=${nope}"], ("unresolved interpolation in seed", "'nope'")),
    ("39 variable", "train", ["seed=${oc.env:NOPE}"], ("unresolved interpolation '${oc.env:NOPE}' in seed",)),
    ("39 spaced", "train", ["seed=${ oc.env: HOME }"], ("in seed: environment values are not read",)),
    ("40 itself", "train", ["seed=${seed}"], ("recursive interpolation in 'seed'",)),
    ("40 cycle", "train", ["seed=${epochs}", "epochs=${seed}"], ("recursive interpolation in 'epochs'",)),
    ("41 ???", "train", ["seed=???"], ("missing required value 'seed'",)),
    ("41 root", "train", ["dataset=imagefolder"], ("missing required value 'dataset.root'",)),
    ("42", "train", ["model._target_=os.system"], ("'_target_' is not allowed",)),
    ("42 nested", "train", ["optimizer.lr={a: {_target_: os.system}}"], ("'_target_' is not allowed",)),
    ("experiment", "train", ["experiment=mnst_99"], ("unknown 'mnst_99'; did you mean 'mnist_99'?", "choices: ")),
    ("compile", "train", ["compile=maybe"], ("compile: unknown 'maybe' (choices: auto, true, false)",)),
    ("48", "train", ["device=cpu", "precision=fp16"], ("precision: fp16 needs a GPU", "bf16")),
    ("49 order", "train", ["scheduler=step", "scheduler.milestones=[5,3]"], ("must increase, got 3 after 5",)),
    ("49 late", "train", ["scheduler=step", "scheduler.milestones=[5,30]"], ("milestones", "(20), got 30")),
]
# fmt: on


@pytest.mark.parametrize(("command", "words", "needles"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_row(command: str, words: list[str], needles: tuple[str, ...], capsys: Capture) -> None:
    refused(capsys, [command, *words], *needles)


def test_row_1_a_bare_call_prints_the_usage(capsys: Capture) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "imgcls train" in err
    assert "imgcls: error" not in err


@pytest.mark.parametrize("built", [None, "13.0"])
def test_row_21_cuda_that_is_not_available(built: str | None, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    why = "built without CUDA" if built is None else "built with CUDA 13.0 but finds no GPU"
    refused(capsys, ["train", "device=cuda"], "device: cuda is not available", why, "device=cpu")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return monkeypatch


def test_row_22_a_gpu_that_does_not_exist(capsys: Capture, gpus: pytest.MonkeyPatch) -> None:
    gpus.setattr(torch.cuda, "device_count", lambda: 1)
    refused(capsys, ["train", "device=cuda:7"], "device: there is no cuda:7 (this machine has cuda:0)")


def test_row_25_more_processes_than_gpus(capsys: Capture, gpus: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "4"}.items():
        gpus.setenv(name, value)
    gpus.setattr(app, "HEAD_START", 0)
    refused(capsys, ["train"], "local rank 2 has no GPU (this machine has cuda:0, cuda:1)", "at most 2 processes")
    assert main(["train", "epochs=0"]) == 2
    # what is wrong in every process, rank 0 has said, and torchrun has ended this one, before it speaks
    assert capsys.readouterr().err.startswith("imgcls: error (rank 2): epochs: must be at least 1")


@pytest.fixture
def run(linear_run: Path) -> str:
    return str(linear_run)


def test_row_24_an_image_that_does_not_exist(run: str, capsys: Capture) -> None:
    refused(capsys, ["predict", f"checkpoint={run}", "input=nonexist.png"], "no such file: nonexist.png", code=3)
    refused(capsys, ["predict", "checkpoint=a", "input=nonexist.png"], "no such run or checkpoint: a", code=3)


def test_row_33_a_batch_larger_than_the_data_is_reduced_and_reported(capsys: Capture) -> None:
    assert (
        main(
            [
                "train",
                "model=linear",
                "dataset.limit=100",
                "dataset.test_limit=20",
                "epochs=1",
                "batch_size=128",
                *QUIET,
            ]
        )
        == 0
    )
    assert "reduced from 128 to 90, the number of training images" in capsys.readouterr().err


def test_row_37_images_too_small_for_the_model(capsys: Capture) -> None:
    argv = ["train", "model=lenet", "dataset.image_size=2"]
    refused(capsys, argv, "lenet needs images of at least 4x4", "dataset.image_size=4")


# --- YAML in a --config-dir ------------------------------------------------------------------------------------------

BOMB = b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n".encode()
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
NESTED = b"name: lenet\nhidden: " + b"[" * 200 + b"]" * 200

# fmt: off
MLP = b"name: mlp\nhidden: [3]\nactivation: relu\nbatch_norm: false\n"
FILES: list[tuple[str, bytes, tuple[str, ...]]] = [
    ("43 tab", b"name: mlp\n\thidden: [3]\n", ("mine.yaml:2:1: found character '\\t'",)),
    ("43 duplicate key", b"name: mlp\nname: lenet\n", ("mine.yaml:2:1: duplicate key 'name'",)),
    ("43 bad UTF-8", b"name: m\xff\n", ("mine.yaml:1:8: not UTF-8 (byte 0xff)",)),
    ("43 NUL", b"name: m\x00\n", ("mine.yaml:1:8: character",)),
    ("43 BOM", b"\xef\xbb\xbfname: lenet\n", ("mine.yaml:1:1: starts with a byte order mark",)),
    ("43 alias", b"name: *nope\n", ("mine.yaml:1:7: found undefined alias",)),
    ("43 tag", b"name: !!python/object/apply:os.getcwd []\n", ("mine.yaml:1:7: the tag '!!python/object/apply:os.g",)),
    ("43 two documents", b"name: lenet\n---\nname: mlp\n", ("mine.yaml:2:1: ", "another document")),
    ("43 too large", b"name: lenet\nx: " + b"y" * 300_000, ("mine.yaml:1:1: 300,015 bytes are too many",)),
    ("44", BOMB, ("mine.yaml:5:8: too many nodes",)),
    ("45", NESTED, ("nested too deep",)),
    ("46 list", b"- a\n- b\n", ("mine.yaml:1:1: expected a mapping (key: value), got a list",)),
    ("46 scalar", b"3\n", ("mine.yaml:1:1: expected a mapping (key: value), got a scalar",)),
    ("46 empty", b"", ("missing required value 'model.name'",)),
    ("47 minutes", b"name: mlp\nhidden: [1:30]\ndropout: 0.0\n", ("mine.yaml:2:10: 1:30 would be read as 90",)),
    ("47 octal", b"name: mlp\nhidden: [017]\ndropout: 0.0\n", ("mine.yaml:2:10: 017 would be read as 15",)),
    ("47 no", MLP + b"dropout: no\n", ("model.dropout: expected a number, got false",)),
    ("47 norway", b"name: no\n", ("model.name: expected text, got false", "quote it")),
    ("42 in a file", b"name: lenet\nx: {_target_: os.system}\n", ("'_target_' is not allowed (in model.x)",)),
    ("41 in a file", MLP + b"dropout: ???\n", ("missing required value 'model.dropout'",)),
    ("41 parameter left out", MLP, ("missing required value 'model.dropout'",)),
    ("39 in a file", b"name: ${oc.env:HOME}\n", ("in model.name: environment values are not read",)),
    ("5 in a file", b"name: mlp\nhiden: [3]\ndropout: 0.0\n", ("'model.hiden'; did you mean 'model.hidden'",)),
    ("defaults that are not there", b"defaults: [nope, _self_]\n", ("model/nope",)),
    ("defaults that are no list", b"defaults: 3\n", ("defaults must be a list",)),
    ("its own default", b"defaults: [mine, _self_]\n", ("is in its own defaults list",)),
]
# fmt: on


@pytest.mark.parametrize(("content", "needles"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_row_of_yaml(content: bytes, needles: tuple[str, ...], capsys: Capture) -> None:
    Path("own/model").mkdir(parents=True)
    Path("own/model/mine.yaml").write_bytes(content)
    refused(capsys, ["train", "--config-dir=own", "model=mine"], *needles)


# fmt: off
BROKEN: list[tuple[bytes, str]] = [
    *((content, needles[0]) for _, content, needles in FILES if needles[0].startswith("mine.yaml:")),
    (b"a: !!python/object/apply:os.system [x]", "mine.yaml:1:4: the tag '!!python/object/apply:os.system' is"),
    (b"a: !!python/object/apply:pathlib.Path [x]", "mine.yaml:1:4: the tag '!!python/object/apply:pathlib.Path'"),
    (b"a: !!timestamp 2024-01-02", "mine.yaml:1:4: the tag '!!timestamp' is not allowed"),
    (b"a: !!set {b}", "mine.yaml:1:4: the tag '!!set' is not allowed"),
    (b"a: !mine 3", "mine.yaml:1:4: the tag '!mine' is not allowed"),
    (b"a: =", "mine.yaml:1:4: could not determine a constructor"),
    (b"a: !!int abc", "mine.yaml:1:4: the tag '!!int' is not allowed; write the value alone"),
    (b"a: !!bool abc", "mine.yaml:1:4: the tag '!!bool' is not allowed"),
    (b"a: !!float abc", "mine.yaml:1:4: the tag '!!float' is not allowed"),
    (b"a: " + b"9" * 5000, "mine.yaml:1:4: cannot be read as int"),
    (b"!!str {a: 1}", "mine.yaml:1:1: the tag '!!str' is not allowed"),
    (b"? [a]: 1", "mine.yaml:1:3: a key must be text"),
    (b"a: {? {b: 1}: 2}", "mine.yaml:1:7: a key must be text"),
    (b"1: 2", "mine.yaml:1:1: key '1' is not text; quote it"),
    (b"a: 1\non: 2", "mine.yaml:2:1: key 'on' is not text; quote it"),
    (b"a: {null: 2}", "mine.yaml:1:5: key 'null' is not text; quote it"),
    (b"<<: 3", "mine.yaml:1:5: expected a mapping or list of mappings for merging"),
    (b"a: &a [*a]", "mine.yaml:1:8: alias '*a' refers to itself"),
    (b"a: &a {b: [1, *a]}", "mine.yaml:1:15: alias '*a' refers to itself"),
    (b"a: &a 1\nb: &a 2", "mine.yaml:2:4: found duplicate anchor 'a'"),
    (b"a: &a " + b"[" * 30 + b"]" * 30 + b"\nb: " + b"[" * 20 + b"*a" + b"]" * 20, "mine.yaml:2:24: nested too deep"),
    (b"a: 1\n---\nb: 2", "mine.yaml:2:1: expected a single document in the stream, but found another"),
    (b"a: ${", "mine.yaml: no viable alternative at input"),
    (b"# @package\na: 1", "mine.yaml: Expected header format: KEY VALUE"),
    (b"optimizer.lr: 1", "mine.yaml: unknown key 'optimizer.lr'; write keys of a group below it: optimizer: {lr: "),
    (b"hydra: {searchpath: [pkg://os]}", "mine.yaml: unknown key 'hydra'"),
    (b"loss: [a]", "mine.yaml: loss: expected keys and values, got ['a']"),
    (b"defaults:", "mine.yaml: defaults must be a list"),
    (b"defaults: {model: mlp}", "mine.yaml: defaults must be a list"),
    (b"defaults: [[a]]", "mine.yaml: defaults: expected entries such as _self_ or model: mlp, got ['a']"),
    (b"defaults: [/other/bomb]", "own/other/bomb.yaml:5:8: too many nodes"),
    (b"defaults: [/../outside]", "own/../outside.yaml:5:8: too many nodes"),
]
KINDS = [(f"{group}/mine.yaml", f"{group}=mine") for group in ("model", "dataset", "optimizer", "experiment")]
KINDS += [("mine.yaml", "--config-name=mine")]
# fmt: on


def test_every_broken_file_is_named_by_its_reader() -> None:
    Path("own").mkdir()
    for content, needle in BROKEN:
        if needle.startswith("mine.yaml:") and needle[10].isdigit():  # a place in the file: the reader's own
            Path("own/mine.yaml").write_bytes(content)
            with pytest.raises(ConfigError) as caught:
                read_yaml(Path("own/mine.yaml"))
            assert str(caught.value).startswith(f"own/{needle}")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        pytest.param(name, word, marks=[] if name == "experiment/mine.yaml" else pytest.mark.slow, id=name)
        for name, word in KINDS
    ],
)
def test_a_broken_file_of_any_kind_is_named(name: str, word: str, capsys: Capture) -> None:
    file = Path("own", name)
    for folder in (file.parent, Path("own/other")):
        folder.mkdir(parents=True, exist_ok=True)
    for bomb in ("own/other/bomb.yaml", "outside.yaml"):
        Path(bomb).write_bytes(BOMB)
    for content, needle in BROKEN:
        file.write_bytes(content)
        line = refused(capsys, ["train", "--config-dir=own", word], needle)
        assert f": own/{name}:" in line or "own/" in needle


@pytest.mark.parametrize(("name", "word"), KINDS, ids=[name for name, _ in KINDS])
def test_a_pipe_or_link_in_place_of_a_file_does_not_block(name: str, word: str, capsys: Capture) -> None:
    file = Path("own", name)
    file.parent.mkdir(parents=True)
    targets = ("/dev/zero", "nowhere", "mine.yaml")
    for make in (lambda: os.mkfifo(file), file.mkdir, *(partial(file.symlink_to, target) for target in targets)):
        make()
        refused(capsys, ["train", "--config-dir=own", word], "mine")
        assert main(["train", "--config-dir=own", "--help"]) == 0
        capsys.readouterr()
        file.rmdir() if file.is_dir() else file.unlink()


def test_a_file_that_is_not_chosen_may_be_anything() -> None:
    for name in ("model/draft.yaml", "dataset/draft.yaml", "notes.yaml"):
        Path("own", name).parent.mkdir(parents=True, exist_ok=True)
        Path("own", name).write_bytes(BOMB)
    assert main(["train", "--config-dir=own", "--cfg=job"]) == 0


def test_integers_may_be_keys_within_a_parameter() -> None:
    Path("mine.yaml").write_text(
        "name: x:y\nnames: {0: cat, 1: dog}\nday: 2024-01-02\nbase: &b {a: 1}\nmore: {<<: *b}\n"
    )
    table = read_yaml(Path("mine.yaml"))
    assert table["names"] == {0: "cat", 1: "dog"}
    assert table["day"] == "2024-01-02"  # text, as it is to OmegaConf
    assert table["more"] == {"a": 1}


@pytest.mark.parametrize("key", ["resume", "sweep_dir", "job_timeout"])
def test_a_key_of_the_command_line_in_a_file(key: str, capsys: Capture) -> None:
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text(f"# @package _global_\n{key}: latest\n")
    argv = ["train", "--config-dir=own", "experiment=mine"]
    refused(capsys, argv, f"{key}: set it on the command line ({key}=...), not in a file")
    refused(capsys, [*argv, "-m", "seed=1,2"], f"{key}: set it on the command line")


DAMAGED = [content for content, needle in BROKEN if needle.startswith("mine.yaml:")]
DAMAGED += [b"epochs: 2024-01-02", b"seed: 2024-13-45", b"", b"null", b"a: 1", b"defaults: 3", b"model: {_target_: x}"]


def test_a_damaged_configuration_of_a_run_is_named(run: str, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(run, "run")
    for content in DAMAGED:
        Path("run/config.yaml").write_bytes(content)
        refused(capsys, ["train", "resume=run"], "run/config.yaml", "damaged", code=3)


# fmt: off
EXPERIMENTS: list[tuple[str, str, str]] = [
    ("key", "epoch: 3", "mine.yaml: unknown key 'epoch'; did you mean 'epochs' (now 'auto')?"),
    ("strange key", "zzz: {deep: 1}", "mine.yaml: unknown key 'zzz'; imgcls COMMAND --help lists the keys"),
    ("parameter", "optimizer: {lrr: 3}",
     "mine.yaml: unknown key 'optimizer.lrr'; did you mean 'optimizer.lr' (now 'auto')?"),
    ("parameter of another option", "optimizer: {momentum: 0.5}",
     "mine.yaml: unknown key 'optimizer.momentum'; optimizer=adamw has optimizer.lr, "),
    ("option", "defaults: [override /model: mpl]", "mine.yaml: model: unknown 'mpl'; did you mean 'mlp'?"),
    ("group", "defaults: [override /modl: mlp]", "mine.yaml: unknown group 'modl'; did you mean 'model'?"),
    ("without override", "defaults: [/model: mlp]", "'/model: mlp'; choose it in the defaults list: "),
    ("without slash", "defaults: [override model: mlp]", "choose it in the defaults list: - override /model: mlp"),
    ("option as a key", "model: mlp", "mine.yaml: 'model: mlp'; choose it in the defaults list: "),
    ("option as a name", "model: {name: mlp}", "mine.yaml: 'model.name'; choose it in the defaults list: "),
    ("itself", "experiment: mine", "mine.yaml: 'experiment: mine'; choose it in the defaults list: "),
    ("defaults that are not there", "defaults: [nope]", "Could not load 'experiment/nope'"),
    ("defaults that are no list", "defaults: 3", "defaults must be a list"),
    ("its own default", "defaults: [mine]", "is in its own defaults list"),
    ("value", "optimizer: {lr: -1}", "optimizer.lr: must be above 0 and at most 1,000, got -1"),
    ("code", "model: {_target_: os.system}", "'_target_' is not allowed (in model)"),
    ("environment", "device: ${oc.env:HOME}", "in device: environment values are not read"),
    ("duplicate", "seed: 1\nseed: 2", "mine.yaml:3:1: duplicate key 'seed'"),
    ("list", "- a", "mine.yaml:1:1: expected a mapping (key: value), got a list"),
]
# fmt: on


@pytest.mark.parametrize(("content", "needle"), [row[1:] for row in EXPERIMENTS], ids=[row[0] for row in EXPERIMENTS])
def test_an_experiment_that_does_not_fit_is_named(content: str, needle: str, capsys: Capture) -> None:
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text(f"# @package _global_\n{content}\n")
    line = refused(capsys, ["train", "--config-dir=own", "experiment=mine"], needle)
    assert "own/experiment/mine.yaml:" in line or "mine.yaml:" not in needle


def test_an_experiment_without_its_first_line(capsys: Capture) -> None:
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text("epochs: 3\n")
    argv = ["train", "--config-dir=own", "experiment=mine"]
    refused(capsys, argv, "own/experiment/mine.yaml:1:1: the first line must be '# @package _global_'")


def test_row_44_an_alias_bomb_is_never_built() -> None:
    Path("bomb.yaml").write_bytes(BOMB)
    started = time.process_time()
    with pytest.raises(ConfigError, match="too many nodes"):
        read_yaml(Path("bomb.yaml"))
    assert time.process_time() - started < 0.1


# --- the run's folder ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_row_50_a_folder_that_cannot_be_made(capsys: Capture) -> None:
    argv = ["train", "model=linear", "run_dir=/proc/x"]
    refused(capsys, argv, "cannot create the run folder /proc/x: ", code=1)


def test_row_51_a_folder_that_is_taken(capsys: Capture) -> None:
    Path("taken").mkdir()
    Path("taken/file").touch()
    refused(capsys, ["train", "run_dir=taken"], "run_dir: taken is not empty; name a new folder")
    refused(capsys, ["train", "run_dir=taken/file"], "run_dir: taken/file is a file")
    refused(capsys, ["train", "-m", "seed=0,1", "sweep_dir=taken"], "sweep_dir: taken is not empty")


def test_row_52_a_folder_in_use(capsys: Capture) -> None:
    Path("busy").mkdir()
    code = (
        "import fcntl, os, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print(os.getpid(), file=file, flush=True); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, f"busy/{run_folders.LOCK}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused(capsys, ["train", "run_dir=busy"], f"in use by process {holder.pid}", code=1)
        holder.communicate()
    Path("busy/config.yaml").touch()
    refused(capsys, ["train", "run_dir=busy"], "busy is not empty")


# --- the same through a process --------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize(
    ("argv", "code", "line"),
    [
        (["train", "epoch=10"], 2, "unknown key 'epoch'; did you mean 'epochs' (now 'auto')?"),
        (["train", b"\xff=3"], 2, "unexpected character '\\udcff' in key"),
        (["evaluate", "nowhere"], 3, "no such run or checkpoint: nowhere"),
    ],
    ids=["key", "no text", "data"],
)
def test_a_process_ends_with_the_line_and_the_code(argv: list[str | bytes], code: int, line: str) -> None:
    done = subprocess.run([sys.executable, "-m", "imgcls", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith(f"imgcls: error: {line}")
    assert done.stderr.count("\n") == 1
    assert everything() == []


# --- every key, every option -----------------------------------------------------------------------------------------


def leaves(table: dict[str, object], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += leaves(value, f"{prefix}{key}.")
        elif key not in ("defaults", "name"):
            found.append(f"{prefix}{key}")
    return found


def option_keys() -> list[tuple[str, str]]:
    """(the choice of an option that has the key, key) for every key of every option, each key once."""
    found: dict[str, str] = {}
    for path in sorted(conf_dir().glob("*/*.yaml")):
        group = path.parent.name
        if group == "experiment":  # has no keys
            continue
        for key in leaves(yaml.safe_load(path.read_text(encoding="utf-8")), f"{group}."):
            found.setdefault(key, f"{group}={path.stem}")
    return [(choice, key) for key, choice in found.items()]


TRAIN_KEYS = leaves(yaml.safe_load((conf_dir() / "train.yaml").read_text(encoding="utf-8")))
PATHS = (
    *("run_dir", "resume", "sweep_dir", "dataset.root", "dataset.images", "dataset.test"),
    *("dataset.exclude", "dataset.relabel"),
)
TEXTS = (*PATHS, "dataset.group")  # taken as they are typed; a pattern that is none is refused when data is read
EVERY = [("model=linear", key) for key in TRAIN_KEYS] + option_keys()


@pytest.mark.slow  # test_malformed tries them against the schema
@pytest.mark.parametrize(("choice", "key"), EVERY, ids=[f"{choice} {key}" for choice, key in EVERY])
def test_every_key_refuses_a_typo_and_a_wrong_type(choice: str, key: str, capsys: Capture) -> None:
    refused(capsys, ["train", choice, f"{key}x=1"], f"unknown key '{key}x'", f"did you mean '{key}'")
    if key not in TEXTS:
        refused(capsys, ["train", choice, f"{key}={{a:{{b:1}}}}"], f"{key}: ")


GROUPS = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_refuses_an_unknown_option(group: str, capsys: Capture) -> None:
    for value in (
        "nope",
        *([] if group == "experiment" else ["null"]),
        "3",
        "true",
        "[a]",
        "{name:a}",
        "${seed}",
        "a:b",
        "x.yaml",
    ):
        refused(capsys, ["train", f"{group}={value}"], f"{group}: ", "choices: ")
    refused(capsys, ["train", f"{group}"], f"expected key=value, got '{group}'; for example {group}=")
    if group != "experiment":  # the only one that may be none
        refused(capsys, ["train", f"~{group}"], f"{group} is required")
    refused(capsys, ["train", f"{group}@other=x"], "unexpected character '@'")
    refused(capsys, ["train", f"{group}.name=no:where"], f"{group}.name")
    refused(capsys, ["train", f"{group}.name=nope"], f"{group}: unknown 'nope'")


# fmt: off
ODD: list[tuple[list[str], str]] = [
    # keys that other trainers have, and that are not built yet
    *[([f"{key}=1"], f"unknown key '{key}'") for key in
      ("devices", "budget")],
    (["lr=0.1"], "did you mean 'optimizer.lr' (now 'auto')?"),
    (["image_size=3"], "did you mean 'dataset.image_size'"),
    (["batchsize=3"], "did you mean 'batch_size' (now 'auto')?"),
    (["optimzer.lr=3"], "did you mean 'optimizer.lr'"),
    (["optimizer.momentum=0.9"], "optimizer=adamw has optimizer.lr, optimizer.beta1"),
    (["dataset=mnist", "dataset.val_fractoin=0"], "did you mean 'dataset.val_fraction' (now 0.1)?"),
    (["experment=mnist_99"], "unknown key 'experment'; did you mean 'experiment' (now null)?"),
    (["experiment.lr=3"], "unknown key 'experiment.lr'; an experiment is chosen by experiment=NAME"),
    (["experiment=mnist_99", "experiment.name=mnist_99"], "experiment is given twice"),
    (["experiment=mnist_99,null"], "several values for experiment; add --multirun"),
    (["experiment=mnist_99", "epoch=3"], "unknown key 'epoch'; did you mean 'epochs' (now "),
    (["compil=true"], "unknown key 'compil'; did you mean 'compile' (now false)?"),
    # words
    (["experiment"], "expected key=value, got 'experiment'; for example experiment="),
    (["mnist_99"], "did you mean experiment=mnist_99?"),
    (["lenet"], "did you mean model=lenet?"),
    (["./photos"], "dataset=./photos"),
    (["latest"], "expected key=value, got 'latest'"),
    (["--", "epochs=3"], "expected key=value, got 'epochs=3'"),
    (["-e"], "unknown flag -e; keys are set by key=value"),
    (["--epochs", "3"], "unknown flag --epochs; keys are set by key=value"),
    (["-epochs=3"], "'-epochs' is not a key"),
    (["epochs", "=", "=", "3"], "bad value '='"),
    (["=", "3"], "missing key before '='"),
    (["optimizer..lr=3"], "'optimizer..lr' is not a key"),
    (["ep\nochs=3"], "unexpected character"),
    ([" "], "empty argument"),
    # flags
    (["--json=1"], "--json takes no value"),
    (["-m=m"], "-m takes no value"),  # to argparse, -m -m
    (["-h=m"], "-h takes no value"),
    (["--config-name=--"], "--config-name needs a value"),
    (["--cfg"], "--cfg needs a value"),
    (["--cfg", "all"], "--cfg: unknown 'all'"),
    (["-mx"], "unknown flag -mx; "),
    (["-cx"], "unknown flag -cx; "),
    (["-5"], "unknown flag -5; keys are set by key=value"),
    (["-config-dir"], "unknown flag -config-dir; did you mean '--config-dir'?"),
    (["-m=1"], "-m takes no value"),
    (["-cp=x"], "flag -cp is not supported"),
    (["-x y"], "unknown flag -x y; "),
    (["--config-dir="], "--config-dir needs a value"),
    (["--config-name", ""], "--config-name needs a value"),
    (["--config-name=../train"], "--config-name: no file ../train.yaml in"),
    (["--config-name=evaluate"], "missing required value 'checkpoint'"),
    *[([flag], f"flag {flag} is not supported") for flag in
      ("--config-path", "--info", "--run", "--package", "--resolve", "--hydra-help", "--shell-completion")],
    # Hydra's grammar
    (["optimizer.lr={null: 1}"], "optimizer.lr: cannot be set to {null: 1}"),
    (["hydra.run.dir=x"], "unknown key 'hydra.run.dir'; run folders are set by run_dir="),
    (["hydra/launcher=joblib"], "unexpected character '/' in key"),
    (["~epochs"], "epochs is required"),
    (["~nope"], "unknown key 'nope'"),
    (["~epoch"], "did you mean 'epochs'"),
    (["~optimizer.lr"], "missing required value 'optimizer.lr'"),
    (["~optimizer=adam"], "a key is removed without a value"),
    (["+model=mlp", "model=lenet"], "model is given twice"),
    (["model=mlp", "model.name=lenet"], "model is given twice"),
    (["model=mlp", "model.name=no:where"], "model is given twice"),
    (["model=choice(mlp,lenet)"], "several values for model; add --multirun"),
    (["epochs=range(1,3)"], "several values for epochs"),
    (["optimizer.lr=foo(1)"], "bad value 'foo(1)' for optimizer.lr"),
    (["optimizer.lr=1)"], "optimizer.lr: ')' without an opening bracket"),
    (["optimizer.lr=[1}"], "optimizer.lr: '}' without an opening bracket"),
    (["model.hidden=" + "[" * 300 + "]" * 300], "model.hidden: nested more than 20 levels deep"),
    (["a." * 40 + "b=1"], "a: nested more than 20 levels deep"),
    (["a." * 400 + "b=1"], "is not a key"),
    (["x" * 30_000 + "=1"], "30,002 characters is too long"),
    (["seed=" + "9" * 5000], "seed"),
    (["seed=${a.b.c}"], "unresolved interpolation in seed"),
    (["seed=${foo:1}"], "unresolved interpolation in seed"),
    (["seed=${hydra:job.name}"], "unresolved interpolation in seed"),
    (["seed=${optimizer}"], "seed"),
    (["optimizer.lr=${optimizer}"], "optimizer.lr"),
    (["seed=${${${epochs}}}"], "seed"),
    (["seed=\x00"], "bad value"),
    (["epochs.deeper=1"], "epochs: expected an integer, got {deeper: 1}"),
    (["optimizer.lr.deeper=1"], "optimizer.lr: expected a number, got {deeper: 1}"),
    (["model=mlp", "model.hidden.deeper=1"], "model.hidden.deeper: cannot be set to 1"),
    # values
    (["device=gpu"], "device: unknown 'gpu' (choices: auto, cpu, cuda"),
    (["device=cuda:-1"], "device: unknown 'cuda:-1'"),
    (["precision=16"], "precision: unknown 16"),
    (["precision=FP32"], "precision: unknown 'FP32'; did you mean 'fp32'?"),
    (["checkpoint_every=0"], "checkpoint_every: expected steps (200) or seconds (30s), got 0"),
    (["checkpoint_every=true"], "checkpoint_every: expected steps (200) or seconds (30s), got true"),
    (["checkpoint_every=nans"], "checkpoint_every: expected steps (200) or seconds (30s), got 'nans'"),
    (["dataset.channels=2"], "dataset.channels must be 1 (gray) or 3 (RGB), got 2"),
    (["model=mlp", "model.hidden=[4,0]"], "model.hidden[1]: must be at least 1 and at most 65,536, got 0"),
    (["model=resnet18", "model.stem=smal"], "model.stem: unknown 'smal'; did you mean 'small'?"),
    (["model=linear", "model.hidden=[3]"], "unknown key 'model.hidden'; model=linear has model.num_classes, "),
    (["model.hidden=[3]"], "unknown key 'model.hidden'; model=auto has model.num_classes, model.pretrained"),
    (["scheduler.warmup_epochs=20"], "warmup_epochs must be less than epochs (20)"),
    (["dataset=digits,mnist"], "several values for dataset"),
    (["dataset=./a", "dataset.root=./b"], "dataset.root is given twice"),
    (["dataset.root=/x"], "unknown key 'dataset.root'; dataset=digits has dataset.image_size, dataset.fit"),
    (["sweep_dir=x"], "sweep_dir: only for a sweep; add --multirun, or set run_dir="),
    (["job_timeout=5"], "job_timeout: only for a sweep; add --multirun"),
    (["-m", "seed=1,2", "job_timeout=0"], "job_timeout: must be above 0 and at most 1,000,000, got 0"),
    (["-m", "seed=1,2", "job_timeout=5s"], "job_timeout: expected a number, got '5s'"),
    (["-m", "seed=1,2", "job_timeout=5,6"], "job_timeout: one value for the whole sweep, got several"),
    *[([f"{key}=a/\x00"], f"{key}: a path cannot contain a NUL") for key in PATHS],
    (["-m", "sweep_dir=\x00", "seed=1,2"], "sweep_dir: a path cannot contain a NUL"),
    (["optimizer.lr=" + "9" * 400], "optimizer.lr: must be finite, got 999"),
    # the user's own code
    (["model.name=nowhere:Net"], "model.name=nowhere:Net: cannot import it"),
    (["model.name=os:nope"], "model.name=os:nope: cannot import it"),
    (["model.name=os:path"], "model.name=os:path: expected a class or a function, got module"),
    (["model.name=:"], "model.name=:: cannot import it"),
    (["loss.name=os:system"], "only model, dataset, optimizer can name your own code"),
    (["dataset.name=os:getcwd"], "expected an imgcls.data.Source, got str"),
    (["dataset.name=sys:exit"], "dataset.name=sys:exit: it exits the program"),
    (["model.name=sys:exit"], "model.name=sys:exit: it exits the program"),
    # sweeps
    (["-m", "resume=latest", "seed=1,2"], "resume cannot be used with --multirun"),
    (["-m", "run_dir=x", "seed=1,2"], "run_dir cannot be used with --multirun"),
    (["-m", "seed=1,2", "--cfg", "job"], "--cfg cannot be used with --multirun"),
    (["-m", "sweep_dir=a,b", "seed=1,2"], "sweep_dir: one folder for the whole sweep"),
    (["-m", "optimizer.lr=0.1,"], "bad value '0.1,' for optimizer.lr"),
    (["-m", "seed=range(3,1)"], "seed: 'range(3,1)' has no values"),
    (["-m", "seed=range(1,2,0)"], "bad value 'range(1,2,0)' for seed"),
    *[(["-m", f"seed={value}"], f"bad value '{value}' for seed") for value in
      ("range(0,nan)", "range(nan,1)", "range(0,1,nan)", "range(10,1,-1e-400)", "sort(range(0,nan))", "range(a)",
       "range(1,2,3,4)", "shuffle(range(0,nan))", "choice()", "choice(choice(1,2),3)", "choice(range(1,3))", "1,2,",
       ",1", "1,,2", "sort(1,a)", "sort(3,2,reverse=maybe)", "interval(a,b)", "float(a,b)", "choice(1,2),3")],
    *[(["-m", f"seed={value}"], "jobs or more (limit 1,000)") for value in
      ("range(0,inf)", "range(inf)", "range(-inf,0)", "range(0,1,1e-300)", "range(0,1e300)")],
    *[(["-m", f"seed={value}"], f"seed: '{value}' has no values") for value in
      ("glob(*)", "glob([a,b],exclude=[c])")],
    (["-m", "seed='1,2"], "seed: unclosed '"),
    (["-m", "seed=glob([)"], "seed: ')' without an opening bracket"),
    (["-m", "seed=range(0,1000000000)"], "jobs or more (limit 1,000)"),
    (["-m", "seed=range(0,99)", "epochs=range(1,99)"], "jobs or more (limit 1,000)"),
    (["-m", "model=glob(zzz*)"], "model: 'glob(zzz*)' has no values"),
    (["-m", "optimizer.lr=interval(0.1,0.2)"], "interval() is not supported"),
    (["-m", "epochs=1,2", "epochs=3"], "epochs is given twice"),
    (["-m", "~epochs"], "epochs is required"),
    (["-m", "device=cpu,gpu"], "device: unknown 'gpu'"),
]
# fmt: on


@pytest.mark.parametrize(("words", "needle"), ODD, ids=[" ".join(words)[:40] for words, _ in ODD])
def test_train_refuses(words: list[str], needle: str, capsys: Capture) -> None:
    assert len(refused(capsys, ["train", *words], needle)) < 1100


def test_own_code_that_exits_when_imported(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(".")
    Path("quitting.py").write_text("raise SystemExit(0)\n")
    refused(capsys, ["train", "model.name=quitting:Net"], "quitting:Net: cannot import it (SystemExit: 0)")


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["a", "b"], "expected one RUN, got 2: a b"),
        (["a", "checkpoint=b"], "expected one RUN, got 2: a checkpoint=b"),
        (["a", "split=tst"], "split: unknown 'tst'; did you mean 'test'?"),
        (["a", "splt=test"], "unknown key 'splt'; did you mean 'split' (now 'test')?"),
        (["a", "chekpoint=test"], "unknown key 'chekpoint'; did you mean 'checkpoint'?"),
        (["a", "split=null"], "split: unknown null"),
        (["a", "split=test,val"], "several values for split"),
        (["a", "split=${nope}"], "unresolved interpolation in split"),
        (["a", "split", "=", "tst"], "split: unknown 'tst'"),
        (["a", "output="], "output: empty value"),
        (["a", "threads=0"], "threads: must be at least 1"),
        (["a", "precision=fp8"], "precision: unknown 'fp8'"),
        (["a", "epochs=3"], "unknown key 'epochs'"),
        (["a", "model=lenet"], "model: not a key of evaluate, which takes it from the checkpoint"),
        (["a", "experiment=mnist_99"], "experiment: not a key of evaluate, which takes it from the checkpoint"),
        (["a", "optimizer.lr=3"], "optimizer.lr: not a key of evaluate"),
        (["a", "dataset=mnsit"], "dataset: unknown 'mnsit'; did you mean 'mnist'?"),
        (["a", "dataset=null"], "dataset: expected one of its options"),
        (["a", "dataset._target_=x"], "'_target_' is not allowed"),
        (["a", "dataset=digits", "dataset.name=mnist"], "dataset is given twice"),
        (["a", "=3"], "missing key before '='"),
        (["a", ""], "empty argument"),
        (["a", "-m"], "--multirun is for train"),
        (["a", "--foo"], "unknown flag --foo"),
    ],
)
def test_evaluate_refuses(words: list[str], needle: str, capsys: Capture) -> None:
    refused(capsys, ["evaluate", *words], needle)


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["dataset.limit=x"], "dataset.limit: expected an integer"),
        (["dataset.limt=3"], "unknown key 'dataset.limt'; did you mean 'dataset.limit'"),
        (["dataset=digits", "dataset.limit=x"], "dataset.limit: expected an integer"),
        (["dataset=mnist", "dataset.limt=3"], "unknown key 'dataset.limt'; did you mean 'dataset.limit'"),
        (["device=gpu"], "device: unknown 'gpu'"),
        (["precision=fp16", "device=cpu"], "precision: fp16 needs a GPU"),
        (["dataset.name=no:where"], "cannot import it"),
    ],
)
def test_evaluate_of_a_run_refuses(run: str, words: list[str], needle: str, capsys: Capture) -> None:
    refused(capsys, ["evaluate", run, *words], needle)


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["a", "x.png", "topk=0"], "topk: must be at least 1 and at most 1,000"),
        (["a", "x.png", "topk=1.5"], "topk: expected an integer"),
        (["a", "x.png", "tpok=2"], "unknown key 'tpok'; did you mean 'topk' (now 1)?"),
        (["a", "x.png", "output=x.txt"], "output: expected a file ending in .csv, .json or .jsonl"),
        (["a", "x.png", "dataset=mnist"], "dataset: not a key of predict"),
        (["a", "x.png", "split=test"], "unknown key 'split'"),
        (
            ["a", "x.png", "-x.png"],
            "unknown flag -x.png",
        ),
        (["a", "input=x.png", "input=y.png"], "input is given twice"),
        (["a", "input="], "input: empty value"),
        (["a", "x=y.png"], "unknown key 'x'"),
        (["a", "-m"], "--multirun is for train"),
    ],
)
def test_predict_refuses(words: list[str], needle: str, capsys: Capture) -> None:
    refused(capsys, ["predict", *words], needle)


@pytest.mark.parametrize("word", ["hlep", "Train", "--hlep", "epochs=3", "", "--", "help"])
def test_an_unknown_command(word: str, capsys: Capture) -> None:
    assert main([word, "trian"] if word == "help" else [word]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "imgcls train" in err or "did you mean" in err or "unknown command" in err
    assert "Traceback" not in err
