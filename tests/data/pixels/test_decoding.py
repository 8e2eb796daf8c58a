"""One path from a file to pixels: every mode that people have, upright, to scale, never silently wrong."""

from __future__ import annotations

import io
import logging
import os
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from imgcls.data.pixels import conversion
from imgcls.data.pixels.decoding import fit_image, fit_pixels, header, load_first, load_image
from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.pixels.preprocessing import Preprocessing, statistics
from imgcls.data.pixels.view import View
from imgcls.errors import DataError

Bytes = NDArray[np.uint8]
HEIGHT, WIDTH = 6, 9


def picture(channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> Bytes:
    whole = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return whole[..., 0] if channels == 1 else whole


def save(image: Image.Image | Bytes, name: str, **options: Any) -> str:
    made = image if isinstance(image, Image.Image) else Image.fromarray(image)
    made.save(name, **options)
    return name


def load(path: str, channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> Bytes:
    return load_image(path, View(channels, height, width, scaled_decoding=True))


def on_white(color: Bytes, alpha: Bytes) -> NDArray[np.float64]:
    share = alpha[..., None] / 255
    return color * share + 255 * (1 - share)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_rgb_is_kept_to_the_bit(suffix: str) -> None:
    rgb = picture()
    options = {"lossless": True} if suffix == "webp" else {}
    assert np.array_equal(load(save(rgb, f"a.{suffix}", **options)), rgb)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "pgm"])
def test_gray_stays_gray_and_becomes_three_equal_channels(suffix: str) -> None:
    gray = picture(1)
    path = save(gray, f"a.{suffix}")
    assert np.array_equal(load(path, 1)[..., 0], gray)
    assert np.array_equal(load(path, 3), np.repeat(gray[..., None], 3, axis=2))


def test_color_for_a_gray_model_is_its_luma() -> None:
    rgb = picture()
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(load(save(rgb, "a.png"), 1)[..., 0] - luma).max() <= 1


def test_rgba_is_composited_onto_white() -> None:
    rgba = picture(4)
    assert np.abs(load(save(rgba, "a.png")) - on_white(rgba[..., :3], rgba[..., 3])).max() <= 1


def test_gray_with_alpha_is_composited_onto_white() -> None:
    both = picture(2)
    expected = on_white(both[..., :1], both[..., 1])
    assert np.abs(load(save(both, "a.png"), 1) - expected).max() <= 1


def test_a_palette_is_looked_up_and_its_transparent_color_is_white() -> None:
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([255, 0, 0, 0, 200, 0])
    image.putpixel((0, 0), 0)
    opaque = load(save(image, "a.png"))
    assert opaque[0, 0].tolist() == [255, 0, 0]
    assert opaque[1, 1].tolist() == [0, 200, 0]
    assert load(save(image, "b.png", transparency=1))[1, 1].tolist() == [255, 255, 255]
    assert load(save(image, "c.png", transparency=bytes([255, 128])))[1, 1].tolist() == [127, 227, 127]
    assert load(save(image, "d.gif"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7)), ("1", 0)])
def test_a_transparent_color_without_an_alpha_channel_is_white(mode: str, key: Any) -> None:
    path = save(Image.new(mode, (WIDTH, HEIGHT), key), "a.png", transparency=key)
    assert load(path).min() == 255


def test_one_bit_is_black_and_white() -> None:
    bits = picture(1) > 127
    assert np.array_equal(load(save(Image.fromarray(bits), "a.png"), 1)[..., 0], bits * np.uint8(255))


def test_a_cmyk_jpeg_keeps_its_color() -> None:
    path = save(Image.new("CMYK", (WIDTH, HEIGHT), (255, 0, 0, 0)), "a.jpg", quality=100)
    assert np.abs(load(path)[0, 0].astype(int) - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled_not_saturated(suffix: str) -> None:
    deep = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 1200).reshape(HEIGHT, WIDTH)
    gray = load(save(Image.fromarray(deep), f"a.{suffix}"), 1)[..., 0]
    assert np.array_equal(gray, np.rint(deep / 257).astype(np.uint8))


def test_16_bits_of_8_bit_values_come_back_exactly() -> None:
    gray = picture(1)
    assert np.array_equal(load(save(Image.fromarray(gray.astype(np.uint16) * 257), "a.png"), 1)[..., 0], gray)


