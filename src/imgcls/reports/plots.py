"""Plots from numbers, with numpy and matplotlib alone: they need no torch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgcls.decisions import curve
from imgcls.metrics import ranking
from imgcls.reports import fonts

Pixels = NDArray[np.uint8]

MOST_CELLS = 30  # classes: up to here the confusion matrix shows its counts
MOST_SQUARES = 1000  # classes: up to here each has a row in it
MOST_NAMES = 60  # classes: up to here it shows their names
DPI = 100
CELL_WIDTH, CELL_HEIGHT, TILE, TITLE_HEIGHT = 150, 180, 135, 40  # pixels, of the plots made of tiles


def _figure(width: float, height: float, layout: str | None = None) -> Any:
    """An empty figure; width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout, dpi=DPI)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def _plain(text: str) -> str:
    """Text that matplotlib does not treat as mathematics."""
    return text.replace("$", r"\$")


def _short(text: str, most: int) -> str:
    """Text of at most that many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _save(figure: Any, path: Path) -> None:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if not text.get_text().isascii():
            text.set_fontfamily(list(fonts.family(text.get_text()) or (fonts.OWN,)))
    with warnings.catch_warnings():  # class names in any alphabet
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support .* natively", UserWarning)
        figure.savefig(path, metadata={"Software": None})


def curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot train and val loss and accuracy by epoch, from the rows of metrics.jsonl."""
    figure = _figure(10, 4, "constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part in ("train", "val"):
            points = [(row["epoch"], row[f"{part}_{name}"]) for row in rows if row[f"{part}_{name}"] is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True), marker="o" if len(points) < 30 else None, markersize=3, label=part
                )
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend()
    _save(figure, path)


def confusion_matrix(matrix: Sequence[Sequence[int]] | NDArray[np.int64], classes: Sequence[str], path: Path) -> Pixels:
    """Plot (C, C) counts: rows are true classes, shaded by their share of the row. Returns (H, W, 3) uint8.

    If there are fewer rows than classes, each row covers several classes.
    """
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.45 * len(classes) + 2, 4, 14))
    figure = _figure(side, side, "constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= MOST_NAMES:
        drawn = fonts.drawn_names(classes)
        axes.set_xlabel(f"predicted{fonts.write_legend(classes, drawn, path.parent)}")
        names = [_plain(_short(name, 24)) for name in drawn]
        axes.set_xticks(range(len(classes)), names, rotation=90)
        axes.set_yticks(range(len(classes)), names)
    if len(classes) <= MOST_CELLS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            count = axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=8)
            count.set_in_layout(False)
    _save(figure, path)
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def threshold_curves(predictions: Path, positive: int, threshold: float | None, folder: Path) -> None:
    """Plot roc_curve.png and precision_recall_curve.png of a class of two, from predictions.npz.

    The threshold is a dot. Nothing is drawn unless there are images of both classes.
    """
    with np.load(predictions, allow_pickle=False) as file:
        is_own, name = file["labels"] == positive, _plain(_short(str(file["classes"][positive]), 24))
        scores = file["probabilities"][:, positive]
    if is_own.all() or not is_own.any():
        return
    found, (auc, average) = curve(scores, is_own), ranking(scores, is_own)
    rates = (found.taken - found.hits) / (len(is_own) - found.hits[-1])
    reached = -1 if threshold is None else int((found.scores >= threshold).sum()) - 1  # the last point
    axes = _unit_axes(f"{name}: ROC AUC {auc:.3f}", "false positive rate", "recall")
    axes.plot(np.append(0, rates), np.append(0, found.recall))
    _mark(axes, rates, found.recall, reached, threshold)
    _save(axes.figure, folder / "roc_curve.png")
    axes = _unit_axes(f"{name}: average precision {average:.3f}", "recall", "precision")
    axes.plot(found.recall, found.precision, drawstyle="steps-pre")
    _mark(axes, found.recall, found.precision, reached, threshold)
    _save(axes.figure, folder / "precision_recall_curve.png")


def _unit_axes(title: str, x_name: str, y_name: str) -> Any:
    """Axes from 0 to 1 in a figure of their own."""
    axes = _figure(5, 5, "constrained").subplots()
    axes.set(title=title, xlabel=x_name, ylabel=y_name, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    return axes


def _mark(axes: Any, x: NDArray[Any], y: NDArray[Any], i: int, threshold: float | None) -> None:
    """A dot at the point where the threshold is, if it takes any image."""
    if i >= 0:
        axes.plot(x[i], y[i], "o", label=f"threshold {threshold:.3g}")
        axes.legend(loc="lower center")


def worst_mistakes(predictions: Path, count: int) -> list[tuple[int, int, int, float]]:
    """(row, true class, predicted class, probability) of the ``count`` most confident mistakes in predictions.npz."""
    with np.load(predictions, allow_pickle=False) as file:
        labels, probabilities = file["labels"], file["probabilities"]
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [(int(row), int(labels[row]), int(predicted[row]), float(confidence[row])) for row in order]


def mistakes(
    images: Sequence[Pixels], facts: Sequence[tuple[int, int, float]], classes: Sequence[str], path: Path
) -> None:
    """Plot images with their predicted class, its probability and the true class, the facts in another order."""
    drawn = fonts.drawn_names(classes)
    hint = fonts.write_legend(classes, drawn, path.parent)
    captions = [
        f"{_short(drawn[predicted], 14)} {probability:.0%}\nis {_short(drawn[true], 16)}"
        for true, predicted, probability in facts
    ]
    title = "the most confident mistakes" if images else "no mistakes"
    _tiles(images, captions, path, title + hint, columns=6)


def batch(images: Sequence[Pixels], captions: Sequence[str], path: Path, hint: str = "") -> None:
    """Plot a training batch as the model sees it; hint: added to the title."""
    title = f"a training batch as the model sees it{hint}"
    _tiles(images, [_short(caption, 19) for caption in captions], path, title, columns=8)


def _tiles(images: Sequence[Pixels], captions: Sequence[str], path: Path, title: str, *, columns: int) -> None:
    """One image as background and text on it: an axes for each tile would take fifty times as long."""
    rows = max(1, -(-len(images) // columns))
    width, height = CELL_WIDTH * columns, CELL_HEIGHT * rows + TITLE_HEIGHT
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = _figure(width / DPI, height / DPI)
    figure.text(0.5, 1 - 12 / height, title, ha="center", va="top", fontsize=12)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = CELL_WIDTH * (i % columns), CELL_HEIGHT * (i // columns) + TITLE_HEIGHT
        tile = _fitted(image)
        down, right = top + CELL_HEIGHT - TILE - 5, left + (CELL_WIDTH - tile.shape[1]) // 2
        canvas[down : down + tile.shape[0], right : right + tile.shape[1]] = tile
        place = (left + CELL_WIDTH / 2) / width, 1 - (down - 5) / height
        figure.text(*place, _plain(caption), ha="center", va="bottom", fontsize=8)
    figure.figimage(canvas)
    _save(figure, path)


def _fitted(image: Pixels) -> Pixels:
    """(H, W, C) of any size -> (at most TILE, at most TILE, 3); small images show their pixels."""
    from PIL import Image

    colors = np.repeat(image[..., :1], 3, axis=2) if image.shape[-1] < 3 else image[..., :3]
    scale = TILE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(np.ascontiguousarray(colors)).resize(size, method))
