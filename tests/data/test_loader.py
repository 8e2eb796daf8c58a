"""One batch plan, two loaders: the same images, labels and numbers in the same order, from any point of an epoch."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from imgcls.data.fetchers import Fetcher, Resident, Streamed, decode_all, fits, in_order, make_fetcher
from imgcls.data.loader import BatchPlan, Loader, balanced, draw_table
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.data.source import Images
from imgcls.data.transforms.augment import Augment
from imgcls.errors import DataError, RunError

CPU = torch.device("cpu")
SHAPE = Preprocessing(3, 6, 5, (0.5,) * 3, (0.2,) * 3)


# --- the plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (7, 7), (100, 16), (101, 100), (45, 128), (60, 1)])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_row_is_seen_exactly_once(count: int, batch_size: int, world: int) -> None:
    shares = [BatchPlan(count, batch_size, 3, r, world).epoch(2) for r in range(world)]
    rows = np.concatenate([rows for share in shares for rows in share])
    assert np.array_equal(np.sort(rows), np.arange(count))
    assert {len(share) for share in shares} == {-(-count // batch_size)}


def test_ranks_partition_each_global_batch_in_order() -> None:
    whole = BatchPlan(100, 16, seed=3).epoch(2)
    shares = [BatchPlan(100, 16, 3, r, 4).epoch(2) for r in range(4)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert np.array_equal(batch, np.concatenate(parts))


def test_batches_are_of_nearly_equal_size() -> None:
    sizes = [len(batch) for batch in BatchPlan(1000, 128, seed=0).epoch(0)]
    assert len(sizes) == 8
    assert max(sizes) <= 128
    assert max(sizes) - min(sizes) <= 1


def test_the_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    def order(*, batch_size: int = 8, seed: int = 1, epoch: int = 1) -> Any:
        return np.concatenate(BatchPlan(50, batch_size, seed).epoch(epoch)).tolist()

    assert order() == order() == order(batch_size=50)
    assert order(seed=2) != order() != order(epoch=2)


def test_draws_are_keyed_by_the_sample() -> None:
    table = draw_table(40, 3, seed=1, epoch=4)
    assert (table.shape, table.dtype) == ((40, 3), torch.float32)
    assert torch.equal(table, draw_table(40, 3, seed=1, epoch=4))
    assert not torch.equal(table, draw_table(40, 3, seed=1, epoch=5))
    assert float(table.min()) >= 0
    assert float(table.max()) < 1


@pytest.mark.parametrize("count", [10, 99, 100, 1000])
def test_balanced_rows_show_each_class_equally_often(count: int) -> None:
    labels = np.random.default_rng(0).choice(4, size=count, p=[0.7, 0.2, 0.08, 0.02])
    present = len(np.unique(labels))
    epochs = [balanced(labels, seed=3, epoch=epoch) for epoch in range(4)]
    for rows in epochs:
        assert len(rows) == count
        sizes = np.bincount(labels[rows], minlength=4)
        assert sorted(sizes[sizes > 0]) == sorted(map(len, np.array_split(np.empty(count), present)))
        own, times = np.unique(rows, return_counts=True)
        for name in np.unique(labels):  # none of a class a third time before all have come twice
            mine = times[labels[own] == name]
            assert mine.max() - mine.min() <= 1
    assert np.array_equal(epochs[1], balanced(labels, seed=3, epoch=1))
    if count == 1000:
        assert not np.array_equal(np.sort(epochs[0]), np.sort(epochs[1]))  # another part of the large classes


@pytest.mark.parametrize("resident", [True, False])
def test_a_balanced_loader_repeats_small_classes_with_other_numbers(resident: bool) -> None:
    labels = np.array([0] * 30 + [1] * 2)
    pixels = np.arange(32, dtype=np.uint8)[:, None, None, None].repeat(6, 1).repeat(5, 2).repeat(3, 3)
    images = Images(labels, pixels=pixels)
    seen: list[list[float]] = []

    def note(batch: Tensor, draws: Tensor) -> Tensor:
        seen.extend(zip(batch[:, 0, 0, 0].tolist(), draws[:, 0].tolist(), strict=True))
        return batch

    fetcher = make_fetcher(images, SHAPE, CPU, is_resident=resident, workers=0, threads=1)
    loader = Loader(
        fetcher,
        torch.from_numpy(labels),
        Augment(1, (), note),
        Preprocessing(3, 6, 5, (0.0,) * 3, (1 / 255,) * 3).normalizer(CPU),  # changes nothing
        BatchPlan(len(labels), 8, seed=1),
        is_balanced=True,
    )
    batches = list(loader.epoch(0))
    found = torch.cat([labels for _, labels in batches])
    assert torch.bincount(found).tolist() == [16, 16]
    rows = torch.cat([images[:, 0, 0, 0] for images, _ in batches])
    assert torch.equal((rows >= 30).long(), found)
    assert len({number for _, number in seen}) == 32  # though only 18 images
    later = list(loader.epoch(0, start=2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches[2:], later, strict=True))


# --- two loaders -----------------------------------------------------------------------------------------------------


@pytest.fixture
def files() -> Images:
    """23 files of several sizes and modes; image i has about brightness 10 i."""
    paths = []
    for i in range(23):
        mode = ("RGB", "L", "RGBA", "P")[i % 4]
        image = Image.new("RGB", (5 + i % 3, 6 + i % 2), (10 * i, 255 - 10 * i, 5 * i)).convert(mode)
        image.save(f"{i}.png")
        paths.append(f"{i}.png")
    return Images(np.arange(23) % 3, paths=paths)


def loader(images: Images, *, is_resident: bool, workers: int = 0, rank: int = 0, world: int = 1) -> Loader:
    fetcher = make_fetcher(images, SHAPE, CPU, is_resident=is_resident, workers=workers, threads=2)
    return Loader(fetcher, torch.from_numpy(images.labels), MARK, NORMALIZE, BatchPlan(len(images), 5, 7, rank, world))


def mark(images: Tensor, draws: Tensor) -> Tensor:
    """Each pixel changed by its image's numbers, so that both can be told from it."""
    return images + (draws * 256).to(torch.uint8).sum(1, dtype=torch.uint8)[:, None, None, None]


