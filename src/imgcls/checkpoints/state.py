"""The state of a run (weights, optimizer, step) as a checkpoint's tensors, and back."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imgcls.checkpoints.format import LAST, TYPES, Checkpoint
from imgcls.errors import CheckpointError, ConfigError, RunError
from imgcls.optim import fast_step
from imgcls.text import listing

KNOWN = ("torch.optim.", "imgcls.")  # modules of optimizers whose state is checked to the last slot
NEVER_NEGATIVE = (
    *("step", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_inf"),
    *("row_var", "col_var", "variance"),
)
MODEL, AVERAGE = "model.", "ema."  # before the names of the weights, and of their moving average
GROUP = "group "  # before the number of a parameter group, among the optimizer's numbers: no parameter has such a name


@dataclass
class State:
    """Everything that the rest of a run depends on, besides its configuration.

    module: unwrapped, even if it is compiled or distributed. totals: (3,), the epoch's loss, hits and images so far.
    step: updates done. epochs: epochs finished, including their row in metrics.jsonl. average: the moving average of
    the weights, if the run has one.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    totals: Tensor
    step: int = 0
    epochs: int = 0
    average: nn.Module | None = None

    @property
    def eval_module(self) -> nn.Module:
        """The module that is validated and saved as the best: the moving average if there is one."""
        return self.module if self.average is None else self.average


def model_tensors(module: nn.Module, prefix: str = MODEL) -> dict[str, Tensor]:
    """The module's parameters and buffers by their names in a checkpoint."""
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def unstorable(module: nn.Module) -> str | None:
    """The first parameter or buffer whose type a checkpoint cannot hold, as 'NAME (TYPE)', or None."""
    wrong = (f"{name} ({one.dtype})" for name, one in module.state_dict().items() if one.dtype not in TYPES)
    return next(wrong, None)


def check_storable(module: nn.Module, name: str) -> None:
    """Raises ConfigError for a model that a checkpoint cannot hold."""
    if wrong := unstorable(module):
        raise ConfigError(f"model.name={name}: a checkpoint cannot hold its {wrong}")


def state_tensors(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of the state, and the optimizer's plain numbers by name."""
    tensors = model_tensors(state.module) | {"progress.sums": state.totals}
    if state.average is not None:
        tensors |= model_tensors(state.average, AVERAGE)
    numbers: dict[str, Any] = {}
    names = {id(parameter): name for name, parameter in state.module.named_parameters()}
    for parameter, slots in state.optimizer.state.items():
        for slot, value in slots.items():
            name = f"{names[id(parameter)]}.{slot}"
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}"] = value
            elif value is None or isinstance(value, bool | int | float | str):
                numbers[name] = value
            else:
                kind = type(value).__name__
                raise RunError(f"the optimizer keeps a {kind} in its state ('{slot}'), which a checkpoint cannot hold")
    for i, group in enumerate(state.optimizer.param_groups):
        own = {key: value for key, value in group.items() if key not in ("params", "lr")}  # the schedule sets lr
        numbers |= {f"{GROUP}{i}.{key}": value for key, value in own.items() if isinstance(value, bool | int | float)}
    if state.scaler is not None:
        scaler = state.scaler.state_dict()
        tensors["scaler.scale"] = torch.tensor(scaler["scale"], dtype=torch.float64)
        tensors["scaler.growth_tracker"] = torch.tensor(scaler["_growth_tracker"], dtype=torch.int64)
    return tensors, numbers


def check_fits(module: nn.Module, checkpoint: Checkpoint, prefix: str = MODEL) -> None:
    """Raises CheckpointError unless the checkpoint's weights have the module's names, shapes and types."""
    stored, wanted = checkpoint.part(prefix), module.state_dict()
    wrong = [f"{name} (missing)" for name in wanted if name not in stored]
    wrong += [f"{name} (unknown)" for name in stored if name not in wanted]
    for name, tensor in wanted.items():
        if name in stored and (stored[name].shape, stored[name].dtype) != (tensor.shape, tensor.dtype):
            got, want = (f"{one.dtype} {tuple(one.shape)}" for one in (stored[name], tensor))
            wrong.append(f"{name} ({got} instead of {want})".replace("torch.", ""))
    if wrong:
        raise CheckpointError(f"{checkpoint.path}: its tensors do not fit its model: {listing(wrong, 3)}")


def load_module(module: nn.Module, checkpoint: Checkpoint, prefix: str = MODEL) -> None:
    """Load the checkpoint's weights into the module. Raises CheckpointError if they do not fit or are not finite."""
    check_fits(module, checkpoint, prefix)
    stored = checkpoint.part(prefix)
    for name, tensor in stored.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{checkpoint.path}: {name} holds numbers that are not finite")
    state = OrderedDict(stored)
    state._metadata = getattr(module.state_dict(), "_metadata", {})  # type: ignore[attr-defined]  # MNASNet's version
    module.load_state_dict(state)


