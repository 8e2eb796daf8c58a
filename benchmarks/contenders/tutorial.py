"""The loop of the PyTorch tutorial (pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html) with AdamW.

python benchmarks/contenders/tutorial.py '{"model": "lenet", "dataset": "mnist", "data": "data", "workers": 2}'
"""

from __future__ import annotations

import time

import torch
from shared import answer, given_job, network
from torch import nn
from torch.utils.data import DataLoader
from vision import dataset


def train(loader: DataLoader, model: nn.Module, loss_fn: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    size = len(loader.dataset)
    model.train()
    for batch, (images, labels) in enumerate(loader):
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if batch % 100 == 0:
            print(f"loss: {loss.item():>7f}  [{(batch + 1) * len(images):>5d}/{size:>5d}]")


def test(loader: DataLoader, model: nn.Module) -> float:
    model.eval()
    correct = 0.0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(1) == labels).type(torch.float).sum().item()
    return correct / len(loader.dataset)


def main() -> None:
    job = given_job()
    keys = {"batch_size": job.batch_size, "num_workers": job.workers}
    loader = DataLoader(dataset(job, "train"), shuffle=True, **keys)
    test_loader = DataLoader(dataset(job, "test"), **keys)
    model = network(job)
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.lr)
    seconds = []
    for _ in range(job.epochs):
        started = time.perf_counter()
        train(loader, model, nn.CrossEntropyLoss(), optimizer)
        seconds.append(time.perf_counter() - started)
    answer(seconds, len(loader.dataset), test(test_loader, model))


if __name__ == "__main__":
    main()
