"""timm: its loader and the loop body of its train.py, for CIFAR-10; the crop is the one that DeiT uses for 32x32.

python benchmarks/contenders/with_timm.py '{"model": "resnet18", "dataset": "cifar10", "data": "data"}'
"""

from __future__ import annotations

import time
from typing import Any

import torch
from shared import Job, answer, given_job, network
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, accuracy
from torch import nn
from torch.utils.data import Subset
from vision import dataset


def loader_for(job: Job, part: str) -> Any:
    """timm's loader with the transforms of the other contenders instead of its ImageNet ones."""
    images = dataset(job, part)
    inner = images.dataset if isinstance(images, Subset) else images
    transform = inner.transform
    loader = create_loader(
        images,
        input_size=(3, 32, 32),
        batch_size=job.batch_size,
        is_training=part == "train",
        use_prefetcher=False,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
    )
    inner.transform = transform
    return loader


def train(loader: Any, model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: nn.Module) -> None:
    model.train()
    losses = AverageMeter()
    for step, (images, labels) in enumerate(loader):
        loss = loss_fn(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            losses.update(loss.item(), len(images))
            print(f"{step}: {losses.val:.3f} ({losses.avg:.3f})")


def main() -> None:
    job = given_job()
    loader, test_loader = loader_for(job, "train"), loader_for(job, "test")
    model = network(job)
    optimizer = create_optimizer_v2(model, "adamw", lr=job.lr, weight_decay=0.01)
    loss_fn = nn.CrossEntropyLoss()
    seconds = []
    for _ in range(job.epochs):
        started = time.perf_counter()
        train(loader, model, optimizer, loss_fn)
        seconds.append(time.perf_counter() - started)
    model.eval()
    top1 = AverageMeter()
    with torch.inference_mode():
        for images, labels in test_loader:
            top1.update(accuracy(model(images), labels)[0].item(), len(images))
    answer(seconds, len(loader) * job.batch_size, top1.avg / 100)  # the last, smaller batch is dropped


if __name__ == "__main__":
    main()
