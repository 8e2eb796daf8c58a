"""Optimizers: which weights decay, and that each one learns; losses; random streams."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from imgcls import seeding
from imgcls.config import option_node, select
from imgcls.losses import cross_entropy
from imgcls.models.resnet import RESNETS
from imgcls.optim import OPTIMIZERS, parameter_groups


def build(name: str, module: nn.Module, **knobs: object) -> torch.optim.Optimizer:
    component = select(OPTIMIZERS, option_node("optimizer", name) | knobs, "optimizer")
    optimizer: torch.optim.Optimizer = component(parameter_groups(module))
    return optimizer


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_decay_and_norms_and_biases_do_not(name: str) -> None:
    module = net()
    before = {key: value.clone() for key, value in module.named_parameters()}
    optimizer = build(name, module, lr=0.1, weight_decay=0.5)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, value in module.named_parameters():
        assert torch.equal(value, before[key]) is (value.ndim == 1), key


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    module = RESNETS["resnet18"](3, (32, 32), 10, stem="auto")
    frozen = next(module.parameters()).requires_grad_(False)
    groups = parameter_groups(module)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in module.parameters() if p is not frozen)
    assert {parameter.ndim for parameter in groups[1]["params"]} == {1}
    assert groups[1]["weight_decay"] == 0.0
    assert len(parameter_groups(nn.Linear(2, 2, bias=False))) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss_with_its_defaults(name: str) -> None:
    module = net()
    optimizer, loss = build(name, module), cross_entropy(label_smoothing=0.0)
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(32, 2, 8, 8, generator=generator), torch.arange(32) % 3
    losses = []
    for _ in range(30):
        value = loss(module(images), labels).mean()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_sgd_without_momentum_is_not_nesterovs() -> None:
    assert build("sgd", net(), momentum=0.0).param_groups[0]["nesterov"] is False
    assert build("sgd", net()).param_groups[0]["nesterov"] is True


def test_the_loss_is_one_number_for_each_image() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    plain = cross_entropy(label_smoothing=0.0)(logits, labels)
    assert plain.tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(2)])
    smooth = cross_entropy(label_smoothing=0.2)(logits, labels)
    assert smooth.tolist() == pytest.approx([float(plain[0]) + 0.1 * 2, math.log(2)])


def test_streams_differ_by_every_part_of_their_key() -> None:
    keys = [(seed, name, epoch) for seed in range(20) for name in ("shuffle", "augment") for epoch in range(50)]
    assert len({seeding.derive(*key) for key in keys}) == len(keys)
    assert seeding.derive(1, "a", 23) != seeding.derive(1, "a2", 3)
    assert 0 <= seeding.derive(2**63 - 1, "x") < 2**63
    assert seeding.rng(3, "x").random() == seeding.rng(3, "x").random()


def test_the_default_generator_is_set_to_the_stream() -> None:
    seeding.seed_default(5, "weights")
    first = torch.rand(3)
    seeding.seed_default(5, "weights")
    assert torch.equal(torch.rand(3), first)
    seeding.seed_default(6, "weights")
    assert not torch.equal(torch.rand(3), first)
