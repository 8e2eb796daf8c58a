"""auto: model, image size and epochs by a table that knows device, number and size of the images, and no clock."""

from __future__ import annotations

import itertools

import pytest
import torch

from imgcls.config.components import select
from imgcls.config.options import option_node
from imgcls.config.torchvision_names import MODELS as TORCHVISION
from imgcls.models import MODELS, automatic
from imgcls.models.automatic import default_epochs, default_image_size, model_node
from imgcls.models.build import MODEL_CONTEXT, build_model

DEVICES = ("cpu", "cuda", "mps")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(64, 64), (8, 8), (28, 28), (16, 64)])
def test_small_images_get_lenet_and_20_epochs_everywhere(device: str, size: tuple[int, int]) -> None:
    assert model_node(device, size) == option_node("model", "lenet")
    for name, count in itertools.product(("auto", "resnet18", "mlp", "own:Net"), (10, 60_000, 10**7)):
        assert default_epochs(device, name, count, size) == 20


def test_photos_get_a_small_net_on_a_cpu_and_resnet50_on_a_gpu() -> None:
    assert model_node("cpu", (64, 65))["name"] == "convnet"
    assert model_node("cuda", (65, 64)) == model_node("mps", (224, 224)) == option_node("model", "resnet50")


@pytest.mark.parametrize("size", [(65, 19), (1, 224), (224, 20), (20, 65), (65, 65), (96, 96), (224, 224)])
@pytest.mark.parametrize("classes", [2, 1000])
def test_what_a_cpu_gets_can_be_built_for_every_shape(size: tuple[int, int], classes: int) -> None:
    model = select(MODELS, model_node("cpu", size), "model", context=MODEL_CONTEXT)
    with torch.device("meta"):
        module = build_model(model, 3, size, classes)
        assert module(torch.zeros(2, 3, *size)).shape == (2, classes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["auto", "resnet18", "convnet"])
def test_more_or_larger_images_never_get_more_epochs(device: str, name: str) -> None:
    for count, more in itertools.pairwise((1, 10, 100, 400, 900, 1_900, 3_000, 10_000, 10**5, 10**6, 10**8)):
        assert default_epochs(device, name, count, (96, 96)) >= default_epochs(device, name, more, (96, 96)) >= 1
        assert default_epochs(device, name, count, (96, 96)) >= default_epochs(device, name, count, (224, 224))


@pytest.mark.parametrize("side", [65, 96, 128, 224])
def test_2600_photos_take_minutes_on_two_cores(side: int) -> None:
    """Of the 2,600 a tenth and a fifth are for validation and test. The floor is ten minutes in all."""
    images = 1890
    epochs = default_epochs("cpu", "auto", images, (side, side))
    assert 1 < automatic.cpu_minutes("auto", images * epochs, (side, side)) < 6


def test_a_named_resnet_on_a_cpu_takes_no_hours() -> None:
    side = default_image_size("cpu", "resnet18")
    assert side == 128
    epochs = default_epochs("cpu", "resnet18", 1890, (side, side))
    assert automatic.cpu_minutes("resnet18", 1890 * epochs, (side, side)) < 30
    assert automatic.cpu_minutes("resnet18", 1890 * 20, (300, 300)) > 60  # as it was


def test_the_default_size_is_never_above_224() -> None:
    for device, name in itertools.product(DEVICES, ("auto", "lenet", "own:Net", *MODELS)):
        assert default_image_size(device, name) <= 224


def test_a_users_own_model_keeps_224_and_20_epochs() -> None:
    assert default_image_size("cpu", "own:Net") == 224
    assert default_epochs("cpu", "own:Net", 10**6, (224, 224)) == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TORCHVISION, "resnet18", "resnet50"])
def test_every_model_can_be_built_at_its_default_size_on_a_cpu(name: str) -> None:
    side = default_image_size("cpu", name)
    try:
        with torch.device("meta"):
            build_model(select(MODELS, option_node("model", name), "model", context=MODEL_CONTEXT), 3, (side, side), 10)
    except NotImplementedError:
        if not name.startswith("regnet"):
            raise
        pytest.skip("its widths are computed with tensors, which have no values here")
