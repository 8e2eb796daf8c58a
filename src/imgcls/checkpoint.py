"""Checkpoints: one self-sufficient safetensors file each, with a checksum over the whole file, and no pickle.

Tensors: ``model.*``, ``ema.*``, ``optimizer.PARAMETER.SLOT``, ``progress.*``, ``scaler.*``. Metadata: JSON strings
(format, step, config, classes, preprocessing, ...) and ``sha256``: the SHA-256 of the file with the 64 digits
themselves set to zeros.
Two runs of the same configuration write the same bytes: there is no clock time inside.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from imgcls import lean
from imgcls.errors import CheckpointError, RunError

FORMAT = 1
NO_DIGEST = "0" * 64
DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
PLAIN = ("format", "imgcls", "sha256")  # metadata that is text, not JSON
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}  # as the format calls them
LARGEST_SIDE, MOST_THREADS = 4096, 1024
LARGEST_HEADER = 100 << 20  # bytes, as in the format's specification
KNOWN = ("torch.optim.", "imgcls.")  # modules of optimizers whose state is checked to the last slot
NEVER_NEGATIVE = (
    *("step", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_inf"),
    *("row_var", "col_var", "variance"),
)
READ_AT_ONCE = 1 << 28  # bytes: what is larger is verified in parts before it is read
MOST_CHANNELS, LARGEST_NUMBER = 64, 1e9  # in what a checkpoint says of its images
MODEL, AVERAGE = "model.", "ema."  # before the names of the weights, and of their moving average
GROUP = "group "  # before the number of a parameter group, among the optimizer's numbers: no parameter is called so
LAST, PREV, BEST = "last.safetensors", "prev.safetensors", "best.safetensors"


@dataclass
class State:
    """All that a run's future depends on, beside its configuration.

    module: the raw one, whatever it is wrapped in to compute. sums: loss, hits and images of the epoch so far, (3,).
    step: updates done; epochs: epochs finished, their line in metrics.jsonl included. average: the moving average of
    the weights, if the run has one.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    sums: Tensor
    step: int = 0
    epochs: int = 0
    average: nn.Module | None = None

    @property
    def judged(self) -> nn.Module:
        """The module that is validated and kept as the best: the average where there is one."""
        return self.module if self.average is None else self.average


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: verified, not yet put into a model."""

    path: Path
    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under that prefix, which is taken off."""
        return {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


# --- bytes -----------------------------------------------------------------------------------------------------------


def encode(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> list[bytes | memoryview]:
    """The file's bytes, the same for the same content, in parts: the header and each tensor, nothing copied twice.

    Write the parts before the tensors change. Raises RunError for a tensor of a type that the format has not.
    """
    if sys.byteorder != "little":
        raise RunError("checkpoints are written on little-endian machines only: the format's numbers are so")
    strings = {key: value if key in PLAIN else json.dumps(value, sort_keys=True) for key, value in sorted(meta.items())}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "sha256": NO_DIGEST, **strings}}
    parts: list[memoryview] = []
    offset = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):  # aligned so
        if tensor.dtype not in TYPES:
            raise RunError(f"a checkpoint cannot hold {name}: it is of type {tensor.dtype}")
        end = offset + tensor.nbytes
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        parts.append(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head)
    for part in parts:
        digest.update(part)
    return [head.replace(NO_DIGEST.encode(), digest.hexdigest().encode(), 1), *parts]


def decode(data: bytes, path: Path) -> Checkpoint:
    """The checkpoint in these bytes. The checksum is verified before anything is parsed."""
    start, end, sealed = _sealed(data, path)
    digest = hashlib.sha256(data[:start])
    digest.update(NO_DIGEST.encode())
    digest.update(memoryview(data)[end:])
    if digest.hexdigest().encode() != sealed:
        raise CheckpointError(f"{path}: damaged (its SHA-256 does not match)")
    try:
        strings = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        version, maker = int(strings["format_version"]), strings["imgcls"]
        if version > FORMAT:
            raise CheckpointError(
                f"{path}: made by a newer imgcls ({maker}, format {version}); update imgcls to read it"
            )
        meta = {key: text if key in PLAIN else json.loads(text) for key, text in strings.items()}
        tensors = safetensors.torch.load(data)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: not an imgcls checkpoint ({type(error).__name__}: {error})") from error
    return Checkpoint(path, tensors, meta)


