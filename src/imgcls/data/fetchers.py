"""Where a loader's images come from: memory (resident on the device) or files (streamed by worker processes).

Both serve the same samples with the same augmentation numbers in the same order, so no loader state is ever stored: a
run resumes in the middle of an epoch by starting the plan there.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.data.source import Images, Indices
from imgcls.parallel import process_pool

RESIDENT_SHARE = 0.4  # of the free memory of the device: larger data sets are streamed
GROUP = 8 << 20  # bytes of resident images prepared at once: right after a step all code and data are cold


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a GPU copies it while the host goes on."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def rows_on_device(plan: Sequence[Indices], device: torch.device) -> Tensor:
    """The row numbers of the whole plan, copied at once."""
    return on_device(torch.from_numpy(np.concatenate(plan) if plan else np.empty(0, np.int64)), device)


class Fetcher(Protocol):
    """Where a loader gets its pixels from.

    at_once: how many images are best requested together.
    """

    at_once: int

    def batches(self, plan: Sequence[Indices]) -> Iterator[Tensor]:
        """The images of each batch of the plan, on the device: (B, H, W, C) uint8"""


class Resident:
    """Decoded images as one uint8 tensor on the device; a batch is one gather.

    rows: which of the pixels are the images, if not all; in main memory all splits share one tensor.
    """

    def __init__(self, pixels: NDArray[np.uint8], device: torch.device, rows: Indices | None = None) -> None:
        if rows is not None and device.type != "cpu":
            pixels, rows = pixels[rows], None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is never written to
            self.pixels = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
        self.rows = None if rows is None else torch.from_numpy(rows)
        self.at_once = GROUP // self.pixels[0].numel()

    def batches(self, plan: Sequence[Indices]) -> Iterator[Tensor]:
        """See Fetcher."""
        order = rows_on_device(plan, self.pixels.device)
        order = order if self.rows is None else self.rows[order]
        for rows in order.split_with_sizes([len(rows) for rows in plan]):
            yield self.pixels.index_select(0, rows)


class Streamed:
    """Files decoded by worker processes while the model computes (workers=0: by the main process).

    They write into a ring of shared memory, in the order in which the images are needed, two batches ahead.
    """

    at_once = 1

    def __init__(self, images: Images, preprocessing: Preprocessing, device: torch.device, workers: int) -> None:
        self.decode = _decoder(images, preprocessing)
        self.shape = preprocessing.shape
        self.device = device
        self.workers = workers

    def batches(self, plan: Sequence[Indices]) -> Iterator[Tensor]:
        """See Fetcher."""
        order = np.concatenate(plan).tolist() if plan else []
        largest = max(map(len, plan), default=0)
        size = max(1, min(process_pool.SHARE, largest))
        ahead = max(2 * self.workers, -(-2 * largest // size))
        ring = process_pool.shared_zeros(((ahead + 1) * size + largest, *self.shape))

        def fill(share: range) -> int:
            for place in share:
                ring[place % len(ring)] = self.decode(order[place])
            return share.stop

        upload = Uploader(self.device)
        start = filled = 0
        with contextlib.closing(process_pool.spread(fill, len(order), self.workers, size=size, ahead=ahead)) as answers:
            for stop in np.cumsum([len(rows) for rows in plan]).tolist():
                while filled < stop:
                    with quiet_decoders():
                        filled = next(answers)
                images = torch.from_numpy(ring.take(np.arange(start, stop), axis=0, mode="wrap"))
                yield upload(images)
                start = stop


class Uploader:
    """Copies batches to the device; on CUDA on a stream of their own, while the batch before is computed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, images: Tensor) -> Tensor:
        """The images on the device, ready for the current stream."""
        if self.stream is None:
            return images.to(self.device)
        with torch.cuda.stream(self.stream):
            copied = on_device(images, self.device)
        here = torch.cuda.current_stream(self.device)
        here.wait_stream(self.stream)
        copied.record_stream(here)
        return copied


def _decoder(images: Images, preprocessing: Preprocessing) -> Callable[[int], NDArray[np.uint8]]:
    """The function from an image's index to its pixels (height, width, channels)."""
    if images.paths is not None:
        paths = images.paths
        return lambda row: preprocessing.load(paths[row])
    assert images.whole is not None
    whole, rows = images.whole, np.arange(len(images)) if images.rows is None else images.rows
    return lambda row: preprocessing.fit(whole[rows[row]][None])[0]


def _is_ready(whole: NDArray[np.uint8], preprocessing: Preprocessing) -> bool:
    """Whether these pixels are used as they are."""
    return whole.shape[1:] == preprocessing.shape and not preprocessing.rendering.has_8_bits


def decode_all(
    images: Images, preprocessing: Preprocessing, threads: int, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.uint8]:
    """All images as one uint8 array (N, H, W, C), decoded by up to ``threads`` processes.

    progress(images done, images in total) is called on the way. Raises DataError for a file that cannot be decoded.
    """
    shape = preprocessing.shape
    if images.whole is not None and _is_ready(images.whole, preprocessing):
        return images.whole if images.rows is None else images.whole[images.rows]
    todo = np.arange(len(images))
    out, load = process_pool.shared_zeros((len(images), *shape)), _decoder(images, preprocessing)
    if images.decoded is not None and images.decoded[1].shape[1:] == shape:
        rows, known = images.decoded
        if np.array_equal(rows, todo):
            return known
        out[rows] = known
        todo = np.delete(todo, rows)

    def decode(share: range) -> int:
        for row in todo[share.start : share.stop].tolist():
            out[row] = load(row)
        return len(share)

    done, processes = len(images) - len(todo), process_pool.helpers(len(todo), threads)
    with quiet_decoders(), contextlib.closing(process_pool.spread(decode, len(todo), processes)) as answers:
        for count in answers:
            done += count
            if progress is not None:
                progress(done, len(images))
    return out


def in_order(count: int, batch_size: int, rank: int = 0, world: int = 1) -> list[Indices]:
    """Batches for evaluation, in order; a rank takes every world-th of them, so they are the same for any world."""
    return [np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)][rank::world]


def evaluation_batch(preprocessing: Preprocessing, device: torch.device) -> int:
    """The batch size of evaluation: about 16 million numbers, 16 to 256 images (four times that on a GPU)."""
    numbers = preprocessing.channels * preprocessing.height * preprocessing.width
    return max(16, min(256, 2**24 // numbers)) * (1 if device.type == "cpu" else 4)


def memory_bytes(count: int, preprocessing: Preprocessing) -> int:
    """The memory that this many images take when they are resident."""
    return count * preprocessing.channels * preprocessing.height * preprocessing.width


def fits(needed: int, free: int) -> bool:
    """Whether images of ``needed`` bytes may be kept in memory if ``free`` bytes are free."""
    return needed <= RESIDENT_SHARE * free


def make_fetcher(
    images: Images,
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    is_resident: bool,
    workers: int,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> Fetcher:
    """The fetcher for these images; a resident one decodes them all now."""
    if not is_resident:
        fetcher: Fetcher = Streamed(images, preprocessing, device, workers)
    elif images.whole is not None and _is_ready(images.whole, preprocessing):
        fetcher = Resident(images.whole, device, images.rows)
    else:
        fetcher = Resident(decode_all(images, preprocessing, threads, progress), device)
    images.decoded = None  # reused, or not needed in memory while all are streamed
    return fetcher
