"""What an image costs in training, measured on a few steps: for the header alone, nothing is chosen by it."""

from __future__ import annotations

import time

import torch

from imgcls.config.components import Component
from imgcls.models.build import build_model
from imgcls.runtime.session import Runtime

PIXELS = 4 * 224 * 224  # in a batch: enough for the speed of large batches
SECONDS = 1.0  # that steps are taken for, at least two


def seconds_per_image(model: Component, shape: tuple[int, int, int], num_classes: int, runtime: Runtime) -> float:
    """Seconds of a training step for each image of this shape, (height, width, channels), on a CPU."""
    height, width, channels = shape
    batch, times = -(-PIXELS // (height * width)), list[float]()
    with torch.random.fork_rng(devices=[]):
        module = runtime.place(build_model(model, channels, (height, width), num_classes)).train()
        images = torch.randn(batch, channels, height, width).to(memory_format=torch.channels_last)
        while len(times) < 2 or sum(times) < SECONDS:
            started = time.perf_counter()
            module(images).logsumexp(1).sum().backward()
            times.append(time.perf_counter() - started)
    return min(times) / batch
