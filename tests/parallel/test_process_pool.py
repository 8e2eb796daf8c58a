"""Work spread over processes: answers in order, the first error raised, and no process left, however it ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imgcls.errors import DataError, RunError
from imgcls.parallel import process_pool
from imgcls.parallel.process_pool import helpers, shared_zeros, spread

COUNT = 1000


@pytest.fixture(params=["forked", "threads", "here"])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Three, in each of the ways: forked processes, threads, this process alone."""
    if request.param == "threads":
        monkeypatch.setattr(sys, "platform", "darwin")
    return 0 if request.param == "here" else 3


def children() -> list[str]:
    """The child processes of this one, zombies included."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_answers_come_in_order_and_make_up_all_rows(processes: int) -> None:
    answers = list(spread(list, COUNT, processes))
    assert len(answers) > 10
    assert [row for rows in answers for row in rows] == list(range(COUNT))
    assert list(spread(list, 0, processes)) == []


def test_any_number_of_rows_makes_few_enough_shares_for_the_queue() -> None:
    assert len(list(spread(len, 10**6, 2))) <= process_pool.MOST_SHARES


def test_what_is_written_to_shared_memory_is_seen(processes: int) -> None:
    out = shared_zeros((COUNT, 2))

    def work(rows: range) -> None:
        out[rows.start : rows.stop] = np.array(rows)[:, None] % 251

    list(spread(work, COUNT, processes))
    assert np.array_equal(out, np.repeat(np.arange(COUNT) % 251, 2).reshape(COUNT, 2))


def test_forked_processes_end_with_the_work() -> None:
    before = children()
    ids = set(spread(lambda rows: os.getpid(), COUNT, 2))
    assert os.getpid() not in ids
    assert children() == before


def test_the_first_error_in_order_is_raised(processes: int) -> None:
    def work(rows: range) -> None:
        if 300 in rows:
            time.sleep(0.1)  # later rows fail earlier
        if rows.start >= 290:
            raise DataError(f"row {rows.start}")

    with pytest.raises(DataError, match=r"^row 300$"):
        list(spread(work, COUNT, processes, size=20))


def test_no_more_shares_are_started_than_allowed(processes: int) -> None:
    begun = shared_zeros((50,))

    def work(rows: range) -> int:
        begun[rows.start] = 1
        return rows.start

    with contextlib.closing(spread(work, 50, processes, size=1, ahead=5)) as answers:
        for _ in range(3):
            last = next(answers)
        time.sleep(0.1)
        assert last < begun.sum() <= last + 5


def test_closing_ends_the_processes_at_once() -> None:
    before = children()
    handler = signal.signal(signal.SIGTERM, lambda *_: None)  # the main process's handler must not keep them alive
    try:
        answers = spread(lambda rows: time.sleep(5 * (rows.start > 0)), COUNT, 2)
        next(answers)
        started = time.monotonic()
        answers.close()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert time.monotonic() - started < 2
    assert children() == before


def killed(rows: range) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def left(rows: range) -> None:
    os._exit(0)


@pytest.mark.parametrize("work", [killed, left])
def test_a_process_that_dies_is_a_one_line_error(work: Callable[[range], None]) -> None:
    before = children()
    with pytest.raises(RunError, match=r"^an image-decoding process died or hung .*threads=1 or fewer workers$"):
        list(spread(work, COUNT, 2))
    assert children() == before


def test_ctrl_c_is_left_to_the_main_process() -> None:
    def work(rows: range) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return len(rows)

    assert sum(spread(work, COUNT, 2)) == COUNT


def test_a_process_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_pool, "PATIENCE", 0.2)
    with pytest.raises(RunError, match="died or hung"):
        list(spread(lambda rows: time.sleep(60), COUNT, 2))


def test_a_process_that_is_stopped_is_an_error_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_pool, "PATIENCE", 0.3)
    monkeypatch.setattr(process_pool, "GRACE", 0.2)

    def stop(share: range) -> int:
        os.kill(os.getpid(), signal.SIGSTOP)
        return 0

    began = time.monotonic()
    with pytest.raises(RunError, match="died or hung"):
        list(spread(stop, 10, 1))
    assert time.monotonic() - began < 10
    for process in multiprocessing.active_children():
        process.join(5)  # killed, if not yet gone
    assert multiprocessing.active_children() == []


def test_a_daemon_does_not_fork() -> None:
    def work() -> None:
        os._exit(0 if set(spread(lambda rows: os.getpid(), COUNT, 2)) == {os.getpid()} else 1)

    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    with process_pool._quiet_fork():
        process.start()
    process.join()
    assert process.exitcode == 0


def is_present(process: int) -> bool:
    """Whether it is running, not a zombie that waits to be reaped."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
@pytest.mark.parametrize("shares", [2, 100])  # few or many left in the queue
def test_no_process_outlives_the_main_one(tmp_path: Path, number: int, code: int, shares: int) -> None:
    def crew() -> list[int]:
        return [int(file.name) for file in tmp_path.iterdir() if file.name.isdecimal()]

    def work(rows: range) -> None:
        (tmp_path / str(os.getpid())).touch()
        while len(crew()) < 2:
            time.sleep(0.001)
        time.sleep(0.3 * (rows.start % 2))  # one is at work, the other may wait for more

    def main() -> None:
        os.setsid()  # a process group: Ctrl-C reaches all of it
        os.dup2(os.open(tmp_path / "stderr", os.O_CREAT | os.O_WRONLY), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            list(spread(work, shares, 2, size=1))
        except KeyboardInterrupt:
            os._exit(130)

    process = multiprocessing.get_context("fork").Process(target=main)
    with process_pool._quiet_fork():
        process.start()
    assert process.pid is not None
    while len(crew()) < 2 and process.is_alive():
        time.sleep(0.01)
    time.sleep(0.05)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    process.join()
    assert process.exitcode == code
    deadline = time.monotonic() + 5
    while any(map(is_present, crew())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_present, crew()))
    assert (tmp_path / "stderr").read_text() == ""


def test_few_rows_and_one_thread_are_not_worth_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert helpers(1000, 1000) == 8
    assert [helpers(1000, 4), helpers(1000, 1), helpers(10, 4)] == [4, 0, 0]
