"""Optimizers: which weights decay, and that each one learns; losses; random streams."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from imgcls import seeding
from imgcls.cli.app import main
from imgcls.config.components import select
from imgcls.config.schema import weights_of
from imgcls.errors import ConfigError
from imgcls.losses import LOSSES, cross_entropy, weighted
from imgcls.models.resnet import RESNETS
from imgcls.optim.muon import Muon, orthogonal
from imgcls.optim.optimizers import OPTIMIZERS
from imgcls.optim.param_groups import parameter_groups
from imgcls.training.spec import class_weights
from tests.conftest import optimizer_node


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("{犬:2}", {"犬": 2.0}),
        ("{'a,b': 2, \"c: d\":1e-1, hot dog: 3}", {"a,b": 2.0, "c: d": 0.1, "hot dog": 3.0}),
        ("{}", {}),
        ("{null:2,true:3,7:.5}", {"null": 2.0, "true": 3.0, "7": 0.5}),
    ],
)
def test_class_weights_work_for_classes_of_any_name(
    text: str, weights: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert weights_of(text) == weights
    assert main(["train", f"class_weights={text}", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["class_weights"] == weights


def build(name: str, module: nn.Module, **params: object) -> torch.optim.Optimizer:
    component = select(OPTIMIZERS, optimizer_node(name) | params, "optimizer")
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


KNOBS: dict[str, dict[str, Any]] = {
    "cross_entropy": {"label_smoothing": 0.0},
    "nll": {},
    "binary_cross_entropy": {"label_smoothing": 0.0},
    "focal": {"gamma": 2.0},
    "mse": {},
}
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.0, 0.3], [0.0, 3.0, 0.0]])
LABELS = torch.tensor([0, 2, 0])


@pytest.mark.parametrize("name", LOSSES)
def test_labels_are_one_hot_shares_to_every_loss(name: str) -> None:
    loss = LOSSES[name](**KNOBS[name])
    values = loss(LOGITS, LABELS)
    assert values.shape == (3,)
    assert torch.allclose(values, loss(LOGITS, F.one_hot(LABELS, 3).float()))
    half = loss(LOGITS, torch.full((3, 3), 1 / 3))
    assert torch.isfinite(half).all()
    right = LOGITS + 5 * F.one_hot(LABELS, 3)
    assert bool((loss(right, LABELS) < values).all())


def test_the_losses_equal_their_definitions() -> None:
    p = LOGITS.softmax(1)[torch.arange(3), LABELS]
    one_hot = F.one_hot(LABELS, 3).float()
    expected = {
        "cross_entropy": -p.log(),
        "nll": F.nll_loss(LOGITS.log_softmax(1), LABELS, reduction="none"),
        "binary_cross_entropy": F.binary_cross_entropy(LOGITS.sigmoid(), one_hot, reduction="none").sum(1),
        "focal": -((1 - p) ** 2) * p.log(),
        "mse": F.mse_loss(LOGITS.softmax(1), one_hot, reduction="none").sum(1),
    }
    for name, values in expected.items():
        assert torch.allclose(LOSSES[name](**KNOBS[name])(LOGITS, LABELS), values, atol=1e-6), name
    assert torch.allclose(LOSSES["nll"]()(LOGITS.log_softmax(1), LABELS), expected["nll"])  # of log-probabilities too
    focal = LOSSES["focal"](gamma=0.0)
    assert torch.allclose(focal(LOGITS, LABELS), expected["cross_entropy"])
    smooth = LOSSES["binary_cross_entropy"](label_smoothing=0.3)(LOGITS, LABELS)
    shares = one_hot * 0.7 + 0.1
    assert torch.allclose(smooth, F.binary_cross_entropy_with_logits(LOGITS, shares, reduction="none").sum(1))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [0.0, 30.0, 1e4])
def test_every_gradient_is_finite(name: str, size: float) -> None:
    logits = (torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) * size).requires_grad_()
    LOSSES[name](**KNOBS[name])(logits, torch.tensor([0, 0])).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_class_weights_multiply_the_loss() -> None:
    weights = torch.tensor([1.0, 2.0, 4.0])
    loss = LOSSES["cross_entropy"](label_smoothing=0.0)
    assert torch.equal(weighted(loss, weights)(LOGITS, LABELS), loss(LOGITS, LABELS) * torch.tensor([1.0, 4.0, 1.0]))
    shares = torch.tensor([[0.5, 0.5, 0.0]] * 3)
    assert torch.allclose(weighted(loss, weights)(LOGITS, shares), loss(LOGITS, shares) * 1.5)


def test_automatic_class_weights_balance_the_classes() -> None:
    labels = np.array([0] * 90 + [1] * 9 + [3])
    weights = class_weights("auto", ("a", "b", "c", "d"), labels)
    assert weights is not None
    sums = [weights[i] * (labels == i).sum() for i in (0, 1, 3)]
    assert sums == pytest.approx([100 / 3] * 3)
    assert class_weights({"b": 3, "a": 0.5}, ("a", "b", "c"), labels) == [0.5, 3.0, 1.0]
    assert class_weights(None, ("a",), labels) is None
    with pytest.raises(
        ConfigError, match=r"class_weights: unknown class 'cats'; did you mean 'cat'\? \(classes: cat, d"
    ):
        class_weights({"cats": 3}, ("cat", "dog"), labels)


def test_muon_orthogonalizes_the_inner_weights_and_leaves_the_rest_to_adamw() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 3))
    optimizer = build("muon", module, lr=0.1, weight_decay=0.0, adamw_lr=0.01)
    assert isinstance(optimizer, Muon)
    before = {key: value.detach().clone() for key, value in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    slots = {key: set(optimizer.state[value]) for key, value in module.named_parameters()}
    assert [key for key, names in slots.items() if names == {"momentum_buffer", "step"}] == ["0.weight", "3.weight"]
    assert slots["4.weight"] == slots["1.bias"] == {"step", "exp_avg", "exp_avg_sq"}
    change = (before["3.weight"].detach() - module[3].weight.detach()) / 0.1
    values = torch.linalg.svdvals(change)
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.5
    assert torch.allclose((before["4.weight"] - module[4].weight.detach()).abs(), torch.tensor(0.01), atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 4), (3, 50), (50, 3), (1, 7)])
def test_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix * 1e-4))
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.5
    assert orthogonal(torch.zeros(shape)).abs().max() == 0


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