MARK = Augment(3, ("mark",), mark)
NORMALIZE = SHAPE.normalizer(CPU)


def same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_streamed_equals_resident(files: Images, workers: int) -> None:
    resident, streamed = loader(files, is_resident=True), loader(files, is_resident=False, workers=workers)
    for epoch in (0, 1):
        pairs = list(zip(resident.epoch(epoch), streamed.epoch(epoch), strict=True))
        assert len(pairs) == len(resident) == 5
        assert all(same(one, other) for one, other in pairs)


def test_arrays_are_streamed_as_they_lie_in_memory() -> None:
    images = Images(np.arange(9), pixels=np.random.default_rng(0).integers(0, 256, (9, 7, 4, 3), dtype=np.uint8))
    both = [list(loader(images, is_resident=is_resident).epoch(0)) for is_resident in (True, False)]
    assert all(same(one, other) for one, other in zip(*both, strict=True))


def test_a_batch_is_the_images_labels_and_numbers_of_its_rows(files: Images) -> None:
    pixels, table = decode_all(files, SHAPE, threads=1), draw_table(23, 3, seed=7, epoch=2)
    batches = zip(BatchPlan(23, 5, seed=7).epoch(2), loader(files, is_resident=True).epoch(2), strict=True)
    for rows, (images, labels) in batches:
        assert torch.equal(images, NORMALIZE(mark(torch.from_numpy(pixels[rows]), table[torch.from_numpy(rows)])))
        assert np.array_equal(labels.numpy(), files.labels[rows])


