"""Attacks stay in their ball and raise the loss; training against them raises the robust accuracy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import imgcls
from imgcls.attacks import ATTACKS, COLOR_EPS, GRAY_EPS, Attack
from imgcls.cli.app import main
from imgcls.data.datasets.digits import digits
from imgcls.losses import cross_entropy
from tests.conftest import QUIET

Capture = pytest.CaptureFixture[str]
Norm = Literal["linf", "l2"]
LOSS = cross_entropy(label_smoothing=0.0)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 64, 5)
    )


def batch() -> tuple[Tensor, Tensor]:
    """Pixels from 0 to 1, many of them at the ends, and labels."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(16, 3, 8, 8, generator=generator).mul(2).sub(0.5).clamp(0, 1), torch.arange(16) % 5


def normalised(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def pixels_of(images: Tensor) -> Tensor:
    return images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)


def attacked(attack: Attack, module: nn.Module, seed: int = 3) -> Tensor:
    pixels, labels = batch()
    return pixels_of(attack(module, normalised(pixels), labels, LOSS, mean=MEAN, std=STD, seed=seed))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("is_random", [True, False])
@pytest.mark.parametrize("eps", [0.0, 0.03, 0.5, 3.0])
def test_the_change_stays_in_its_ball_and_in_the_range(norm: Norm, steps: int, is_random: bool, eps: float) -> None:
    pixels, _ = batch()
    found = attacked(Attack("pgd", norm, eps, steps, None, is_random), net())
    change = (found - pixels).flatten(1)
    sizes = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert float(sizes.max()) <= eps + 1e-5
    assert eps == 0 or float(sizes.max()) > 0.3 * min(eps, 1.0)
    assert float(found.min()) >= -1e-6
    assert float(found.max()) <= 1 + 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("is_random", [True, False])
def test_the_loss_rises_with_every_further_step(norm: Norm, is_random: bool) -> None:
    module = net().eval()
    pixels, labels = batch()
    eps = 0.03 if norm == "linf" else 0.4
    losses = [float(LOSS(module(normalised(pixels)), labels).mean().detach())]
    for steps in (1, 3, 20):
        found = attacked(Attack("pgd", norm, eps, steps, None, is_random), module)
        losses.append(float(LOSS(module(normalised(found)), labels).mean().detach()))
    assert losses[0] < losses[1] < losses[2] <= losses[3] * 1.001


def test_fgsm_is_one_step_along_the_sign() -> None:
    module = net().eval()
    pixels, labels = batch()
    inputs = pixels.clone().requires_grad_()
    LOSS(module(normalised(inputs)), labels).sum().backward()  # type: ignore[no-untyped-call]
    assert inputs.grad is not None
    expected = (pixels + 0.1 * inputs.grad.sign()).clamp(0, 1)
    found = attacked(ATTACKS["fgsm"](eps=0.1, norm="linf", step_size=None, random_start=False), module)
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_module_is_left_as_it_was() -> None:
    module = net()
    module[1].eval()  # a frozen layer
    before = {key: value.clone() for key, value in module.state_dict().items()}
    modes = [one.training for one in module.modules()]
    attacked(Attack("pgd", "linf", 0.1, 3, None, True), module)
    assert modes == [one.training for one in module.modules()]
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_random_start_is_derived() -> None:
    attack = Attack("pgd", "l2", 0.5, 2, None, True)
    assert torch.equal(attacked(attack, net(), 5), attacked(attack, net(), 5))
    assert not torch.equal(attacked(attack, net(), 5), attacked(attack, net(), 6))


def test_null_means_the_usual_sizes() -> None:
    attack = Attack("pgd", "linf", None, 10, None, True)
    assert (attack.radius(1, 28, 28), attack.radius(3, 32, 32)) == (GRAY_EPS, COLOR_EPS)
    assert attack.stride(0.4) == pytest.approx(0.1)
    assert attack.words(1, 28, 28) == "pgd linf, eps 0.3, 10 steps of 0.075"
    assert Attack("fgsm", "linf", None, 1, None, True).stride(0.2) == pytest.approx(0.25)
    assert Attack("fgsm", "linf", None, 1, None, False).stride(0.2) == 0.2
    assert Attack("pgd", "l2", None, 1, None, False).radius(3, 32, 32) == 0.5


