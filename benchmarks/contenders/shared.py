"""What the contenders share: the job, plain readers of the data files, the models, the answer."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

MEANS = {"mnist": (0.1307,), "cifar10": (0.4914, 0.4822, 0.4465)}
DEVIATIONS = {"mnist": (0.3081,), "cifar10": (0.2470, 0.2435, 0.2616)}


@dataclass(frozen=True)
class Job:
    """One training run with its test; limit, test_limit: number of images to use, None: all."""

    model: str = "lenet"
    dataset: str = "mnist"
    data: str = "data"
    epochs: int = 3
    batch_size: int = 128
    lr: float = 0.005
    limit: int | None = None
    test_limit: int | None = None
    threads: int = 2
    workers: int = 2
    precision: str = "fp32"


def given_job() -> Job:
    """The job from the JSON on the command line; also sets torch's threads."""
    job = Job(**json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}"))
    torch.set_num_threads(job.threads)
    return job


def answer(epoch_seconds: list[float], images: int, accuracy: float) -> None:
    """Print a contender's last line: seconds of the training part of each epoch, images per epoch, test accuracy."""
    print()
    print(json.dumps({"epoch_seconds": epoch_seconds, "images": images, "accuracy": accuracy}), flush=True)


def arrays(job: Job, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The train or test images as one array (N, H, W, C) with labels, read without torchvision."""
    limit = job.limit if part == "train" else job.test_limit
    if job.dataset == "mnist":
        folder, prefix = Path(job.data, "MNIST", "raw"), "train" if part == "train" else "t10k"
        images = np.fromfile(folder / f"{prefix}-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 28, 28, 1)
        labels = np.fromfile(folder / f"{prefix}-labels-idx1-ubyte", np.uint8, offset=8)
    else:
        names = [f"data_batch_{i}" for i in range(1, 6)] if part == "train" else ["test_batch"]
        files = [Path(job.data, "cifar-10-batches-py", name) for name in names]
        batches = [pickle.loads(file.read_bytes(), encoding="latin1") for file in files]
        images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.concatenate([batch["labels"] for batch in batches])
    return np.ascontiguousarray(images[:limit]), labels[:limit].astype(np.int64)


def network(job: Job) -> nn.Module:
    """The same model as in imgcls, as a user would write it."""
    channels, side = (1, 28) if job.dataset == "mnist" else (3, 32)
    if job.model == "mlp":
        pixels = channels * side * side
        layers = [nn.Flatten(), nn.Linear(pixels, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
        return nn.Sequential(*layers)
    if job.model == "lenet":
        return nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2 if side == 28 else 0),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 10),
        )
    from torchvision import models

    net = getattr(models, job.model)(num_classes=10)
    net.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net