@pytest.mark.parametrize("at_once", [0, 4, 5, 9, 10, 14, 1000])
@pytest.mark.parametrize("start", [0, 2])
def test_batches_prepared_together_are_those_prepared_alone(files: Images, at_once: int, start: int) -> None:
    made = loader(files, is_resident=True)
    locked = list(loader(files, is_resident=False).epoch(1, start=start))
    made.fetcher.at_once = at_once
    together = list(made.epoch(1, start=start))
    assert [len(images) for images, _ in together] == [len(images) for images, _ in locked]
    assert all(same(one, other) for one, other in zip(locked, together, strict=True))


@pytest.mark.parametrize("is_resident", [True, False])
@pytest.mark.parametrize("start", [0, 1, 3, 4, 5])
def test_starting_within_an_epoch_gives_its_tail(files: Images, is_resident: bool, start: int) -> None:
    made = loader(files, is_resident=is_resident)
    whole, tail = list(made.epoch(3)), list(made.epoch(3, start=start))
    assert len(tail) == 5 - start
    assert all(same(one, other) for one, other in zip(whole[start:], tail, strict=True))


def test_the_ranks_batches_together_are_those_of_one_process(files: Images) -> None:
    whole = list(loader(files, is_resident=True).epoch(1))
    parts = [list(loader(files, is_resident=True, rank=rank, world=3).epoch(1)) for rank in range(3)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert same(batch, tuple(torch.cat(tensors) for tensors in zip(*shares, strict=True)))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 23])
def test_the_global_size_is_that_of_the_plan(files: Images, batch_size: int) -> None:
    plan = BatchPlan(23, batch_size, seed=0)
    sizes = [len(rows) for rows in plan.epoch(0)]
    assert [plan.global_size(i) for i in range(len(plan))] == sizes
    assert [loader(files, is_resident=True).global_size(i) for i in range(5)] == [5, 5, 5, 4, 4]


def served(fetcher: Fetcher, batches: list[Any]) -> list[Tensor]:
    return list(fetcher.batches(batches))


@pytest.mark.parametrize("is_resident", [True, False])
def test_an_empty_plan_is_no_error(files: Images, is_resident: bool) -> None:
    assert served(make_fetcher(files, SHAPE, CPU, is_resident=is_resident, workers=0, threads=1), []) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_file_is_named_whoever_decodes_it(files: Images, workers: int) -> None:
    Path("17.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^not a readable image: 17\.png \(cannot identify it as one of [A-Z, ]+\)$"):
        served(Streamed(files, SHAPE, CPU, workers), in_order(23, 5))
    with pytest.raises(DataError, match=r"17\.png"):
        decode_all(files, SHAPE, threads=2)


class Deadly(Preprocessing):
    def load(self, path: str) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_an_error_of_one_line(files: Images) -> None:
    deadly = Deadly(3, 6, 5, (0.5,) * 3, (0.2,) * 3)
    with pytest.raises(RunError, match=r"^an image-decoding process died .* workers$"):
        served(Streamed(files, deadly, CPU, 1), in_order(23, 5))
    with pytest.raises(RunError, match=r"^an image-decoding process died"):
        decode_all(many(files), deadly, threads=2)


def test_decoding_reports_its_progress(files: Images) -> None:
    seen: list[tuple[int, int]] = []
    decode_all(files, SHAPE, 2, lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 23) for i in range(23)]


def many(images: Images, times: int = 10) -> Images:
    """The files again and again: enough of them to be decoded by forked processes."""
    assert images.paths is not None
    return Images(np.tile(images.labels, times), paths=images.paths * times)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_processes_threads_and_one_process_decode_the_same(
    files: Images, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = decode_all(many(files), SHAPE, threads=1)
    monkeypatch.setattr("sys.platform", platform)
    seen: list[tuple[int, int]] = []
    together = decode_all(many(files), SHAPE, 2, lambda done, total: seen.append((done, total)))
    assert np.array_equal(locked, together)
    assert len(np.unique(locked, axis=0)) > 20
    assert seen[-1] == (230, 230)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_the_first_of_several_corrupt_files_is_named(files: Images) -> None:
    for name in ("17.png", "5.png", "21.png"):
        Path(name).write_bytes(b"no image")
    for threads in (1, 3):
        with pytest.raises(DataError, match=r"not a readable image: 5\.png"):
            decode_all(many(files), SHAPE, threads)


def test_arrays_of_another_size_are_fitted_by_processes_too() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 7, 4, 3), dtype=np.uint8)
    part = Images(np.zeros(200), pixels=pixels).take(np.arange(199, -1, -1))
    assert np.array_equal(decode_all(part, SHAPE, threads=2), SHAPE.fit_pixels(pixels[::-1]))


