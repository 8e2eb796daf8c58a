"""torch's optimizers without importing torch's compiler.

The first use of ``torch.optim`` imports torch._dynamo, just to exclude some methods from compilation: 1.4 s of CPU and
150 MB before the first step. Avoiding that relies on private names of torch, so each use is guarded: if torch has
changed, its ordinary way is used, which computes the same.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.optim import Optimizer

GUARDED = (
    "add_param_group",
    "load_state_dict",
    "state_dict",
    "zero_grad",
)  # methods that are excluded from compilation
MARK = "__dynamo_disable"  # the attribute where torch stores the function to call instead


def spare_compiler() -> None:
    """Have the optimizers' methods called as they are, which is what torch._dynamo.disable would do."""
    for name in GUARDED:
        method = inspect.unwrap(getattr(Optimizer, name, spare_compiler))
        if method is not spare_compiler and not hasattr(method, MARK):
            setattr(method, MARK, method)


@cache
def _bare_step(kind: type[Optimizer]) -> Callable[[Any], Any] | None:
    """The step of one of torch's optimizers without its wrappers (profiling, hooks, graph breaks); None for others."""
    step = inspect.unwrap(kind.step)
    is_plain = kind.__module__.startswith("torch.optim.") and next(iter(inspect.signature(step).parameters)) == "self"
    return step if is_plain else None


def _is_hooked(optimizer: Optimizer) -> bool:
    """Whether anything must be called around a step, or might have to be; then torch must do it."""
    places = [getattr(optimizer, name, None) for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")]
    of_all = sys.modules.get(Optimizer.__module__)  # torch.optim deletes the attribute of that name
    places += [getattr(of_all, name, None) for name in ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")]
    return "step" in vars(optimizer) or any(hooks is None or len(hooks) > 0 for hooks in places)


def step(optimizer: Optimizer) -> None:
    """``optimizer.step()``; without its wrappers for torch's own optimizers if they have no hooks."""
    bare = _bare_step(type(optimizer))  # type: ignore[arg-type]
    if bare is None or _is_hooked(optimizer):
        optimizer.step()
        return
    with torch.no_grad():
        bare(optimizer)


def clear_gradients(optimizer: Optimizer) -> None:
    """``optimizer.zero_grad(set_to_none=True)`` without its wrappers."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
