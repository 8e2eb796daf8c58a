"""Work on many files, shared out over processes: Pillow's Python code holds the interpreter's lock, threads wait on it.

Forked processes inherit what they need and write pixels straight into shared memory; only answers travel.
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

from imgcls.errors import DataError, RunError
from imgcls.parallel import ipc

FEWEST = 64  # rows that are worth a fork (30 ms beside a full memory)
SHARE = 64  # rows that a process takes at once: some milliseconds of work
MOST_SHARES = 1024  # their numbers, 4 bytes each, fit into the smallest pipe there is: a page
PATIENCE = 120  # seconds without an answer
GRACE = 2  # seconds to end in

Answer = TypeVar("Answer")


def shared_zeros(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array of uint8 that forked processes write into for all to see."""
    size = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(mmap.mmap(-1, max(1, size)), dtype=np.uint8, count=size).reshape(shape)


def spread(
    work: Callable[[range], Answer], count: int, processes: int, *, size: int | None = None, ahead: int = MOST_SHARES
) -> Generator[Answer, None, None]:
    """work(rows) for ranges that make up 0 .. count - 1, the answers in their order.

    By so many forked processes, or threads where nothing can be forked; by this one if ``processes`` is 0. ``work``
    must not call torch, and what it writes elsewhere than to shared_zeros is lost. Closing the iterator ends the
    processes. Raises the first error in the order of the rows, whoever comes upon one first, and RunError if a process
    dies. size: rows in a range; ahead: ranges that may be begun beyond the last answer that was taken.
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
    """work(row) of all rows, by every core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = spread(lambda share: [work(row) for row in share], count, helpers(count, cores))
    return [answer for share in shares for answer in share]


def helpers(count: int, threads: int) -> int:
    """Processes that are worth their while for so many rows, where so many threads may compute: 0 is this one alone."""
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
    """The numbers of the shares go into one pipe, off which a free process takes the next; answers come by others."""
    context = multiprocessing.get_context("fork")
    queue, feed = os.pipe()
    os.write(feed, b"".join(map(_token, range(min(ahead, len(shares))))))
    crew: dict[Connection, BaseProcess] = {}
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
        try:
            for _ in range(min(processes, len(shares))):
                mine, theirs = context.Pipe(duplex=False)
                to_child = (work, shares, queue, feed, theirs, os.getpid(), mask)
                crew[mine] = context.Process(target=_serve, args=to_child, daemon=True)
                with _quiet_fork():
                    crew[mine].start()
                theirs.close()  # so that the end of the process is the end of the pipe
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
            process.kill()  # one that is stopped, or waits for a disk, takes no other signal
            process.join(GRACE)


def _token(number: int) -> bytes:
    return number.to_bytes(4, "little")


@contextlib.contextmanager
def _quiet_fork() -> Iterator[None]:
    """Without Python 3.12's warning of forks beside other threads: these processes touch none of their locks."""
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
    """The life of a forked process: shares off the queue, until it is closed or there is nobody to do them for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the whole group: the main process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(feed)
    gc.freeze()  # the collector would copy the parent's pages by looking at them
    with contextlib.suppress(BrokenPipeError):
        while os.getppid() == parent and (token := os.read(queue, 4)):
            number = int.from_bytes(token, "little")
            try:
                answer = work(shares[number])
            except (DataError, MemoryError, ValueError) as error:
                answer = error
            ipc.send(answers, (number, answer))


def _answers(crew: dict[Connection, BaseProcess], count: int) -> Iterator[Any]:
    """The answers in the order of the shares; raises the first that is an error."""
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
                    "a process that decodes images died or hangs (out of memory?); try threads=1, fewer workers"
                )
        if isinstance(answer := early.pop(share), Exception):
            raise answer
        yield answer
