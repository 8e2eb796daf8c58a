"""Lightning: LightningModule, LightningDataModule and a Trainer with its default logger, checkpoint and progress bar.

python benchmarks/contenders/with_lightning.py '{"model": "lenet", "dataset": "mnist", "data": "data"}'
"""

from __future__ import annotations

import tempfile
import time

import lightning as L
import torch
import torch.nn.functional as F
from shared import Job, answer, given_job, network
from torch import Tensor
from torch.utils.data import DataLoader
from vision import dataset

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


class Net(L.LightningModule):
    def __init__(self, job: Job) -> None:
        super().__init__()
        self.net = network(job)
        self.lr = job.lr

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch: list[Tensor], index: int) -> None:
        images, labels = batch
        self.log("test_accuracy", (self.net(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Data(L.LightningDataModule):
    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        self.keys = {"batch_size": job.batch_size, "num_workers": job.workers, "persistent_workers": job.workers > 0}

    def setup(self, stage: str) -> None:
        self.part = dataset(self.job, "train" if stage == "fit" else "test")

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.part, shuffle=True, **self.keys)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.part, **self.keys)


class Clock(L.Callback):
    """Seconds of each epoch's training part; ModelCheckpoint saves after it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    job = given_job()
    clock, module, data = Clock(), Net(job), Data(job)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=job.epochs, default_root_dir=folder, callbacks=[clock], precision=PRECISIONS[job.precision]
        )
        trainer.fit(module, data)
        count = len(data.part)
        results = trainer.test(module, data)
    answer(clock.seconds, count, results[0]["test_accuracy"])


if __name__ == "__main__":
    main()
