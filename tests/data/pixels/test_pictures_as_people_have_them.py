"""Pictures that viewers show, cameras of other depths, disks that fail: read the same way everywhere, and said."""

from __future__ import annotations

import errno
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from imgcls.data.datasets.folders.checks import reason
from imgcls.data.mirroring import telling
from imgcls.data.pixels import opening
from imgcls.data.pixels.decoding import header, load_image
from imgcls.data.pixels.depth import Used, line_for, rendering_for
from imgcls.data.pixels.exif import from_exif
from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.data.pixels.rendering import PLAIN, Rendering, background_of, depth_of
from imgcls.data.pixels.survey import decode_sample, findings_of
from imgcls.data.pixels.view import View
from imgcls.errors import DataError, ReadingFailed

H, W = 12, 20
WHITE = (255, 255, 255)


def corner() -> Image.Image:
    """Black, with a white upper left corner."""
    upright = np.zeros((H, W, 3), np.uint8)
    upright[: H // 2, : W // 2] = 255
    return Image.fromarray(upright)


# --- orientation -----------------------------------------------------------------------------------------------------

ODD_TAGS: dict[str, Callable[[str], bytes]] = {
    "resolution as text": lambda order: struct.pack(order + "HHI", 0x011A, 2, 3) + b"72\0\0",
    "an offset beyond the end": lambda order: struct.pack(order + "HHII", 0x011A, 5, 1, 2**31),
    "an unknown type": lambda order: struct.pack(order + "HHII", 0x9003, 77, 5, 8),
    "a huge count": lambda order: struct.pack(order + "HHII", 0x927C, 7, 2**32 - 1, 8),
}


def exif_block(order: str, odd: bytes) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    turned = struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0)
    return mark + struct.pack(order + "IH", 8, 2) + turned + odd + bytes(4)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("odd", ODD_TAGS)
def test_a_malformed_tag_beside_the_orientation_does_not_matter(odd: str, order: str, suffix: str) -> None:
    block = b"Exif\0\0" + exif_block(order, ODD_TAGS[odd](order))
    stored = corner().transpose(Image.Transpose.ROTATE_90)
    stored.save(f"a.{suffix}", exif=block, quality=100)
    with quiet_decoders():
        assert header(f"a.{suffix}")[:2] == (H, W)
        found = load_image(f"a.{suffix}", View(3, H, W))
        assert reason(f"a.{suffix}") == ""
    assert np.abs(found.astype(int) - np.asarray(corner())).max() < 60


@pytest.mark.parametrize("data", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"x" * 99])
def test_a_block_of_nonsense_says_nothing(data: bytes) -> None:
    assert from_exif(data) is None


# --- PNG -------------------------------------------------------------------------------------------------------------


def with_chunk(kind: bytes, data: bytes, *, is_last: bool = False, bad_sum: bool = False) -> None:
    content = io.BytesIO()
    corner().save(content, "PNG")
    png = content.getvalue()
    at = len(png) - 12 if is_last else 33
    chunk = struct.pack(">I4s", len(data), kind) + data
    chunk += (zlib.crc32(kind + data) ^ bad_sum).to_bytes(4, "big")
    Path("a.png").write_bytes(png[:at] + chunk + png[at:])


BOMB = zlib.compress(bytes(3_000_000))
CHUNKS = {
    "text": (b"zTXt", b"workflow\0\0" + BOMB, {}),
    "text at the end": (b"zTXt", b"workflow\0\0" + BOMB, {"is_last": True}),
    "international text": (b"iTXt", b"workflow\0\1\0\0\0" + BOMB, {}),
    "color profile": (b"iCCP", b"icc\0\0" + BOMB, {}),
    "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB, {}),
    "an unknown method": (b"iCCP", b"icc\0\7" + BOMB, {}),
    "a wrong checksum": (b"tEXt", b"Comment\0hello", {"bad_sum": True}),
    "a short chunk": (b"pHYs", b"\0", {}),
    "much plain text": (b"tEXt", b"workflow\0" + b"x" * 2_000_000, {}),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_png_is_read_whatever_its_texts_and_profiles_hold(name: str) -> None:
    kind, data, more = CHUNKS[name]
    with_chunk(kind, data, **more)
    assert header("a.png")[:2] == (H, W)
    assert np.array_equal(load_image("a.png", View(3, H, W)), np.asarray(corner()))


def test_a_large_png_keeps_its_orientation() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 1_300_000)
    exif = Image.Exif()
    exif[0x0112] = 6
    corner().transpose(Image.Transpose.ROTATE_90).save("a.png", pnginfo=info, exif=exif)
    assert np.array_equal(load_image("a.png", View(3, H, W)), np.asarray(corner()))


# --- depth -----------------------------------------------------------------------------------------------------------

