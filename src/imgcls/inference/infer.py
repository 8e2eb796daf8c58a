"""Logits of a trained model: for validation, for the test at the end of training, for evaluate and predict."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from imgcls.config.schema import TTA
from imgcls.data.fetchers import Fetcher, evaluation_batch, in_order
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.data.source import Indices
from imgcls.errors import DataError
from imgcls.runtime.session import Runtime


def _view(images: Tensor, *, step: int, is_mirrored: bool) -> Tensor:
    """(B, C, H, W), mirrored if asked for, shifted down and right by ``step`` pixels, the edges repeated."""
    images = images.flip(3) if is_mirrored else images
    if step == 0:
        return images
    padded, room = F.pad(images, (1, 1, 1, 1), mode="replicate"), 1 - step
    return padded[:, :, room : room + images.shape[2], room : room + images.shape[3]]


TTA_VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "none": (partial(_view, step=0, is_mirrored=False),),
    "flip": tuple(partial(_view, step=0, is_mirrored=flip) for flip in (False, True)),
    "shift": tuple(partial(_view, step=step, is_mirrored=flip) for step in (0, 1, -1) for flip in (False, True)),
}


class TTAModel(nn.Module):
    """A module's mean logits over several views of each image: (B, C, H, W) -> (B, number of classes)"""

    def __init__(self, module: nn.Module, tta: TTA) -> None:
        super().__init__()
        self.module, self.tta = module, tta

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logits = [self.module(view(images)).float() for view in TTA_VIEWS[self.tta]]
        return logits[0] if len(logits) == 1 else torch.stack(logits).mean(0)


def infer(
    module: nn.Module,
    fetcher: Fetcher,
    count: int,
    preprocessing: Preprocessing,
    runtime: Runtime,
    between: Callable[[], None] = lambda: None,
    change: Callable[[Tensor, Indices], Tensor] | None = None,
    tta: TTA = "none",
) -> NDArray[np.float32]:
    """Logits of ``count`` images in order, (N, C); the processes share the work, and each gets all of them.

    between: called after each batch; what it raises ends the work. change: applied to each normalized batch first,
    given its row numbers too; it may compute gradients. tta: which views of each image are averaged.
    """
    normalize = preprocessing.normalizer(runtime.device)
    batch = evaluation_batch(preprocessing, runtime.device)
    mine = in_order(count, batch, runtime.rank, runtime.world)
    model, was_training = TTAModel(module, tta), module.training
    module.eval()
    logits = []
    try:
        with torch.inference_mode() if change is None else torch.no_grad(), runtime.autocast():
            for rows, pixels in zip(mine, fetcher.batches(mine), strict=True):
                images = normalize(pixels)
                images = images if change is None else change(images, rows)
                logits.append(model(images))
                between()
    finally:
        module.train(was_training)
    sizes = [len(rows) for rows in in_order(count, batch)]
    return runtime.gather_batches(logits, sizes)


def check_finite(logits: NDArray[np.float32], what: str) -> None:
    """Raises DataError for logits that are not finite: nothing could be reported."""
    if not np.isfinite(logits).all():
        raise DataError(f"{what}: the model returns non-finite logits")
