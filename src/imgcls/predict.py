"""``imgcls predict``: a checkpoint on image files -> a row for each of them."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from imgcls.config.schema import PredictConfig
from imgcls.data import mirroring
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.fetchers import evaluation_batch
from imgcls.decisions import Decisions
from imgcls.errors import ConfigError, PartialFailure, RunError, error_line
from imgcls.files import write_whole
from imgcls.inference.assess import check_calibrated
from imgcls.inference.classifier import Classifier
from imgcls.inference.inputs import decode_files, find_images
from imgcls.inference.restore import RestoredModel, open_model
from imgcls.loggers.run_log import RunLog
from imgcls.reports.predictions import Row, digest_line, is_own_file, is_unchanged, record_of, render
from imgcls.runs.folder import is_record
from imgcls.text import one_line, printable

FORMATS = (".csv", ".json", ".jsonl")


@dataclass
class Classified:
    """The result: a row for each image, a message for each unreadable file.

    several: how many files have more frames or pages than the first, which was used. has_unread: there are files that
    the disk or the network did not deliver.
    """

    rows: list[Row] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    several: int = 0
    has_unread: bool = False


def predict(config: PredictConfig, *, own_names: frozenset[str] = frozenset(), is_quiet: bool = False) -> list[Row]:
    """Run the command. Unreadable files are reported on stderr, and all others are still classified.

    Raises PartialFailure at the end if there were any: its message is the line for the last of them.
    """
    if config.output and not config.output.lower().endswith(FORMATS):
        raise ConfigError(f"output: expected a file ending in .csv, .json or .jsonl, got '{config.output}'")
    if config.output:
        _check_output(Path(os.path.expanduser(config.output)), may_replace=config.overwrite)
    log, scan = RunLog(is_quiet=is_quiet), Scan()
    with open_model(config, own_names) as (model, runtime):
        if config.tta != "none" and (mirrored := mirroring.warning(model.classes, f"tta={config.tta}")):
            log.warning(mirrored)
        decisions = _decisions(config, model, log)
        paths = find_images(config.input, scan)
        for note in scan.notes():
            log.info(note)
        found = _classify(Classifier(model, runtime, config.tta, decisions), paths, runtime.threads, config.topk)
    _print(found, config, model.classes, log)
    if not paths:
        raise PartialFailure(f"no images in {', '.join(config.input)}", found.rows)
    for message in found.unreadable[:-1]:
        log.info(error_line(message))
    if found.unreadable:
        failure = PartialFailure(found.unreadable[-1], found.rows)
        failure.exit_code = RunError.exit_code if found.has_unread else failure.exit_code
        raise failure
    return found.rows


def _decisions(config: PredictConfig, model: RestoredModel, log: RunLog) -> Decisions:
    """The threshold and the temperature to use. Raises ConfigError for those that the model does not have."""
    own, threshold = model.decisions, config.threshold
    if config.calibrated:
        check_calibrated(model)
        log.info(f"calibrated with the temperature {own.temperature:.3g}, fitted on validation")
    if threshold is not None and own.positive is None:
        raise ConfigError(f"threshold: needs a model of two classes; this one has {len(model.classes):,}")
    if threshold == "auto" and own.threshold is None:
        raise ConfigError(
            "threshold: auto is the best one on validation, which this checkpoint does not have; type a number, "
            "such as threshold=0.5"
        )
    decisions = own.calibrated() if config.calibrated else replace(own, temperature=None)
    used = decisions.threshold if threshold == "auto" else threshold
    if used is not None and own.positive is not None:
        why = " (auto: the best F1 on validation)" if threshold == "auto" else ""
        log.info(f"{one_line(model.classes[own.positive])} from a probability of {used:.3g}{why}")
    return replace(decisions, threshold=used)


def _check_output(path: Path, *, may_replace: bool) -> None:
    """Raises ConfigError for a file that predict did not write, links to one included, and for a run's record.

    may_replace: predictions that were changed since may be replaced.
    """
    real = Path(os.path.realpath(path))
    other = f"name another file, such as output={path.with_name(f'{path.stem}-predictions{path.suffix}')}"
    if is_record(real):
        raise ConfigError(f"output: {path} is a name for the run's own record, which only train writes; {other}")
    if not real.is_file():  # new, or a pipe or a device
        return
    try:
        is_own, is_same = is_own_file(real), may_replace or is_unchanged(real)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    if not is_own:
        raise ConfigError(f"output: {path} exists and is not a file that predict wrote, so it is kept; {other}")
    if not is_same:
        raise ConfigError(
            f"output: {path} is not as predict wrote it there (edited or moved since), so it is kept; {other}, or type "
            "overwrite=true to replace it"
        )


def _classify(classifier: Classifier, paths: Sequence[str], threads: int, topk: int) -> Classified:
    """Decode the files and classify them, batch by batch."""
    batch = evaluation_batch(classifier.preprocessing, classifier.device)
    found = Classified()
    with contextlib.closing(decode_files(classifier.preprocessing, paths, threads)) as decoded:
        while some := list(itertools.islice(decoded, batch)):
            found.unreadable += [one_line(file.problem) for _, file in some if file.problem]
            found.has_unread |= any(file.is_unread for _, file in some)
            found.several += sum(file.has_more for _, file in some)
            good = [(printable(path), file.pixels) for path, file in some if file.pixels is not None]
            found.rows += classifier.rows([pixels for _, pixels in good], [path for path, _ in good], topk)
    return found


def _print(found: Classified, config: PredictConfig, classes: tuple[str, ...], log: RunLog) -> None:
    """The rows to the output file or the terminal, with notes about them."""
    rows = found.rows
    if found.several:
        files = "1 file" if found.several == 1 else f"{found.several:,} files"
        log.info(f"frames   used the first frame of {files} with several (animations, pages)")
    suffix = Path(config.output).suffix.lower() if config.output else ""
    text = render(rows, suffix, len(classes), config.topk)
    if config.output:
        _write(Path(os.path.expanduser(config.output)), text)
        log.info(f"wrote    {config.output}: {len(rows):,} image{'' if len(rows) == 1 else 's'}")
    elif rows:
        log.output(text.rstrip("\n"))
    if accuracy := _accuracy(rows, classes):
        (log.info if config.output else log.output)(accuracy)


def _accuracy(rows: Sequence[Row], classes: tuple[str, ...]) -> str | None:
    """'accuracy 98.0 % (49 of 50 ...)' if every file is in a folder that is named like a class."""
    truths = [one_line(os.path.basename(os.path.dirname(os.path.abspath(row["path"])))) for row in rows]
    if not rows or not set(truths) <= set(classes):
        return None
    hits = sum(row["label"] == truth for row, truth in zip(rows, truths, strict=True))
    return f"accuracy {hits / len(rows):.1%} ({hits:,} of {len(rows):,}, labels from the folder names)"


def _write(path: Path, text: str) -> None:
    try:
        if path.exists() and not path.is_file():  # a pipe, a device
            path.write_text(text, encoding="utf-8")
        else:
            real, content = Path(os.path.realpath(path)), text.encode("utf-8", "surrogatepass")
            write_whole(real, content)
            write_whole(record_of(real), digest_line(content))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