DEPTHS: dict[str, tuple[type[Any], float, float, str, tuple[float, float] | None]] = {
    "all of 16 bits": (np.uint16, 0, 65_535, "png", None),
    "12 bits": (np.uint16, 0, 4000, "png", (0, 4095)),
    "a thermal camera": (np.uint16, 29_000, 30_000, "png", (28_950, 30_050)),
    "8 bits in 16": (np.uint16, 0, 255, "tiff", (0, 255)),
    "int32": (np.int32, -1000, 1000, "tiff", (-1100, 1100)),
    "float from 0 to 1": (np.float32, 0, 1, "tiff", (0, 1)),
    "degrees": (np.float32, 36, 38, "tiff", (35.9, 38.1)),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_the_training_pictures_give_the_range(name: str) -> None:
    kind, low, high, suffix, expected = DEPTHS[name]
    values = np.linspace(low, high, H * W).reshape(H, W)
    Image.fromarray(values.astype(kind)).save(f"a.{suffix}")
    rendering, findings = rendering_for([f"a.{suffix}"], WHITE, "auto", 1)
    assert rendering.depth == (None if expected is None else pytest.approx(expected, rel=1e-3))
    assert bool(findings) is (expected is not None)
    found = load_image(f"a.{suffix}", View(1, H, W, rendering))
    assert int(found.max()) - int(found.min()) > 200
    assert (np.diff(found.ravel().astype(int)) >= 0).all()


def test_hot_and_dead_pixels_do_not_count() -> None:
    values = np.linspace(1000, 1200, 200 * 200).reshape(200, 200).astype(np.uint16)
    values[0, 0], values[0, 1] = 0, 65_535
    Image.fromarray(values).save("a.png")
    depth = rendering_for(["a.png"], WHITE, "auto", 1)[0].depth
    assert depth is not None
    assert 900 < depth[0] < 1000 < 1200 < depth[1] < 1300


def test_depth_full_says_what_it_costs() -> None:
    Image.fromarray(np.linspace(0, 4000, H * W).reshape(H, W).astype(np.uint16)).save("a.png")
    rendering, (finding,) = rendering_for(["a.png"], WHITE, "full", 1)
    assert (rendering, finding.kind, finding.severity) == (PLAIN, "narrow_range", "warning")


def test_pictures_of_8_bits_are_not_decoded_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    corner().save("a.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert rendering_for(["a.png"], WHITE, "auto", 1) == (PLAIN, ())


def test_a_range_that_is_hardly_used_is_not_customary() -> None:
    assert line_for(Used(2000, 2100, 16, is_real=False)) == (1995, 2105)
    assert line_for(Used(7, 7, 16, is_real=False)) == (0, 255)


def test_a_named_range_stretches_8_bits_too_but_not_transparency() -> None:
    labels = np.arange(H * W).reshape(H, W) % 10
    Image.fromarray(labels.astype(np.uint8)).save("a.png")
    rendering, _ = rendering_for(["a.png"], WHITE, (0.0, 9.0), 1)
    assert np.array_equal(load_image("a.png", View(1, H, W, rendering))[..., 0], np.rint(labels * 255 / 9))
    rgba = np.dstack([labels, labels, labels, np.full_like(labels, 255)]).astype(np.uint8)
    Image.fromarray(rgba).save("b.png")
    assert np.array_equal(load_image("b.png", View(3, H, W, rendering))[..., 0], np.rint(labels * 255 / 9))


@pytest.mark.parametrize("value", ["red", [1, 2], [0, 0, 256], [True, 0, 0], 7, None])
def test_other_backgrounds_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"dataset\.background: expected white, black or"):
        background_of(value)


@pytest.mark.parametrize("value", ["all", [5, 2], [1], [0, float("nan")], [0, "x"], 7, None])
def test_other_depths_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"dataset\.depth: expected auto, full or"):
        depth_of(value)


def test_a_checkpoint_without_the_keys_means_white_and_16_bits() -> None:
    assert Rendering.from_dict({}) == PLAIN
    other = Rendering((1, 2, 3), (0.5, 9.0), has_8_bits=True)
    assert Rendering.from_dict(other.as_dict()) == other


# --- background, crop, frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_transparent_pixels_get_the_background(mode: str) -> None:
    if mode == "I;16":
        Image.fromarray(np.full((H, W), 700, np.uint16)).save("a.png", transparency=700)
    elif mode == "P":
        Image.new("P", (W, H), 0).save("a.png", transparency=0)
    else:
        Image.new(mode, (W, H)).save("a.png")
    assert load_image("a.png", View(3, H, W, Rendering((10, 20, 30))))[0, 0].tolist() == [10, 20, 30]
    assert load_image("a.png", View(3, H, W))[0, 0].tolist() == [255, 255, 255]


def logo(color: int) -> Image.Image:
    rgba = np.full((H, W, 4), color, np.uint8)
    rgba[..., 3] = 0
    rgba[3:8, 3:8, 3] = 255
    return Image.fromarray(rgba)


