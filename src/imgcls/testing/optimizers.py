"""check_optimizer: does an optimizer behave as imgcls expects?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imgcls.checkpoints.format import Checkpoint
from imgcls.checkpoints.state import State, load_state, state_tensors
from imgcls.config.components import Component, own_component
from imgcls.errors import CheckpointError, RunError
from imgcls.optim import fast_step
from imgcls.optim.param_groups import parameter_groups, scale_rates
from imgcls.testing.require import require

STEPS = 60  # of an optimizer, on a quadratic


def check_optimizer(function: Callable[..., Any], **params: Any) -> None:
    """Check an optimizer: a function or class (parameter groups, ...) -> torch optimizer, as behind ``optimizer=``.

    It must take parameter groups and keep their weight decay of 0, hold every parameter once, change all of them in a
    step and none at a learning rate of 0, lower a quadratic within 60 steps, keep a state that fits into a checkpoint,
    and resume from that checkpoint exactly as if it had not been interrupted.
    """
    part = own_component(function, "optimizer", params)
    state = _problem(part)
    _check_groups(part, state)
    before = _step(state)
    for name, parameter in state.module.named_parameters():
        require(not torch.equal(parameter, before[name]), part, f"a step leaves '{name}' as it was; expected a change")
    first = _quadratic(state.module)
    for _ in range(STEPS):
        _step(state)
    last = _quadratic(state.module)
    is_lower = float(last.detach()) < float(first.detach())
    require(is_lower, part, f"{STEPS} steps take a quadratic from {first:.3g} to {last:.3g}; expected it to fall")
    _check_resume(part, state)
    _check_rate_zero(part, state)


def _problem(part: Component) -> State:
    """A small module with a matrix, a convolution and biases, and the optimizer of its parameters."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    fast_step.spare_compiler()
    optimizer = part(parameter_groups(module))
    is_right = isinstance(optimizer, torch.optim.Optimizer)
    require(is_right, part, f"expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
    scale_rates(optimizer)
    return State(module, optimizer, None, torch.zeros(3))


def _quadratic(module: nn.Module) -> Tensor:
    """The squared distance of all parameters from 0, halved; its gradient is the parameters themselves."""
    return 0.5 * torch.stack([one.square().sum() for one in module.parameters()]).sum()


def _step(state: State) -> dict[str, Tensor]:
    """One step down the quadratic; returns the parameters as they were."""
    before = {name: one.detach().clone() for name, one in state.module.named_parameters()}
    fast_step.clear_gradients(state.optimizer)
    _quadratic(state.module).backward()  # type: ignore[no-untyped-call]
    fast_step.step(state.optimizer)
    return before


def _check_groups(part: Component, state: State) -> None:
    groups = state.optimizer.param_groups
    held = sorted(id(one) for group in groups for one in group["params"])
    wanted = sorted(id(one) for one in state.module.parameters())
    require(held == wanted, part, "expected every parameter in exactly one of the optimizer's groups")
    plain = [group for group in groups if any(one.ndim <= 1 for one in group["params"])]
    decays = [group["weight_decay"] for group in plain if "weight_decay" in group]
    require(not any(decays), part, f"biases get weight decay {decays}; expected the groups' own 0")


def _check_resume(part: Component, state: State) -> None:
    """Three steps after an interruption are the same as without it, bit for bit."""
    try:
        tensors, numbers = state_tensors(state)
        stored = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        meta = {"optimizer_numbers": dict(numbers), "step": STEPS, "epochs_done": 0}
        resumed = _problem(part)
        load_state(resumed, Checkpoint(Path("checkpoint"), stored, meta))
    except (CheckpointError, RunError) as error:
        raise AssertionError(f"{part.name}: its state does not survive a checkpoint ({error})") from error
    for one in (state, resumed):
        for _ in range(3):
            _step(one)
    for (name, parameter), other in zip(state.module.named_parameters(), resumed.module.parameters(), strict=True):
        is_same = torch.equal(parameter, other)
        require(is_same, part, f"after a resume '{name}' differs; keep all state in optimizer.state or the groups")


def _check_rate_zero(part: Component, state: State) -> None:
    if not all("lr" in group for group in state.optimizer.param_groups):
        return
    for group in state.optimizer.param_groups:
        group["lr"] = 0.0
    before = _step(state)
    is_same = all(torch.equal(one, before[name]) for name, one in state.module.named_parameters())
    require(is_same, part, "a step at lr=0 changes parameters; read group['lr'] at every step, the schedule sets it")
