"""torch's optimizers without torch's compiler: the same numbers, and no compiler in the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from imgcls.config.components import select
from imgcls.optim import fast_step
from imgcls.optim.optimizers import OPTIMIZERS
from imgcls.optim.param_groups import parameter_groups
from tests.conftest import optimizer_node


def trained(name: str, *, is_lean: bool) -> dict[str, torch.Tensor]:
    """Weights and optimizer state after five updates."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    optimizer = select(OPTIMIZERS, optimizer_node(name), "optimizer")(parameter_groups(module))
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 3
    for _ in range(5):
        if is_lean:
            fast_step.clear_gradients(optimizer)
        else:
            optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(module(images), labels).backward()
        if is_lean:
            fast_step.step(optimizer)
        else:
            optimizer.step()
    slots = {f"{i}.{slot}": value for i, one in enumerate(optimizer.state.values()) for slot, value in one.items()}
    return {**module.state_dict(), **{key: value for key, value in slots.items() if isinstance(value, torch.Tensor)}}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fast_step_equals_torchs_to_the_last_bit(name: str) -> None:
    expected, got = trained(name, is_lean=False), trained(name, is_lean=True)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], expected[key]) for key in expected)


def test_a_custom_optimizer_is_stepped_as_it_is() -> None:
    class Own(torch.optim.SGD):
        steps = 0

        def step(self, closure: object = None) -> None:  # type: ignore[override]
            self.steps += 1

    optimizer = Own([nn.Parameter(torch.ones(1))], lr=0.1)
    fast_step.step(optimizer)
    assert optimizer.steps == 1


def test_hooks_and_a_step_set_from_outside_are_called() -> None:
    called: list[str] = []
    for kind in ("before", "after", "instead"):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        if kind == "before":
            optimizer.register_step_pre_hook(lambda *args: called.append("before"))
        elif kind == "after":
            optimizer.register_step_post_hook(lambda *args: called.append("after"))
        else:
            optimizer.step = lambda: called.append("instead")  # type: ignore[method-assign, assignment, misc]
        fast_step.step(optimizer)
    assert called == ["before", "after", "instead"]


def test_torchs_own_optimizers_take_the_fast_step() -> None:
    """Pins torch's private names: without them every step takes the long way, which is right but slower."""
    assert not fast_step._is_hooked(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))
    assert fast_step._bare_step(torch.optim.AdamW) is not None


def test_gradients_are_cleared_not_zeroed() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    fast_step.clear_gradients(torch.optim.SGD([parameter], lr=0.1))
    assert parameter.grad is None


# What torch's private names must be for this to work. If a new torch fails here, training still works: it only starts
# a second later, and optim/fast_step.py needs a look.
FIRST_STEP = """
import sys
from imgcls.training import loop
from imgcls.cli import main
took, update = [], loop.update
def counted(*arguments):
    took.append(len(arguments))
    if len(took) == 3:
        heavy = ("torch._dynamo", "torchvision", "matplotlib", "sklearn", "sympy", "tensorboard")
        print("loaded:", [name for name in heavy if name in sys.modules])
    return update(*arguments)
loop.update = counted
code = main(["train", "epochs=1", "dataset.limit=200", "dataset.test_limit=50", "run_dir=run", *sys.argv[1:]])
print("code", code, len(took) >= 3, "torch._dynamo" in sys.modules)
"""


@pytest.mark.process
@pytest.mark.parametrize(
    "words",
    [
        (),
        pytest.param(("optimizer=sgd", "deterministic=true"), marks=pytest.mark.slow),
        pytest.param(("optimizer=adagrad", "precision=bf16"), marks=pytest.mark.slow),
    ],
)
def test_nothing_heavy_is_imported_before_the_first_steps_and_the_compiler_never(words: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FIRST_STEP, *words], capture_output=True, text=True, check=True, timeout=120
    )
    lines = ran.stdout.splitlines()
    assert "loaded: []" in lines
    assert "code 0 True False" in lines


def test_if_torch_has_changed_its_ordinary_step_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in fast_step.GUARDED:
        monkeypatch.delattr(torch.optim.Optimizer, name, raising=False)
    fast_step.spare_compiler()  # no such methods: nothing to mark, nothing to fail

    class Renamed(torch.optim.SGD):
        pass

    assert fast_step._bare_step(Renamed) is None
    assert fast_step._bare_step(torch.optim.SGD) is not None
