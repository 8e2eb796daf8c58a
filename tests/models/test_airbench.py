"""The airbench network, and models that set weights from training images when a run begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from imgcls import train
from imgcls.cli.app import main
from imgcls.config.schema import TrainConfig
from imgcls.data.loader import Loader
from imgcls.errors import ConfigError
from imgcls.models.airbench import WhitenedAirbench
from imgcls.models.build import is_random, takes_images
from imgcls.runtime.session import session
from imgcls.training.builder import build as build_run
from imgcls.training.spec import RunSpec
from tests.conftest import SMALL
from tests.models.test_models import build, logits_of
from tests.training.test_resume import interrupted, same_runs

Config = Callable[..., TrainConfig]
TINY = ("model=airbench", "model.widths=[4,6]", "optimizer=muon")


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (1, (28, 28)), (3, (32, 32)), (4, (33, 17)), (3, (5, 70))])
@pytest.mark.parametrize("whiten", [True, False])
def test_it_takes_any_size_and_trains_all_but_what_is_fixed(channels: int, size: tuple[int, int], whiten: bool) -> None:
    module = build("airbench", channels, size, 7, widths=[4, 6], whiten=whiten)
    logits = logits_of(module, channels, size)
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    assert takes_images(module) is whiten
    assert not is_random(module)
    for name, parameter in module.named_parameters():
        is_fixed = (whiten and name == "stem.weight") or name.endswith(("2.weight", "5.weight"))
        assert parameter.requires_grad is not is_fixed, name
        assert (parameter.grad is None) is is_fixed, name


@pytest.mark.parametrize(("widths", "least"), [([], 2), ([4], 3), ([4, 4, 4], 9)])
def test_images_too_small_for_it_are_refused_with_the_least_size(widths: list[int], least: int) -> None:
    assert logits_of(build("airbench", 1, (least, least), widths=widths), 1, (least, least)).shape == (3, 10)
    message = rf"{len(widths)} groups needs images of at least {least}x{least} pixels, got 40x{least - 1}; shorten"
    with pytest.raises(ConfigError, match=message):
        build("airbench", 1, (least - 1, 40), widths=widths)


def test_its_convolutions_begin_by_passing_their_inputs_on() -> None:
    module = build("airbench", 3, (32, 32), widths=[32, 16])
    images = torch.randn(2, 24, 8, 8)
    assert torch.allclose(module.group1[0](images)[:, :24], images, atol=1e-6)  # type: ignore[operator, index, union-attr]
    more = torch.randn(2, 32, 8, 8)
    assert torch.allclose(module.group2[0](more), more[:, :16], atol=1e-6)  # type: ignore[operator, index, union-attr]


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_are_uncorrelated_and_come_in_both_signs(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(50, channels, 16, 16, generator=generator)
    images = images + images.roll(1, 3) + 0.5 * images.mean(1, keepdim=True)  # neighbors and channels are correlated
    module = build("airbench", channels, (16, 16), widths=[4])
    assert isinstance(module, WhitenedAirbench)
    module.initialize_from(images)
    nn.init.zeros_(module.stem.bias)  # type: ignore[arg-type]
    values = module.stem(images).detach().transpose(0, 1).flatten(1)
    half = len(values) // 2
    assert half == 4 * channels
    assert torch.allclose(values[:half], -values[half:], atol=1e-5)
    covariance = values[:half] @ values[:half].T / values.shape[1]
    assert torch.allclose(covariance, torch.eye(half), atol=0.05)


class Centered(nn.Module):
    """A user's model that keeps the mean image."""

    calls = 0

    def __init__(self, channels: int, image_size: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, *image_size))
        self.last = nn.Linear(channels * image_size[0] * image_size[1], num_classes)

    def initialize_from(self, images: Tensor) -> None:
        type(self).calls += 1
        self.mean.copy_(images.mean(0) + torch.rand(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.last((images - self.mean).flatten(1))  # type: ignore[no-any-return]


class Refusing(Centered):
    def initialize_from(self, images: Tensor) -> None:
        raise ValueError("no images, please")


OWN = f"model.name={__name__}:Centered"


def test_the_images_are_the_same_for_both_loaders_and_follow_from_the_seed(config: Config) -> None:
    def mean(*words: str) -> Tensor:
        made = config(OWN, *words)
        with session("cpu", "fp32", 1) as runtime:
            run = build_run(made, RunSpec.from_config(made), runtime, {})
        return run.state.module.state_dict()["mean"]

    first = mean()
    assert first.abs().max() > 0
    assert torch.equal(mean("loader=stream", "workers=0"), first)
    assert torch.equal(mean("augment=strong", "batch_size=50"), first)
    assert not torch.equal(mean("seed=1"), first)


def test_a_new_run_calls_it_once_and_a_resumed_one_never(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Centered, "calls", 0)
    train.train(config(OWN, "run_dir=run", "epochs=1"))
    assert Centered.calls == 1
    train.resume(config(OWN, "run_dir=run"), Path("run"), frozenset({OWN.partition("=")[2]}))
    assert main(["evaluate", "run", OWN]) == 0
    assert Centered.calls == 1


def test_what_it_raises_ends_the_run_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, f"model.name={__name__}:Refusing"]) == 2
    assert "initialize_from fails on images of shape (180, 1, 8, 8): no images, please" in capsys.readouterr().err


def test_other_models_get_no_images(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Loader, "sample")
    train.train(config("model=linear", "epochs=1"))
    with pytest.raises(AttributeError, match="sample"):
        train.train(config(*TINY, "epochs=1"))


def test_a_stopped_run_ends_like_the_uninterrupted_one(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train.train(config(*TINY, "ema=0.9", "run_dir=whole"))
    interrupted(config(*TINY, "ema=0.9", "run_dir=parts"), [1, 8], monkeypatch, Path("parts"))
    same_runs(Path("whole"), Path("parts"))
