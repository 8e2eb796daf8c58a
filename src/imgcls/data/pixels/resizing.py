"""Resizing of 8-bit pictures: torch's antialiased bilinear filter, without its detours."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def resize(pixels: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Fill out (h, w, C) with the picture (H, W, C), scaled to its size.

    The pixels are those of torch.nn.functional.interpolate(..., mode="bilinear", antialias=True) for uint8, which
    torchvision's transforms call; it does not hold the interpreter's lock, and with AVX2 runs in the calling thread
    alone.
    """
    if pixels.shape == out.shape:
        out[:] = pixels
        return
    from_numpy, kernel = _torch()
    source, target = (from_numpy(one).permute(2, 0, 1)[None] for one in (pixels, out))  # (1, C, H, W), the same memory
    kernel(source, [*out.shape[:2]], False, None, None, out=target)


@lru_cache(maxsize=1)
def _torch() -> tuple[Any, Any]:
    """torch's functions; it is imported when a picture is resized, so that data sets can be read without it."""
    import torch

    with warnings.catch_warnings():  # that an array is not writable is warned of once: here, as it is only read
        warnings.simplefilter("ignore")
        torch.from_numpy(np.frombuffer(b"0", np.uint8))
    return torch.from_numpy, torch.ops.aten._upsample_bilinear2d_aa.out
