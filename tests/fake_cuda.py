"""A CUDA device that is not there: tensors without values, and a watch on what a real one would have to wait for.

``FakeTensorMode`` computes shapes, types and devices only, so a machine without a GPU runs the CUDA path. Some things
that torch does below it need the device itself, and are replaced while the fixture lives (``_replace``).
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils import _foreach_utils
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
FREE = 16 << 30  # bytes of the device's memory
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
NON_FINITE = torch.ops.aten._amp_foreach_non_finite_check_and_unscale_.default
ANY = (torch.ops.aten.any.default, torch.ops.aten.any.dim)
DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)


class MixedDevicesError(AssertionError):
    """An operation has tensors on both devices: torch refuses it, or copies them at every call."""


class WaitError(AssertionError):
    """The CPU would wait for the device, in a place where it must not."""


class FakeCuda(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what makes the CPU wait for the device, and refuses it where it is forbidden.

    reads: of values on the device (by ``item``, ``bool``, ``cpu`` and the like). copies: of tensors to the device, from
    memory that is not pinned. number: what every number read is. Of conditions, all holds and any does not.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = 0
        self.copies = 0
        self.number = 2
        self.may_read = self.may_copy = True

    @contextlib.contextmanager
    def never_waits(self) -> Iterator[None]:
        """What runs within may neither read a value nor copy a tensor to the device."""
        before = self.may_read, self.may_copy
        self.may_read = self.may_copy = False
        try:
            yield
        finally:
            self.may_read, self.may_copy = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See TorchDispatchMode."""
        tensors = _tensors((*args, *kwargs.values()) if kwargs else args)
        if func in COPIES:
            return self._copied(func, args, kwargs or {})
        if func in READS:
            return self._number(func, tensors)
        _check_devices(func, tensors)
        if func is torch.ops.aten.index_put_.default and _is_a_selection(args):
            self._read(func)
        try:
            out = func(*args, **(kwargs or {}))
        except DATA_DEPENDENT as error:
            raise WaitError(f"{func} needs the values of its tensors, and has a result of unknown size") from error
        except UnsupportedOperatorException:
            if func._schema.returns:  # else it only writes into its arguments, as the fused optimizers do
                raise
            out = None
        if func is NON_FINITE:
            args[1].holds_here = 0  # no gradient is infinite: the optimizer is called
        if func in ANY:
            out.holds_here = 0
        return out

    def _copied(self, func: Any, args: Any, kwargs: Any) -> Any:
        source = args[0] if func is COPIES[0] else args[1]
        out = func(*args, **kwargs)
        if source.device.type == "cuda" and out.device.type == "cpu":
            self._read(func)
        is_ahead = getattr(source, "is_pinned_here", False) and (kwargs.get("non_blocking") or args[2:3] == (True,))
        if source.device.type == "cpu" and out.device.type == "cuda" and not is_ahead:
            self.copies += 1
            if not self.may_copy:
                raise WaitError(f"{func}: a tensor of shape {tuple(source.shape)} is copied to the device in a step")
        return out

    def _number(self, func: Any, tensors: Sequence[Tensor]) -> bool | int | float:
        """A value that is read: the real one where it is known."""
        if any(one.device.type == "cuda" for one in tensors):
            self._read(func)
        first = tensors[0]
        known = first.constant if isinstance(first, FakeTensor) else first
        if known is not None and known.device.type == "cpu" and len(tensors) == 1:
            with no_dispatch():
                return known.item()
        value: int = getattr(first, "holds_here", self.number)
        if func is READS[1] or first.dtype == torch.bool:
            return value > 0
        return float(value) if first.dtype.is_floating_point else value

    def _read(self, func: Any) -> None:
        self.reads += 1
        if not self.may_read:
            raise WaitError(f"{func} reads a value from the device in a step")


def _tensors(arguments: Iterable[Any]) -> list[Tensor]:
    """The tensors among an operation's arguments, and in lists there."""
    found: list[Tensor] = []
    for one in arguments:
        if isinstance(one, Tensor):
            found.append(one)
        elif isinstance(one, list | tuple):
            found += _tensors(one)
    return found


def _check_devices(func: Any, tensors: Sequence[Tensor]) -> None:
    """Raises MixedDevicesError, unless all that is on the CPU are single numbers, which kernels take as arguments."""
    if any(one.device.type == "cuda" for one in tensors):
        shapes = [tuple(one.shape) for one in tensors if one.device.type == "cpu" and one.ndim]
        if shapes:
            raise MixedDevicesError(f"{func}: a tensor of shape {shapes[0]} is on the CPU, another on the device")


def _is_a_selection(args: Any) -> bool:
    """Whether ``images[chosen] = values`` has to count what is chosen: masked_fill serves a single number only."""
    images, indices, values = args[:3]
    is_masked = any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in indices)
    is_fill = values.numel() == 1 and values.device.type == "cpu"
    return bool(images.device.type == "cuda" and is_masked and not is_fill)


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Within it a tensor may be on "cuda", and has no values; a tensor made from an array may be given to it."""
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
        _forget_tables()
        _replace(patch)
        try:
            with fake, FakeCuda() as watch:
                yield watch
        finally:
            _forget_tables()


def _forget_tables() -> None:
    """Empty the package's caches: a tensor in one is of one mode only."""
    for name, module in list(sys.modules.items()):
        if name.startswith("imgcls.") and not name.startswith(("imgcls.config", "imgcls.compose")):
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


