"""Augmentation equals its slow definition, and goes with the sample, not with the batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.cli.app import main
from imgcls.config.components import select
from imgcls.config.options import option_node
from imgcls.data.datasets.digits import digits
from imgcls.data.transforms.augment import AUGMENTS, Augment, Mix, crop, mirror, none
from imgcls.errors import ConfigError
from tests.conftest import QUIET


def batch(count: int, height: int, width: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)


def draws(count: int, columns: int) -> Tensor:
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(1))


def chosen(name: str, image_size: tuple[int, int], can_mirror: bool, **params: object) -> Augment:
    """The augmentation as the command line builds it from conf/augment/NAME.yaml."""
    component = select(AUGMENTS, option_node("augment", name) | params, "augment")
    augment: Augment = component(image_size, can_mirror)
    return augment


def standard(image_size: tuple[int, int], can_mirror: bool, **params: object) -> Augment:
    return chosen("standard", image_size, can_mirror, **params)


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


def test_a_sample_is_augmented_the_same_in_any_batch() -> None:
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


def test_padding_that_would_leave_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"padding 8 is too large for images of 8 pixels; lower augment\.padding"):
        standard((8, 16), True, padding=8)


def test_none_draws_nothing_and_changes_nothing() -> None:
    augment, images = none((8, 8), True), batch(2, 8, 8, 1)
    assert augment.draws == 0
    assert augment(images, draws(2, 0)) is images


# --- the options and their parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (9, 40, 3), (2, 2, 1)])
def test_every_option_returns_images_and_depends_on_the_sample_alone(name: str, shape: tuple[int, int, int]) -> None:
    augment = chosen(name, shape[:2], True)
    images, numbers = batch(40, *shape), draws(40, augment.draws)
    whole = augment(images.clone(), numbers)
    assert (whole.shape, whole.dtype) == (images.shape, torch.uint8)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    parts = [augment(images[rows], numbers[rows]) for rows in order.split([3, 1, 29, 7])]
    assert torch.equal(torch.cat(parts), whole[order])


PARAMS = {
    "degrees": 20.0, "shift": 0.2, "scale": 0.3, "brightness": 0.5, "contrast": 0.5, "saturation": 0.5,
    "policy": "trivialaugment", "erasing": 0.9,
}  # fmt: skip


@pytest.mark.parametrize("param", PARAMS)
def test_every_parameter_changes_images(param: str) -> None:
    plain = standard((32, 32), False, padding=0)
    assert plain.words == "none"
    augment = standard((32, 32), False, padding=0, **{param: PARAMS[param]})
    assert augment.words != "none"
    images = batch(30, 32, 32, 3)
    numbers = draws(30, augment.draws)
    assert int((augment(images.clone(), numbers) != images).flatten(1).any(1).sum()) > 15
    assert torch.equal(augment(images.clone(), numbers), augment(images.clone(), numbers))


def test_the_standard_draws_what_it_always_drew() -> None:
    assert standard((32, 32), True).draws == 3
    assert chosen("strong", (32, 32), True).words == "crop 4 px + flip + randaugment 2 x 9 + erasing"


# --- mixing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_images_have_mixed_labels(mixup: float, cutmix: float) -> None:
    """Image i holds the number i of classes everywhere, so its mean tells what it is made of."""
    mix = Mix(mixup, cutmix, 6)
    labels = torch.arange(6)
    images = (
        F.one_hot(labels, 6)
        .float()[:, :, None, None]
        .expand(6, 6, 16, 16)
        .contiguous(memory_format=torch.channels_last)
    )
    kinds = set()
    for seed in range(30):
        mixed, shares = mix(images, labels, np.random.default_rng(seed))
        assert torch.allclose(mixed.mean((2, 3)), shares, atol=1e-5)
        assert torch.allclose(shares.sum(1), torch.ones(6))
        kinds.add(bool(((mixed == 0) | (mixed == 1)).all()))
    assert kinds == ({False, True} if mixup and cutmix else {cutmix > 0})


@pytest.mark.parametrize(
    "words", [["augment.mixup=0.4"], ["augment.cutmix=1.0"], ["loader=stream", "augment.mixup=0.4"]]
)
def test_a_run_with_mixed_images_learns(words: list[str]) -> None:
    words = ["model=mlp", "augment=standard", *words, "dataset.limit=400", "epochs=2", "threads=1", *QUIET]
    assert main(["train", *words, "run_dir=a"]) == 0
    a = json.loads(Path("a/metrics.jsonl").read_text().splitlines()[-1])
    assert a["train_loss"] > a["val_loss"]  # its targets are spread over two classes
