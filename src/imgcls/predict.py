"""``imgcls predict``: a checkpoint on image files -> a row for each; and the same from Python, ``imgcls.load``."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from imgcls.config.schema import PredictConfig
from imgcls.data.datasets.scan import Scan
from imgcls.data.fetchers import evaluation_batch
from imgcls.errors import ConfigError, PartialFailure, RunError
from imgcls.files import write_whole
from imgcls.inference.classifier import Classifier
from imgcls.inference.inputs import decode_files, find_images
from imgcls.inference.restore import restore
from imgcls.loggers.run_log import RunLog
from imgcls.reports.predictions import Row, render
from imgcls.runs import folder as run_folders
from imgcls.runtime.device import choose_device, choose_precision
from imgcls.runtime.session import session
from imgcls.text import one_line, printable

FORMATS = (".csv", ".json", ".jsonl")


def predict(config: PredictConfig, *, own_names: frozenset[str] = frozenset(), is_quiet: bool = False) -> list[Row]:
    """Run the command. Files that are no readable image are named on stderr; the others are done all the same.

    Raises PartialFailure at the end if there were any: its message is the line for the last of them.
    """
    if config.output and not config.output.lower().endswith(FORMATS):
        raise ConfigError(f"output: expected a file ending in .csv, .json or .jsonl, got '{config.output}'")
    choose_precision(config.precision, choose_device(config.device))
    checkpoint = run_folders.best_checkpoint(config.checkpoint)
    scan = Scan()
    paths = find_images(config.input, scan)
    log = RunLog(is_main=True, is_quiet=is_quiet)
    for note in scan.notes():
        log.info(note)
    precision = "fp32" if config.precision == "auto" else config.precision
    with session(
        config.device, precision, config.threads or checkpoint.meta.get("chosen", {}).get("threads")
    ) as runtime:
        classifier = Classifier(restore(checkpoint, runtime, own_names), runtime, config.tta)
        batch = evaluation_batch(classifier.preprocessing, runtime.device)
        rows: list[Row] = []
        broken: list[str] = []
        several = 0
        with contextlib.closing(decode_files(classifier.preprocessing, paths, runtime.threads)) as decoded:
            while some := list(itertools.islice(decoded, batch)):
                broken += [one_line(found.problem) for _, found in some if found.problem]
                several += sum(found.has_more for _, found in some)
                good = [(printable(path), found.pixels) for path, found in some if found.pixels is not None]
                rows += classifier.rows([pixels for _, pixels in good], [path for path, _ in good], config.topk)
    if several:
        files = "1 file" if several == 1 else f"{several:,} files"
        log.info(f"frames   only the first was taken of {files} with several (animations, pages)")
    suffix = Path(config.output).suffix.lower() if config.output else ""
    text = render(rows, suffix, len(classifier.classes), config.topk)
    if config.output:
        _write(Path(os.path.expanduser(config.output)), text)
        log.info(f"wrote    {config.output}: {len(rows):,} image{'' if len(rows) == 1 else 's'}")
    elif rows:
        log.output(text.rstrip("\n"))
    if accuracy := _accuracy(rows, classifier.classes):
        (log.info if config.output else log.output)(accuracy)
    if not paths:
        raise PartialFailure(f"no images in {', '.join(config.input)}", rows)
    for message in broken[:-1]:
        log.info(f"imgcls: error: {message}")
    if broken:
        raise PartialFailure(broken[-1], rows)
    return rows


def _accuracy(rows: Sequence[Row], classes: tuple[str, ...]) -> str | None:
    """'accuracy 98.0 % (49 of 50 ...)' where every file lies in a folder that is named like a class."""
    truths = [one_line(os.path.basename(os.path.dirname(os.path.abspath(row["path"])))) for row in rows]
    if not rows or not set(truths) <= set(classes):
        return None
    hits = sum(row["label"] == truth for row, truth in zip(rows, truths, strict=True))
    return f"accuracy {hits / len(rows):.1%} ({hits:,} of {len(rows):,}, by the names of their folders)"


def _write(path: Path, text: str) -> None:
    try:
        if path.exists() and not path.is_file():  # a pipe, a device
            path.write_text(text, encoding="utf-8")
        else:
            write_whole(Path(os.path.realpath(path)), text.encode("utf-8", "surrogatepass"))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
