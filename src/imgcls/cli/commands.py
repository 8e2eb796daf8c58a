"""The commands, in one table.

A new command is one entry in COMMANDS, one conf/NAME.yaml with its keys and their defaults, and one function, which is
called as ``function(config, **{group: Choice}, own_names=frozenset, is_quiet=bool)`` and returns what --json prints.
Parsing, --cfg job, --json, the user's own code, signals and help follow from the entry (dispatch.py, help.py). Nothing
else is imported here: ``imgcls --help`` stays fast.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Argument:
    """A word that is not key=value: the key that it sets; is_list: all the remaining words."""

    name: str
    key: str
    is_list: bool = False


@dataclass(frozen=True, kw_only=True)
class Command:
    """What the command line knows about a command.

    run: its function, module:function. config: its dataclass in config/schema.py. accepts: groups and keys that are
    accepted besides those of its file; the function gets a Choice for each group. overview, more: its lines in
    ``imgcls --help`` (words, what they do), the latter under "more". help: lines of its own help after the keys.
    """

    run: str
    config: str
    usage: str
    overview: tuple[tuple[str, str], ...] = ()
    more: tuple[tuple[str, str], ...] = ()
    help: tuple[str, ...] = ()
    examples: tuple[str, ...]
    arguments: tuple[Argument, ...] = ()
    accepts: tuple[str, ...] = ()
    allows_multirun: bool = False  # a training run: new, resumed or a sweep


OWN_CODE = "model.name=PKG:NAME     your own code that the checkpoint may import"

# fmt: off
COMMANDS = {
    "train": Command(
        run="imgcls.train:train", config="TrainConfig", usage="[key=value ...] [-m]", allows_multirun=True,
        overview=(("[key=value ...]", "train, by default on built-in images"),
                  ("dataset=./photos", "train on your own images (class folders)")),
        more=(("-m model=mlp,lenet seed=0,1", "a sweep: every combination"),
              ("experiment=mnist_99", "a recipe: options and keys at once"),
              ("resume=RUN", "resume an interrupted run")),
        examples=("model=lenet dataset=cifar10 epochs=10", "dataset=./photos model=resnet18 dataset.image_size=64",
                  "optimizer=sgd optimizer.lr=0.1 scheduler=cosine", "-m model=mlp,lenet seed=0,1,2",
                  "experiment=mnist_99", "resume=latest", "model.name=my_pkg.nets:MyNet model.width=64"),
    ),
    "evaluate": Command(
        run="imgcls.evaluate:evaluate", config="EvaluateConfig", usage="RUN [key=value ...]",
        arguments=(Argument("RUN", "checkpoint"),), accepts=("dataset", "attack", "model.name"),
        overview=(("RUN [split=test]", "accuracy, precision and recall of a run"),),
        help=("dataset=NAME or ./PATH  another data set; dataset.KEY=... as for train",
              "attack=fgsm or pgd      accuracy under that attack, too; attack.KEY=...", OWN_CODE),
        examples=("latest", "outputs/lenet-mnist-1 split=val",
                  "latest dataset=./more_photos split=all output=./results"),
    ),
    "predict": Command(
        run="imgcls.predict:predict", config="PredictConfig", usage="RUN INPUT... [key=value ...]",
        arguments=(Argument("RUN", "checkpoint"), Argument("INPUT", "input", is_list=True)), accepts=("model.name",),
        overview=(("RUN INPUT...", "classify image files, folders or globs"),),
        help=(OWN_CODE,),
        examples=("latest photo.png", "outputs/lenet-mnist-1 ./folder 'scans/*.png' output=predictions.csv"),
    ),
    "data": Command(
        run="imgcls.reports.dataset:inspect_dataset", config="DataConfig", usage="DATASET [output=FOLDER]",
        arguments=(Argument("DATASET", "dataset"),), accepts=("dataset",),
        overview=(("./photos", "inspect a data set and find problems"),),
        help=("DATASET                 a name (mnist), a folder (./photos) or a table",
              "dataset.KEY=...         as for train (imgcls train dataset=mnist --help)"),
        examples=("./photos", "./photos output=./report", "./labels.csv --json", "mnist"),
    ),
    "compare": Command(
        run="imgcls.compare.command:compare", config="CompareConfig", usage="RUN RUN ... [output=FILE.csv]",
        arguments=(Argument("RUN", "checkpoint", is_list=True),),
        more=(("RUN RUN ...", "which is better, and is it chance?"),),
        help=("of runs that differ in the seed alone, the recipes are compared",),
        examples=("outputs/lenet-cifar10-1 outputs/lenet-cifar10-2", "outputs/sweep-1",
                  "outputs/lenet-cifar10-1 outputs/lenet-cifar10-2 output=disagree.csv"),
    ),
    "reproduce": Command(
        run="imgcls.reproduce:reproduce", config="ReproduceConfig", usage="RUN [run_dir=FOLDER]",
        arguments=(Argument("RUN", "checkpoint"),), accepts=("model.name", "dataset.name", "optimizer.name"),
        more=(("RUN", "run it again: the same result?"),),
        help=("model.name=PKG:NAME     your own code that the run may import; the same for",
              "                        dataset.name and optimizer.name"),
        examples=("latest", "outputs/lenet-cifar10-1 run_dir=./again"),
    ),
}
# fmt: on
