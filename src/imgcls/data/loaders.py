"""One batch plan, two loaders: images resident on the device, or streamed from files by workers.

Both give the same samples with the same augmentation numbers in the same order, so nothing of a loader is ever stored:
to go on in the middle of an epoch is to start the plan there.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imgcls import seeding
from imgcls.data.pixels import Preprocessing, quiet_decoders
from imgcls.data.source import Images, Indices
from imgcls.errors import DataError, ImgclsError, RunError

RESIDENT_SHARE = 0.4  # of the memory that is free on the device: what is larger is streamed
WORKER_TIMEOUT = 300  # seconds without a batch from a worker

Batch = tuple[Tensor, Tensor, Tensor]


def plan(count: int, batch_size: int, *, seed: int, epoch: int, rank: int = 0, world: int = 1) -> list[Indices]:
    """The batches of an epoch as arrays of row numbers; this rank's share of each.

    Every row stands in exactly one batch. There are ceil(count / batch_size) batches of nearly equal size (they differ
    by at most one), so that no update sees a mere remainder. The ranks' shares together are the one process's batch.
    """
    order = seeding.rng(seed, "shuffle", epoch).permutation(count)
    batches = np.array_split(order, -(-count // batch_size))
    return batches if world == 1 else [np.array_split(batch, world)[rank] for batch in batches]


def _on_device(plan: Sequence[Indices], device: torch.device) -> Tensor:
    """The row numbers of the whole plan, copied at once."""
    return torch.from_numpy(np.concatenate(plan) if plan else np.empty(0, np.int64)).to(device)


def draw_table(count: int, columns: int, *, seed: int, epoch: int) -> Tensor:
    """The epoch's augmentation numbers, one row for each sample: (count, columns) float32 in [0, 1)"""
    return torch.from_numpy(seeding.rng(seed, "augment", epoch).random((count, columns), dtype=np.float32))


class Fetcher(Protocol):
    """Where a loader gets its pixels from."""

    def batches(self, plan: Sequence[Indices]) -> Iterator[Tensor]:
        """The images of each batch of the plan, on the device: (B, H, W, C) uint8"""


class Resident:
    """All images decoded, as one uint8 tensor on the device; a batch is one gather."""

    def __init__(self, pixels: NDArray[np.uint8], device: torch.device) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to it
            self.pixels = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)

    def batches(self, plan: Sequence[Indices]) -> Iterator[Tensor]:
        """See Fetcher."""
        for rows in _on_device(plan, self.pixels.device).split_with_sizes([len(rows) for rows in plan]):
            yield self.pixels.index_select(0, rows)


