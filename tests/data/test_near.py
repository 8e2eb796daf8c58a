"""Near duplicates: what was saved again is found, what only looks alike is not."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from imgcls.data.datasets.cifar import cifar10
from imgcls.data.datasets.mnist import mnist
from imgcls.data.inspection.groups import joined
from imgcls.data.inspection.near import near_pairs
from imgcls.data.inspection.pictures import Small, _small
from tests.reports.test_dataset import textured

COUNT = 100


def drawn(seed: int) -> Image.Image:
    """Rectangles and ellipses."""
    draws = np.random.default_rng(seed)
    image = Image.new("RGB", (200, 150), tuple(draws.integers(0, 255, 3).tolist()))
    for _ in range(8):
        x, y, w, h = (draws.random(4) * (200, 150, 60, 60)).tolist()
        draw = getattr(ImageDraw.Draw(image), draws.choice(["ellipse", "rectangle"]))
        draw((x - w, y - h, x + w + 4, y + h + 4), fill=tuple(draws.integers(0, 255, 3).tolist()))
    return image


def saved(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(io.BytesIO(file.getvalue()))


def cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((round(0.03 * width), round(0.03 * height), width, height))


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "quality 50": saved,
    "half size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "cropped": cropped,
    "all of it": lambda image: cropped(saved(ImageEnhance.Brightness(image).enhance(0.9))),
}


def smalls(images: list[Image.Image]) -> tuple[Small, Small]:
    """As look_at makes them."""
    small = [_small(image.convert("RGB")) for image in images]
    half = [one.resize((16, 16), Image.Resampling.BOX) for one in small]
    return np.stack([np.asarray(one.convert("L")) for one in small]), np.stack([np.asarray(one) for one in half])


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("make", [textured, drawn])
def test_planted_ones_are_found(make: Callable[[int], Image.Image], edit: str) -> None:
    images = [make(i) for i in range(COUNT)]
    pairs = near_pairs(*smalls([*images, *map(EDITS[edit], images)]))
    assert np.count_nonzero(pairs[:, 1] - pairs[:, 0] == COUNT) >= 0.95 * COUNT
    assert (pairs[:, 1] - pairs[:, 0] == COUNT).all()


def _noise(seed: int, color: tuple[int, ...] = (128, 128, 128)) -> Image.Image:
    values = np.random.default_rng(seed).integers(-30, 30, (40, 60, 3)) + np.array(color)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _framed(seed: int) -> Image.Image:
    image = _noise(seed)
    image.paste((200, 40, 40), (0, 0, 20, 40))
    return image


def _arrow(seed: int) -> Image.Image:
    image = _noise(seed, (60, 60, 60)).crop((0, 0, 24, 24))
    ImageDraw.Draw(image).line((3, 12, 20, 12), fill=(250, 250, 250), width=2)
    return image


def _hue(seed: int) -> Image.Image:
    """The same shape in another color of the same gray."""
    image = Image.new("RGB", (64, 64), "white")
    color = ((255, 0, 0), (0, 130, 0), (60, 60, 255))[seed % 3]
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill=color)
    return image


@pytest.mark.parametrize(("make", "count"), [(_noise, 60), (_framed, 60), (_arrow, 60), (_hue, 3), (textured, 200)])
def test_what_only_looks_alike_is_not_found(make: Callable[[int], Image.Image], count: int) -> None:
    assert near_pairs(*smalls([make(i) for i in range(count)])).tolist() == []


@pytest.mark.parametrize("images", [[], [textured(0)], [Image.new("RGB", (40, 40))] * 50])
def test_there_may_be_nothing_to_compare(images: list[Image.Image]) -> None:
    gray, color = smalls(images) if images else (np.empty((0, 32, 32), np.uint8), np.empty((0, 16, 16, 3), np.uint8))
    assert near_pairs(gray, color).shape == (0, 2)


def test_many_of_one_kind_stay_bounded() -> None:
    gray, color = smalls([_arrow(i) for i in range(40)])
    many = np.tile(gray, (50, 1, 1)), np.tile(color, (50, 1, 1, 1))  # every hash 50 times
    assert 2000 - 40 <= len(near_pairs(*many)) <= 2 * 2000


def test_pairs_become_groups() -> None:
    assert joined(np.array([[5, 1], [1, 3], [7, 8], [3, 5], [9, 2]])) == [[1, 3, 5], [2, 9], [7, 8]]


@pytest.mark.skipif("IMGCLS_DATA" not in os.environ, reason="needs the real MNIST and CIFAR-10")
@pytest.mark.parametrize("read", [mnist, cifar10])
def test_of_real_pictures_few_are_called_near_duplicates(read: Callable[..., object]) -> None:
    source = read(root=os.environ["IMGCLS_DATA"], download=False)
    pixels: NDArray[np.uint8] = source.train.pixels[:2000]  # type: ignore[attr-defined]
    pairs = near_pairs(*smalls([Image.fromarray(one.squeeze()) for one in pixels]))
    assert len(np.unique(pairs)) <= 0.005 * 2000


def test_each_file_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from imgcls.data.inspection.pictures import look_at
    from tests.conftest import imagefolder

    for i in range(6):
        Path(f"set/{'ab'[i % 2]}").mkdir(parents=True, exist_ok=True)
        textured(i).save(f"set/{'ab'[i % 2]}/{i}.{('png', 'jpg')[i // 3]}")
    source = imagefolder(root="set")
    opened: list[str] = []
    whole = Image.open

    def noted(path: str, **options: object) -> Image.Image:
        opened.append(os.path.basename(str(path)))
        return whole(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", noted)
    found = look_at(source)
    assert sorted(opened) == ["0.png", "1.png", "2.png", "3.jpg", "4.jpg", "5.jpg"]
    assert [(one.width, one.height) for one in found.facts] == [(200, 150)] * 6
    assert {one.size for one in found.facts} == {os.path.getsize(path) for path in source.train.paths or ()}
