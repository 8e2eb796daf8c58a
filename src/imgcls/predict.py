"""``imgcls predict``: a checkpoint on image files -> a row for each; and the same from Python, ``imgcls.load``."""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from imgcls import metrics, rundir
from imgcls.checkpoint import write_whole
from imgcls.config import PredictConfig, TestTime
from imgcls.data.imagefolder import Scan, is_image_name, one_line, printable
from imgcls.data.loaders import Resident, evaluation_batch
from imgcls.data.pixels import Preprocessing, fit_image, fit_pixels, load_first, quiet_decoders
from imgcls.data.pool import helpers, spread
from imgcls.errors import ConfigError, DataError, RunError
from imgcls.inference import Trained, check_finite, infer, restore
from imgcls.logbook import Logbook
from imgcls.runtime import Runtime, choose_device, choose_precision, exact_fp32, session

Row = dict[str, Any]
Pixels = NDArray[np.uint8]
FORMATS = (".csv", ".json", ".jsonl")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run
LONGEST_PATH = 48  # letters, in the table on the terminal


class Classifier:
    """A trained model to be used from Python: ``model = imgcls.load("latest"); model.predict(["photo.png"])``."""

    def __init__(self, trained: Trained, runtime: Runtime, tta: TestTime = "none") -> None:
        self._trained = trained
        self._tta: TestTime = tta
        self._runtime = runtime

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        return self._trained.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """Size, channels, mean and deviation of the model's input."""
        return self._trained.preprocessing

    @property
    def module(self) -> nn.Module:
        """The plain torch module, in evaluation mode: (B, C, H, W) float -> (B, number of classes) logits."""
        return self._trained.module

    def pixels(self, image: str | Path | Pixels | Image.Image) -> Pixels:
        """A file, a PIL image or a uint8 array (H, W) or (H, W, C) as the model's uint8 (height, width, channels)."""
        if isinstance(image, str | Path):
            return self.preprocessing.load(str(image))
        try:
            return self._fit(image)
        except ValueError as error:
            raise DataError(f"not a usable image: {error}") from error

    def _fit(self, image: Pixels | Image.Image) -> Pixels:
        shape = self.preprocessing
        if isinstance(image, Image.Image):
            return fit_image(image, shape.channels, shape.height, shape.width)
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
            given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise DataError(f"expected a path or a uint8 array of shape (H, W) or (H, W, 1, 3 or 4), got {given}")
        whole: Pixels = image[None, ..., None] if image.ndim == 2 else image[None]
        pixels: Pixels = fit_pixels(whole, shape.channels, shape.height, shape.width)[0]
        return pixels

    def preprocess(self, image: str | Path | Pixels | Image.Image) -> Tensor:
        """An image as the module's input: float32 (1, C, H, W) on the model's device."""
        pixels = torch.from_numpy(self.pixels(image)[None].copy()).to(self._runtime.device)
        return self._trained.preprocessing.normaliser(self._runtime.device)(pixels)

    def predict(self, images: Sequence[str | Path | Pixels | Image.Image], topk: int = 1) -> list[Row]:
        """A row for each image: {"path", "label", "probability", "topk": [{"label", "probability"}, ...]}.

        path is None for arrays. Raises DataError for an image that cannot be read.
        """
        if isinstance(images, str | Path | np.ndarray | Image.Image):
            images = [images]
        paths = [str(image) if isinstance(image, str | Path) else None for image in images]
        return self.rows([self.pixels(image) for image in images], paths, topk)

    def rows(self, pixels: Sequence[Pixels], paths: Sequence[str | None], topk: int) -> list[Row]:
        """The rows of decoded images."""
        if not pixels:
            return []
        trained, runtime = self._trained, self._runtime
        with exact_fp32():
            fetcher = Resident(np.stack(pixels), runtime.device)
            logits = infer(trained.module, fetcher, len(pixels), trained.preprocessing, runtime, tta=self._tta)
        check_finite(logits, str(trained.checkpoint.path))
        probabilities = metrics.softmax(logits)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : min(topk, len(self.classes))]
        return [
            _row(path, one, best, self.classes) for path, one, best in zip(paths, probabilities, order, strict=True)
        ]


