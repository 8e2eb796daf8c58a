"""Updates as CUDA graphs: the kernels of an update are recorded once, then launched all at once.

A small network's update is a hundred kernels of a few microseconds each; launching them one by one takes several times
as long as running them. See https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from imgcls.checkpoints.state import State
from imgcls.errors import ConfigError
from imgcls.runtime.session import Runtime
from imgcls.training.loop import Recipe, update

GRAPHED = ("sgd", "adam", "adamw", "muon")  # optimizers whose steps read no values and take their rates as tensors
WARM_UP = 3  # ordinary updates of each batch size before it is recorded: they choose algorithms and allocate the state


@dataclass(frozen=True)
class _Recording:
    """A recorded update: its graph, and the tensors in which it expects the batch and leaves the sum of the losses."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    labels: Tensor
    loss_sum: Tensor


class GraphUpdate:
    """``training.loop.update`` as a CUDA graph, one for each batch size; the same kernels, so the same numbers.

    The model, the loss and the optimizer must always launch the same kernels and never read a value from the device
    (imgcls's own do; see choose_cuda_graph). The learning rates are device tensors while an update runs.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self.recordings: dict[Hashable, _Recording] = {}
        self.seen: Counter[Hashable] = Counter()
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True

    def __call__(
        self, state: State, forward: nn.Module, images: Tensor, labels: Tensor, global_size: int, recipe: Recipe
    ) -> Tensor:
        """See ``update``. The sum that it returns is overwritten by the next update."""
        groups = state.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for tensor, rate in zip(self.rates, rates, strict=True):
            tensor.fill_(rate)
        key = (images.shape, labels.shape, global_size)
        if recording := self.recordings.get(key):
            recording.images.copy_(images)
            recording.labels.copy_(labels)
            recording.graph.replay()
            return recording.loss_sum
        run = partial(update, state, forward, global_size=global_size, recipe=recipe)
        for group, tensor in zip(groups, self.rates, strict=True):
            group["lr"] = tensor
        try:
            if self.seen[key] >= WARM_UP:
                self.recordings[key] = recording = self._record(run, images, labels)
                recording.graph.replay()
                return recording.loss_sum
            self.seen[key] += 1
            here = torch.cuda.current_stream()
            self.stream.wait_stream(here)
            with torch.cuda.stream(self.stream):  # backward runs on the stream of forward, also while recording
                loss_sum = run(images, labels)
            here.wait_stream(self.stream)
            return loss_sum
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def _record(self, run: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor) -> _Recording:
        """Record an update, which does not run it."""
        graph, images, labels = torch.cuda.CUDAGraph(), images.clone(), labels.clone()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            loss_sum = run(images, labels)
        return _Recording(graph, images, labels, loss_sum)


def choose_cuda_graph(
    asked: bool | Literal["auto"], runtime: Runtime, model: str, optimizer: str, others: Mapping[str, bool]
) -> tuple[bool, str]:
    """Whether updates are CUDA graphs, and why. ``auto``: wherever it is possible.

    model, optimizer: their names. others: other parts of the configuration that make it impossible, and whether they
    are there. Raises ConfigError if it is requested but impossible.
    """
    if asked is False:
        return False, "as asked"
    obstacles = {
        f"device={runtime.device.type}": runtime.device.type != "cuda",
        f"{runtime.world} processes": runtime.world > 1,
        "precision=fp16": runtime.precision == "fp16",
        f"model.name={model}": ":" in model,
        f"optimizer={optimizer}": optimizer not in GRAPHED,
        **others,
    }
    obstacle = next((name for name, is_there in obstacles.items() if is_there), None)
    if obstacle is None:
        return True, "auto" if asked == "auto" else "as asked"
    if asked is True:
        raise ConfigError(f"cuda_graph: not possible with {obstacle}; use cuda_graph=auto or cuda_graph=false")
    return False, f"auto: not possible with {obstacle}"
