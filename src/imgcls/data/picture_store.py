"""Whole pictures of many sizes in one block of memory, for random crops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgcls.data.pixels.crops import CroppedView, Sizes
from imgcls.data.pixels.decoding import header, load_whole, needs_change, whole_pixels
from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.source import Images, Indices
from imgcls.parallel import process_pool

Progress = Callable[[int, int], None]  # images done, images in total
SAMPLE = 500  # headers from which the memory is estimated


@dataclass(frozen=True)
class PictureStore:
    """N pictures, reduced but whole: picture i is ``pixels[starts[i] :]``, (*sizes[i], channels) uint8, row by row.

    pixels: one-dimensional. starts: (N,) places in it. sizes: (N, 2) heights and widths.
    """

    pixels: NDArray[np.uint8]
    starts: Indices
    sizes: Sizes
    channels: int

    def __len__(self) -> int:
        return len(self.starts)

    def picture(self, row: int) -> NDArray[np.uint8]:
        """Picture number row, (H, W, channels); a view."""
        height, width = self.sizes[row].tolist()
        start = self.starts[row]
        return self.pixels[start : start + height * width * self.channels].reshape(height, width, self.channels)


def store_of(images: Images, view: CroppedView, threads: int, progress: Progress | None = None) -> PictureStore:
    """All images, decoded by up to ``threads`` processes.

    progress is called on the way. Raises DataError for a file that cannot be decoded.
    """
    if images.whole is not None:
        return _of_array(images, view)
    assert images.paths is not None
    paths, channels = images.paths, view.view.channels
    room = _room(paths, view, threads) * channels
    starts = np.concatenate([[0], np.cumsum(room)])
    pixels = process_pool.shared_zeros((int(starts[-1]),))
    sizes = process_pool.shared_zeros((len(paths) * 8,)).view(np.int32).reshape(-1, 2)

    def decode(share: range) -> int:
        for row in share:
            picture = load_whole(paths[row], view)
            sizes[row] = picture.shape[:2]
            pixels[starts[row] : starts[row + 1]][: picture.size] = picture.ravel()
        return len(share)

    done, processes = 0, process_pool.helpers(len(paths), threads)
    with quiet_decoders(), contextlib.closing(process_pool.spread(decode, len(paths), processes)) as answers:
        for count in answers:
            done += count
            if progress is not None:
                progress(done, len(paths))
    return PictureStore(pixels, starts[:-1], sizes, channels)


def _of_array(images: Images, view: CroppedView) -> PictureStore:
    """Pictures in memory, all of one size; their own memory if they need not be changed."""
    assert images.whole is not None
    rows = np.arange(len(images)) if images.rows is None else images.rows
    whole = images.whole
    if needs_change(whole, view):
        whole, rows = whole_pixels(whole[rows], view), np.arange(len(rows))
    height, width, channels = whole.shape[1:]
    sizes = np.broadcast_to(np.array([height, width], np.int32), (len(rows), 2))
    return PictureStore(np.ascontiguousarray(whole).reshape(-1), rows * (height * width * channels), sizes, channels)


def _room(paths: tuple[str, ...], view: CroppedView, threads: int) -> Indices:
    """(N,): the most pixels that each picture has, from the headers of the files."""

    def room(share: range) -> list[int]:
        return [view.reduction.room(*header(paths[row])[:2]) for row in share]

    processes = process_pool.helpers(len(paths), threads)
    with quiet_decoders(), contextlib.closing(process_pool.spread(room, len(paths), processes)) as answers:
        return np.array([pixels for share in answers for pixels in share], dtype=np.int64)


def store_bytes(images: Images, view: CroppedView) -> int:
    """The memory that these images take in a store, estimated from the headers of evenly spaced files."""
    if images.whole is not None:
        height, width = view.reduction.canvas(*view.reduction.size(*images.whole.shape[1:3]))
        return len(images) * height * width * view.view.channels
    assert images.paths is not None
    rows = np.linspace(0, len(images) - 1, min(len(images), SAMPLE)).astype(np.int64)
    room = _room(tuple(images.paths[row] for row in rows.tolist()), view, threads=0)
    return int(room.mean() * len(images)) * view.view.channels
