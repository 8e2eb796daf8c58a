"""Memory for large batches that is used again: the C library would hand it back to the system each time."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

SMALLEST = 32 << 20  # bytes; smaller blocks are kept by the C library (see session.py)
MOST_UNUSED = 2  # blocks


class KeptMemory:
    """Tensors in memory that is used again as soon as no tensor refers to it, not even one that autograd has saved."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: list[tuple[NDArray[np.uint8], Callable[[], object]]] = []  # and whether somebody refers to it

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Tensor:
        """A tensor of that shape in main memory, with any content."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if size < SMALLEST:
            return torch.from_numpy(np.empty(shape, dtype))
        with self._lock:
            unused = [block for block, user in self._blocks if user() is None]
            block = min((one for one in unused if len(one) >= size), key=len, default=None)
            block = np.empty(size, np.uint8) if block is None else block
            array = block[:size].view(dtype).reshape(shape)  # the tensor's memory refers to this very object
            kept = [(one, _nobody) for one in unused if one is not block][:MOST_UNUSED]
            used = [(one, user) for one, user in self._blocks if user() is not None]
            self._blocks = [*used, *kept, (block, weakref.ref(array))]
        return torch.from_numpy(array)


def _nobody() -> None:
    return None
