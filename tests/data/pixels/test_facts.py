"""What a file tells about itself, whatever it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgcls.data.pixels.facts import picture_facts
from imgcls.errors import DataError

H, W = 6, 9


def noise(channels: int = 3, low: int = 0, high: int = 256) -> Image.Image:
    whole = np.random.default_rng(0).integers(low, high, (H, W, channels), dtype=np.uint8)
    return Image.fromarray(whole[..., 0] if channels == 1 else whole)


def logo(color: int) -> Image.Image:
    """A square of that gray on transparent pixels of the same gray."""
    rgba = np.full((H, W, 4), color, np.uint8)
    rgba[..., 3] = 0
    rgba[2:4, 2:4, 3] = 255
    return Image.fromarray(rgba)


def deep(kind: type[Any], low: float, high: float) -> Image.Image:
    return Image.fromarray(np.linspace(low, high, H * W).reshape(H, W).astype(kind))


CASES: dict[str, tuple[Callable[[], Image.Image], str, dict[str, Any]]] = {
    "color": (noise, "png", {"mode": "RGB", "bits": 8, "has_alpha": False, "one_color_on_white": False}),
    "labels": (lambda: noise(1, 0, 10), "png", {"mode": "L", "low": 0, "high": 9}),
    "white logo": (
        lambda: logo(255), "png", {"has_alpha": True, "one_color_on_white": True, "one_color_on_black": False}
    ),
    "black logo": (lambda: logo(0), "webp", {"one_color_on_white": False, "one_color_on_black": True}),
    "nothing": (
        lambda: Image.new("RGBA", (W, H)), "png", {"one_color_on_white": True, "one_color_on_black": True}
    ),
    "a white page": (lambda: Image.new("L", (W, H), 255), "jpg", {"one_color_on_white": True, "high": 255}),
    "12 bits": (lambda: deep(np.uint16, 1900, 2100), "png", {"bits": 16, "low": 1900, "high": 2100}),
    "one value of 16 bits": (
        lambda: deep(np.uint16, 700, 700), "tiff", {"one_color_on_white": True, "one_color_on_black": True}
    ),
    "int32": (lambda: deep(np.int32, -5, 70_000), "tiff", {"bits": 32, "low": -5, "high": 70_000}),
    "float": (
        lambda: deep(np.float32, -0.5, 1.5), "tiff",
        {"mode": "F", "bits": 32, "low": -0.5, "high": 1.5, "one_color_on_white": False},
    ),
    "palette": (lambda: noise().convert("P"), "gif", {"mode": "P", "bits": 8, "has_more": False}),
}  # fmt: skip


def saved(image: Image.Image, suffix: str, **more: Any) -> str:
    image.save(f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}), **more)
    return f"a.{suffix}"


@pytest.mark.parametrize("name", CASES)
def test_a_picture_says_what_it_is(name: str) -> None:
    make, suffix, expected = CASES[name]
    found = picture_facts(saved(make(), suffix))
    assert (found.height, found.width, found.orientation) == (H, W, 1)
    assert {key: getattr(found, key) for key in expected} == expected


@pytest.mark.parametrize("suffix", ["png", "gif", "webp", "tiff"])
def test_further_frames_are_seen(suffix: str) -> None:
    frames = [Image.new("RGB", (W, H), color) for color in ("red", "blue")]
    assert picture_facts(saved(frames[0], suffix, save_all=True, append_images=frames[1:])).has_more


def test_a_turned_picture_has_its_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "png", "webp", "tiff"):
        found = picture_facts(saved(noise(), suffix, exif=exif))
        assert (found.height, found.width, found.orientation) == (W, H, 6)


def test_what_cannot_be_read_is_refused() -> None:
    with open("a.png", "w") as file:
        file.write("text")
    with pytest.raises(DataError, match=r"not a readable image: a\.png"):
        picture_facts("a.png")
