"""fastai: a Learner on DataLoaders of torchvision's data sets, its default optimizer (Adam with decoupled decay).

fastai validates after each epoch; this is turned off, as in the others, and the test images are used once at the end.

    python benchmarks/contenders/with_fastai.py '{"model": "lenet", "dataset": "mnist", "data": "data"}'
"""

from __future__ import annotations

import time

from fastai.callback.core import Callback, CancelValidException
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.metrics import accuracy
from shared import answer, given_job, network
from torch import nn
from vision import dataset


class Clock(Callback):
    """Seconds of each epoch's training part; no validation during fit."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.is_fitting = True

    def before_train(self) -> None:
        self.started = time.perf_counter()

    def after_train(self) -> None:
        self.seconds.append(time.perf_counter() - self.started)

    def before_validate(self) -> None:
        if self.is_fitting:
            raise CancelValidException


def main() -> None:
    job = given_job()
    keys = {"bs": job.batch_size, "num_workers": job.workers}
    train, test = dataset(job, "train"), dataset(job, "test")
    loaders = DataLoaders(DataLoader(train, shuffle=True, **keys), DataLoader(test, **keys), device="cpu")
    clock = Clock()
    learner = Learner(loaders, network(job), loss_func=nn.CrossEntropyLoss(), metrics=accuracy, cbs=[clock])
    learner.fit(job.epochs, job.lr)
    clock.is_fitting = False
    _, share = learner.validate()
    answer(clock.seconds, len(train), float(share))


if __name__ == "__main__":
    main()
