"""What a run says, and where."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from imgcls.loggers import progress
from imgcls.loggers.run_log import RunLog, epoch_line, read_rows
from imgcls.text import clock

ROW = {
    "epoch": 7,
    "step": 70,
    "lr": 0.1,
    "train_loss": 1.7119,
    "train_accuracy": 0.4,
    "val_loss": 1.48,
    "val_accuracy": 0.469,
    "seconds": 2.0,
    "images_per_second": 17310.4,
}


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (245, "4:05 min"), (7383, "2:03 h")])
def test_clock(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_a_row_of_the_table() -> None:
    assert epoch_line(ROW, is_best=True, took=None) == "    7       1.712     1.480   46.9 %     17,310  best"
    last = epoch_line(ROW | {"val_loss": None, "val_accuracy": None}, is_best=False, took="27 s")
    assert last.split() == ["7", "1.712", "-", "-", "17,310", "27", "s", "in", "all"]
    assert len(last) <= 80


def test_progress_goes_to_stderr_results_to_stdout_and_both_to_train_log(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log = RunLog()
    log.open(tmp_path)
    log.info("data     digits")
    log.warning("only one class")
    log.output("test     100 % of 1 image")
    log.close()
    said = capsys.readouterr()
    assert said.err == "data     digits\nimgcls: warning: only one class\n"
    assert said.out == "test     100 % of 1 image\n"
    assert (tmp_path / "train.log").read_text() == said.err + said.out


def test_other_processes_say_and_write_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = RunLog(is_main=False)
    log.info("data")
    log.open(tmp_path)
    log.epoch(ROW, is_best=True, is_last=True)
    log.close()
    said = capsys.readouterr()
    assert (said.out, said.err, list(tmp_path.iterdir())) == ("", "", [])


def test_json_keeps_stdout_for_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    RunLog(is_main=True, is_quiet=True).output("test")
    assert capsys.readouterr().out == ""


def test_rows_of_a_killed_run_are_read_up_to_the_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW) + '\n{"epoch": 3, "st')
    assert read_rows(path) == [ROW, ROW]
    log = RunLog(is_main=True)
    log.open(tmp_path, keep_epochs=1)
    log.close()
    assert log.rows == [ROW]
    assert path.read_text() == json.dumps(ROW) + "\n"


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_live_line_is_there_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        log = RunLog(is_main=True)
        log.begin(step=0, total=200, epochs=2)
        log.step(50, 0, 32, 0.1, 1.05)
        log.epoch(ROW, is_best=True, is_last=False)
        log.step(51, 1, 32, 0.1, None)
        log.close()
        text = stream.getvalue()
        assert ("loss 1.05" in text) == isinstance(stream, Terminal)
        assert ("left" in text and "best 46.9 %" in text) == isinstance(stream, Terminal)
        assert ("\x1b" in text) == isinstance(stream, Terminal)
        assert "17,310" in text
