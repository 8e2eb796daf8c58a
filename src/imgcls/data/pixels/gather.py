"""Random crops on a GPU: the boxes of a batch gathered from one block of memory and resized together."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Gather:
    """Boxes of pictures of many sizes -> (B, height, width, channels) uint8, resized as ``resizing.resize`` does.

    The two agree within one level: here the sums are float32. pixels: all pictures, one after another, (M,) uint8.
    starts: (N,) where each begins. widths: (N,) in pixels. size: (height, width) of the result.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        starts: NDArray[np.int64],
        widths: NDArray[np.int32],
        channels: int,
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.pixels = torch.from_numpy(pixels).to(device).view(-1, channels)
        self.starts = torch.from_numpy(starts // channels).to(device)
        self.widths = torch.from_numpy(widths.astype(np.int64)).to(device)
        self.channels, self.size = channels, size

    def __call__(self, rows: Tensor, boxes: Tensor, largest: tuple[int, int]) -> Tensor:
        """rows: (B,) int64 picture numbers. boxes: (B, 4) int64 top, left, height, width; largest: of these (h, w)."""
        (height, width), (tall, wide) = self.size, largest
        top, left, box_height, box_width = boxes.unbind(1)
        down, shares = _taps(box_height, height, tall)  # (B, height, T)
        first = self.starts[rows] + top * self.widths[rows] + left
        columns = torch.arange(wide, device=boxes.device).expand(len(rows), -1)
        columns = torch.minimum(columns, box_width[:, None] - 1)  # (B, wide): beyond a box its last column
        lines = first[:, None, None] + down * self.widths[rows][:, None, None]
        narrow = torch.zeros((len(rows), height, wide, self.channels), device=boxes.device)
        for tap in range(down.shape[2]):
            narrow += self.pixels[lines[:, :, tap, None] + columns[:, None]] * shares[:, :, tap, None, None]
        right, shares = _taps(box_width, width, wide)
        out = torch.zeros((len(rows), height, width, self.channels), device=boxes.device)
        for tap in range(right.shape[2]):
            place = right[:, None, :, tap, None].expand(-1, height, -1, self.channels)
            out += narrow.gather(2, place) * shares[:, None, :, tap, None]
        return out.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _taps(sides: Tensor, size: int, longest: int) -> tuple[Tensor, Tensor]:
    """For each of ``size`` places in a side resized to that, the pixels that it is a mean of, and their shares.

    sides: (B,) in pixels, none longer than ``longest``. Both results are (B, size, T); the filter is a triangle.
    """
    scale = sides[:, None].double() / size
    reach = scale.clamp(min=1)
    center = (torch.arange(size, device=sides.device) + 0.5) * scale
    first = (center - reach + 0.5).long().clamp(min=0)
    count = 2 * math.ceil(max(1.0, longest / size)) + 1
    places = first[:, :, None] + torch.arange(count, device=sides.device)
    shares = (1 - ((places + 0.5 - center[:, :, None]) / reach[:, :, None]).abs()).clamp(min=0)
    shares = torch.where(places < sides[:, None, None], shares, 0.0)
    places = torch.minimum(places, sides[:, None, None] - 1)
    return places, (shares / shares.sum(2, keepdim=True)).float()