def frames(name: str) -> None:
    made = [Image.fromarray(np.asarray(corner()) // part) for part in (1, 2)]
    made[0].save(name, save_all=True, append_images=made[1:], lossless=True)


SEEN: dict[str, tuple[Callable[[], Image.Image | None], Rendering, str, str, str]] = {
    "white logos": (lambda: logo(255), PLAIN, "one_color", "warning", "dataset.background=black"),
    "black logos": (lambda: logo(0), Rendering((0, 0, 0)), "one_color", "warning", "dataset.background=white"),
    "nothing": (lambda: Image.new("RGBA", (W, H)), PLAIN, "one_color", "warning", "transparent everywhere"),
    "a gray page": (lambda: Image.new("L", (W, H), 99), PLAIN, "one_color", "warning", "look at them"),
    "labels": (
        lambda: Image.fromarray((np.arange(H * W) % 10).reshape(H, W).astype(np.uint8)),
        PLAIN, "narrow_range", "warning", "dataset.depth=[0,9]",
    ),
    "a wide picture": (lambda: corner().resize((100, 20)), PLAIN, "cropped", "warning", "dataset.fit=pad"),
    "a tall picture": (lambda: corner().resize((20, 100)), PLAIN, "cropped", "warning", "dataset.fit=pad"),
    "a photo": (lambda: corner().resize((100, 60)), PLAIN, "cropped", "note", "dataset.fit=pad"),
    "a square": (lambda: corner().resize((20, 20)), PLAIN, "", "", ""),
    "GIF": (lambda: frames("a.gif"), PLAIN, "frames", "note", ""),
    "WebP": (lambda: frames("a.webp"), PLAIN, "frames", "note", ""),
    "TIFF": (lambda: frames("a.tiff"), PLAIN, "frames", "note", ""),
    "APNG": (lambda: frames("a.png"), PLAIN, "frames", "note", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_a_run_says_what_its_pictures_lose(name: str) -> None:
    make, rendering, kind, severity, advice = SEEN[name]
    image = make()
    path = "a.png" if image is not None else str(next(iter(Path().glob("a.*"))))
    if image is not None:
        image.save(path)
    size = (20, 20) if kind in ("cropped", "") else (H, W)
    preprocessing = Preprocessing(3, *size, (0.0,) * 3, (1.0,) * 3, rendering)
    pixels, seen = decode_sample([path], preprocessing, 1)
    found = findings_of([path], pixels, seen, preprocessing.view, total=1)
    assert [(one.kind, one.severity, one.count) for one in found] == ([(kind, severity, 1)] if kind else [])
    assert all(advice in one.line and one.examples == (path,) for one in found)


# --- disks that fail -------------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> list[int]:
    """Reading fails that often; returns what counts the tries."""
    tries: list[int] = []
    opened = Image.open

    def fail(*args: Any, **more: Any) -> Any:
        tries.append(number)
        if len(tries) <= times:
            raise OSError(number, "it fails", "a.png")
        return opened(*args, **more)

    monkeypatch.setattr(Image, "open", fail)
    monkeypatch.setattr(opening.time, "sleep", lambda seconds: None)
    return tries


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES, errno.ETIMEDOUT])
def test_a_file_that_fails_once_is_read(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    corner().save("a.png")
    failing(monkeypatch, number, 1)
    assert reason("a.png") == ""
    assert np.array_equal(load_image("a.png", View(3, H, W)), np.asarray(corner()))


@pytest.mark.parametrize(("number", "most"), [(errno.EIO, 4), (errno.ESTALE, 4), (errno.EMFILE, 4), (errno.EACCES, 2)])
def test_a_file_that_always_fails_is_not_corrupt(number: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    corner().save("a.png")
    for read in (lambda: load_image("a.png", View(3, H, W)), lambda: header("a.png"), lambda: reason("a.png")):
        with monkeypatch.context() as patch:
            tries = failing(patch, number, 99)
            with pytest.raises(ReadingFailed, match=r"cannot read a\.png: it fails") as caught:
                read()
            assert len(tries) == most
        assert not isinstance(caught.value, DataError)
        assert caught.value.exit_code == 1


# --- names that mirroring confuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        (("left", "right"), 2), (("turn_left", "straight", "turn_right"), 2), (("Left", "Right"), 2), (("b", "d"), 2),
        (("p", "q"), 2), (("←", "→"), 2), (("links", "rechts"), 2), (tuple("0123456789"), 10),
        (tuple("abcdefghij"), 2), (tuple("ABCDEFGHIJ"), 10), (("eye L", "eye R"), 2),
        (("red", "blue"), 0), (("0", "1"), 0), (("left", "up"), 0), (("A", "B", "C", "D"), 0), (("01234",), 0),
        (tuple("01234"), 0), (("leftover", "soup"), 0), (("lion", "rion"), 0),
    ],
)  # fmt: skip
def test_names_that_mirroring_may_confuse(classes: tuple[str, ...], found: int) -> None:
    assert len(telling(classes)) == found


def test_a_dead_pixel_in_small_pictures_is_no_range(tmp_path: Path) -> None:
    from imgcls.data.pixels.depth import used_values

    rng = np.random.default_rng(0)
    paths = []
    for i in range(20):
        values = rng.integers(0, 1024, (12, 12)).astype(np.uint16)
        values[3, 3] = 65_535 if i < 2 else values[3, 3]
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(values).save(paths[-1])
    used = used_values(paths, 1)
    assert used is not None
    assert used.high < 1024