# --- through the command line ----------------------------------------------------------------------------------------

RUN = ["model=mlp", "epochs=8", "threads=1", "dataset.limit=1000", *QUIET]
BALL = ["attack.eps=0.1"]


def robust(run: str, *words: str) -> dict[str, Any]:
    assert main(["evaluate", run, *words, "output=out"]) == 0
    found: dict[str, Any] = json.loads(Path("out/report.json").read_text())
    return found


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_adversarial_training_raises_the_robust_accuracy(attack: str, capsys: Capture) -> None:
    assert main(["train", *RUN, "run_dir=plain"]) == 0
    assert "robust" not in capsys.readouterr().out
    assert main(["train", *RUN, f"attack={attack}", *BALL, "run_dir=hard"]) == 0
    out, err = capsys.readouterr()
    assert f"robust accuracy {json.loads(Path('hard/report.json').read_text())['robust_accuracy'] * 100:.1f} %" in out
    assert f"attack   {attack} linf, eps 0.1" in err
    judge = ["attack=pgd", "attack.steps=20", *BALL]
    plain, hard = robust("plain", *judge), robust("hard", *judge)
    assert hard["robust_accuracy"] > plain["robust_accuracy"] + 0.15
    assert plain["robust_accuracy"] < plain["accuracy"] - 0.2
    assert hard["attack"] == {
        "name": "pgd", "eps": 0.1, "norm": "linf", "steps": 20, "step_size": 0.0125, "random_start": True
    }  # fmt: skip
    assert hard["robust_accuracy_ci95"][0] < hard["robust_accuracy"] < hard["robust_accuracy_ci95"][1]
    own = robust("hard")
    assert own["robust_accuracy"] == json.loads(Path("hard/report.json").read_text())["robust_accuracy"]
    assert "robust_accuracy" not in robust("hard", "attack=none")
    assert robust("hard", "attack.eps=0.0")["robust_accuracy"] == own["accuracy"]


def test_naming_the_runs_own_attack_keeps_its_parameters() -> None:
    words = ["model=linear", "epochs=1", "threads=1", "dataset.limit=100", "attack=pgd", "attack.eps=8/255"]
    assert main(["train", *words, *QUIET, "attack.steps=2", "run_dir=run"]) == 0
    own = {"name": "pgd", "eps": 8 / 255, "norm": "linf", "steps": 2, "step_size": 10 / 255, "random_start": True}
    assert robust("run")["attack"] == pytest.approx(own)
    assert robust("run", "attack=pgd")["attack"] == pytest.approx(own)
    assert robust("run", "attack=pgd", "attack.eps=null")["attack"]["eps"] == GRAY_EPS
    assert robust("run", "attack=fgsm")["attack"]["eps"] == GRAY_EPS
    other = robust("run", "attack.norm=l2")["attack"]
    assert other["eps"] == pytest.approx(0.5 * (64 / 3072) ** 0.5)
    assert robust("run", "attack.norm=l2", "attack.eps=1.5")["attack"]["eps"] == 1.5


def test_the_attack_is_on_the_answer_that_is_given(capsys: Capture) -> None:
    words = ["model=mlp", "epochs=3", "threads=1", "dataset.limit=600", *QUIET]
    assert main(["train", *words, "run_dir=run"]) == 0
    clean = robust("run", "tta=flip", "attack=pgd", "attack.eps=0.0")
    assert "tta=flip also averages mirrored images, which may not be valid for digits" in capsys.readouterr().err
    assert clean["robust_accuracy"] == clean["accuracy"]
    assert robust("run", "attack=pgd", "attack.eps=0.0")["accuracy"] > clean["accuracy"]
    mine, rows = own_robust_accuracy("run", eps=0.05, steps=5)
    small = ["attack=pgd", "attack.eps=0.05", "attack.steps=5", "attack.random_start=false"]
    assert robust("run", "tta=flip", *small)["robust_accuracy"] == pytest.approx(mine, abs=2 / rows)