def load_state(state: State, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a newly built state, to resume from it. Raises CheckpointError if it does not fit."""
    if "progress.sums" not in checkpoint.tensors:
        raise CheckpointError(f"{checkpoint.path}: holds weights only, no optimizer state; resume from {LAST}")
    load_module(state.module, checkpoint)
    if state.average is not None:
        load_module(state.average, checkpoint, AVERAGE)
    try:
        _load_optimizer(state, checkpoint)
        if state.scaler is not None:
            scale, tracker = checkpoint.tensors["scaler.scale"], checkpoint.tensors["scaler.growth_tracker"]
            values = {"scale": float(scale), "_growth_tracker": int(tracker)}
            state.scaler.load_state_dict({**state.scaler.state_dict(), **values})
        if checkpoint.tensors["progress.sums"].shape != state.totals.shape:
            raise ValueError("progress.sums")
        state.totals.copy_(checkpoint.tensors["progress.sums"])
        state.step, state.epochs = int(checkpoint.meta["step"]), int(checkpoint.meta["epochs_done"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path}: its optimizer state does not fit ({error})") from error


def _load_optimizer(state: State, checkpoint: Checkpoint) -> None:
    """Load the optimizer's slots (moments and the like). Raises ValueError if they do not belong to it."""
    optimizer, numbers = state.optimizer, checkpoint.meta["optimizer_numbers"]
    stored = checkpoint.part("optimizer.")
    parameters = dict(state.module.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    _check_tensors(stored, parameters)
    slots: dict[str, dict[str, Any]] = defaultdict(dict)  # by the parameter's name
    places: dict[Tensor, dict[str, torch.device]] = {}
    for name, value in (*stored.items(), *numbers.items()):
        owner, _, slot = name.rpartition(".")
        slots[owner][slot] = value
    is_known = type(optimizer).__module__.startswith(KNOWN)
    packed = optimizer.state_dict()
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(order):
        if own := slots.get(name := names[id(parameter)]):
            packed["state"][index] = {slot: _in_format_of(parameter, value) for slot, value in own.items()}
            if is_known:
                places[parameter] = _check_slots(optimizer, parameter, packed["state"][index], name)
    optimizer.load_state_dict(packed)
    _restore_kinds(optimizer, {order[index]: own for index, own in packed["state"].items()}, places)
    if not is_known:  # known ones keep no counters in their groups
        _load_group_numbers(optimizer, numbers)


def _check_tensors(stored: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless each tensor is finite and may be a slot of the parameter that it is named after."""
    for name, tensor in stored.items():
        owner = parameters.get(name.rpartition(".")[0])
        if owner is None or not _may_belong(tensor.shape, owner.shape):
            raise ValueError(f"{name} of shape {tuple(tensor.shape)}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds numbers that are not finite")


def _may_belong(shape: torch.Size, parameter: torch.Size) -> bool:
    """Whether an optimizer may keep a tensor of this shape for such a parameter.

    One number, the parameter's shape, or that with sides reduced to 1 (Adafactor's rows and columns).
    """
    is_reduced = len(shape) == len(parameter) and all(a in (1, b) for a, b in zip(shape, parameter, strict=True))
    return shape.numel() == 1 or is_reduced


def _check_slots(
    optimizer: torch.optim.Optimizer, parameter: Tensor, slots: Mapping[str, Any], name: str
) -> dict[str, torch.device]:
    """Raises ValueError unless these are the slots that the optimizer keeps for such a parameter.

    Returns the device on which it keeps each: counters stay on the CPU, unless the optimizer is fused.
    A step on a small parameter with as many dimensions shows what they are: kernels trust their sizes and types.
    """
    group = next(one for one in optimizer.param_groups if any(other is parameter for other in one["params"]))
    small = torch.zeros((2,) * parameter.ndim, dtype=parameter.dtype, device=parameter.device, requires_grad=True)
    small.grad = torch.zeros_like(small)
    like = type(optimizer)([{**group, "params": [small]}])  # type: ignore[call-arg]
    fast_step.step(like)
    models = like.state[small]
    if slots.keys() != models.keys():
        raise ValueError(f"{name} with {', '.join(sorted(slots))}")
    for slot, value in slots.items():
        if not _is_like(value, models[slot], parameter):
            raise ValueError(f"{name}.{slot} of shape {tuple(getattr(value, 'shape', ()))}")
        if slot in NEVER_NEGATIVE and bool((torch.as_tensor(value) < 0).any()):
            raise ValueError(f"{name}.{slot} is negative")
    return {slot: model.device for slot, model in models.items() if isinstance(model, Tensor)}


def _is_like(value: Any, model: Any, parameter: Tensor) -> bool:
    """Whether the slot's value has the type and shape of ``model``, the same slot of a parameter with sides of 2."""
    if not isinstance(model, Tensor) or not isinstance(value, Tensor):
        return type(model) is type(value)
    shape = tuple(model.shape)
    if model.ndim == parameter.ndim:  # the parameter's shape, or (Adafactor's rows and columns) one with sides of 1
        shape = tuple(1 if one == 1 else side for one, side in zip(shape, parameter.shape, strict=True))
    return tuple(value.shape) == shape and value.dtype == model.dtype


def _in_format_of(parameter: Tensor, value: Any) -> Any:
    """A tensor in the parameter's memory format: fused kernels pair elements by address, not by index."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _restore_kinds(
    optimizer: torch.optim.Optimizer,
    slots: Mapping[Tensor, Mapping[str, Any]],
    places: Mapping[Tensor, Mapping[str, torch.device]],
) -> None:
    """Undo load_state_dict's cast of every slot to the type and, where its place is known, the device of its parameter.

    NAdam's product of its momenta, once on a GPU, would be read from there in every step.
    """
    for parameter, own in slots.items():
        loaded = optimizer.state[parameter]
        for slot, value in own.items():
            if isinstance(value, Tensor):
                place = places.get(parameter, {}).get(slot, loaded[slot].device)
                if (loaded[slot].dtype, loaded[slot].device) != (value.dtype, place):
                    loaded[slot] = value.to(place)


def _load_group_numbers(optimizer: torch.optim.Optimizer, numbers: Mapping[str, Any]) -> None:
    for i, group in enumerate(optimizer.param_groups):
        prefix = f"{GROUP}{i}."
        group |= {name[len(prefix) :]: value for name, value in numbers.items() if name.startswith(prefix)}
