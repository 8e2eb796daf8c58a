"""One batch plan for every loader: order, augmentation and mixing follow from (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imgcls import seeding
from imgcls.data.fetchers import Draws, Fetcher, on_device, rows_on_device
from imgcls.data.pixels.preprocessing import Normalize
from imgcls.data.source import Indices
from imgcls.data.transforms.augment import Augment

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class BatchPlan:
    """Which images each update of an epoch sees: a function of (seed, epoch), so it is never stored.

    count: images. batch_size: of all processes together. rank, world: this process, and how many there are.
    """

    count: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        """Updates per epoch."""
        return -(-self.count // self.batch_size)

    def epoch(self, epoch: int) -> list[Indices]:
        """The epoch's batches as arrays of row numbers; this rank's share of each.

        Every row is in exactly one batch. The batches differ in size by at most one, so that no update sees a mere
        remainder. The ranks' shares of a batch, one after another, are the batch of a single process.
        """
        order = seeding.rng(self.seed, "shuffle", epoch).permutation(self.count)
        batches = np.array_split(order, len(self))
        return batches if self.world == 1 else [np.array_split(batch, self.world)[self.rank] for batch in batches]

    def global_size(self, position: int) -> int:
        """Images in that batch of an epoch, over all ranks (array_split puts the larger batches first)."""
        return self.count // len(self) + (position < self.count % len(self))


def balanced(labels: Indices, *, seed: int, epoch: int) -> Indices:
    """As many rows as there are labels, each class equally often (within one): small classes are repeated, large ones
    resampled each epoch."""
    rng = seeding.rng(seed, "balance", epoch)
    classes = rng.permutation(np.unique(labels))
    quotas = [len(part) for part in np.array_split(np.empty(len(labels)), len(classes))]
    rows: list[Indices] = []
    for name, quota in zip(classes.tolist(), quotas, strict=True):
        own = np.flatnonzero(labels == name)
        rounds = [rng.permutation(own) for _ in range(-(-quota // len(own)))]
        rows.append(np.concatenate(rounds)[:quota] if rounds else own[:0])
    return np.concatenate(rows)


def draw_table(count: int, columns: int, *, seed: int, epoch: int) -> Tensor:
    """The epoch's augmentation numbers, one row for each sample: (count, columns) float32 in [0, 1)"""
    return torch.from_numpy(seeding.rng(seed, "augment", epoch).random((count, columns), dtype=np.float32))


class Loader:
    """The training images, epoch after epoch, in the order and with the augmentation numbers of (seed, epoch).

    fetcher: the images. labels: (N,) int64, on the device where the batches are wanted. augment: what is done to the
    uint8 images. normalize: from uint8 (B, H, W, C) to the model's float32 (B, C, H, W). plan: the batches, for N
    images. is_balanced: draw each class equally often. num_classes: needed if the augmentation mixes images.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        labels: Tensor,
        augment: Augment,
        normalize: Normalize,
        plan: BatchPlan,
        *,
        is_balanced: bool = False,
        num_classes: int = 0,
    ) -> None:
        self.fetcher = fetcher
        self.labels = labels
        self.classes = labels.cpu().numpy() if is_balanced else None
        self.augment = augment
        self.mix = augment.mix(num_classes)
        self.normalize = normalize
        self.plan = plan

    def __len__(self) -> int:
        """Updates per epoch."""
        return len(self.plan)

    @property
    def batch_size(self) -> int:
        """The images of an update, over all ranks."""
        return self.plan.batch_size

    def global_size(self, position: int) -> int:
        """The images of that update of an epoch, over all ranks."""
        return self.plan.global_size(position)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The epoch's batches from number ``start`` on.

        Each is (B, C, H, W) float32 images, augmented and normalized, and their targets: (B,) int64 labels, or
        (B, num_classes) float class shares if images are mixed.
        """
        return self._serve(self.plan.epoch(epoch)[start:], epoch, start)

    def first(self, count: int) -> Batch:
        """The first ``count`` images of epoch 0's first batch, as ``epoch`` yields them."""
        return next(self._serve([self.plan.epoch(0)[0][:count]], 0))

    def sample(self, count: int) -> Tensor:
        """Up to ``count`` images drawn at random, normalized but not augmented: (B, C, H, W) float32.

        The same for every rank: a function of the seed.
        """
        rows = seeding.rng(self.plan.seed, "sample").permutation(self.plan.count)[:count]
        [images] = self.fetcher.batches([rows])
        return self.normalize(images)

    def labeled_sample(self, count: int, size: int) -> Iterator[Batch]:
        """The images of ``sample`` in batches of ``size``, with their (B,) int64 labels."""
        rows = seeding.rng(self.plan.seed, "sample").permutation(self.plan.count)[:count]
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        for own, images in zip(batches, self.fetcher.batches(batches), strict=True):
            yield self.normalize(images), self.labels[rows_on_device([own], self.labels.device)]

    def _serve(self, batches: Sequence[Indices], epoch: int, start: int = 0) -> Iterator[Batch]:
        seed, device = self.plan.seed, self.labels.device
        order, sizes = rows_on_device(batches, device), [len(rows) for rows in batches]
        places, crops = np.concatenate(batches) if batches else np.empty(0, np.int64), self.fetcher.draws
        table = draw_table(len(self.labels), crops + self.augment.draws, seed=seed, epoch=epoch)
        boxes = table[:, :crops].numpy()[places] if crops else None
        draws = on_device(table[:, crops:].contiguous(), device).index_select(0, order)
        if self.classes is not None:  # each place in the plan has its own numbers, whichever image it gets
            rows = balanced(self.classes, seed=seed, epoch=epoch)
            batches = [rows[places] for places in batches]
            order = rows_on_device(batches, device)
        labels = self.labels.index_select(0, order)
        parted = zip(self._prepared(batches, draws, boxes), labels.split_with_sizes(sizes), strict=True)
        if self.mix is None:
            yield from parted
            return
        for position, (images, some) in enumerate(parted, start=start):
            yield self.mix(images, some, seeding.rng(seed, "mix", epoch, position))

    def _prepared(self, batches: Sequence[Indices], draws: Tensor, boxes: Draws | None) -> Iterator[Tensor]:
        """The images of each batch; several batches are gathered and augmented at once if the images are small."""
        in_shares = self.normalize.is_large and self.labels.device.type == "cpu"
        together = 1 if in_shares else int(self.fetcher.at_once / self.augment.growth)
        count = max(1, together // self.plan.batch_size)
        groups = [batches[i : i + count] for i in range(0, len(batches), count)]
        joined = [np.concatenate(group) for group in groups]
        sizes = [len(rows) for rows in joined]
        parted = None if boxes is None else np.split(boxes, np.cumsum(sizes)[:-1])[: len(sizes)]
        numbers, images = draws.split_with_sizes(sizes), self.fetcher.batches(joined, parted)
        for group, some, their in zip(groups, images, numbers, strict=True):
            if in_shares:
                yield self._in_shares(some, their)
            else:
                augmented = self.augment(some, their).split_with_sizes([len(rows) for rows in group])
                yield from [self.normalize(batch) for batch in augmented]

    def _in_shares(self, images: Tensor, draws: Tensor) -> Tensor:
        """A batch of large images, augmented and normalized."""
        return self.normalize.changed(images, lambda rows: self.augment(images[rows], draws[rows]))
