"""What a run was tested on and how it did, by the files in its folder; no checkpoint is opened."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgcls.config.migrations import completed
from imgcls.config.parsing import flatten
from imgcls.config.schema import OF_THE_COMMAND
from imgcls.config.yaml_files import read_yaml
from imgcls.errors import CheckpointError, ConfigError, DataError
from imgcls.runs.tested import Mark, marks
from imgcls.text import listing

OUTSIDE = (*OF_THE_COMMAND, "plots", "tensorboard", "checkpoint_every", "experiment", "dataset.download")
BECAME = {"model": "model.name", "image_size": "dataset.image_size", "pretrained": "model.pretrained"}
PREDICTIONS, REPORT, SWEEP = "predictions.npz", "report.json", "sweep.json"
BEST = "best.safetensors"  # as in checkpoints/format.py, which imports torch


class Place(NamedTuple):
    """Where results are. name: as it was typed. origin: the word that named it, the same for all jobs of a sweep."""

    name: str
    folder: Path
    origin: str


@dataclass(frozen=True)
class Result:
    """A run's test. settings: its configuration, flat, with what auto became; without the seed.

    names, labels, predicted: of its N images: path or number, true class and predicted class, as text. marks: which
    images these are. versions: of the programs that it was made with.
    """

    place: Place
    settings: Mapping[str, Any]
    seed: int
    split: str
    dataset: str
    classes: tuple[str, ...]
    names: NDArray[Any]
    labels: NDArray[np.str_]
    predicted: NDArray[np.str_]
    marks: tuple[Mark, ...]
    versions: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As it was typed."""
        return self.place.name

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) whether an image is classified correctly."""
        return np.asarray(self.predicted == self.labels)

    def take(self, rows: NDArray[np.int64]) -> Result:
        """The same with its images in this order."""
        return replace(self, names=self.names[rows], labels=self.labels[rows], predicted=self.predicted[rows])


def find(words: Sequence[str]) -> tuple[list[Place], list[str]]:
    """The runs that the words mean, and warnings about jobs that are left out.

    A word is a run's folder, its best checkpoint, the folder of an evaluation, a sweep (all its jobs that were tested)
    or latest. Raises CheckpointError for what is none of these, ConfigError for a run that is given twice.
    """
    found: list[Place] = []
    warnings: list[str] = []
    for word in words:
        folder = _folder(word)
        if not (folder / SWEEP).is_file():
            found.append(Place(str(folder) if word == "latest" else word.rstrip("/"), folder, word))
            continue
        jobs = sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
        done = [path for path in jobs if (path / PREDICTIONS).is_file() and (path / REPORT).is_file()]
        if left := [path.name for path in jobs if path not in done]:
            warnings.append(f"{folder}: jobs without test results are left out: {listing(left)}")
        found += [Place(str(path), path, str(folder)) for path in done]
    real = [os.path.realpath(one.folder) for one in found]
    if twice := next((one.name for i, one in enumerate(found) if real[i] in real[:i]), None):
        raise ConfigError(f"{twice} is given twice")
    return found, warnings


def _folder(word: str) -> Path:
    if word == "latest":
        from imgcls.runs.folder import latest  # imports torch

        return latest()
    path = Path(os.path.expanduser(word))
    if path.name == BEST and path.is_file():
        return path.absolute().parent.parent
    if not path.exists():
        raise CheckpointError(f"no such run: {word}; give a run folder, a sweep or latest")
    if not path.is_dir():
        raise CheckpointError(f"{word}: compare reads the test results of a run; give its folder")
    return path


def read(place: Place) -> Result:
    """The test results there. Raises CheckpointError if there are none, or if they are damaged."""
    name, folder, _ = place
    run = folder if (folder / "config.yaml").is_file() else folder.absolute().parent.parent
    if not (run / "config.yaml").is_file():
        raise CheckpointError(f"{name} is neither a run, a sweep nor an evaluation in a run's folder")
    for file in (PREDICTIONS, REPORT):
        if not (folder / file).is_file():
            way = f"imgcls train resume={shlex.quote(str(run))}"
            raise CheckpointError(f"{name} has no {file}, so it was not tested; to finish it: {way}")
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        table = completed(read_yaml(run / "config.yaml"))
        split, seed = str(report["split"]), int(table["seed"])
        classes, names, labels, predicted = _predictions(folder / PREDICTIONS)
        settings = _settings(table, report, marks(run / "split.npz", "train", "train.fingerprint"))
        images = (split, f"{split}.fingerprint", f"{split}.content") if run == folder else ()
        return Result(
            place,
            settings,
            seed,
            split,
            str(report["dataset"]),
            classes,
            names,
            labels,
            predicted,
            tuple(marks(run / "split.npz", *images)),
            {**(report.get("versions") or {}), **_commit(run)},
        )
    except Exception as error:  # numpy and zipfile raise nearly anything
        raise CheckpointError(f"{name}: its test results are damaged ({error})") from error


def _commit(run: Path) -> dict[str, str]:
    """The git commit that the run was made from, if its provenance.json has one."""
    path = run / "provenance.json"
    commit = json.loads(path.read_text(encoding="utf-8")).get("git_commit") if path.is_file() else None
    return {"git commit": str(commit)[:12]} if commit else {}


def _predictions(path: Path) -> tuple[tuple[str, ...], NDArray[Any], NDArray[np.str_], NDArray[np.str_]]:
    """(classes, names, labels, predicted classes) of a predictions.npz. Raises ValueError."""
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        classes, labels, probabilities = (file[key] for key in ("classes", "labels", "probabilities"))
        names = file["path"] if "path" in file.files else file["index"]
    count = len(labels)
    if not count or labels.min() < 0 or probabilities.shape != (count, len(classes)) or names.shape != (count,):
        raise ValueError("its arrays do not fit one another")
    return tuple(classes.tolist()), names, classes[labels], classes[probabilities.argmax(axis=1)]


def _settings(table: Mapping[str, Any], report: Mapping[str, Any], trained: Sequence[Mark]) -> dict[str, Any]:
    """What the result depends on besides the seed, flat: the configuration, what auto became, the training images."""
    flat = {key: value for key, value in flatten(table).items() if not isinstance(value, Mapping) or not value}
    for key, value in (report.get("chosen") or {}).items():
        place = BECAME.get(key, key)
        if flat.get(place, "auto") in ("auto", None):
            flat[place] = value
    flat["tta"] = report.get("tta", "none")
    flat["training images"] = "-".join(f"{mark[0]:08x}" for mark in trained if mark)
    return {key: value for key, value in flat.items() if key not in (*OUTSIDE, "seed")}


def aligned(results: Sequence[Result]) -> list[Result]:
    """The results with their images in the order of the first one's.

    Raises DataError unless all were tested on the same images with the same labels.
    """
    first, *others = results
    return [first, *(_like(first, other) for other in others)]


def _like(first: Result, other: Result) -> Result:
    differs = _difference(first, other)
    if not differs:
        here, there = (np.argsort(one.names, kind="stable") for one in (first, other))
        order = np.empty_like(here)
        order[here] = there
        other = other.take(order)
        wrong = int((other.labels != first.labels).sum())
        differs = f"{wrong:,} images have other labels" if wrong else ""
    if differs:
        raise DataError(f"{first.name} and {other.name} were not tested on the same images: {differs}")
    return other


def _difference(first: Result, other: Result) -> str:
    """In what the tests differ, empty if it is not in classes or images."""
    if first.split != other.split:
        return f"the split {first.split} and {other.split}"
    if sorted(first.classes) != sorted(other.classes):
        return f"the classes {listing(first.classes)} and {listing(other.classes)}"
    if len(first.names) != len(other.names):
        return f"{len(first.names):,} and {len(other.names):,}"
    if first.names.dtype.kind != other.names.dtype.kind:
        return f"numbered images and named ones ({first.dataset}, {other.dataset})"
    if not np.array_equal(np.sort(first.names), np.sort(other.names)):
        missing = len(np.setdiff1d(first.names, other.names))
        return f"{missing:,} of {len(first.names):,} are of the first alone"
    pairs = list(zip(first.marks, other.marks, strict=False))
    if pairs and pairs[0][0] == pairs[0][1] and any(None not in pair and pair[0] != pair[1] for pair in pairs[1:]):
        return "of the same names, but other files"
    return ""
