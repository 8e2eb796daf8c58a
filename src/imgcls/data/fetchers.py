"""Where a loader's images come from: memory (resident on the device) or files (streamed by worker processes).

Both show each image in its view for testing, or a random crop of the whole. Both serve the same samples with the same
augmentation numbers in the same order, so no loader state is ever stored: a run resumes in the middle of an epoch by
starting the plan there.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgcls.data.picture_store import PictureStore, store_of
from imgcls.data.pixels.crops import CroppedView
from imgcls.data.pixels.decoding import is_ready, load_whole
from imgcls.data.pixels.gather import Gather
from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.pixels.preprocessing import LARGE, Preprocessing
from imgcls.data.source import Images, Indices
from imgcls.parallel import process_pool
from imgcls.parallel.threads import each_share
from imgcls.runtime.kept_memory import KeptMemory

RESIDENT_SHARE = 0.4  # of the free memory of the device: larger data sets are streamed
FEW_LARGE = 8  # large images that a process decodes at once, some milliseconds of work each
GROUP = 8 << 20  # bytes of resident images prepared at once: right after a step all code and data are cold


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a GPU copies it while the host goes on."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def rows_on_device(plan: Sequence[Indices], device: torch.device) -> Tensor:
    """The row numbers of the whole plan, copied at once."""
    return on_device(torch.from_numpy(np.concatenate(plan) if plan else np.empty(0, np.int64)), device)


Draws = NDArray[np.float32]  # (B, fetcher.draws) numbers in [0, 1)


class Fetcher(Protocol):
    """Where a loader gets its pixels from.

    at_once: how many images are best requested together. draws: random numbers for each image, 0 without random crops.
    """

    at_once: int
    draws: int

    def batches(self, plan: Sequence[Indices], draws: Sequence[Draws] | None = None) -> Iterator[Tensor]:
        """The images of each batch of the plan, on the device: (B, H, W, C) uint8

        draws: the numbers of each batch's images; without them no crop is random.
        """


class Resident:
    """Decoded images as one uint8 tensor on the device; a batch is one gather.

    rows: which of the pixels are the images, if not all; in main memory all splits share one tensor.
    """

    draws = 0

    def __init__(self, pixels: NDArray[np.uint8], device: torch.device, rows: Indices | None = None) -> None:
        if rows is not None and device.type != "cpu":
            pixels, rows = pixels[rows], None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is never written to
            self.pixels = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
        self.rows = None if rows is None else torch.from_numpy(rows)
        self.at_once = GROUP // self.pixels[0].numel()

    def batches(self, plan: Sequence[Indices], draws: Sequence[Draws] | None = None) -> Iterator[Tensor]:
        """See Fetcher."""
        order = rows_on_device(plan, self.pixels.device)
        order = order if self.rows is None else self.rows[order]
        for rows in order.split_with_sizes([len(rows) for rows in plan]):
            yield self.pixels.index_select(0, rows)


class ResidentCrops:
    """Whole pictures in main memory; a batch is a random crop of each, resized by the threads of this process."""

    at_once = 1

    def __init__(self, store: PictureStore, view: CroppedView) -> None:
        self.store, self.view = store, view
        self.draws = view.crop.draws
        self.memory = KeptMemory()

    def batches(self, plan: Sequence[Indices], draws: Sequence[Draws] | None = None) -> Iterator[Tensor]:
        """See Fetcher."""
        for rows, numbers in zip(plan, [None] * len(plan) if draws is None else draws, strict=True):
            yield self._crops(rows, numbers)

    def _crops(self, rows: Indices, draws: Draws | None) -> Tensor:
        store, view = self.store, self.view
        boxes = view.boxes(draws, store.sizes[rows])
        out = self.memory.empty((len(rows), view.view.height, view.view.width, store.channels), np.uint8)
        pixels = out.numpy()

        def work(places: slice) -> None:
            for row, box, one in zip(rows[places], boxes[places], pixels[places], strict=True):
                view.render(store.picture(row), box, one)

        each_share(work, len(rows))
        return out


class CudaCrops:
    """Whole pictures on the device; a batch is one gather."""

    at_once = 1

    def __init__(self, store: PictureStore, view: CroppedView, device: torch.device) -> None:
        self.view, self.sizes, self.device = view, store.sizes, device
        self.draws = view.crop.draws
        size = view.view.height, view.view.width
        self.gather = Gather(store.pixels, store.starts, store.sizes[:, 1], store.channels, size, device)

    def batches(self, plan: Sequence[Indices], draws: Sequence[Draws] | None = None) -> Iterator[Tensor]:
        """See Fetcher."""
        for rows, numbers in zip(plan, [None] * len(plan) if draws is None else draws, strict=True):
            boxes = self.view.boxes(numbers, self.sizes[rows])
            largest = int(boxes[:, 2].max()), int(boxes[:, 3].max())
            some, their = (on_device(torch.from_numpy(one), self.device) for one in (rows, boxes))
            yield self.gather(some, their, largest)


class Streamed:
    """Files decoded by worker processes while the model computes (workers=0: by the main process).

    They write into a ring of shared memory, in the order in which the images are needed, two batches ahead. crops: the
    view for training, if it is cropped at random.
    """

    at_once = 1

    def __init__(
        self,
        images: Images,
        preprocessing: Preprocessing,
        device: torch.device,
        workers: int,
        crops: CroppedView | None = None,
    ) -> None:
        self.decode = _decoder(images, preprocessing) if crops is None else _crop_decoder(images, crops)
        self.draws = 0 if crops is None else crops.crop.draws
        self.shape = preprocessing.shape
        self.device = device
        self.workers = workers

    def batches(self, plan: Sequence[Indices], draws: Sequence[Draws] | None = None) -> Iterator[Tensor]:
        """See Fetcher."""
        order = np.concatenate(plan).tolist() if plan else []
        numbers = np.concatenate(draws) if draws else None
        largest = max(map(len, plan), default=0)
        most = FEW_LARGE if math.prod(self.shape) >= LARGE else process_pool.SHARE
        size = max(1, min(most, largest))
        ahead = max(2 * self.workers, -(-2 * largest // size))
        ring = process_pool.shared_zeros(((ahead + 1) * size + largest, *self.shape))

        def fill(share: range) -> int:
            for place in share:
                self.decode(order[place], None if numbers is None else numbers[place], ring[place % len(ring)])
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


Decode = Callable[[int, Draws | None, NDArray[np.uint8]], None]  # image number, its numbers, where its pixels go


def _decoder(images: Images, preprocessing: Preprocessing) -> Decode:
    """The function that decodes an image, (height, width, channels)."""
    load = _loader(images, preprocessing)

    def decode(row: int, draws: Draws | None, out: NDArray[np.uint8]) -> None:
        out[:] = load(row)

    return decode


def _loader(images: Images, preprocessing: Preprocessing) -> Callable[[int], NDArray[np.uint8]]:
    if images.paths is not None:
        paths = images.paths
        return lambda row: preprocessing.load(paths[row])
    assert images.whole is not None
    whole, rows = images.whole, np.arange(len(images)) if images.rows is None else images.rows
    return lambda row: preprocessing.fit_pixels(whole[rows[row]][None])[0]


def _crop_decoder(images: Images, crops: CroppedView) -> Decode:
    """The function that decodes an image and crops it."""
    paths = images.paths or ()
    store = None if paths else store_of(images, crops, threads=0)

    def decode(row: int, draws: Draws | None, out: NDArray[np.uint8]) -> None:
        picture = load_whole(paths[row], crops) if store is None else store.picture(row)
        sizes = np.array([picture.shape[:2]], np.int32)
        crops.render(picture, crops.boxes(None if draws is None else draws[None], sizes)[0], out)

    return decode


def decode_all(
    images: Images, preprocessing: Preprocessing, threads: int, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.uint8]:
    """All images as one uint8 array (N, H, W, C), decoded by up to ``threads`` processes.

    progress(images done, images in total) is called on the way. Raises DataError for a file that cannot be decoded.
    """
    shape = preprocessing.shape
    if images.whole is not None and is_ready(images.whole, preprocessing.view):
        return images.whole if images.rows is None else images.whole[images.rows]
    todo = np.arange(len(images))
    out, load = process_pool.shared_zeros((len(images), *shape)), _loader(images, preprocessing)
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
    crops: CroppedView | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fetcher:
    """The fetcher for these images; a resident one decodes them all now. crops: as Streamed."""
    fetcher: Fetcher
    if not is_resident:
        fetcher = Streamed(images, preprocessing, device, workers, crops)
    elif crops is not None:
        store = store_of(images, crops, threads, progress)
        fetcher = ResidentCrops(store, crops) if device.type == "cpu" else CudaCrops(store, crops, device)
    elif images.whole is not None and is_ready(images.whole, preprocessing.view):
        fetcher = Resident(images.whole, device, images.rows)
    else:
        fetcher = Resident(decode_all(images, preprocessing, threads, progress), device)
    images.decoded = None  # reused, or not needed in memory while all are streamed
    return fetcher