def _row(
    path: str | None, probabilities: NDArray[np.float32], best: NDArray[np.int64], classes: tuple[str, ...]
) -> Row:
    top = [{"label": classes[i], "probability": float(probabilities[i])} for i in best]
    return {"path": path, "label": top[0]["label"], "probability": top[0]["probability"], "topk": top}


def load(run: str | Path, device: str = "auto", own_names: Iterable[str] = ()) -> Classifier:
    """The best model of a run: a run folder, a checkpoint file, or "latest".

    own_names: package:attribute names of your own code that the checkpoint may import.
    Raises CheckpointError if it is missing or damaged.
    """
    context: AbstractContextManager[Runtime] = session(device, "fp32", None)
    with context as runtime:
        return Classifier(restore(rundir.best_checkpoint(str(run)), runtime, frozenset(own_names)), runtime)


# --- files -----------------------------------------------------------------------------------------------------------


def find_images(inputs: Sequence[str], scan: Scan) -> list[str]:
    """The files that paths, folders (at any depth) and globs stand for, in their order; each once."""
    found: dict[str, None] = {}
    for given in inputs:
        for path in _matches(given, scan.ignored):
            found.update(dict.fromkeys(scan.images(path) if os.path.isdir(path) else [path]))
    return list(found)


def _matches(given: str, ignored: Counter[str]) -> list[str]:
    """The files and folders that one argument stands for; what a glob finds is sorted out by suffix, as in a folder."""
    path = os.path.expanduser(given)
    if os.path.lexists(path):
        return [path]
    if any(mark in given for mark in "*?["):
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise DataError(f"nothing matches {given}")
        wanted = [match for match in matches if os.path.isdir(match) or is_image_name(match)]
        ignored.update(os.path.splitext(match)[1].lower() or "without suffix" for match in {*matches} - {*wanted})
        return wanted
    if "://" in given:
        raise DataError(f"{given}: addresses are not supported; download the image first")
    raise DataError(f"no such file: {given}")


# --- the command -----------------------------------------------------------------------------------------------------


def predict(config: PredictConfig, own_names: frozenset[str], *, is_quiet: bool) -> list[Row]:
    """Run the command. Files that are no readable image are named on stderr; the others are done all the same.

    Raises DataError at the end if there were any: what it says is the line for the last of them.
    """
    if config.output and not config.output.lower().endswith(FORMATS):
        raise ConfigError(f"output: expected a file ending in .csv, .json or .jsonl, got '{config.output}'")
    choose_precision(config.precision, choose_device(config.device))
    checkpoint = rundir.best_checkpoint(config.checkpoint)
    scan = Scan()
    paths = find_images(config.input, scan)
    log = Logbook(is_main=True, is_quiet=is_quiet)
    for note in scan.notes():
        log.say(note)
    precision = "fp32" if config.precision == "auto" else config.precision
    with session(
        config.device, precision, config.threads or checkpoint.meta.get("chosen", {}).get("threads")
    ) as runtime:
        classifier = Classifier(restore(checkpoint, runtime, own_names), runtime, config.tta)
        batch = evaluation_batch(classifier.preprocessing, runtime.device)
        rows: list[Row] = []
        broken: list[str] = []
        several = 0
        with contextlib.closing(_decoded(classifier.preprocessing, paths, runtime.threads)) as decoded:
            while some := list(itertools.islice(decoded, batch)):
                broken += [one_line(found.problem) for _, found in some if found.problem]
                several += sum(found.has_more for _, found in some)
                good = [(printable(path), found.pixels) for path, found in some if found.pixels is not None]
                rows += classifier.rows([pixels for _, pixels in good], [path for path, _ in good], config.topk)
    if several:
        files = "1 file" if several == 1 else f"{several:,} files"
        log.say(f"frames   only the first was taken of {files} with several (animations, pages)")
    suffix = Path(config.output).suffix.lower() if config.output else ""
    text = render(rows, suffix, len(classifier.classes), config.topk)
    if config.output:
        _write(Path(os.path.expanduser(config.output)), text)
        log.say(f"wrote    {config.output}: {len(rows):,} image{'' if len(rows) == 1 else 's'}")
    elif rows:
        log.result(text.rstrip("\n"))
    if accuracy := _accuracy(rows, classifier.classes):
        (log.say if config.output else log.result)(accuracy)
    if is_quiet:
        print(json.dumps(rows, indent=1))
    if not paths:
        raise DataError(f"no images in {', '.join(config.input)}")
    for message in broken[:-1]:
        log.say(f"imgcls: error: {message}")
    if broken:
        raise DataError(broken[-1])
    return rows


