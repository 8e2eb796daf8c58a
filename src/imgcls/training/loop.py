"""The training loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain, compress

import torch
from torch import Tensor, nn

from imgcls import seeding
from imgcls.checkpoints.state import State
from imgcls.data.loader import Loader
from imgcls.losses import Loss
from imgcls.models.build import is_random
from imgcls.optim import fast_step
from imgcls.optim.schedules import Schedule


@dataclass(frozen=True)
class Recipe:
    """What the loop does to a batch, besides the model: pure functions and numbers.

    base_lrs: the learning rate of each parameter group, which the schedule scales. accumulate: micro-batches per
    update. clip_grad: largest norm of the gradient. ema: decay of the average weights. attack: perturbs the images
    before each update: (module, images, targets, loss, seed=...) -> images.
    """

    epochs: int
    seed: int
    schedule: Schedule
    base_lrs: tuple[float, ...]
    loss: Loss
    autocast: Callable[[], AbstractContextManager[object]]
    accumulate: int = 1
    clip_grad: float | None = None
    ema: float | None = None
    attack: Callable[..., Tensor] | None = None
    rank: int = 0
    world: int = 1


class Callback:
    """What happens around the loop: logging, validating, saving, stopping. The loop knows nothing else of them."""

    def after_step(self, state: State, loss_sum: Tensor, count: int, images: int, lr: float) -> None:
        """After each update.

        loss_sum: of this process's ``count`` images, still on the device. images: of all processes. lr: the update's
        learning rate.
        """

    def after_epoch(self, state: State, images: int, started: float, lr: float) -> None:
        """After each pass over the data: images seen since ``started`` (time.perf_counter), last learning rate."""

    def should_stop(self, state: State) -> bool:
        """Whether the run ends before its last epoch."""
        return False


def fit(state: State, forward: nn.Module, loader: Loader, recipe: Recipe, callback: Callback) -> None:
    """Train until ``recipe.epochs`` are done, from wherever the state is.

    forward: the state's module, wrapped to compute.
    """
    forward.train()
    # seeding takes as long as everything else between two updates: only if something draws, as a user's optimizer may
    draws = is_random(state.module) or not type(state.optimizer).__module__.startswith(("torch.optim.", "imgcls."))
    while state.epochs < recipe.epochs and not callback.should_stop(state):
        done = state.step - state.epochs * len(loader)
        if done == 0:
            state.totals.zero_()
        images_done, started = 0, time.perf_counter()
        for position, (images, labels) in enumerate(loader.epoch(state.epochs, start=done), start=done):
            lr = set_lr(state.optimizer, recipe.base_lrs, recipe.schedule(state.step))
            if draws:
                seeding.seed_default(recipe.seed, "dropout", state.step, recipe.rank)
            size = loader.global_size(position)
            loss_sum = update(state, forward, images, labels, size, recipe)
            state.step += 1
            if state.average is not None and recipe.ema is not None:
                follow(state.average, state.module, ema_decay(recipe.ema, state.step))
            images_done += size
            callback.after_step(state, loss_sum, len(labels), size, lr)
        lr = recipe.base_lrs[0] * recipe.schedule(state.step - 1)
        callback.after_epoch(state, images_done, started, lr)


def set_lr(optimizer: torch.optim.Optimizer, base_lrs: tuple[float, ...], factor: float) -> float:
    """Scale each group's learning rate; returns the first group's."""
    for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
        group["lr"] = base * factor
    return float(optimizer.param_groups[0]["lr"])


def update(
    state: State, forward: nn.Module, images: Tensor, labels: Tensor, global_size: int, recipe: Recipe
) -> Tensor:
    """One update: (B, C, H, W) float images, targets as in losses.py -> the sum of this process's losses.

    The sum stays on the device.
    The gradient is that of the mean loss over the ``global_size`` images of all processes, however they are split,
    summed over the micro-batches.
    """
    fast_step.clear_gradients(state.optimizer)
    count = min(recipe.accumulate, len(labels))
    micro_batches = list(zip(images.tensor_split(count), labels.tensor_split(count), strict=True))
    before = state.totals[0].clone() if count > 1 else None
    for i, (inputs, targets) in enumerate(micro_batches, start=1):
        # the processes average their gradients once, with the last micro-batch
        is_local = recipe.world > 1 and i < count
        if recipe.attack is not None:
            seed = seeding.derive(recipe.seed, "attack", state.step, i, recipe.rank)
            # an unscaled gradient would vanish in fp16, so it is computed in fp32 then
            with recipe.autocast() if state.scaler is None else contextlib.nullcontext():
                inputs = recipe.attack(state.module, inputs, targets, recipe.loss, seed=seed)
        with forward.no_sync() if is_local else contextlib.nullcontext():  # type: ignore[operator]
            with recipe.autocast():
                logits = forward(inputs)
                total = recipe.loss(logits.float(), targets).sum()
            loss = total * (recipe.world / global_size)
            (loss if state.scaler is None else state.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            total = total.detach()
            classes = targets if targets.ndim == 1 else targets.argmax(1)
            hits = (logits.argmax(1) == classes).sum(dtype=total.dtype)
            state.totals += torch.stack([total, hits, torch.full_like(total, len(targets))])
    take_step(state, recipe.clip_grad)
    return total if before is None else state.totals[0] - before


def take_step(state: State, clip_grad: float | None) -> None:
    """The optimizer's step with clipped gradients; with a scaler (fp16), a step with infinite gradients is skipped."""
    optimizer, scaler = state.optimizer, state.scaler
    if clip_grad is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, clip_grad)
    if scaler is None:
        fast_step.step(optimizer)
        return
    scaler.step(optimizer)
    scaler.update()


def ema_decay(decay: float, step: int) -> float:
    """The decay of the average after ``step`` updates: lower at first, so that the initial weights do not linger.

    TensorFlow's rule for ExponentialMovingAverage with num_updates: min(decay, (1 + step) / (10 + step)).
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move the average's parameters and buffers towards the module's; whole numbers are copied."""
    mine, new = (list(chain(one.parameters(), one.buffers())) for one in (average, module))
    floats = [own.is_floating_point() for own in mine]
    torch._foreach_lerp_(list(compress(mine, floats)), list(compress(new, floats)), 1 - decay)  # one launch on a GPU
    for own, other, is_float in zip(mine, new, floats, strict=True):
        if not is_float:
            own.copy_(other)
