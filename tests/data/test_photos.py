"""Photos: whole pictures kept, random resized crops, the same from memory and from files, one view for testing."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import imgcls
from imgcls.config.options import option_node
from imgcls.data.datamodule import cropped_view
from imgcls.data.fetchers import CudaCrops, Fetcher, make_fetcher
from imgcls.data.loader import BatchPlan, Loader
from imgcls.data.picture_store import store_bytes, store_of
from imgcls.data.pixels.crops import KEEP, CroppedView, RandomCrop
from imgcls.data.pixels.decoding import fit_image, fit_pixels, load_image, load_whole
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.data.pixels.rendering import Rendering
from imgcls.data.pixels.resizing import resize
from imgcls.data.pixels.view import Reduction, View, size_of
from imgcls.data.source import Images
from imgcls.data.transforms.augment import AUGMENTS, Augment

CPU = torch.device("cpu")
CROP = RandomCrop((0.08, 1.0), (3 / 4, 4 / 3))
COUNT = 24
FITS = ["crop", "pad", "squash"]
Bytes = NDArray[np.uint8]


def photo(height: int, width: int, seed: int = 0, channels: int = 3) -> Bytes:
    """Smooth, with some detail, so that resizing it twice is not resizing noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, channels), dtype=np.uint8)
    image = Image.fromarray(coarse[..., 0] if channels == 1 else coarse)
    pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    return pixels.reshape(height, width, channels)


