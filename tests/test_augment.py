"""Augmentation equals its slow definition, and goes with the sample, not with the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from imgcls.data.augment import crop, mirror, none, standard
from imgcls.data.digits import digits


def batch(count: int, height: int, width: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)


def draws(count: int, columns: int) -> Tensor:
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(1))


def slow_crop(images: Tensor, numbers: Tensor, padding: int) -> Tensor:
    out = torch.zeros_like(images)
    _, height, width, _ = images.shape
    for i, (first, second) in enumerate(numbers.tolist()):
        down, right = int(first * (2 * padding + 1)) - padding, int(second * (2 * padding + 1)) - padding
        for row in range(height):
            for column in range(width):
                if 0 <= row + down < height and 0 <= column + right < width:
                    out[i, row, column] = images[i, row + down, column + right]
    return out


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (1, 1, 3), (1, 7, 1), (7, 1, 2)])
@pytest.mark.parametrize("padding", [1, 2, 11])
def test_crop_equals_shifting_pixel_by_pixel(shape: tuple[int, int, int], padding: int) -> None:
    images, numbers = batch(9, *shape), draws(9, 2)
    before = images.clone()
    assert torch.equal(crop(images, numbers, padding=padding), slow_crop(images, numbers, padding))
    assert torch.equal(images, before)


def test_crop_reaches_every_shift_and_no_other() -> None:
    image = torch.zeros(1, 7, 7, 1, dtype=torch.uint8)
    image[0, 3, 3] = 1
    steps = (torch.arange(5) + 0.5) / 5
    numbers = torch.cartesian_prod(steps, steps)
    places = crop(image.expand(25, 7, 7, 1), numbers, padding=2).nonzero()[:, 1:3].tolist()
    assert sorted(places) == [[row, column] for row in range(1, 6) for column in range(1, 6)]
    ends = torch.tensor([[0.0, 0.0], [np.nextafter(np.float32(1), np.float32(0))] * 2])
    assert crop(image.expand(2, 7, 7, 1), ends, padding=2).nonzero()[:, 1:3].tolist() == [[5, 5], [1, 1]]


@pytest.mark.parametrize("padding", [4, 28, 256])
def test_the_largest_number_below_one_stays_within_the_image(padding: int) -> None:
    last = torch.full((3, 2), float(np.nextafter(np.float32(1), np.float32(0))))
    images = batch(3, 32, 32, 1)
    assert torch.equal(crop(images, last, padding=padding), slow_crop(images, last, padding))


def test_mirror_flips_where_the_number_is_below_p() -> None:
    images, numbers = batch(6, 4, 5, 3), torch.tensor([0.0, 0.29, 0.3, 0.31, 0.99, 0.1])
    out = mirror(images.clone(), numbers, p=0.3)
    for i, is_flipped in enumerate([True, True, False, False, False, True]):
        assert torch.equal(out[i], images[i].flip(1) if is_flipped else images[i])


@pytest.mark.parametrize("shape", [(3, 8, 1), (3, 4, 1), (1, 6, 3), (5, 5, 3)])
def test_mirror_of_images_of_any_number_of_bytes(shape: tuple[int, int, int]) -> None:
    images, numbers = batch(7, *shape), draws(7, 1)[:, 0]
    expected = torch.stack([one.flip(1) if number < 0.5 else one for one, number in zip(images, numbers, strict=True)])
    assert torch.equal(mirror(images.clone(), numbers, p=0.5), expected)


@pytest.mark.parametrize(("p", "flipped"), [(0.0, 0), (1.0, 50)])
def test_mirror_never_and_always(p: float, flipped: int) -> None:
    images = batch(50, 3, 4, 1)
    changed = (mirror(images.clone(), draws(50, 1)[:, 0], p=p) == images.flip(2)).flatten(1).all(1)
    assert int(changed.sum()) == flipped


def test_mirror_hits_its_share() -> None:
    images = batch(2000, 1, 4, 1)
    share = (mirror(images.clone(), draws(2000, 1)[:, 0], p=0.25) != images).flatten(1).any(1).float().mean()
    assert abs(float(share) - 0.25) < 0.04


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (224, 224, 3)])
def test_a_gpu_augments_as_the_cpu_does(shape: tuple[int, int, int]) -> None:
    augment = standard(shape[:2], True, padding=None, flip=None)
    images, numbers = batch(64, *shape), draws(64, 3)
    assert torch.equal(augment(images.cuda(), numbers.cuda()).cpu(), augment(images, numbers))


def test_a_sample_is_augmented_alike_in_any_batch() -> None:
    augment = standard((32, 32), True, padding=None, flip=None)
    images, numbers = batch(20, 32, 32, 3), draws(20, 3)
    whole = augment(images, numbers)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    parts = [augment(images[rows], numbers[rows]) for rows in order.split([3, 1, 9, 7])]
    assert torch.equal(torch.cat(parts), whole[order])


@pytest.mark.parametrize(("size", "padding"), [((32, 32), 4), ((8, 8), 1), ((5, 5), 1), ((28, 40), 3)])
def test_the_standard_pads_an_eighth(size: tuple[int, int], padding: int) -> None:
    images, numbers = batch(5, *size, 1), draws(5, 3)
    augment = standard(size, False, padding=None, flip=None)
    assert torch.equal(augment(images, numbers), slow_crop(images, numbers[:, :2], padding))
    assert augment.words == f"crop {padding} px"


def test_digits_are_never_mirrored_unless_asked_for() -> None:
    source = digits()
    images, numbers = batch(5, 8, 8, 1), torch.zeros(5, 3)
    unpadded = standard((8, 8), source.mirror, padding=0, flip=None)
    assert torch.equal(unpadded(images, numbers), images)
    assert unpadded.words == "none"
    asked = standard((8, 8), source.mirror, padding=0, flip=1.0)
    assert torch.equal(asked(images.clone(), numbers), images.flip(2))
    assert asked.words == "flip"


def test_none_draws_nothing_and_changes_nothing() -> None:
    augment, images = none((8, 8), True), batch(2, 8, 8, 1)
    assert augment.draws == 0
    assert augment(images, draws(2, 0)) is images
