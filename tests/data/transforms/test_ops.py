"""The changes of geometry and color give torchvision's pixels, each image by its own strength."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms.v2.functional as theirs
from torch import Tensor

from imgcls.data.transforms import ops as policy
from imgcls.data.transforms import policies as policy_ops
from tests.data.transforms.test_augment import batch, draws

SHAPES = [(32, 32, 3), (28, 28, 1), (17, 40, 3)]
STRENGTHS = {
    "rotate": (-30.0, 0.0, 17.0, 88.0),
    "shear_x": (-0.3, 0.0, 0.21),
    "shear_y": (-0.3, 0.0, 0.21),
    "translate_x": (-0.4, 0.0, 0.26),
    "translate_y": (-0.4, 0.0, 0.26),
    "brightness": (-0.9, 0.0, 0.5),
    "contrast": (-0.9, 0.0, 0.5),
    "saturation": (-0.9, 0.0, 0.5),
    "sharpness": (-0.9, 0.0, 0.5),
    "posterize": (0.0, 1.0, 3.6, 6.0),
    "solarize": (0.0, 0.3, 1.0),
    "autocontrast": (0.0,),
    "equalize": (0.0,),
}


def expected(name: str, planes: Tensor, strength: float) -> Tensor:
    """torchvision's, as its RandAugment and TrivialAugmentWide call it."""
    affine = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    slope = float(torch.tensor(strength).atan().rad2deg())
    height, width = planes.shape[2:]
    if name == "rotate":
        return theirs.rotate(planes, strength)
    if name == "shear_x":
        return theirs.affine(planes, **affine | {"shear": [slope, 0.0]}, center=[0, 0])
    if name == "shear_y":
        return theirs.affine(planes, **affine | {"shear": [0.0, slope]}, center=[0, 0])
    if name == "translate_x":
        return theirs.affine(planes, **affine | {"translate": [int(strength * width), 0]})
    if name == "translate_y":
        return theirs.affine(planes, **affine | {"translate": [0, int(strength * height)]})
    if name == "posterize":
        return theirs.posterize(planes, 8 - round(strength))
    if name == "solarize":
        return theirs.solarize(planes, 255 * (1 - strength))
    if name in ("autocontrast", "equalize"):
        return getattr(theirs, name)(planes)
    return getattr(theirs, f"adjust_{name}")(planes, 1 + strength)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", STRENGTHS)
def test_every_operation_equals_torchvisions(name: str, shape: tuple[int, int, int]) -> None:
    assert set(STRENGTHS) == set(policy_ops.OPS) - {"identity"}
    images = batch(6, *shape)
    images[3] = images[3] // 4 + 60  # a dull one
    for strength in STRENGTHS[name]:
        own = policy_ops.OPS[name].change(images.clone(), torch.full((6,), strength))
        other = expected(name, images.permute(0, 3, 1, 2), strength).permute(0, 2, 3, 1)
        assert own.dtype == torch.uint8
        different = (own.int() - other.int()).abs()
        if name in ("rotate", "shear_x", "shear_y"):  # a pixel between two may come from either
            assert float((different > 0).float().mean()) < 0.02, (strength, name)
        else:
            assert int(different.max()) <= 1, (strength, name)  # roundings of the mean


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_image_has_its_own_strength(name: str) -> None:
    images = batch(4, 12, 9, 3)
    strengths = torch.tensor(STRENGTHS[name] * 4)[:4]
    whole = policy_ops.OPS[name].change(images.clone(), strengths)
    for i in range(4):
        assert torch.equal(whole[i], policy_ops.OPS[name].change(images[i : i + 1].clone(), strengths[i : i + 1])[0])


def test_trivialaugment_uses_every_operation_equally_often() -> None:
    count = 14 * 50
    numbers = draws(count, 3)
    numbers[:, 0] = (torch.arange(count) + 0.5) / count
    images = batch(1, 16, 16, 3).expand(count, 16, 16, 3).clone()
    changed = (policy_ops.trivialaugment(images.clone(), numbers) != images).flatten(1).any(1).view(14, 50).sum(1)
    assert int(changed[0]) == 0  # identity
    assert bool((changed[1:12] > 20).all())


def test_randaugment_at_magnitude_0_moves_nothing() -> None:
    images = batch(200, 16, 16, 3)
    numbers = draws(200, 3)
    numbers[:, 0] *= 11 / 14  # all but solarize, which inverts 255, autocontrast and equalize
    assert torch.equal(policy_ops.randaugment(images.clone(), numbers, operations=1, magnitude=0.0), images)
    strong = policy_ops.randaugment(images.clone(), numbers, operations=1, magnitude=1.0)
    assert int((strong != images).flatten(1).any(1).sum()) > 100


def test_erasing_fills_a_rectangle_of_2_to_33_percent_with_the_mean() -> None:
    images = batch(300, 32, 32, 3)
    erased = policy.erase(images.clone(), draws(300, 5), p=0.5)
    changed = (erased != images).any(3)
    hit = changed.flatten(1).any(1)
    assert 0.4 < float(hit.float().mean()) < 0.6
    for image, mask, old in zip(erased[hit], changed[hit], images[hit], strict=True):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert 0.01 < box.shape[0] * box.shape[1] / 1024 < 0.37
        assert torch.equal(box, old.float().mean((0, 1)).round().to(torch.uint8).expand_as(box))


def test_affine_translates_rotates_and_scales() -> None:
    image = torch.zeros(1, 21, 21, 1, dtype=torch.uint8)
    image[0, 10, 10] = 255
    right = policy.random_affine(image, torch.tensor([[0.5, 1.0, 0.5, 0.5]]), degrees=0, shift=0.2, scale=0)
    assert right[0, 10].flatten().nonzero().tolist() == [[14]]
    image[0, 9:12, 9:12] = 255
    turned = policy.random_affine(right, torch.tensor([[1.0, 0.5, 0.5, 0.5]]), degrees=90, shift=0, scale=0)
    assert turned[0, :, :, 0].nonzero().tolist() == [[6, 10]]  # counter-clockwise: from the right to the top
    larger = policy.random_affine(image, torch.tensor([[0.5, 0.5, 0.5, 1.0]]), degrees=0, shift=0, scale=0.9)
    assert int((larger > 0).sum()) > 20