@pytest.fixture
def paths() -> list[str]:
    """Pictures of many shapes, some larger than what is kept, some gray, some turned by their EXIF orientation."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(COUNT):
        height, width = rng.integers(30, 500, 2).tolist()
        image = Image.fromarray(photo(height, width, i))
        image = image.convert("L") if i % 5 == 0 else image
        exif = Image.Exif()
        if i % 3 == 0:
            exif[0x0112] = 6
        found.append(f"{i}.{'jpg' if i % 2 else 'png'}")
        image.save(found[-1], exif=exif, quality=90)
    return found


def prepared(fit: str = "crop", channels: int = 3, size: tuple[int, int] = (40, 52)) -> Preprocessing:
    return Preprocessing(channels, *size, (0.5,) * channels, (0.25,) * channels, fit=fit, crop_share=0.9)  # type: ignore[arg-type]


def images_of(paths: list[str]) -> Images:
    return Images(np.arange(len(paths)) % 2, paths=paths)


def served(images: Images, shape: Preprocessing, augment: Augment, *, is_resident: bool, workers: int) -> Tensor:
    crops = cropped_view(shape, augment.crop)
    fetcher = make_fetcher(images, shape, CPU, is_resident=is_resident, workers=workers, threads=2, crops=crops)
    labels = torch.from_numpy(images.labels)
    loader = Loader(fetcher, labels, augment, shape.normalizer(CPU), BatchPlan(len(images), 7, seed=3))
    return torch.cat([batch for batch, _ in loader.epoch(1)])


def augment_named(name: str, size: tuple[int, int] = (40, 52), **changed: Any) -> Augment:
    keys = {key: value for key, value in option_node("augment", name).items() if key != "name"}
    made: Augment = AUGMENTS[name](size, True, **{**keys, **changed})
    return made


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_equal_from_memory_and_from_files(paths: list[str], fit: str, channels: int) -> None:
    images, shape = images_of(paths), prepared(fit, channels)
    augment = augment_named("photo", vertical_flip=0.5, brightness=0.2)
    expected = served(images, shape, augment, is_resident=True, workers=0)
    for workers in (0, 2):
        assert torch.equal(served(images, shape, augment, is_resident=False, workers=workers), expected)
    assert expected.shape == (COUNT, channels, 40, 52)
    crops = cropped_view(shape, augment.crop)
    fetcher = make_fetcher(images, shape, CPU, is_resident=False, workers=0, threads=1, crops=crops)
    labels = torch.from_numpy(images.labels)
    loader = Loader(fetcher, labels, augment, shape.normalizer(CPU), BatchPlan(COUNT, 7, seed=3))
    # a run that resumes starts the plan in its middle
    later = torch.cat([batch for batch, _ in loader.epoch(1, start=2)])
    assert torch.equal(later, expected[-len(later) :])


def test_large_images_are_prepared_by_threads_as_small_ones_at_once(paths: list[str]) -> None:
    size = (80, 72)  # above the size from which threads take single images
    augment = augment_named("photo", size, degrees=10.0, contrast=0.3, erasing=0.5)
    shape = prepared(size=size)
    assert shape.normalizer(CPU).is_large
    images = images_of(paths)
    expected = served(images, shape, augment, is_resident=True, workers=0)
    small = Preprocessing(3, *size, (0.5,) * 3, (0.25,) * 3, fit="crop", crop_share=0.9).normalizer(CPU)
    plan, labels = BatchPlan(COUNT, 7, seed=3), torch.from_numpy(images.labels)
    crops = cropped_view(shape, augment.crop)
    fetcher = make_fetcher(images, shape, CPU, is_resident=True, workers=0, threads=2, crops=crops)
    other = Loader(fetcher, labels, augment, small, plan)
    small.is_large = False
    try:
        assert torch.equal(torch.cat([batch for batch, _ in other.epoch(1)]), expected)
    finally:
        small.is_large = True


def test_batches_in_kept_memory_are_not_overwritten_while_somebody_holds_them(paths: list[str]) -> None:
    from imgcls.runtime import kept_memory

    memory = kept_memory.KeptMemory()
    size = (kept_memory.SMALLEST // 4,)
    first = memory.empty(size, np.float32).fill_(1)
    view = first.view(-1)[5:9]
    place = first.data_ptr()
    del first
    second = memory.empty(size, np.float32).fill_(2)
    assert second.data_ptr() != place
    assert view.tolist() == [1, 1, 1, 1]
    del view
    third = memory.empty(size, np.float32)
    assert third.data_ptr() == place  # used again
    squared = (third.requires_grad_() ** 2).sum()  # autograd holds it
    del third
    assert memory.empty(size, np.float32).data_ptr() != place
    squared.backward()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(33, 21), (64, 80), (200, 260)])
def test_a_crop_is_resized_as_torch_does(channels: int, size: tuple[int, int]) -> None:
    picture, out = photo(150, 170, channels=channels), np.zeros((3, *size, channels), np.uint8)
    crop = picture[20:141, 9:120]
    resize(crop, out[1])
    planes = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None]
    expected = F.interpolate(planes, size, mode="bilinear", antialias=True)
    assert np.array_equal(out[1], expected[0].permute(1, 2, 0).numpy())
    exact = F.interpolate(planes.float(), size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    assert np.abs(out[1] - exact).max() <= 1
    assert not out[0].any()
    assert not out[2].any()


def boxes_of(count: int, sizes: NDArray[np.int32], crop: RandomCrop = CROP, seed: int = 0) -> NDArray[np.int64]:
    draws = np.random.default_rng(seed).random((count, crop.draws), dtype=np.float32)
    return crop.boxes(draws, sizes, np.ones(count))


@pytest.mark.parametrize("size", [(375, 500), (500, 120), (64, 64)])
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.35, 1.0)])
def test_boxes_follow_torchvisions(size: tuple[int, int], area: tuple[float, float]) -> None:
    from torchvision.transforms import RandomResizedCrop

    count = 3000
    own = boxes_of(count, np.tile(np.array(size, np.int32), (count, 1)), RandomCrop(area, (3 / 4, 4 / 3)))
    torch.manual_seed(0)
    whole = torch.empty(1, *size)
    theirs = np.array([RandomResizedCrop.get_params(whole, list(area), [3 / 4, 4 / 3]) for _ in range(count)])
    for column in range(4):  # Kolmogorov-Smirnov: the largest distance between the two distributions
        values = np.unique(np.concatenate([own[:, column], theirs[:, column]]))
        shares = [np.searchsorted(np.sort(one[:, column]), values, side="right") / count for one in (own, theirs)]
        assert np.abs(shares[0] - shares[1]).max() < 1.95 * (2 / count) ** 0.5, column  # p = 0.001


def test_a_box_is_the_same_alone_and_among_others() -> None:
    sizes = np.random.default_rng(1).integers(1, 600, (300, 2)).astype(np.int32)
    draws = np.random.default_rng(2).random((300, CROP.draws), dtype=np.float32)
    whole = CROP.boxes(draws, sizes, np.ones(300))
    for row in range(300):
        assert np.array_equal(CROP.boxes(draws[row : row + 1], sizes[row : row + 1], np.ones(1))[0], whole[row])
    assert (whole[:, 2:] >= 1).all()
    assert (whole[:, :2] >= 0).all()
    assert (whole[:, :2] + whole[:, 2:] <= sizes).all()


@pytest.mark.parametrize("fit", FITS)
def test_boxes_have_the_shape_of_the_image_size(fit: str) -> None:
    view = CroppedView(View(3, 30, 90, fit=fit), RandomCrop((0.2, 0.2), (1.0, 1.0)))  # type: ignore[arg-type]
    sizes = np.array([[300, 400]], np.int32)
    draws = np.random.default_rng(0).random((1, CROP.draws), dtype=np.float32)
    _, _, height, width = view.boxes(draws, sizes)[0]
    assert width / height == pytest.approx(4 / 3 if fit == "squash" else 3, rel=0.02)
    assert height * width == pytest.approx(0.2 * 300 * 400, rel=0.03)


@pytest.mark.parametrize("fit", FITS)
def test_the_gather_of_a_gpu_equals_the_resize_within_one_level(paths: list[str], fit: str) -> None:
    shape = prepared(fit)
    view = CroppedView(shape.view, CROP)
    images = images_of(paths)
    draws = np.random.default_rng(5).random((COUNT, CROP.draws), dtype=np.float32)
    plan, numbers = [np.arange(9), np.arange(9, COUNT)], [draws[:9], draws[9:]]
    own = make_fetcher(images, shape, CPU, is_resident=True, workers=0, threads=1, crops=view)
    theirs = CudaCrops(store_of(images, view, 1), view, CPU)
    for a, b in zip(own.batches(plan, numbers), theirs.batches(plan, numbers), strict=True):
        assert (a.int() - b.int()).abs().max() <= 1
    for a, b in zip(own.batches(plan), theirs.batches(plan), strict=True):
        assert (a.int() - b.int()).abs().max() <= 1


# --- whole pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [((3000, 4000), (374, 499)), ((375, 500), (375, 500)), ((200, 900), (200, 900)), ((1000, 500), (748, 374))],
)
def test_the_shorter_side_is_kept_larger_than_the_image_and_never_enlarged(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    side = round(KEEP * 224)
    assert Reduction(side, side, "crop").size(*size) == expected


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(50, 400), (400, 50), (30, 20), (90, 90), (700, 710)])
def test_a_picture_fits_into_its_room(fit: str, size: tuple[int, int]) -> None:
    Image.fromarray(photo(*size)).save("a.jpg")
    whole = load_whole("a.jpg", CroppedView(View(3, 40, 52, fit=fit), CROP))  # type: ignore[arg-type]
    reduction = Reduction(67, 87, fit)  # type: ignore[arg-type]
    assert reduction == CroppedView(View(3, 40, 52, fit=fit), CROP).reduction  # type: ignore[arg-type]
    assert whole.shape[0] * whole.shape[1] <= reduction.room(*size)
    if fit == "pad":
        assert whole.shape[1] / whole.shape[0] == pytest.approx(87 / 67, rel=0.05)
    shown = np.array(size) / np.array(whole.shape[:2])
    assert (shown >= 0.99).all() or fit == "pad"


@pytest.mark.parametrize("size", [(12, 12), (24, 30), (40, 20)])
def test_no_picture_is_written_over_its_neighbor(size: tuple[int, int]) -> None:
    """Sizes next to those at which JPEGs are decoded at a half; a PNG that says after its pixels that it is turned."""
    paths = []
    side = round(KEEP * min(size))
    for number in range(2 * side - 4, round(2.4 * side)):
        for height, width in ((number, number + 1), (number + 1, 2 * number)):
            paths.append(f"{len(paths)}.jpg")
            Image.fromarray(photo(height, width, number)).save(paths[-1])
    Image.fromarray(photo(500, 1000)).save("turned.png")
    content = Path("turned.png").read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    added = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    Path("turned.png").write_bytes(content[:-12] + added + content[-12:])
    images = images_of([*paths, "turned.png", paths[0]])
    view = CroppedView(View(3, *size, scaled_decoding=True), CROP)
    store = store_of(images, view, 1)
    assert images.paths is not None
    for row, path in enumerate(images.paths):
        assert np.array_equal(store.picture(row), load_whole(path, view)), path


def test_of_arrays_that_need_a_change_only_the_rows_taken_are_kept() -> None:
    whole = np.random.default_rng(0).integers(0, 256, (50, 90, 80, 3), dtype=np.uint8)
    images = Images(np.zeros(50, np.int64), pixels=whole).take(np.array([40, 3]))
    view = CroppedView(View(1, 20, 20), CROP)
    store = store_of(images, view, 1)
    assert store.pixels.nbytes == store_bytes(images, view) == 2 * 37 * 33


@pytest.mark.parametrize("resident", [True, False])
def test_an_epoch_may_be_over(paths: list[str], resident: bool) -> None:
    images, shape, augment = images_of(paths), prepared(), augment_named("photo")
    crops = cropped_view(shape, augment.crop)
    assert crops is not None
    made: list[Fetcher] = [
        make_fetcher(images, shape, CPU, is_resident=resident, workers=0, threads=1, crops=crops),
        CudaCrops(store_of(images, crops, 1), crops, CPU),
    ]
    for fetcher in made:
        labels = torch.from_numpy(images.labels)
        loader = Loader(fetcher, labels, augment, shape.normalizer(CPU), BatchPlan(COUNT, 7, seed=3))
        assert list(loader.epoch(0, start=len(loader))) == []


@pytest.mark.parametrize("is_balanced", [True, False])
def test_the_shares_of_the_ranks_are_the_batch_of_one_process(paths: list[str], is_balanced: bool) -> None:
    images, shape, augment = images_of(paths), prepared(), augment_named("photo")
    crops = cropped_view(shape, augment.crop)
    fetcher = make_fetcher(images, shape, CPU, is_resident=True, workers=0, threads=1, crops=crops)

    def batches(rank: int, world: int) -> list[Tensor]:
        plan = BatchPlan(COUNT, 8, seed=3, rank=rank, world=world)
        labels, normalize = torch.from_numpy(images.labels), shape.normalizer(CPU)
        return [one for one, _ in Loader(fetcher, labels, augment, normalize, plan, is_balanced=is_balanced).epoch(2)]

    for whole, *parts in zip(batches(0, 1), batches(0, 2), batches(1, 2), strict=True):
        assert torch.equal(torch.cat(parts), whole)


def test_pictures_in_memory_that_need_no_change_are_not_copied() -> None:
    whole = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)
    images = Images(np.zeros(6, np.int64), pixels=whole).take(np.array([4, 1]))
    view = CroppedView(View(3, 20, 20), CROP)
    store = store_of(images, view, 1)
    assert np.shares_memory(store.pixels, whole)
    assert np.array_equal(store.picture(0), whole[4])
    assert np.array_equal(store.picture(1), whole[1])


def test_the_memory_of_a_store_is_estimated(paths: list[str]) -> None:
    view = CroppedView(prepared().view, CROP)
    images = images_of(paths)
    assert store_bytes(images, view) == pytest.approx(store_of(images, view, 1).pixels.nbytes, rel=0.01)


# --- the view for testing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("share", [1.0, 0.875])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_a_pil_image_and_an_array_are_seen_alike(fit: str, share: float, channels: int) -> None:
    view = View(channels, 32, 48, fit=fit, crop_share=share)  # type: ignore[arg-type]
    Image.fromarray(photo(900, 1400)).save("a.jpg", quality=90)
    with Image.open("a.jpg") as image:
        from_image = fit_image(image, view)
        from_array = fit_pixels(np.asarray(image)[None], view)[0]
    assert np.array_equal(load_image("a.jpg", view), from_image)
    assert np.array_equal(from_array, from_image)
    assert from_image.shape == (32, 48, channels)


def test_what_each_fit_shows() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, :40], pixels[:, 80:] = (255, 0, 0), (0, 0, 255)  # red at the left, blue at the right
    image = Image.fromarray(pixels)
    colors = {tuple(color) for color in fit_image(image, View(3, 20, 20)).reshape(-1, 3).tolist()}
    assert not {(255, 0, 0), (0, 0, 255)} & colors  # cut off
    squashed = fit_image(image, View(3, 20, 20, fit="squash"))
    assert squashed[10, 1].tolist() == [255, 0, 0]
    assert squashed[10, 18].tolist() == [0, 0, 255]
    padded = fit_image(image, View(3, 20, 20, Rendering((9, 99, 9)), fit="pad"))
    assert padded[10, 1].tolist() == [255, 0, 0]
    assert padded[1, 10].tolist() == [9, 99, 9]
    assert fit_image(image, View(1, 20, 20, Rendering((0, 0, 0)), fit="pad"))[1, 10].tolist() == [0]


def test_the_crop_share_shows_the_middle() -> None:
    picture = photo(160, 200)
    seen = fit_pixels(picture[None], View(3, 70, 70, crop_share=0.5))[0]
    expected = Image.fromarray(picture[40:120, 60:140]).resize((70, 70), Image.Resampling.BILINEAR)
    assert np.abs(seen.astype(int) - np.asarray(expected)).max() <= 3
    assert View(3, 70, 70, crop_share=0.5).visible(160, 200) == pytest.approx(0.8 * 0.25)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), (32, (32, 32)), ([20, 30], (20, 30)), ([4096, 1], (4096, 1))]
)
def test_image_sizes(value: Any, expected: Any) -> None:
    assert size_of(value) == expected


@pytest.mark.parametrize("value", [0, 4097, "32", [1], [1, 2, 3], [1, 0], True, 3.5, [1.0, 2]])
def test_image_sizes_that_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^dataset\.image_size: "):
        size_of(value)


def test_a_checkpoint_says_how_pictures_are_seen() -> None:
    shape = Preprocessing(3, 20, 30, (0.5,) * 3, (0.2,) * 3, Rendering((1, 2, 3)), "pad", 0.9, scaled_decoding=True)
    assert Preprocessing.from_dict(shape.as_dict()) == shape
    older = {
        key: value for key, value in shape.as_dict().items() if key not in ("fit", "crop_share", "scaled_decoding")
    }
    assert Preprocessing.from_dict(older).view == View(3, 20, 30, Rendering((1, 2, 3)), scaled_decoding=True)


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_quarter_turns_and_vertical_flips() -> None:
    image = torch.from_numpy(photo(80, 80))[None]
    turns = augment_named("standard", (80, 80), padding=0, flip=0.0, quarter_turns=True)
    for quarter in range(4):
        draws = torch.full((1, turns.draws), quarter / 4 + 0.1)
        assert torch.equal(turns(image.clone(), draws), torch.rot90(image, quarter, (1, 2)))
    upside_down = augment_named("standard", (80, 80), padding=0, flip=0.0, vertical_flip=0.5)
    assert torch.equal(upside_down(image.clone(), torch.full((1, 4), 0.4)), image.flip(1))
    assert torch.equal(upside_down(image.clone(), torch.full((1, 4), 0.6)), image)
    with pytest.raises(ValueError, match="as high as wide"):
        augment_named("standard", (80, 90), quarter_turns=True)


@pytest.mark.parametrize("changed", [{"degrees": 20.0}, {"shift": 0.3}, {"scale": 0.5}, {"padding": 20}, {}])
def test_no_black_comes_into_a_photo(changed: dict[str, Any]) -> None:
    white = torch.full((8, 80, 72, 3), 200, dtype=torch.uint8)
    augment = augment_named("standard", (80, 72), **changed)
    draws = torch.rand(8, augment.draws, generator=torch.Generator().manual_seed(0))
    assert (augment(white.clone(), draws) == 200).all()
    black = augment_named("standard", (80, 72), border="black", **changed)
    assert (black(white.clone(), draws) == 0).any()


def test_a_shift_of_a_photo_reflects_it() -> None:
    image = torch.arange(80, dtype=torch.uint8).view(1, 1, 80, 1).expand(1, 80, 80, 1).contiguous()
    augment = augment_named("standard", (80, 80), flip=0.0)
    left = augment(image.clone(), torch.zeros(1, 3))[0, 5, :, 0].tolist()
    assert left == [*range(10, 0, -1), *range(70)]


def test_turns_of_a_photo_are_smooth() -> None:
    stripe = torch.zeros(1, 100, 100, 1, dtype=torch.uint8)
    stripe[:, 48:52] = 255
    augment = augment_named("standard", (100, 100), padding=0, flip=0.0, degrees=10.0)
    turned = augment(stripe, torch.full((1, augment.draws), 0.99))
    assert ((turned > 0) & (turned < 255)).sum() > 100  # a nearest pixel would be black or white


@pytest.mark.parametrize("name", ["photo", "strong", "trivialaugment"])
def test_photos_are_cropped_at_random_by(name: str) -> None:
    assert augment_named(name, (96, 96)).crop is not None
    assert augment_named(name, (96, 96), area=None).crop is None
    assert (augment_named(name, (32, 32)).crop is not None) == (name == "photo")


@pytest.mark.parametrize("area", [[0.5], [0.9, 0.5], [0.0, 1.0], [0.5, 1.5]])
def test_areas_that_are_refused(area: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^augment\.area"):
        augment_named("photo", area=area)


# --- the commands -----------------------------------------------------------------------------------------------------


def write_photos(folder: str, count: int = 12, size: tuple[int, int] = (90, 120)) -> None:
    for i in range(count):
        for name, shade in (("dark", 60), ("light", 190)):
            pixels = np.clip(photo(*size, seed=i).astype(int) // 4 + shade, 0, 255).astype(np.uint8)
            Path(folder, name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(f"{folder}/{name}/{i}.jpg", quality=95)


def test_a_run_on_photos(capsys: pytest.CaptureFixture[str]) -> None:
    from imgcls.cli.app import main

    write_photos("photos")
    common = ["dataset=./photos", "model=linear", "epochs=3", "plots=false", "tensorboard=false", "threads=1"]
    shape = ["dataset.image_size=[66,80]", "dataset.fit=pad", "augment=photo", "augment.vertical_flip=0.5"]
    assert main(["train", *common, *shape, "run_dir=a"]) == 0
    header = capsys.readouterr().err
    for text in ("80x66 RGB", "random crop of ", "vertical flip"):
        assert text in header
    assert main(["train", *common, *shape, "run_dir=b", "loader=stream", "workers=2"]) == 0
    capsys.readouterr()
    weights = [imgcls.load(str(path)).module.state_dict() for path in ("a", "b")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    model = imgcls.load("a")
    path = "photos/dark/0.jpg"
    rows = model.predict([path, Image.open(path), np.asarray(Image.open(path))])
    assert len({row["probability"] for row in rows}) == 1


def test_a_view_that_cuts_off_much_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from imgcls.cli.app import main

    write_photos("wide", size=(40, 200))
    words = ["train", "dataset=./wide", "model=linear", "epochs=1", "plots=false", "tensorboard=false"]
    assert main([*words, "dataset.image_size=32", "run_dir=a"]) == 0
    said = capsys.readouterr()
    assert "dataset.fit=pad" in said.out + said.err
    assert main([*words, "dataset.image_size=32", "dataset.fit=squash", "run_dir=b"]) == 0
    said = capsys.readouterr()
    assert "dataset.fit=pad" not in said.out + said.err
