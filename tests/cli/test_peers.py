"""The words of other libraries: each is refused in one line that says what to type here, and that is accepted."""

from __future__ import annotations

import re
import shlex
from typing import get_args

import pytest

from imgcls.cli.app import main
from imgcls.cli.commands import COMMANDS
from imgcls.compose.composer import Composer
from imgcls.compose.overrides import read_all
from imgcls.config import peers
from imgcls.config.options import option_node
from imgcls.config.parsing import parse
from imgcls.config.schema import Monitor, TrainConfig
from imgcls.training import spec

Capture = pytest.CaptureFixture[str]

# a value for each of our keys in the table
EXAMPLES = {
    "epochs=": "3",
    "batch_size=": "8",
    "accumulate=": "2",
    "optimizer=": "sgd",
    "scheduler=": "cosine",
    "scheduler.warmup_epochs=": "1",
    "loss=": "focal",
    "patience=": "3",
    "dataset.positive=": "8",
    "monitor=": "val_loss",
    "seed=": "3",
    "device=": "cpu",
    "precision=": "fp32",
    "compile=": "false",
    "workers=": "0",
    "loader=": "stream",
    "sampler=": "balanced",
    "class_weights=": "auto",
    "tensorboard=": "true",
    "checkpoint_every=": "200",
    "run_dir=": "here",
    "resume=": "null",
    "model=": "resnet18",
    "model.pretrained=": "false",
    "model.freeze=": "true",
    "dataset=": "./photos",
    "dataset.root=": "./photos",
    "dataset.image_size=": "32",
    "dataset.channels=": "3",
    "dataset.split_seed=": "1",
    "dataset.folds=": "5",
    "dataset.group=": "patient",
    "dataset.limit=": "20",
    "dataset.test_limit=": "20",
    "dataset.classes=": "['0','1']",
    "augment=": "strong",
    "augment=standard augment.degrees=": "10",
}
BESIDE = {
    "dataset.root=": ["dataset=imagefolder"],
    "dataset.folds=": ["dataset.fold=0"],
    "dataset.group=": ["dataset=./labels.csv"],
    "model.dropout=": ["model=mlp"],
}
OF_OTHERS = ("checkpoint=", "input=", "output=", "topk=", "tta=")  # keys of evaluate and predict


@pytest.mark.parametrize("here", [here for here in peers.KEYS if here not in OF_OTHERS])
def test_what_is_advised_is_accepted(here: str) -> None:
    words = [*BESIDE.get(here, []), *f"{here}{EXAMPLES.get(here, '0.1')}".split()]
    composer = Composer()
    config = parse(TrainConfig, composer.table(read_all(words, composer.paths), "train"))
    spec.RunSpec.from_config(config)


def test_keys_of_other_commands_exist() -> None:
    known = {**option_node("", "evaluate"), **option_node("", "predict")}
    assert {here.rstrip("=") for here in OF_OTHERS} <= known.keys()


def test_no_word_of_a_peer_is_one_of_ours() -> None:
    """Or its hint would never be seen."""
    keys = set(option_node("", "train"))
    words = {word for table in (peers.KEYS, peers.NOTES) for line in table.values() for word in line.split()}
    assert not words & keys
    assert not {word for line in peers.COMMANDS.values() for word in line.split()} & set(COMMANDS)


