"""Work on many rows by the threads of this process, for functions that release the interpreter's lock.

torch's own threads split every operation, wait for one another after each, and keep the cores busy meanwhile; these
take whole images, which stay in the processor's cache from one operation to the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

SHARE = 8  # rows that a thread takes at once


def each_share(work: Callable[[slice], object], count: int) -> None:
    """work(rows) for slices that cover 0 .. count - 1, by as many threads as torch has; raises what it raises."""
    threads = torch.get_num_threads()
    shares = [slice(start, min(start + SHARE, count)) for start in range(0, count, SHARE)]
    if threads == 1 or len(shares) == 1:
        for share in shares:
            work(share)
        return
    for _ in _pool(threads).map(work, shares):
        pass


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch uses no others."""
    started = threading.Barrier(threads)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, "rows", start)
    for _ in pool.map(lambda _: None, range(threads)):
        pass
    torch.set_num_threads(threads)  # also what threads to come begin with
    return pool
