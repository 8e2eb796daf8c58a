"""Which device, precision and compilation a run uses, and why."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Literal

import torch

from imgcls.errors import ConfigError, DeviceError

# (device, precision, model): updates after which compiling has paid off, None: never (benchmarks/compiling.py)
PAYS_OFF: dict[tuple[str, str, str], int | None] = {
    ("cpu", "fp32", "mlp"): None,
    ("cpu", "fp32", "lenet"): None,
    ("cpu", "fp32", "resnet18"): None,
}

Precision = Literal["fp32", "bf16", "fp16"]


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (Linux on x86; not measured elsewhere)."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        flags = next((line for line in file if line.startswith("flags")), "").split()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def rank_and_world() -> tuple[int, int, int]:
    """(rank, local rank, world size) as torchrun sets them; (0, 0, 1) without it."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    try:
        rank, local, world = (
            int(os.environ.get(name, default)) for name, default in zip(names, ("0", "0", "1"), strict=True)
        )
    except ValueError as error:
        raise ConfigError(
            f"RANK, LOCAL_RANK and WORLD_SIZE must be integers, as torchrun sets them ({error})"
        ) from error
    return rank, local, world


def choose_device(asked: str, local_rank: int = 0, world: int = 1) -> torch.device:
    """The device that ``device=`` means here. Raises DeviceError if it is not available."""
    kind, _, index = asked.partition(":")
    if asked not in ("auto", "cpu", "mps", "cuda") and not (kind == "cuda" and index.isdecimal()):
        raise ConfigError(f"device: unknown '{asked}' (choices: auto, cpu, cuda, cuda:1, mps)")
    has_cuda = torch.cuda.is_available()
    if asked == "auto":
        asked = kind = "cuda" if has_cuda else "mps" if torch.backends.mps.is_available() and world == 1 else "cpu"
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device: mps is not available here; use device=cpu")
    if kind != "cuda":
        return torch.device(kind)
    if not has_cuda:
        version = torch.version.cuda
        built = f"torch is built with CUDA {version} but finds no GPU" if version else "torch is built without CUDA"
        raise DeviceError(f"device: cuda is not available ({built}); use device=cpu or device=auto")
    count = torch.cuda.device_count()
    number = int(index) if index else local_rank
    if number >= count:
        there = f"this machine has {', '.join(f'cuda:{i}' for i in range(count))}"
        if world > 1 and not index:
            raise DeviceError(f"device: local rank {local_rank} has no GPU ({there}); start at most {count} processes")
        raise DeviceError(f"device: there is no cuda:{number} ({there})")
    return torch.device("cuda", number)


def choose_precision(asked: str, device: torch.device) -> Precision:
    """auto: bf16 on GPUs that support it, fp16 on others, fp32 elsewhere. Raises ConfigError for fp16 on a CPU."""
    if asked == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 needs a GPU; on a CPU use precision=bf16 or precision=fp32")
    if asked == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return asked  # type: ignore[return-value]


def choose_compile(
    asked: bool | Literal["auto"], device: torch.device, precision: Precision, model: str, steps: int
) -> tuple[bool, str]:
    """Whether torch.compile is used, and why: ``auto`` compiles if a run of this many steps is known to gain from it.

    Raises ConfigError if it is requested but impossible.
    """
    compiler = os.environ.get("CXX") or "g++"
    lacks = f"it needs a C++ compiler, and '{compiler}' was not found" if shutil.which(compiler) is None else ""
    if asked is True and device.type == "cpu" and lacks:
        raise ConfigError(f"compile: {lacks}; install one, set CXX to its path, or start a new run with compile=false")
    if asked != "auto":
        return asked, "as asked"
    what = f"{model} in {precision} on {device.type}"
    if (device.type, precision, model) not in PAYS_OFF:
        return False, f"auto: no gain known for {what}"
    worth = PAYS_OFF[device.type, precision, model]
    if worth is None:
        return False, f"auto: no gain was measured for {what}"
    if device.type == "cpu" and lacks:
        return False, f"auto: {lacks}"
    if steps < worth:
        return False, f"auto: {steps:,} updates, pays off after {worth:,}"
    return True, f"auto: {steps:,} updates, pays off after {worth:,}"