def test_a_transparent_value_of_16_bits_is_white() -> None:
    deep = np.zeros((HEIGHT, WIDTH), np.uint16)
    deep[0] = 1000
    path = save(Image.fromarray(deep), "a.png", transparency=1000)
    assert load(path, 1)[..., 0].tolist() == [[255] * WIDTH] + [[0] * WIDTH] * (HEIGHT - 1)


def palette(**options: Any) -> Image.Image:
    image = Image.fromarray(picture(1) % 4).convert("P")
    image.putpalette(bytes(range(100, 112)))
    image.info.update(options)
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(picture(4)), Image.fromarray(picture(2)), palette(transparency=1),
        palette(transparency=bytes([0, 60, 200, 255])), Image.fromarray(picture(1).astype(np.uint16) * 251),
        Image.fromarray(picture(1).astype(np.int32) * 251),
        Image.frombytes("I;16B", (WIDTH, HEIGHT), picture(2).tobytes()),
    ],
    ids=["RGBA", "LA", "P", "P+tRNS", "I;16", "I", "I;16B"],
)  # fmt: skip
def test_strips_equal_the_whole(image: Image.Image, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_image(image, View(channels, HEIGHT, WIDTH))
    for strip in (1, 2 * WIDTH, 4 * WIDTH):
        monkeypatch.setattr(conversion, "STRIP", strip)
        assert np.array_equal(fit_image(image, View(channels, HEIGHT, WIDTH)), whole)
    assert len(np.unique(whole)) > 3


def test_a_16_bit_image_does_not_take_8_bytes_a_pixel() -> None:
    path = save(Image.new("I;16", (2000, 2000), 5), "a.png")
    load(path)
    tracemalloc.start()  # numpy's arrays, not Pillow's images
    load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2000 * 2000


def test_pixels_without_a_defined_range_are_refused() -> None:
    flat = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    with pytest.raises(DataError, match=r"a\.tiff \(floating-point pixels have no defined range"):
        load(save(Image.fromarray(flat), "a.tiff"))
    for value in (-1, 70_000):
        with pytest.raises(DataError, match=r"b\.tiff \(32-bit pixels have no defined range"):
            load(save(Image.fromarray(np.full((HEIGHT, WIDTH), value, np.int32)), "b.tiff"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(orientation: int, suffix: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # white in the upper left corner only
    undo = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(np.ascontiguousarray(undo(upright)), f"a.{suffix}", exif=exif, quality=100)
    assert header(path)[:2] == (16, 32)
    assert np.abs(load(path, 3, 16, 32).astype(int) - upright).max() < 40


def test_a_rotated_jpeg_is_not_decoded_smaller_than_needed() -> None:
    fine = np.zeros((400, 2000, 3), np.uint8)
    fine[::2] = 255  # stripes of one pixel, which upright stand side by side
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = load(save(fine, "a.jpg", exif=exif, quality=95, subsampling=0), 3, 160, 400)
    assert upright.std() > 100  # decoded at 1/8, as 40x100 asked of 400x2000 would allow, it is all gray


@pytest.mark.parametrize("size", [(6, 9), (3, 5), (50, 70), (100, 140), (101, 140), (13, 100), (300, 20)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_equals_pillows_result_step_by_step(mode: str, size: tuple[int, int]) -> None:
    rows, columns = np.mgrid[:200, :280]
    fine = np.stack([rows, columns, rows * columns % 256], -1).astype(np.uint8)
    path = save(Image.fromarray(fine).convert(mode), "a.jpg", quality=90)
    for channels, wanted in ((1, "L"), (3, "RGB")):
        image = Image.open(path)
        image.draft(None, size[::-1])
        upright = ImageOps.exif_transpose(image)
        plain = upright if mode == "L" else upright.convert("RGB")
        expected = ImageOps.fit(plain.convert(wanted), size[::-1], method=Image.Resampling.BILINEAR)
        assert np.array_equal(load(path, channels, *size).squeeze(), np.asarray(expected))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_the_first_frame_of_an_animation_is_taken(suffix: str) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("red", "blue")]
    path = save(frames[0], f"a.{suffix}", lossless=True)
    assert not load_first(path, View(3, HEIGHT, WIDTH))[1]
    save(frames[0], path, save_all=True, append_images=frames[1:], lossless=True)
    assert load_first(path, View(3, HEIGHT, WIDTH))[1]
    if suffix == "gif":
        Path(path).write_bytes(Path(path).read_bytes()[:-15])  # others may be damaged
    assert load(path)[0, 0].tolist() == [255, 0, 0]


def test_the_content_matters_not_the_suffix() -> None:
    rgb = picture()
    assert np.array_equal(load(save(rgb, "a.jpg", format="PNG")), rgb)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 60_000), (33, 7), (2000, 3)])
def test_any_shape_covers_the_wanted_size(height: int, width: int) -> None:
    path = save(np.full((height, width, 3), 77, np.uint8), "a.png")
    image = load(path, 3, 10, 20)
    assert image.shape == (10, 20, 3)
    assert (image == 77).all()


def test_the_shorter_side_scaled_decoding_and_the_center_kept() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    assert (load(save(wide, "a.png"), 3, 10, 10)[:, 1:-1] == 200).all()


def big(name: str) -> str:
    content = io.BytesIO()
    Image.new("1", (20_000, 5_000)).save(content, "PNG")
    Path(name).write_bytes(content.getvalue())
    return name


def test_more_than_64_million_pixels_are_refused_before_they_are_decoded() -> None:
    path = big("a.png")
    with quiet_decoders(), pytest.raises(DataError, match=r"a\.png \(20000x5000 pixels are more than 64,000,000\)"):
        load(path)


def test_more_than_512_mib_are_refused_before_they_are_read() -> None:
    with open("a.png", "wb") as file:
        file.truncate(2**29 + 1)
    for read in (load, header):
        with pytest.raises(DataError, match=r"a\.png \(536,870,913 bytes are more than 536,870,912\)"):
            read("a.png")


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a.ppm", b"P6 2000 2000 100 "), ("a.pgm", b"P5 2000 2000 1000 "), ("b.ppm", b"P3 2000 2000 255 "),
        ("a.bmp", b"BM" + struct.pack("<IIIIiiHHI5I", 5000, 0, 1078, 40, 2000, 2000, 1, 8, 1, 9, 0, 0, 256, 256)),
    ],
    ids=["maxval", "deep", "text", "RLE"],
)  # fmt: skip
def test_large_files_in_slow_formats_are_refused(name: str, start: bytes) -> None:
    Path(name).write_bytes(start + bytes(5000))
    with pytest.raises(DataError, match=r"2000x2000 pixels are too slow .* \(above 3,000,000\); save it as PNG"):
        load(name)
    save(np.zeros((2000, 2000, 3), np.uint8), "c.ppm")
    assert load("c.ppm").max() == 0  # the usual kind is not


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, data) of each."""
    found, at = [], 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def test_every_pixel_chunk_of_a_png_must_have_its_checksum() -> None:
    rgb = picture(3, 64, 64)
    path = save(rgb, "a.png")
    head, (_, data), end = chunks(Path(path).read_bytes())
    parts = [head, *((b"IDAT", data[at : at + 5000]) for at in range(0, len(data), 5000)), (b"IDAT", b""), end]
    for wrong in range(len(parts) - 1):
        sums = [zlib.crc32(kind + data) ^ (i == wrong > 0) for i, (kind, data) in enumerate(parts)]
        whole = [struct.pack(">I4s", len(data), kind) + data for kind, data in parts]
        rest = b"".join(chunk + total.to_bytes(4, "big") for chunk, total in zip(whole, sums, strict=True))
        Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + rest)
        if wrong == 0:
            assert np.array_equal(load(path, 3, 64, 64), rgb)
        else:
            with pytest.raises(DataError, match=r"not a readable image: a\.png \(damaged: the checksum"):
                load(path)


def broken_files() -> dict[str, bytes]:
    whole = io.BytesIO()
    Image.fromarray(picture(3, 64, 64)).save(whole, "PNG")
    png = whole.getvalue()
    jpeg = io.BytesIO()
    Image.fromarray(picture(3, 64, 64)).save(jpeg, "JPEG")
    return {
        "empty.png": b"",
        "text.jpg": b"hello",
        "page.png": b"<html><body>404</body></html>",
        "half.png": png[: len(png) // 2],
        "half.jpg": jpeg.getvalue()[: len(jpeg.getvalue()) // 2],
        "crc.png": png[:60] + bytes([png[60] ^ 255]) + png[61:],
        "drawing.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    }


@pytest.mark.parametrize("name", broken_files())
def test_a_file_that_is_not_an_image_is_named_in_one_line(name: str) -> None:
    Path(name).write_bytes(broken_files()[name])
    with pytest.raises(DataError, match=f"not a readable image: {name}") as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo("pipe.png")
    os.mkdir("folder.png")
    for path in ("pipe.png", "folder.png", "/dev/zero"):
        for read in (load, header):
            with pytest.raises(DataError, match="not a regular file"):
                read(path)
    with pytest.raises(DataError, match=r"no such file: gone\.png"):
        load("gone.png")


@pytest.mark.parametrize(
    ("mode", "is_gray"),
    [("L", True), ("1", True), ("LA", True), ("I;16", True), ("RGB", False), ("RGBA", False), ("P", False)],
)
def test_the_header_says_size_and_whether_it_is_gray(mode: str, is_gray: bool) -> None:
    assert header(save(Image.new(mode, (5, 3)), "a.png")) == (3, 5, is_gray)


def test_the_header_of_a_png_is_read_without_decoding_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(picture(), "a.png")

    def load(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert header(path) == (HEIGHT, WIDTH, False)


def test_out_of_memory_is_not_reported_as_a_corrupt_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    path = save(picture(), "a.png")
    monkeypatch.setattr(conversion, "_flatten", fail)
    with pytest.raises(MemoryError):
        load(path)


def test_decoders_are_quiet_only_inside(caplog: pytest.LogCaptureFixture) -> None:
    path = big("a.png")
    logger = logging.getLogger("PIL.TiffImagePlugin")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet_decoders():
            Image.open(path).close()
            logger.error("odd")
        assert seen == caplog.messages == []
        Image.open(path).close()
        logger.error("odd")
        assert len(seen) == len(caplog.messages) == 1


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (4, 4), (13, 5)])
def test_arrays_are_fitted_as_files_are(stored: int, channels: int, size: tuple[int, int]) -> None:
    image = picture(stored)
    whole = image.reshape(1, HEIGHT, WIDTH, stored)
    from_file = load_image(save(image, "a.png"), View(channels, *size))
    assert np.array_equal(fit_pixels(whole, View(channels, *size))[0], from_file)
    assert np.array_equal(fit_image(Image.fromarray(image), View(channels, *size)), from_file)


def test_arrays_that_fit_are_not_copied() -> None:
    whole = picture()[None]
    assert fit_pixels(whole, View(3, HEIGHT, WIDTH)) is whole


def test_arrays_of_other_channels_are_refused_unless_they_fit() -> None:
    seven = np.zeros((2, 4, 4, 7), np.uint8)
    assert fit_pixels(seven, View(7, 4, 4)) is seven
    with pytest.raises(ValueError, match=r"shape \(4, 4, 7\) is not an image"):
        fit_pixels(seven, View(3, 4, 4))
    with pytest.raises(ValueError, match="cannot be converted to 7 channels"):
        fit_pixels(seven[..., :3], View(7, 4, 4))


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 5, 3), (3, 4, 7), (2, 3, 3)])
def test_normalizing_subtracts_the_mean_and_divides_by_the_deviation(channels: int, height: int, width: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (70, height, width, channels), dtype=np.uint8)
    mean, std = statistics(images)
    assert np.allclose(mean, images.mean((0, 1, 2)) / 255, atol=1e-12)
    assert np.allclose(std, images.std((0, 1, 2)) / 255, atol=1e-12)
    normalize = Preprocessing(channels, height, width, mean, std).normalizer(torch.device("cpu"))
    given = torch.from_numpy(images)
    out = normalize(given)
    slow = (images / 255 - np.array(mean)) / np.array(std)
    assert out.shape == (70, channels, height, width)
    assert np.abs(out.permute(0, 2, 3, 1).numpy() - slow).max() < 1e-5
    assert np.array_equal(given.numpy(), images)  # the input is left alone
    assert np.array_equal(normalize.inverse(out), images)


def test_a_constant_channel_gets_deviation_1() -> None:
    assert statistics(np.full((3, 2, 2, 1), 51, np.uint8)) == (pytest.approx((0.2,)), (1.0,))


def test_statistics_do_not_depend_on_the_order_of_the_images() -> None:
    images = np.random.default_rng(2).integers(0, 256, (130, 3, 3, 3), dtype=np.uint8)
    assert statistics(images) == statistics(images[::-1])
