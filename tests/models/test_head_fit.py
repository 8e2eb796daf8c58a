"""A new last layer is fitted before all layers are trained, and batch norm keeps the statistics of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from imgcls.checkpoints.format import LAST, read
from imgcls.cli.app import main
from imgcls.config.schema import TrainConfig
from imgcls.models.finetune import keep_statistics
from imgcls.models.head_fit import fit_heads, linear_heads
from imgcls.runtime.session import session
from imgcls.training.builder import build as build_run
from imgcls.training.spec import RunSpec
from tests.conftest import SMALL
from tests.models.test_models import build

WORDS = ["train", "model=convnet", "model.widths=[4]", "model.batch_norm=true", "model.pretrained=./own.safetensors"]
CLASSES = 3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, CLASSES))


def stripes(count: int) -> tuple[Tensor, Tensor]:
    """Images of three kinds of stripes, with noise, and their labels."""
    labels = torch.arange(count) % CLASSES
    lines = torch.stack([torch.arange(6) % 2 < 1, torch.arange(6) % 3 < 1, torch.arange(6) < 3]).float()
    noise = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return lines[labels][:, None, None, :] + 0.1 * noise, labels


def test_the_last_layer_is_fitted_and_no_other_changes() -> None:
    module, (images, labels) = net(), stripes(60)
    before = copy.deepcopy(module.state_dict())
    fit_heads(module, CLASSES, zip(images.split(7), labels.split(7), strict=True))
    after = module.state_dict()
    assert all(torch.equal(after[name], one) for name, one in before.items() if not name.startswith("4."))
    fresh, truth = stripes(90)
    assert (module(fresh).argmax(1) == truth).float().mean() > 0.95


def test_a_new_class_is_fitted_beside_the_others_as_they_are() -> None:
    module, (images, labels) = net(), stripes(60)
    old = labels != 2
    fit_heads(module, CLASSES, [(images[old], labels[old])], [0, 1])
    before = module[4].weight.clone()
    fit_heads(module, CLASSES, [(images, labels)], [2])
    assert torch.equal(module[4].weight[:2], before[:2])
    assert not torch.equal(module[4].weight[2], before[2])
    fresh, truth = stripes(90)
    assert (module(fresh).argmax(1) == truth).float().mean() > 0.9


def test_the_fit_does_not_depend_on_the_scale_of_the_features() -> None:
    images, labels = stripes(60)
    logits = []
    for scale in (1.0, 1e4):
        module = net()
        with torch.no_grad():
            module[1].weight.mul_(scale)
        fit_heads(module, CLASSES, [(images, labels)])
        logits.append(module(images))
    torch.testing.assert_close(*logits, rtol=0.05, atol=0.05)


def test_features_that_are_not_finite_leave_the_layer_as_it_was() -> None:
    module, (images, labels) = net(), stripes(12)
    before = copy.deepcopy(module.state_dict())
    fit_heads(module, CLASSES, [(images * float("inf"), labels)])
    assert all(torch.equal(one, before[name]) for name, one in module.state_dict().items())


@pytest.mark.parametrize("layer", [nn.Conv2d(8, CLASSES, 1), nn.Linear(128, CLASSES, bias=False)])
def test_only_linear_layers_with_a_bias_can_be_fitted(layer: nn.Module) -> None:
    assert linear_heads(nn.Sequential(nn.Conv2d(1, 8, 3), layer), CLASSES) == []


def test_a_frozen_last_layer_stays() -> None:
    module = net()
    module[4].requires_grad_(False)
    assert linear_heads(module, CLASSES) == []


def test_statistics_are_kept_in_copies_too() -> None:
    module, (images, _) = net(), stripes(9)
    assert keep_statistics(module)
    assert not keep_statistics(nn.Linear(2, 2))
    for one in (module, copy.deepcopy(module)):
        before = copy.deepcopy(one[1].state_dict())
        one.train()(images)
        assert all(torch.equal(value, before[name]) for name, value in one[1].state_dict().items())
        one(images).sum().backward()
        assert one[1].weight.grad is not None


def own_weights() -> dict[str, Tensor]:
    """A convnet's, whose statistics are unlike those of any data set."""
    torch.manual_seed(5)
    state = build("convnet", 1, (8, 8), 7, widths=[4], batch_norm=True).state_dict()
    state = {name: one + 0.25 if name.endswith("running_mean") else one.clone() for name, one in state.items()}
    save_file(state, "own.safetensors")
    return state


def statistics(run: str) -> dict[str, Tensor]:
    state = read(Path(run, "checkpoints", LAST)).part("model.")
    return {name: one for name, one in state.items() if name.endswith(("running_mean", "running_var"))}


def test_a_run_keeps_them_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    state = own_weights()
    assert main([*WORDS, *SMALL, "run_dir=a"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "pretrained: own.safetensors, new last layer, fitted first; batch norm keeps its statistics" in said
    assert statistics("a")
    assert all(torch.equal(one, state[name]) for name, one in statistics("a").items())
    assert main(["train", "resume=a", "epochs=4"]) == 0
    assert all(torch.equal(one, state[name]) for name, one in statistics("a").items())


def test_a_run_that_began_before_goes_on_with_new_statistics(config: Callable[..., TrainConfig]) -> None:
    own_weights()
    chosen = config(*WORDS[1:-1], f"model.pretrained={Path('own.safetensors').absolute()}")
    spec = RunSpec.from_config(chosen)
    with session("cpu", "fp32", 1) as runtime:
        first = build_run(chosen, spec, runtime, {})
        before = {name: value for name, value in first.chosen.items() if name != "keeps_statistics"}
        for stored, trains in ((first.chosen, False), (before, True)):
            module = build_run(chosen, spec, runtime, stored).state.module.train()
            assert [one.training for one in module.modules() if isinstance(one, nn.BatchNorm2d)] == [trains]
