"""The plots of a run, and the settings that TensorBoard shows next to its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgcls.config.schema import TrainConfig
from imgcls.data.fetchers import decode_all
from imgcls.data.source import Images
from imgcls.loggers.run_log import RunLog
from imgcls.parallel.background import BackgroundWorker
from imgcls.reports import fonts, plots
from imgcls.reports.report import Report, confusion_counts
from imgcls.training.builder import Run

MISTAKES = 24  # images of the most confident mistakes
TILES = 32  # images of the training batch


def draw_batch(run: Run, folder: Path, plotter: BackgroundWorker) -> None:
    """The first training images as the model sees them."""
    (folder / "plots").mkdir(exist_ok=True)
    images, targets = run.loader.first(TILES)
    classes, normalize = run.data.source.classes, run.data.preprocessing.normalizer(run.runtime.device)
    if run.recipe.attack is not None:
        images = run.recipe.attack(run.state.module, images, targets, run.recipe.loss, seed=run.config.seed)
    drawn = fonts.drawn_names(classes)
    hint = fonts.write_legend(classes, drawn, folder / "plots")
    captions = [_caption(target, drawn) for target in targets.tolist()]
    plotter.draw(plots.batch, list(normalize.inverse(images)), captions, folder / "plots" / "train_batch.png", hint)


def _caption(target: int | list[float], classes: tuple[str, ...]) -> str:
    """The class; for a mixed image both with their weights: 'ship .7 truck .3'"""
    if isinstance(target, int) or len(target) == 1:
        return classes[0 if isinstance(target, list) else target]
    first, second = sorted(range(len(target)), key=lambda i: -target[i])[:2]
    if target[second] < 0.05:
        return classes[first]
    return " ".join(f"{classes[i][:6]} {target[i]:.1f}".replace(" 0.", " .") for i in (first, second))


def draw_test(run: Run, images: Images, folder: Path, report: Report, plotter: BackgroundWorker) -> NDArray[np.uint8]:
    """The plots of the test on these images; returns the confusion matrix as an image, (H, W, 3)."""
    target, classes = folder / "plots", run.data.source.classes
    worst = plots.worst_mistakes(folder / "predictions.npz", MISTAKES)
    pixels = [_pixels(run, images, row) for row, _, _, _ in worst]
    plotter.draw(
        plots.mistakes, pixels, [(true, taken, p) for _, true, taken, p in worst], classes, target / "mistakes.png"
    )
    if (positive := run.positive) is not None:
        own = classes.index(positive)
        plotter.draw(plots.threshold_curves, folder / "predictions.npz", own, report["threshold"], target)
    counts = confusion_counts(folder, report, plots.MOST_SQUARES)
    plotter.draw(plots.confusion_matrix, counts, classes, target / "confusion_matrix.png")
    matrix: NDArray[np.uint8]
    *_, matrix = plotter.finish()
    return matrix


def log_result(run: Run, log: RunLog, report: Report, matrix: NDArray[np.uint8] | None) -> None:
    """TensorBoard's last entries: the confusion matrix if it was drawn, and the settings next to the result."""
    if log.board is None:
        return
    log.board.begin()
    if matrix is not None:
        log.board.picture(f"{report['split']}/confusion_matrix", run.state.step, matrix)
    numbers = {f"hparam/{report['split']}_{name}": report[name] for name in ("accuracy", "loss")}
    kept = next((row["val_accuracy"] for row in log.rows if row["epoch"] == report["epoch"]), None)
    if kept is not None:
        numbers["hparam/val_accuracy"] = kept
    log.board.hparams(settings(run.config), numbers)
    log.board.flush()


def _pixels(run: Run, images: Images, row: int) -> NDArray[np.uint8]:
    """An image as the model sees it, before normalization."""
    one = images.take(np.array([row]))
    pixels: NDArray[np.uint8] = decode_all(one, run.data.preprocessing, threads=1)[0]
    return pixels


def settings(config: TrainConfig) -> dict[str, Any]:
    """The configuration as flat hyperparameters: {"model": "mlp", "model.dropout": 0.0, ...}"""
    flat: dict[str, Any] = {}
    for key, value in vars(config).items():
        nested = value if isinstance(value, dict) else {"name": value}
        flat |= {key if param == "name" else f"{key}.{param}": one for param, one in nested.items()}
    return {key: value for key, value in flat.items() if value is not None and key != "run_dir"}