def own_robust_accuracy(run: str, *, eps: float, steps: int) -> tuple[float, int]:
    """Of the mean answer to an image and its mirror image, under an attack written here; and of how many images."""
    model = imgcls.load(run)
    source = digits()
    with np.load(f"{run}/predictions.npz") as file:
        labels, rows = torch.from_numpy(file["labels"]), file["index"]
    assert source.train.pixels is not None
    clean = torch.from_numpy(source.train.pixels[rows]).permute(0, 3, 1, 2) / 255
    mean, std = (
        torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (model.preprocessing.mean, model.preprocessing.std)
    )

    def answer(images: torch.Tensor) -> torch.Tensor:
        inputs = (images - mean) / std
        logits: torch.Tensor = (model.module(inputs) + model.module(inputs.flip(3))) / 2
        return logits

    images = clean.clone()
    for _ in range(steps):
        images.requires_grad_()
        (slope,) = torch.autograd.grad(
            torch.nn.functional.cross_entropy(answer(images), labels, reduction="sum"), images
        )
        images = images.detach() + 2.5 * eps / steps * slope.sign()
        images = torch.minimum(torch.maximum(images, clean - eps), clean + eps).clamp(0, 1)
    return float((answer(images).argmax(1) == labels).float().mean()), len(rows)


def test_a_run_under_attack_resumes_bit_for_bit() -> None:
    words = ["model=lenet", "attack=pgd", "attack.steps=2", "dataset.limit=200", "threads=1", "accumulate=2", *QUIET]
    assert main(["train", *words, "epochs=2", "scheduler=constant", "run_dir=whole"]) == 0
    assert main(["train", *words, "epochs=1", "scheduler=constant", "run_dir=parts"]) == 0
    assert main(["train", "resume=parts", "epochs=2"]) == 0
    whole, parts = (json.loads(Path(run, "metrics.jsonl").read_text().splitlines()[-1]) for run in ("whole", "parts"))
    for key in ("train_loss", "val_loss", "val_accuracy"):
        assert whole[key] == parts[key]


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["train", "attack=pdg"], "attack: unknown 'pdg'; did you mean 'pgd'? (choices: fgsm, none, pgd)"),
        (["train", "attack=pgd", "attack.norm=l1"], "attack.norm: unknown 'l1'"),
        (["train", "attack=fgsm", "attack.steps=3"], "unknown key 'attack.steps'"),
        (["train", "attack=pgd", "attack.eps=-1"], "attack.eps: must be at least 0"),
        (["train", "attack=pgd", "attack.eps=8"], "attack: eps 8 is more than the range of a pixel, 0 to 1"),
        (["train", "attack=pgd", "attack.eps=8/0"], "attack.eps: expected a number, got '8/0'"),
        (["train", "attack.eps=0.1"], "unknown key 'attack.eps'"),
        (["evaluate", "run", "attack=cw"], "attack: unknown 'cw'"),
        (["evaluate", "run", "attack.eps=1"], "attack.eps: the model was trained without an attack; add attack=pgd"),
    ],
)
def test_bad_attacks_are_refused(words: list[str], needle: str, capsys: Capture) -> None:
    if words[0] == "evaluate" and "=" in words[2]:
        assert main(["train", "model=linear", "dataset.limit=100", "epochs=1", "threads=1", "run_dir=run"]) == 0
    capsys.readouterr()
    assert main(words) == 2
    assert needle in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif("IMGCLS_DATA" not in os.environ, reason="IMGCLS_DATA is not set")
def test_on_mnist() -> None:
    words = ["model=lenet", "dataset=mnist", "dataset.limit=12000", "epochs=3"]
    assert main(["train", *words, "run_dir=plain"]) == 0
    assert main(["train", *words, "attack=pgd", "attack.eps=0.2", "run_dir=hard"]) == 0
    judge = ["attack=pgd", "attack.eps=0.2", "attack.steps=20", "dataset.test_limit=1000"]
    assert robust("plain", *judge)["robust_accuracy"] < 0.3
    assert robust("hard", *judge)["robust_accuracy"] > 0.6
