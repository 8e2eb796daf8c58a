"""One batch plan for every loader: the order, augmentation and mixing of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from imgcls import seeding
from imgcls.data.fetchers import Fetcher, rows_on_device
from imgcls.data.source import Indices
from imgcls.data.transforms.augment import Augment

Batch = tuple[Tensor, Tensor]


def plan(count: int, batch_size: int, *, seed: int, epoch: int, rank: int = 0, world: int = 1) -> list[Indices]:
    """The batches of an epoch as arrays of row numbers; this rank's share of each.

    Every row stands in exactly one batch. There are ceil(count / batch_size) batches of nearly equal size (they differ
    by at most one), so that no update sees a mere remainder. The ranks' shares together are the one process's batch.
    """
    order = seeding.rng(seed, "shuffle", epoch).permutation(count)
    batches = np.array_split(order, -(-count // batch_size))
    return batches if world == 1 else [np.array_split(batch, world)[rank] for batch in batches]


def balanced(labels: Indices, *, seed: int, epoch: int) -> Indices:
    """As many rows as there are labels, each class as often as any other (within one): small classes are repeated,
    of large ones another part is taken each epoch."""
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

    is_balanced: each class as often as any other. num_classes: needed where images are mixed.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        labels: Indices,
        augment: Augment,
        normalize: Callable[[Tensor], Tensor],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        is_balanced: bool = False,
        num_classes: int = 0,
    ) -> None:
        self.fetcher = fetcher
        self.classes = labels if is_balanced else None
        self.labels = torch.from_numpy(labels).to(device)
        self.augment = augment
        self.mix = augment.mix(num_classes)
        self.normalize = normalize
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        """Updates an epoch."""
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches ``start`` and later: (B, C, H, W) float32 images, augmented and normalised, and their targets: (B,)
        labels, or (B, num_classes) shares of mixed images."""
        batches = plan(len(self.labels), self.batch_size, seed=self.seed, epoch=epoch, rank=self.rank, world=self.world)
        return self._serve(batches[start:], epoch, start)

    def first(self, count: int) -> Batch:
        """The first ``count`` images of epoch 0's first batch, as ``epoch`` would give them."""
        batches = plan(len(self.labels), self.batch_size, seed=self.seed, epoch=0, rank=self.rank, world=self.world)
        return next(self._serve([batches[0][:count]], 0))

    def _serve(self, batches: Sequence[Indices], epoch: int, start: int = 0) -> Iterator[Batch]:
        order, sizes = rows_on_device(batches, self.device), [len(rows) for rows in batches]
        table = draw_table(len(self.labels), self.augment.draws, seed=self.seed, epoch=epoch).to(self.device)
        draws = table.index_select(0, order)
        if self.classes is not None:  # each place in the plan has numbers of its own, whichever image stands there
            rows = balanced(self.classes, seed=self.seed, epoch=epoch)
            batches = [rows[places] for places in batches]
            order = rows_on_device(batches, self.device)
        labels = self.labels.index_select(0, order)
        parted = zip(self._prepared(batches, draws), labels.split_with_sizes(sizes), strict=True)
        if self.mix is None:
            yield from parted
            return
        for position, (images, some) in enumerate(parted, start=start):
            yield self.mix(images, some, seeding.rng(self.seed, "mix", epoch, position))

    def _prepared(self, batches: Sequence[Indices], draws: Tensor) -> Iterator[Tensor]:
        """The images of each batch; where they are small several batches are gathered and augmented at once."""
        count = max(1, int(self.fetcher.at_once / self.augment.growth) // self.batch_size)
        groups = [batches[i : i + count] for i in range(0, len(batches), count)]
        together = [np.concatenate(group) for group in groups]
        numbers = draws.split_with_sizes([len(rows) for rows in together])
        for group, images, their in zip(groups, self.fetcher.batches(together), numbers, strict=True):
            augmented = self.augment(images, their).split_with_sizes([len(rows) for rows in group])
            yield from [self.normalize(batch) for batch in augmented]

    def global_size(self, epoch_step: int) -> int:
        """How many images all ranks together see in that batch of an epoch (array_split puts the larger ones first)."""
        count, batches = len(self.labels), len(self)
        return count // batches + (epoch_step < count % batches)