class Streamed:
    """Files decoded by worker processes while the model computes (workers=0: by the main process)."""

    def __init__(self, images: Images, preprocessing: Preprocessing, device: torch.device, workers: int) -> None:
        self.decoder = _Decoder(images, preprocessing)
        self.device = device
        self.workers = workers

    def batches(self, plan: Sequence[Indices]) -> Iterator[Tensor]:
        """See Fetcher."""
        loader: DataLoader[NDArray[np.uint8] | DataError] = DataLoader(
            self.decoder,
            batch_sampler=[rows.tolist() for rows in plan],
            num_workers=self.workers,
            collate_fn=_stack,
            pin_memory=self.device.type == "cuda",
            timeout=WORKER_TIMEOUT if self.workers else 0,
            worker_init_fn=_ignore_signals,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*use of fork\\(\\) may lead to deadlocks", DeprecationWarning)
            iterator = iter(loader)
        try:
            for _ in plan:
                images = self._next(iterator)
                if isinstance(images, ImgclsError):
                    raise images
                yield images.to(self.device, non_blocking=True)
        finally:
            del iterator  # ends its workers in order; a garbage collector that breaks a cycle takes 5 s for each

    def _next(self, iterator: Iterator[Tensor | DataError]) -> Tensor | ImgclsError:
        if not self.workers:
            return next(iterator)
        try:
            return next(iterator)
        except (RuntimeError, OSError, EOFError):  # how it shows depends on how the worker went
            return RunError(
                "a worker that decodes images died or hangs (out of memory, or /dev/shm too small?); "
                "try fewer workers, or workers=0"
            )


class _Decoder(Dataset[NDArray[np.uint8] | DataError]):
    def __init__(self, images: Images, preprocessing: Preprocessing) -> None:
        self.images = images
        self.preprocessing = preprocessing

    def __getitem__(self, row: int) -> NDArray[np.uint8] | DataError:
        if self.images.paths is not None:
            try:
                with quiet_decoders():
                    return self.preprocessing.load(self.images.paths[row])
            except DataError as error:  # as a value: a worker's exception arrives as the text of its traceback
                return error
        assert self.images.pixels is not None
        one: NDArray[np.uint8] = self.preprocessing.fit(self.images.pixels[row : row + 1])[0]
        return one


def _stack(images: list[NDArray[np.uint8] | DataError]) -> Tensor | DataError:
    """One batch, or what is wrong with the first image that cannot be read."""
    error = next((image for image in images if isinstance(image, DataError)), None)
    return torch.from_numpy(np.stack(images)) if error is None else error  # type: ignore[arg-type]


def _ignore_signals(worker: int) -> None:
    """Ctrl-C reaches the whole process group: the main process decides, the workers just go on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Loader:
    """The training images, epoch after epoch, in the order and with the augmentation numbers of (seed, epoch)."""

    def __init__(
        self,
        fetcher: Fetcher,
        labels: Indices,
        *,
        batch_size: int,
        seed: int,
        draws: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.fetcher = fetcher
        self.labels = torch.from_numpy(labels).to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.draws = draws
        self.device = device
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        """Updates an epoch."""
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches ``start`` and later: (B, H, W, C) uint8 images, (B,) labels, (B, draws) numbers in [0, 1)."""
        count = len(self.labels)
        batches = plan(count, self.batch_size, seed=self.seed, epoch=epoch, rank=self.rank, world=self.world)[start:]
        order, sizes = _on_device(batches, self.device), [len(rows) for rows in batches]
        table = draw_table(count, self.draws, seed=self.seed, epoch=epoch).to(self.device)
        labels, draws = (whole.index_select(0, order).split_with_sizes(sizes) for whole in (self.labels, table))
        yield from zip(self.fetcher.batches(batches), labels, draws, strict=True)

    def global_size(self, epoch_step: int) -> int:
        """How many images all ranks together see in that batch of an epoch (array_split puts the larger ones first)."""
        count, batches = len(self.labels), len(self)
        return count // batches + (epoch_step < count % batches)


def decode_all(
    images: Images, preprocessing: Preprocessing, threads: int, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.uint8]:
    """All images as one array (N, H, W, C); files are decoded by a few threads."""
    if images.pixels is not None:
        return preprocessing.fit(images.pixels)
    paths = images.paths or ()
    out = np.empty((len(paths), preprocessing.height, preprocessing.width, preprocessing.channels), np.uint8)
    with quiet_decoders(), ThreadPoolExecutor(max(1, threads)) as pool:
        for row, pixels in enumerate(pool.map(preprocessing.load, paths)):
            out[row] = pixels
            if progress is not None:
                progress(row + 1, len(paths))
    return out


def in_order(count: int, batch_size: int, rank: int = 0, world: int = 1) -> list[Indices]:
    """Batches for evaluation, in the images' order; a rank takes every world-th, so they are the same for any world."""
    return [np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)][rank::world]


def evaluation_batch(preprocessing: Preprocessing, device: torch.device) -> int:
    """Images a batch in evaluation: as many as make about 16 million numbers, 16 to 256 (on a GPU four times that)."""
    numbers = preprocessing.channels * preprocessing.height * preprocessing.width
    return max(16, min(256, 2**24 // numbers)) * (1 if device.type == "cpu" else 4)


def memory_bytes(count: int, preprocessing: Preprocessing) -> int:
    """What so many images take when they are resident."""
    return count * preprocessing.channels * preprocessing.height * preprocessing.width


def fits(needed: int, free: int) -> bool:
    """Whether so many bytes of images may lie in memory of which so many bytes are free."""
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
    if is_resident:
        return Resident(decode_all(images, preprocessing, threads, progress), device)
    return Streamed(images, preprocessing, device, workers)
