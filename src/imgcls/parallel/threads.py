"""Work on many rows by the threads of this process, for functions that release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

SHARE = 8  # rows that a thread takes at once: about a millisecond of work


def each_share(work: Callable[[range], object], count: int, threads: int) -> None:
    """work(rows) for ranges that cover 0 .. count - 1, by that many threads; raises what it raises."""
    if threads <= 1 or count <= SHARE:
        work(range(count))
        return
    for _ in _pool(threads).map(work, [range(i, min(i + SHARE, count)) for i in range(0, count, SHARE)]):
        pass


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "rows")
