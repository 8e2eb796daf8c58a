"""Resizing of 8-bit pictures: torch's antialiased bilinear filter, without its detours."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

with warnings.catch_warnings():  # that arrays are not writable is warned of once: here, as they are only read
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"0", np.uint8))


def resize(pixels: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Fill out (h, w, C) with the picture (H, W, C), scaled to its size.

    The pixels are those of torch.nn.functional.interpolate(..., mode="bilinear", antialias=True) for uint8, which
    torchvision's transforms call; it does not hold the interpreter's
    lock, and with AVX2 runs in the calling thread alone.
    """
    if pixels.shape == out.shape:
        out[:] = pixels
        return
    torch.ops.aten._upsample_bilinear2d_aa.out(_planes(pixels), [*out.shape[:2]], False, None, None, out=_planes(out))


def _planes(pixels: NDArray[np.uint8]) -> Tensor:
    """(H, W, C) -> (1, C, H, W), the same memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]