# --- what needs the device itself ------------------------------------------------------------------------------------


def _replace(patch: pytest.MonkeyPatch) -> None:
    """What asks the driver, and what torch leaves out for tensors that are not its own type."""
    for name in ("is_available", "is_initialized"):  # the same on a machine that has one
        patch.setattr(torch.cuda, name, lambda: False)
    patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)  # autocast, GradScaler
    patch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)  # autocast
    patch.setattr("torch.cuda.mem_get_info", lambda device=None: (FREE, FREE))
    patch.setattr("torch.cuda.get_device_name", lambda device=None: "no GPU")
    for name, stand_in in STREAMS.items():
        patch.setattr(torch.cuda, name, stand_in)
    patch.setattr(Tensor, "record_stream", lambda self, stream: None)
    patch.setattr("torch.Generator", _generator(torch.Generator))
    patch.setattr(Tensor, "backward", _backward)
    patch.setattr("torch.autograd.grad", _grad)
    patch.setattr(nn.Module, "_apply", _apply)
    patch.setattr(Tensor, "pin_memory", _pin_memory)
    patch.setattr(FakeTensor, "numpy", _numpy, raising=False)
    patch.setattr(FakeTensor, "__deepcopy__", _deepcopy, raising=False)
    optimizer = sys.modules[torch.optim.Optimizer.__module__]  # torch.optim deletes the attribute of that name
    for module in (optimizer, _foreach_utils):  # foreach kernels are the default on a GPU
        patch.setattr(module, "_foreach_supported_types", [*module._foreach_supported_types, FakeTensor])


class _Stream:
    """A stream on which everything is done at once."""

    def wait_stream(self, other: _Stream) -> None:
        """There is nothing to wait for."""


STREAMS: dict[str, Callable[..., Any]] = {
    "Stream": lambda device=None: _Stream(),
    "current_stream": lambda device=None: _Stream(),
    "stream": lambda stream: contextlib.nullcontext(),
}


def _generator(kind: type[torch.Generator]) -> Callable[..., torch.Generator]:
    return lambda device="cpu": kind()


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Module.to and the like: torch swaps a fake parameter's content, which weak references to it forbid."""
    for module in self.modules():
        for name, one in module._parameters.items():
            if one is not None:
                module._parameters[name] = nn.Parameter(fn(one.detach()), one.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return self


def _pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """The same tensor, marked."""
    self.is_pinned_here = True  # type: ignore[attr-defined]
    return self


def _deepcopy(self: Tensor, memo: dict[int, Any]) -> Tensor:
    """torch's looks at the address of the values."""
    copy = self.detach().clone().requires_grad_(self.requires_grad)
    memo[id(self)] = copy = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
    return copy


def _numpy(self: FakeTensor, *, force: bool = False) -> NDArray[Any]:
    """Zeros: what is copied from a device without values."""
    if self.device.type != "cpu":
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")
    return np.zeros(tuple(self.shape), str(self.dtype).removeprefix("torch."))


# --- backward: torch's engine starts threads for the device ----------------------------------------------------------


def _backward(self: Tensor, gradient: Tensor | None = None, *args: Any, **kwargs: Any) -> None:
    _differentiate(self, lambda node, gradient: node(gradient))


def _grad(outputs: Tensor, inputs: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    found: list[Tensor] = []
    _differentiate(outputs, lambda node, gradient: found.append(gradient) if node.variable is inputs else None)
    return tuple(found)


@torch.no_grad()
def _differentiate(root: Tensor, accumulate: Callable[[Any, Any], object]) -> None:
    """Call the backward function of each operation, the last one first, with fake gradients.

    accumulate: is given the node of each leaf, and its gradient. Raises MixedDevicesError.
    """
    pending: dict[Any, dict[int, Tensor]] = {root.grad_fn: {root.output_nr: torch.ones_like(root)}}
    for node in _last_first(root.grad_fn):
        kinds, slots = node._input_metadata, pending.pop(node, {})
        gradients = [_fitted(slots[i], kind, node) if i in slots else None for i, kind in enumerate(kinds)]
        if slots and hasattr(node, "variable"):
            accumulate(node, gradients[0])
        elif slots:
            results = (node if callable(node) else node.apply)(*gradients)  # torch.autograd.Function's are not
            results = results if isinstance(results, tuple) else (results,)
            for (following, slot), result in zip(node.next_functions, results, strict=True):
                if following is not None and result is not None:
                    theirs = pending.setdefault(following, {})
                    theirs[slot] = theirs[slot] + result if slot in theirs else result


def _last_first(root: Any) -> list[Any]:
    """The operations before this one, each before those whose results it takes."""
    order: list[Any] = []
    seen, stack = {root}, [(root, iter(root.next_functions))]
    while stack:
        node, rest = stack[-1]
        following = next((one for one, _ in rest if one is not None and one not in seen), None)
        if following is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(following.next_functions)))
    return order[::-1]


def _fitted(gradient: Tensor, kind: Any, node: Any) -> Tensor:
    """The gradient in the type and shape of the tensor it belongs to, as torch's engine makes it."""
    if gradient.device != kind.device:
        raise MixedDevicesError(f"{node}: a gradient is on {gradient.device}, its tensor on {kind.device}")
    gradient = gradient if gradient.shape == kind.shape else gradient.sum_to_size(kind.shape)
    return gradient if gradient.dtype == kind.dtype else gradient.to(kind.dtype)
