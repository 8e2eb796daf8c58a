"""Keras 3 on torch: arrays and model.fit, as in the "Simple MNIST convnet" example of keras.io, with AdamW.

The augmentation is RandomTranslation + RandomFlip: Keras's RandomCrop does not pad, and differs in evaluation.

    python benchmarks/contenders/with_keras.py '{"model": "lenet", "dataset": "mnist", "data": "data"}'
"""

from __future__ import annotations

import os
import time
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import layers
from shared import Job, arrays, given_job
from shared import answer as give_answer


def model_for(job: Job, shape: tuple[int, ...]) -> keras.Model:
    parts: list[Any] = [keras.Input(shape)]
    if job.dataset == "cifar10":
        parts += [layers.RandomTranslation(4 / 32, 4 / 32, fill_mode="constant"), layers.RandomFlip("horizontal")]
    if job.model == "lenet":
        parts += [
            layers.Conv2D(6, 5, padding="same" if shape[0] == 28 else "valid", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(2),
        ]
    widths = {"lenet": (120, 84), "mlp": (256, 128)}[job.model]
    parts += [layers.Flatten(), *(layers.Dense(width, activation="relu") for width in widths)]
    return keras.Sequential([*parts, layers.Dense(10, activation="softmax")])


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    job = given_job()
    images, labels = arrays(job, "train")
    test_images, test_labels = arrays(job, "test")
    images, test_images = images.astype("float32") / 255, test_images.astype("float32") / 255
    model = model_for(job, images.shape[1:])
    optimizer = keras.optimizers.AdamW(learning_rate=job.lr, weight_decay=0.01)
    model.compile(loss="sparse_categorical_crossentropy", optimizer=optimizer, metrics=["accuracy"])
    clock = Clock()
    model.fit(images, labels, batch_size=job.batch_size, epochs=job.epochs, callbacks=[clock])
    _, accuracy = model.evaluate(test_images, test_labels, batch_size=job.batch_size)
    give_answer(clock.seconds, len(images), accuracy)


if __name__ == "__main__":
    main()