@pytest.mark.parametrize("rows", [[0, 3, 22], list(range(23))])
def test_images_decoded_before_are_reused(files: Images, rows: list[int]) -> None:
    whole = decode_all(files, SHAPE, threads=1)
    assert files.paths is not None
    for row in rows:
        Path(files.paths[row]).unlink()
    files.decoded = np.array(rows), whole[rows]
    fetcher = make_fetcher(files, SHAPE, CPU, is_resident=True, workers=0, threads=2)
    assert np.array_equal(torch.cat(served(fetcher, in_order(23, 5))).numpy(), whole)
    assert files.decoded is None


def test_images_decoded_for_another_size_are_not_reused(files: Images) -> None:
    whole = decode_all(files, SHAPE, threads=1)
    files.decoded = np.arange(23), np.zeros((23, 9, 9, 3), np.uint8)
    assert np.array_equal(decode_all(files, SHAPE, threads=1), whole)


def test_the_splits_of_a_data_set_share_one_array() -> None:
    whole = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
    part = Images(np.arange(60) % 3, pixels=whole).take(np.arange(50, 10, -1)).take(np.arange(0, 40, 2))
    fetcher = make_fetcher(part, SHAPE, CPU, is_resident=True, workers=0, threads=1)
    assert isinstance(fetcher, Resident)
    assert np.shares_memory(fetcher.pixels.numpy(), whole)
    expected = whole[50:10:-2]
    assert np.array_equal(torch.cat(served(fetcher, in_order(20, 7))).numpy(), expected)
    assert part.pixels is not None
    assert np.array_equal(part.pixels, expected)
    assert np.array_equal(decode_all(part, SHAPE, threads=1), expected)
    assert np.array_equal(part.ids, np.arange(50, 10, -2))
    streamed = Streamed(part, SHAPE, CPU, 0)
    assert np.array_equal(torch.cat(served(streamed, in_order(20, 7))).numpy(), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_batch_stays_as_it_was_when_later_ones_are_decoded(files: Images, workers: int) -> None:
    batches = [np.array([i % 23, (7 * i) % 23]) for i in range(200)]
    images = served(Streamed(files, SHAPE, CPU, workers), batches)
    whole = decode_all(files, SHAPE, threads=1)
    assert all(np.array_equal(one.numpy(), whole[rows]) for one, rows in zip(images, batches, strict=True))


def test_batches_of_unequal_size_and_empty_ones_are_streamed(files: Images) -> None:
    batches = [np.arange(count) for count in (1, 0, 23, 4, 11)]
    images = served(Streamed(files, SHAPE, CPU, 2), batches)
    whole = decode_all(files, SHAPE, threads=1)
    assert all(np.array_equal(one.numpy(), whole[rows]) for one, rows in zip(images, batches, strict=True))


# --- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_takes_every_image_once_in_the_same_batches(world: int) -> None:
    whole = in_order(103, 10)
    shares = [in_order(103, 10, rank, world) for rank in range(world)]
    assert np.array_equal(np.concatenate(whole), np.arange(103))
    for i, batch in enumerate(whole):
        assert np.array_equal(batch, shares[i % world][i // world])


def test_images_may_take_two_fifths_of_the_free_memory() -> None:
    assert fits(40, 100)
    assert not fits(41, 100)