def described(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, if what it says of itself makes sense. Raises CheckpointError that names what does not."""
    meta = checkpoint.meta
    shape, chosen = meta.get("preprocessing"), meta.get("chosen")
    sides: list[Any] = [shape.get(key) for key in ("channels", "height", "width")] if isinstance(shape, dict) else []
    statistics: list[Any] = [shape.get(key) for key in ("mean", "std")] if isinstance(shape, dict) else []
    sound = {
        "step": _is_count(meta.get("step")),
        "epochs_done": _is_count(meta.get("epochs_done")),
        "model": isinstance(meta.get("model"), dict) and isinstance(meta["model"].get("name"), str),
        "classes": isinstance(meta.get("classes"), list) and all(isinstance(name, str) for name in meta["classes"]),
        "preprocessing": all(_is_count(side) and 1 <= side <= LARGEST_SIDE for side in sides)
        and sides[:1] <= [MOST_CHANNELS]
        and all(_are_numbers(values, sides[0]) for values in statistics)
        and len(sides) == 3,
        "config": isinstance(meta.get("config"), dict),
        "chosen": isinstance(chosen, dict)
        and _is_count(chosen.get("threads"))
        and 1 <= chosen["threads"] <= MOST_THREADS
        and chosen.get("precision") in ("fp32", "bf16", "fp16")
        and chosen.get("loader") in ("resident", "stream")
        and isinstance(chosen.get("compile", False), bool),
    }
    if wrong := [key for key, is_sound in sound.items() if not is_sound]:
        raise CheckpointError(
            f"{checkpoint.path}: its description is damaged or not an imgcls run's ({', '.join(wrong)})"
        )
    return checkpoint


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER for value in values)
    )


def write_whole(path: Path, *parts: bytes | memoryview, keep_as: Path | None = None) -> None:
    """Replace path by these bytes at once or not at all; what stood there becomes ``keep_as``.

    The folder has one writer (rundir.py's lock), so a temporary file that a kill left behind is simply written anew.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _fsync_folder(path.parent.parent)
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        if keep_as is not None and path.exists():
            path.replace(keep_as)
        temporary.replace(path)
        _fsync_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot save {path}: {error.strerror or error}; what stood there before is kept") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    with contextlib.suppress(PermissionError):  # Windows has no such thing
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: Path) -> Checkpoint:
    """The verified checkpoint in that file."""
    try:
        kind = path.stat()
        if stat.S_ISDIR(kind.st_mode):
            raise CheckpointError(f"{path} is a folder, not a checkpoint")
        if not stat.S_ISREG(kind.st_mode):
            raise CheckpointError(f"{path} is not a regular file")
        with path.open("rb") as file:
            data = file.read(min(kind.st_size, 8 + LARGEST_HEADER if kind.st_size > READ_AT_ONCE else kind.st_size))
            if len(data) < kind.st_size:  # is it worth the memory?
                start, end, digest = _sealed(data, path)
                sha = hashlib.sha256(data[:start] + NO_DIGEST.encode() + data[end:])
                while part := file.read(1 << 24):
                    sha.update(part)
                if sha.hexdigest().encode() != digest:
                    raise CheckpointError(f"{path}: damaged (its SHA-256 does not match)")
                data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    return decode(data, path)


def _sealed(data: bytes, path: Path) -> tuple[int, int, bytes]:
    """Where the checksum stands in a file that begins so, and the checksum."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 16 or not 2 <= size <= min(LARGEST_HEADER, len(data) - 8) or data[8:9] != b"{":
        raise CheckpointError(f"{path}: damaged, or not an imgcls checkpoint")
    found = DIGEST.search(data, 8, 8 + size)
    if found is None:
        raise CheckpointError(f"{path}: not an imgcls checkpoint (it bears no checksum)")
    return *found.span(1), found[1]


# --- state -----------------------------------------------------------------------------------------------------------


def model_tensors(module: nn.Module, prefix: str = MODEL) -> dict[str, Tensor]:
    """The module's parameters and buffers, as they are stored."""
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def unstorable(module: nn.Module) -> str | None:
    """The first parameter or buffer of a type that a checkpoint cannot hold: 'NAME (TYPE)'."""
    wrong = (f"{name} ({one.dtype})" for name, one in module.state_dict().items() if one.dtype not in TYPES)
    return next(wrong, None)


def state_tensors(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of the state, and the optimizer's plain numbers by name."""
    tensors = model_tensors(state.module) | {"progress.sums": state.sums}
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
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{checkpoint.path}: its tensors do not fit its model: {', '.join(wrong[:3])}{more}")


def load_module(module: nn.Module, checkpoint: Checkpoint, prefix: str = MODEL) -> None:
    """Put the checkpoint's weights into the module, if they fit and are finite."""
    check_fits(module, checkpoint, prefix)
    stored = checkpoint.part(prefix)
    for name, tensor in stored.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{checkpoint.path}: {name} holds numbers that are not finite")
    state = OrderedDict(stored)
    state._metadata = getattr(module.state_dict(), "_metadata", {})  # type: ignore[attr-defined]  # MNASNet's version
    module.load_state_dict(state)


def load_state(state: State, checkpoint: Checkpoint) -> None:
    """Put a checkpoint into a freshly built state, to go on from it."""
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
        if checkpoint.tensors["progress.sums"].shape != state.sums.shape:
            raise ValueError("progress.sums")
        state.sums.copy_(checkpoint.tensors["progress.sums"])
        state.step, state.epochs = int(checkpoint.meta["step"]), int(checkpoint.meta["epochs_done"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path}: its optimizer state does not fit ({error})") from error


def _load_optimizer(state: State, checkpoint: Checkpoint) -> None:
    stored = checkpoint.part("optimizer.")
    numbers: dict[str, Any] = checkpoint.meta["optimizer_numbers"]
    names = {id(parameter): name for name, parameter in state.module.named_parameters()}
    packed = state.optimizer.state_dict()
    shapes = {name: parameter.shape for name, parameter in state.module.named_parameters()}
    for name, tensor in stored.items():
        owner = name.rpartition(".")[0]
        if owner not in shapes or not _may_belong(tensor.shape, shapes[owner]):
            raise ValueError(f"{name} of shape {tuple(tensor.shape)}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    is_known = type(state.optimizer).__module__.startswith(KNOWN)
    for index, parameter in enumerate(parameters):
        prefix = f"{names[id(parameter)]}."
        slots: dict[str, Any] = {
            name[len(prefix) :]: _in_format_of(parameter, value)
            for name, value in stored.items()
            if name.startswith(prefix) and "." not in name[len(prefix) :]
        }
        slots |= {
            name[len(prefix) :]: value
            for name, value in numbers.items()
            if name.startswith(prefix) and "." not in name[len(prefix) :]
        }
        if slots and is_known:
            _check_slots(state.optimizer, parameter, slots, names[id(parameter)])
        if slots:
            packed["state"][index] = slots
    state.optimizer.load_state_dict(packed)
    for index, parameter in enumerate(parameters):  # torch casts what it loads to the parameter's type
        for slot, value in packed["state"].get(index, {}).items():
            if isinstance(value, Tensor) and state.optimizer.state[parameter][slot].dtype != value.dtype:
                state.optimizer.state[parameter][slot] = value.to(state.optimizer.state[parameter][slot].device)
    for i, group in enumerate([] if is_known else state.optimizer.param_groups):  # known ones count nothing there
        prefix = f"{GROUP}{i}."
        group |= {name[len(prefix) :]: value for name, value in numbers.items() if name.startswith(prefix)}


def _may_belong(shape: torch.Size, parameter: torch.Size) -> bool:
    """Whether an optimizer may keep a tensor of this shape for such a parameter.

    One number, the parameter's own shape, or that with sides reduced to 1 (Adafactor's rows and columns).
    """
    is_reduced = len(shape) == len(parameter) and all(a in (1, b) for a, b in zip(shape, parameter, strict=True))
    return shape.numel() == 1 or is_reduced


def _check_slots(optimizer: torch.optim.Optimizer, parameter: Tensor, slots: Mapping[str, Any], name: str) -> None:
    """Raises ValueError unless these are the slots that the optimizer keeps for such a parameter.

    What they are, a step on a small one of as many dimensions shows: kernels trust their sizes and types blindly.
    """
    group = next(one for one in optimizer.param_groups if any(other is parameter for other in one["params"]))
    small = torch.zeros((2,) * parameter.ndim, dtype=parameter.dtype, device=parameter.device, requires_grad=True)
    small.grad = torch.zeros_like(small)
    like = type(optimizer)([{**group, "params": [small]}])  # type: ignore[call-arg]
    lean.step(like)
    wanted = like.state[small]
    if slots.keys() != wanted.keys():
        raise ValueError(f"{name} with {', '.join(sorted(slots))}")
    for slot, value in slots.items():
        model = wanted[slot]
        if not isinstance(model, Tensor) or not isinstance(value, Tensor):
            fits = type(model) is type(value)
        elif model.ndim != small.ndim:
            fits = value.shape == model.shape
        else:  # the parameter's own shape, or (Adafactor's rows and columns) one with sides of 1
            sides = tuple(1 if one == 1 else side for one, side in zip(model.shape, parameter.shape, strict=True))
            fits = tuple(value.shape) == sides
        if not fits or (isinstance(value, Tensor) and value.dtype != model.dtype):
            raise ValueError(f"{name}.{slot} of shape {tuple(getattr(value, 'shape', ()))}")
        if slot in NEVER_NEGATIVE and bool((torch.as_tensor(value) < 0).any()):
            raise ValueError(f"{name}.{slot} is negative")


def _in_format_of(parameter: Tensor, stored: Tensor) -> Tensor:
    """The stored tensor in the parameter's memory format: fused kernels pair elements by address, not by index."""
    if stored.shape != parameter.shape:
        return stored
    return torch.empty_like(parameter, dtype=stored.dtype, requires_grad=False).copy_(stored)
