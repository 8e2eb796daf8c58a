"""The Python API: a trained model that classifies files, PIL images and arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from imgcls import metrics
from imgcls.config.schema import TTA
from imgcls.data.fetchers import Resident
from imgcls.data.pixels.decoding import fit_image
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.decisions import Decisions
from imgcls.errors import DataError
from imgcls.inference.infer import check_finite, infer
from imgcls.inference.restore import RestoredModel, restore
from imgcls.reports.predictions import Row
from imgcls.runs import folder as run_folders
from imgcls.runtime.session import Runtime, exact_fp32, session

Pixels = NDArray[np.uint8]


class Classifier:
    """A trained model in Python: ``model = imgcls.load("latest"); model.predict(["photo.png"])``."""

    def __init__(
        self, trained: RestoredModel, runtime: Runtime, tta: TTA = "none", decisions: Decisions | None = None
    ) -> None:
        self._trained = trained
        self._tta: TTA = tta
        self._runtime = runtime
        self._decisions = decisions or replace(trained.decisions, threshold=None, temperature=None)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self._trained.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """Size, channels, mean and standard deviation of the model's input."""
        return self._trained.preprocessing

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._runtime.device

    @property
    def module(self) -> nn.Module:
        """The plain torch module, in evaluation mode: (B, C, H, W) float -> (B, number of classes) logits."""
        return self._trained.module

    def pixels(self, image: str | Path | Pixels | Image.Image) -> Pixels:
        """A file, PIL image or array, as ``predict`` takes it, as the model's uint8 (height, width, channels)."""
        if isinstance(image, str | Path):
            return self.preprocessing.load(str(image))
        try:
            return self._fit(image)
        except ValueError as error:
            raise DataError(f"not a usable image: {error}") from error

    def _fit(self, image: Pixels | Image.Image) -> Pixels:
        shape = self.preprocessing
        if isinstance(image, np.ndarray) and image.size and (gray := _deep_gray(image)) is not None:
            image = gray
        if isinstance(image, Image.Image):
            return fit_image(image, shape.view)
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
            given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise DataError(
                "expected a path, a PIL image or an array of shape (H, W) or (H, W, 1, 3 or 4): uint8 from 0 to 255 "
                f"in the order red, green, blue, or gray of 16 or 32 bits, got {given}"
            )
        whole: Pixels = image[None, ..., None] if image.ndim == 2 else image[None]
        pixels: Pixels = shape.fit_pixels(whole)[0]
        return pixels

    def preprocess(self, image: str | Path | Pixels | Image.Image) -> Tensor:
        """An image (file, PIL image or uint8 array) as the module's input: float32 (1, C, H, W) on its device."""
        pixels = torch.from_numpy(self.pixels(image)[None].copy()).to(self._runtime.device)
        return self._trained.preprocessing.normalizer(self._runtime.device)(pixels)

    def predict(self, images: Sequence[str | Path | Pixels | Image.Image], topk: int = 1) -> list[Row]:
        """Classify images; returns a row for each: {"path", "label", "probability", "topk": [...]}.

        images: files, PIL images of any mode, or arrays: uint8 from 0 to 255, (H, W) or (H, W, 1, 3 or 4), in the
        order red, green, blue (RGB; OpenCV's are BGR: turn them around with ``image[..., ::-1]``), or one gray channel
        of uint16, int32 or float as in the files that the model was trained on. topk: how many of the most probable
        classes to list, as {"label", "probability"}. Of two classes a row also has probability_NAME, of the positive
        one. The path of an array is None. Raises DataError for an image that
        cannot be read, ReadingFailed if the disk or the network fails.
        """
        if isinstance(images, str | Path | np.ndarray | Image.Image):
            images = [images]
        paths = [str(image) if isinstance(image, str | Path) else None for image in images]
        return self.rows([self.pixels(image) for image in images], paths, topk)

    def rows(self, pixels: Sequence[Pixels], paths: Sequence[str | None], topk: int) -> list[Row]:
        """The rows of decoded images, each uint8 (height, width, channels) as ``pixels`` returns them."""
        if not pixels:
            return []
        trained, runtime = self._trained, self._runtime
        with exact_fp32():
            fetcher = Resident(np.stack(pixels), runtime.device)
            logits = infer(trained.module, fetcher, len(pixels), trained.preprocessing, runtime, tta=self._tta)
        check_finite(logits, str(trained.checkpoint.path))
        decisions = self._decisions
        probabilities = metrics.softmax(decisions.cooled(logits))
        ranks, positive = probabilities, decisions.positive
        if positive is not None and decisions.threshold is not None:  # the predicted class comes first
            is_taken = probabilities[:, positive].astype(np.float64) >= decisions.threshold
            ranks = np.where(np.arange(2) == positive, is_taken[:, None], ~is_taken[:, None])
        order = np.argsort(-ranks.astype(np.float32), axis=1, kind="stable")[:, : min(topk, len(self.classes))]
        return [
            _row(path, one, best, self.classes, positive)
            for path, one, best in zip(paths, probabilities, order, strict=True)
        ]


def _deep_gray(array: NDArray[Any]) -> Image.Image | None:
    """A gray array of more than 8 bits as a PIL image; None for any other array."""
    flat = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    kinds = {"uint16": np.uint16, "int16": np.int32, "uint32": np.int64, "int32": np.int32, "int64": np.int64}
    kind = np.float32 if flat.dtype.kind == "f" else kinds.get(flat.dtype.name)
    if flat.ndim != 2 or kind is None:
        return None
    if kind is np.int64:
        if flat.min() < -(2**31) or flat.max() >= 2**31:
            raise ValueError("its values do not fit into 32 bits")
        kind = np.int32
    return Image.fromarray(np.ascontiguousarray(flat, dtype=kind))


def _row(
    path: str | None,
    probabilities: NDArray[np.float32],
    best: NDArray[np.int64],
    classes: tuple[str, ...],
    positive: int | None,
) -> Row:
    top = [{"label": classes[i], "probability": float(probabilities[i])} for i in best]
    row = {"path": path, "label": top[0]["label"], "probability": top[0]["probability"], "topk": top}
    return row if positive is None else {**row, f"probability_{classes[positive]}": float(probabilities[positive])}


def load(run: str | Path, device: str = "auto", own_names: Iterable[str] = ()) -> Classifier:
    """The best model of a run.

    run: a run folder, a checkpoint file, or "latest". device: as the key of that name. own_names: package:attribute
    names of your own code that the checkpoint may import. Raises CheckpointError if it is missing or damaged.
    """
    context: AbstractContextManager[Runtime] = session(device, "fp32", None)
    with context as runtime:
        return Classifier(restore(run_folders.best_checkpoint(str(run)), runtime, frozenset(own_names)), runtime)