class Decoded(NamedTuple):
    """A file's pixels or the problem with it, and whether it holds more images than the one that was taken."""

    pixels: Pixels | None = None
    problem: str = ""
    has_more: bool = False


def _decoded(
    preprocessing: Preprocessing, paths: Sequence[str], threads: int
) -> Generator[tuple[str, Decoded], None, None]:
    """Each file with what was found in it, in their order; decoded by so many processes."""

    def load(share: range) -> list[Decoded]:
        return [_attempt(preprocessing, paths[row]) for row in share]

    with (
        quiet_decoders(),
        contextlib.closing(
            spread(load, len(paths), helpers(len(paths), threads), size=16, ahead=4 * threads)
        ) as answers,
    ):
        found = (Decoded(*one) for one in itertools.chain.from_iterable(answers))  # through a pipe they come as tuples
        yield from zip(paths, found, strict=True)


def _attempt(preprocessing: Preprocessing, path: str) -> Decoded:
    shape = preprocessing
    try:
        pixels, has_more = load_first(path, shape.channels, shape.height, shape.width)
    except DataError as error:
        return Decoded(problem=str(error))
    except MemoryError:
        return Decoded(problem=f"not a readable image: {path} (out of memory)")
    return Decoded(pixels, has_more=has_more)


def _accuracy(rows: Sequence[Row], classes: tuple[str, ...]) -> str | None:
    """'accuracy 98.0 % (49 of 50 ...)' where every file lies in a folder that is named like a class."""
    truths = [one_line(os.path.basename(os.path.dirname(os.path.abspath(row["path"])))) for row in rows]
    if not rows or not set(truths) <= set(classes):
        return None
    hits = sum(row["label"] == truth for row, truth in zip(rows, truths, strict=True))
    return f"accuracy {hits / len(rows):.1%} ({hits:,} of {len(rows):,}, by the names of their folders)"


def render(rows: Sequence[Row], suffix: str, num_classes: int, topk: int) -> str:
    """The rows as CSV, JSON, JSON lines or (no suffix) a table."""
    if suffix == ".json":
        return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if suffix == ".csv":
        return _csv(rows, min(topk, num_classes))
    return _table(rows)


def _table(rows: Sequence[Row]) -> str:
    """For a person: what does not fit into 48 columns of a path is cut off in front."""
    paths = [one_line(row["path"]) for row in rows]
    paths = [path if len(path) <= LONGEST_PATH else "..." + path[3 - LONGEST_PATH :] for path in paths]
    width = max(map(len, paths), default=0)
    lines = []
    for path, row in zip(paths, rows, strict=True):
        best = (f"{one_line(top['label'])} {top['probability']:.1%}" for top in row["topk"])
        lines.append(f"{path:<{width}}  {'  '.join(best)}\n")
    return "".join(lines)


def _csv(rows: Sequence[Row], columns: int) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    more = [name for k in range(2, columns + 1) for name in (f"label_{k}", f"probability_{k}")]
    writer.writerow(["path", "label", "probability", *more])
    for row in rows:
        writer.writerow(
            [_cell(row["path"]), *(cell for top in row["topk"] for cell in (_cell(top["label"]), top["probability"]))]
        )
    return file.getvalue()


def _cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula; a number is none."""
    return f"'{text}" if text.startswith(FORMULA) and not re.fullmatch(r"[+-]\d+(\.\d+)?", text) else text


def _write(path: Path, text: str) -> None:
    try:
        if path.exists() and not path.is_file():  # a pipe, a device
            path.write_text(text, encoding="utf-8")
        else:
            write_whole(Path(os.path.realpath(path)), text.encode("utf-8", "surrogatepass"))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
