"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imgcls import lean, seeding
from imgcls.checkpoint import State
from imgcls.data.augment import Augment
from imgcls.data.loaders import Loader
from imgcls.data.pixels import Normalise
from imgcls.logbook import Logbook
from imgcls.losses import Loss
from imgcls.schedules import Schedule


@dataclass(frozen=True)
class Recipe:
    """What the loop does to a batch, beside the model: pure functions and numbers.

    base_lrs: the learning rate of each parameter group, which the schedule scales.
    """

    epochs: int
    seed: int
    schedule: Schedule
    base_lrs: tuple[float, ...]
    augment: Augment
    normalise: Normalise
    loss: Loss
    autocast: Callable[[], AbstractContextManager[object]]
    rank: int = 0
    world: int = 1


class Watch:
    """What happens around the loop: saving, stopping, validating. The loop calls it and knows no more."""

    def after_step(self, state: State) -> None:
        """Each update."""

    def after_epoch(self, state: State, images: int, started: float, lr: float) -> None:
        """Each pass over the data: images seen since ``started`` (time.perf_counter), last learning rate."""


def fit(state: State, forward: nn.Module, loader: Loader, recipe: Recipe, log: Logbook, watch: Watch) -> None:
    """Train until ``recipe.epochs`` are done, from wherever the state stands.

    forward: the state's module, as it is wrapped to compute.
    """
    forward.train()
    while state.epochs < recipe.epochs:
        done = state.step - state.epochs * len(loader)
        if done == 0:
            state.sums.zero_()
        images_done, started = 0, time.perf_counter()
        for position, (images, labels, draws) in enumerate(loader.epoch(state.epochs, start=done), start=done):
            lr = set_lr(state.optimizer, recipe.base_lrs, recipe.schedule(state.step))
            seeding.seed_default(recipe.seed, "dropout", state.step, recipe.rank)
            size = loader.global_size(position)
            total = update(state, forward, recipe.normalise(recipe.augment(images, draws)), labels, size, recipe)
            state.step += 1
            images_done += size
            log.log(state.step, total, len(labels), lr, state.epochs, size)
            watch.after_step(state)
        lr = recipe.base_lrs[0] * recipe.schedule(state.step - 1)
        watch.after_epoch(state, images_done, started, lr)


def set_lr(optimizer: torch.optim.Optimizer, base_lrs: tuple[float, ...], factor: float) -> float:
    """Scale each group's learning rate; returns the first group's."""
    for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
        group["lr"] = base * factor
    return float(optimizer.param_groups[0]["lr"])


def update(
    state: State, forward: nn.Module, images: Tensor, labels: Tensor, global_size: int, recipe: Recipe
) -> Tensor:
    """One update: (B, C, H, W) float images, (B,) labels -> the sum of this process's losses, on the device.

    The gradient is that of the mean loss over the ``global_size`` images of all processes, however they are shared out.
    """
    lean.clear_gradients(state.optimizer)
    with recipe.autocast():
        logits = forward(images)
        total = recipe.loss(logits.float(), labels).sum()
    backward(state, total * (recipe.world / global_size))
    with torch.no_grad():
        total = total.detach()
        hits = (logits.argmax(1) == labels).sum(dtype=total.dtype)
        state.sums += torch.stack([total, hits, torch.full_like(total, len(labels))])
        return total


def backward(state: State, loss: Tensor) -> None:
    """Gradients and the optimizer's step; with a scaler (fp16) a step with infinite gradients is skipped."""
    if state.scaler is None:
        loss.backward()  # type: ignore[no-untyped-call]
        lean.step(state.optimizer)
        return
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    state.scaler.step(state.optimizer)
    state.scaler.update()