# command line, what it says
LINES = {
    "train imgsz=224": "type dataset.image_size=224",
    "train img_size=[32,32]": "did you mean 'dataset.image_size'",
    "train lr0=0.01": "did you mean 'optimizer.lr'",
    "train lr=0.1": "did you mean 'optimizer.lr'",
    "train learning_rate=1e-3": "type optimizer.lr=0.001",
    "train optimizer.learning_rate=0.2": "type optimizer.lr=0.2",
    "train model.lr=0.2": "type optimizer.lr=0.2",
    "train bs=64": "type batch_size=64",
    "train batch=16": "did you mean 'batch_size'",
    "train data.batch_size=16": "unknown key 'data.batch_size'",
    "train trainer.max_epochs=5": "did you mean 'epochs'",
    "train max_epochs=5": "did you mean 'epochs'",
    "train trainer=gpu": "type device=cuda",
    "train trainer.accelerator=gpu": "type device=cuda",
    "train data=./photos": "did you mean 'dataset'",
    "train pretrained=true": "did you mean 'model.pretrained'",
    "train weights=DEFAULT": "type model.pretrained=DEFAULT",
    "train ckpt_path=last.ckpt": "type resume=last.ckpt",
    "train num_classes=5": "the data set says how many",
    "train amp=true": "precision=bf16 is mixed precision",
    "train fp16=true": "type precision=fp16",
    "train half=true": "type precision=fp16",
    "train seed_everything=3": "type seed=3",
    "train project=x": "type run_dir=x",
    "train name=x": "type run_dir=x",
    "train logger=wandb": "wandb sync",
    "train gpus=2": "torchrun",
    "train strategy=ddp": "torchrun",
    "train validation_split=0.2": "type dataset.val_fraction=0.2",
    "train augment.rotate=10": "type augment=standard augment.degrees=10",
    "train label_smoothing=0.1": "did you mean 'loss.label_smoothing'",
    "train gradient_clip_val=1": "type clip_grad=1",
    "train -m lr=0.1,0.2": "did you mean 'optimizer.lr'",
    "train gpu=1": "type device=cuda:1",
    "train device=0": "type device=cuda:0",
    "train device=gpu": "unknown 'gpu' (choices: auto, cpu, cuda, cuda:1, mps); type device=cuda",
    "train device=[0]": "type device=cuda:0",
    "train device=0,1": "torchrun",
    "train device=cuda:0,1": "torchrun",
    "evaluate latest device=0": "type device=cuda:0",
    "train precision=16": "type precision=fp16",
    "train precision=16-mixed": "type precision=fp16",
    "train precision=bf16-mixed": "type precision=bf16",
    "train precision=32": "type precision=fp32",
    "train --epochs 5": "without dashes: epochs=5",
    "train --batch-size 64": "without dashes: batch_size=64",
    "train --batch-size=64": "without dashes: batch_size=64",
    "train --checkpoint-every=64": "without dashes: checkpoint_every=64",
    "train --lr 0.1": "without dashes: optimizer.lr=0.1",
    "train --lr=0.1": "did you mean 'optimizer.lr'",
    "train --data ./photos": "without dashes: dataset=./photos",
    "train --model resnet50": "without dashes: model=resnet50",
    "train --imgsz 64": "without dashes: dataset.image_size=64",
    "train --pretrained": "without dashes: model.pretrained=...",
    "train -b 64": "without dashes: batch_size=64",
    "evaluate --weights best.pt": "without dashes: checkpoint=best.pt",
    "evaluate latest weights=best.pt": "type checkpoint=best.pt",
    "evaluate latest data=./photos": "did you mean 'dataset'",
    "evaluate latest batch=3": "imgcls evaluate --help lists the keys",
    "predict latest x.png source=y.png": "type input=y.png",
    "data ./photos imgsz=3": "type dataset.image_size=3",
    "export latest": "imgcls.load(RUN).module",
    "val": "type imgcls evaluate RUN",
    "test": "type imgcls evaluate RUN",
    "fit": "type imgcls train",
    "Fit": "type imgcls train",
    "tune": "type imgcls train -m",
}


def test_no_pattern_takes_a_value_that_is_right() -> None:
    for value in get_args(Monitor):
        assert not peers.value_hint("monitor", value)
    for value in ("auc", "val_auroc", "f1", "bal_acc", "acc", "eval_loss"):
        assert peers.value_hint("monitor", value).removeprefix("type monitor=") in get_args(Monitor)


@pytest.mark.parametrize("line", LINES)
def test_one_line_says_what_to_type(line: str, capsys: Capture) -> None:
    assert main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (said,) = err.splitlines()
    assert said.startswith("imgcls: error: ")
    assert LINES[line] in said


def test_patterns_of_values_fill_in_what_they_found() -> None:
    for key, pattern, here in peers.VALUES:
        assert key in option_node("", "train")
        assert re.compile(pattern).groups >= here.count("\\1")
