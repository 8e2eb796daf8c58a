"""Spreads work on many files over processes, since Pillow's Python code holds the interpreter's lock.

Forked processes inherit what they need and write pixels directly to shared memory; only answers are sent.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from imgcls.errors import DataError, ReadingFailed, RunError
from imgcls.parallel import ipc

FEWEST = 64  # rows that are worth a fork (30 ms if the memory is full)
SHARE = 64  # rows that a process takes at once: a few milliseconds of work
MOST_SHARES = 1024  # their numbers, 4 bytes each, fit into the smallest possible pipe: a page
PATIENCE = 120  # seconds without an answer
GRACE = 2  # seconds to end

Answer = TypeVar("Answer")


def shared_zeros(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A uint8 array in memory shared with processes forked later."""
    size = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(mmap.mmap(-1, max(1, size)), dtype=np.uint8, count=size).reshape(shape)


def spread(
    work: Callable[[range], Answer], count: int, processes: int, *, size: int | None = None, ahead: int = MOST_SHARES
) -> Generator[Answer, None, None]:
    """Yield work(rows) for consecutive ranges that cover 0 .. count - 1, in order.

    The work is done by forked processes, by threads where forking is not possible, or by this process if ``processes``
    is 0. In a forked process torch has one thread, and what is written is lost unless it goes to shared_zeros. Closing
    the iterator ends the processes. size: rows per range; ahead: ranges that may be started beyond the last answer
    taken.

    Raises the first error in the order of the rows, and RunError if a process dies.
    """
    if size is None:
        size = max(1, min(SHARE, count // (16 * max(1, processes))), -(-count // MOST_SHARES))
    shares = [range(start, min(start + size, count)) for start in range(0, count, size)]
    if processes == 0:
        return (work(share) for share in shares)
    if sys.platform == "linux" and not multiprocessing.current_process().daemon:
        return _forked(work, shares, processes, min(ahead, MOST_SHARES))
    return _threaded(work, shares, processes, ahead)


def each(work: Callable[[int], Answer], count: int) -> list[Answer]:
    """[work(0), ..., work(count - 1)], computed on every core available to this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = spread(lambda share: [work(row) for row in share], count, helpers(count, cores))
    return [answer for share in shares for answer in share]


def helpers(count: int, threads: int) -> int:
    """How many processes to use for ``count`` rows if ``threads`` may compute; 0: this process alone."""
    return min(threads, os.cpu_count() or 1) if threads > 1 and count > FEWEST else 0


def _threaded(
    work: Callable[[range], Answer], shares: Sequence[range], threads: int, ahead: int
) -> Generator[Answer, None, None]:
    begun: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for share in shares:
                begun.append(pool.submit(work, share))
                if len(begun) == ahead:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


def _forked(
    work: Callable[[range], Answer], shares: Sequence[range], processes: int, ahead: int
) -> Generator[Answer, None, None]:
    """Free processes take the next share's number from one pipe; each sends its answers through its own."""
    context = multiprocessing.get_context("fork")
    queue, feed = os.pipe()
    os.write(feed, b"".join(map(_token, range(min(ahead, len(shares))))))
    crew: dict[Connection, BaseProcess] = {}
    try:
        blocked = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            for _ in range(min(processes, len(shares))):
                mine, theirs = context.Pipe(duplex=False)
                to_child = (work, shares, queue, feed, theirs, os.getpid(), mask)
                crew[mine] = context.Process(target=_serve, args=to_child, daemon=True)
                with _quiet_fork():
                    crew[mine].start()
                theirs.close()  # so that the pipe ends with the process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, answer in enumerate(_answers(dict(crew), len(shares))):
            yield answer
            if number + ahead < len(shares):
                os.write(feed, _token(number + ahead))
    finally:
        os.close(feed)
        os.close(queue)
        begun = {pipe: process for pipe, process in crew.items() if process.pid is not None}
        for process in begun.values():
            process.terminate()
        for pipe, process in begun.items():
            pipe.close()
            process.join(GRACE)
            process.kill()  # a stopped one, or one that waits for a disk, takes no other signal
            process.join(GRACE)


def _token(number: int) -> bytes:
    return number.to_bytes(4, "little")


@contextlib.contextmanager
def _quiet_fork() -> Iterator[None]:
    """Without Python 3.12's warning about forks in threaded processes: these children touch none of their locks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*use of fork\\(\\) may lead to deadlocks", DeprecationWarning)
        yield


def _serve(
    work: Callable[[range], Any],
    shares: Sequence[range],
    queue: int,
    feed: int,
    answers: Connection,
    parent: int,
    mask: Any,
) -> None:
    """The main loop of a forked process: take shares until the queue is closed or the parent has ended."""
    ipc.leave_signals_to_parent()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(feed)
    gc.freeze()  # or a collection would copy the parent's pages
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # the threads of the parent do not exist here, and OpenMP would wait for them
    with contextlib.suppress(BrokenPipeError):
        while os.getppid() == parent and (token := os.read(queue, 4)):
            number = int.from_bytes(token, "little")
            try:
                answer = work(shares[number])
            except (DataError, ReadingFailed, MemoryError, ValueError) as error:
                answer = error
            ipc.send(answers, (number, answer))


def _answers(crew: dict[Connection, BaseProcess], count: int) -> Iterator[Any]:
    """Yield the answers in the order of the shares; raises the first that is an error."""
    early: dict[int, Any] = {}
    for share in range(count):
        while share not in early:
            ready = wait(list(crew), PATIENCE)
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    number, early[number] = ipc.receive(pipe)
                except (EOFError, OSError):
                    ready = []
            if not ready:
                raise RunError(
                    "an image-decoding process died or hung (out of memory?); try threads=1 or fewer workers"
                )
        if isinstance(answer := early.pop(share), Exception):
            raise answer
        yield answer
