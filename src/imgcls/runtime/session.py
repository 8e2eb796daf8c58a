"""Device, precision, threads and process group of a run."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from imgcls.runtime.cgroups import memory_left
from imgcls.runtime.device import Precision, choose_device, choose_precision, rank_and_world

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

UNKNOWN_RAM = 4 << 30  # bytes assumed to be free if the system does not tell
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_KEPT, MOST_KEPT = 32 << 20, 1 << 30  # bytes: of a block (older versions refuse more), and in total


@dataclass(frozen=True)
class Runtime:
    """Where and how a run computes. Collective methods (sum, any, max, ...) must be called by all processes."""

    device: torch.device
    precision: Precision
    threads: int
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """The context of the forward pass."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])

    def scaler(self) -> torch.amp.GradScaler | None:
        """A scaler for fp16, whose small gradients would vanish; bf16 has fp32's range."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None

    def place(self, module: nn.Module) -> nn.Module:
        """The module on the device; 4-dimensional weights are channels last, like the images."""
        return module.to(self.device).to(memory_format=torch.channels_last)

    def wrap(self, module: nn.Module, *, is_compiled: bool = False) -> nn.Module:
        """The module to compute with: same parameters, gradients averaged over the processes.

        It is compiled for each batch size separately: an epoch has two at most, and code for any size is slower and
        would depend on which came first.
        """
        if self.world > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            module = nn.parallel.DistributedDataParallel(module, device_ids=ids)
        return torch.compile(module, dynamic=False) if is_compiled else module  # type: ignore[return-value]

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over the processes."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def zeros(self, count: int) -> Tensor:
        """Running sums on the device, (count,), in double precision if it has that."""
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.zeros(count, dtype=kind, device=self.device)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.max(int(flag)))

    def max(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.world == 1:
            return number
        tensor = torch.tensor(number)  # on the CPU, so as not to wait for a GPU
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Copy the main process's buffers (batch norm's statistics) to all, so that all evaluate the same model."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def broadcast_text(self, text: str) -> str:
        """Rank 0's text, in every process."""
        if self.world == 1:
            return text
        length = torch.tensor([len(text.encode())])
        dist.broadcast(length, 0)
        content = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_main:
            content = torch.from_numpy(np.frombuffer(text.encode(), dtype=np.uint8).copy())
        dist.broadcast(content, 0)
        return content.numpy().tobytes().decode()

    def gather_batches(self, mine: list[Tensor], batch_sizes: list[int]) -> NDArray[np.float32]:
        """The rows of all batches in order, if each rank computed every world-th: list of (B, C) -> (N, C)"""
        if self.world == 1:
            return torch.cat(mine).cpu().numpy()
        width = torch.tensor([mine[0].shape[1] if mine else 0])
        dist.broadcast(width, 0)  # the main process has at least the first batch, others may have none
        whole: list[Tensor] = []
        for i, size in enumerate(batch_sizes):
            owner = i % self.world
            rows = mine[i // self.world].cpu() if owner == self.rank else torch.empty(size, int(width))
            dist.broadcast(rows, owner)
            whole.append(rows)
        return torch.cat(whole).numpy()

    def free_memory(self) -> int:
        """Free bytes on the device; on a CPU, of this process's share of the machine or container."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return _free_ram() // self.world

    def describe(self) -> str:
        """'cpu, 2 threads, fp32, NHWC (no CUDA device)'"""
        if self.device.type == "cuda":
            where = f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        else:
            where = f"{self.device.type}, {self.threads} thread{'s' if self.threads > 1 else ''}"
        why = "" if self.device.type != "cpu" or torch.cuda.is_available() else " (no CUDA device)"
        several = f", {self.world} processes" if self.world > 1 else ""
        return f"{where}, {self.precision}, NHWC{why}{several}"


def keep_freed_memory() -> bool:
    """Make glibc keep memory that a step frees for the next one; returns whether it does.

    By default it returns blocks of a few megabytes to the system and gets them back, zeroed page by page, at every
    step. It still returns larger blocks: keeping them costs a ResNet a tenth more memory and gains little.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, MOST_KEPT))
    return False


def _free_ram() -> int:
    available = UNKNOWN_RAM
    with contextlib.suppress(OSError, ValueError, AttributeError):  # macOS lacks the second name, Windows both
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with contextlib.suppress(OSError, ValueError, AttributeError):
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("MemAvailable:"))
        available = int(line.split()[1]) * 1024
    return min([available, *memory_left()])


@contextlib.contextmanager
def session(
    device: str, precision: str, threads: int | None, *, deterministic: bool = False, distributed: bool = False
) -> Iterator[Runtime]:
    """A Runtime for these keys; under torchrun (if ``distributed``) with a process group for its lifetime."""
    rank, local_rank, world = rank_and_world() if distributed else (0, 0, 1)
    where = choose_device(device, local_rank, world)
    chosen = choose_precision(precision, where)
    if threads is not None:
        torch.set_num_threads(threads)
    if where.type == "cuda":
        torch.cuda.set_device(where)
        torch.backends.cudnn.benchmark = not deterministic
    strict = deterministic and where.type != "cpu"  # torch's CPU kernels are deterministic, and the call costs 1 s
    if strict:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if strict != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(strict)
    if world > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT)
    try:
        yield Runtime(where, chosen, torch.get_num_threads(), rank, world)
    finally:
        if world > 1:
            dist.destroy_process_group()


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """Without TF32 and benchmarked algorithms: two processes must report the same for the same model."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, False, False, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
