"""Class folders: what is found, what is passed over and said, what is refused, and training on them."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import imgcls
from imgcls.cli.app import main
from imgcls.data import datamodule as prepare
from imgcls.data.fetchers import decode_all
from imgcls.data.geometry import FIRST_HEADERS, Geometry, geometry
from imgcls.data.pixels.preprocessing import Preprocessing, statistics
from imgcls.data.source import Images, Source
from imgcls.data.splits import SplitOptions, split
from imgcls.errors import ConfigError, DataError
from imgcls.models import automatic
from imgcls.models.automatic import default_image_size
from imgcls.runtime.session import Runtime
from tests.conftest import QUIET, imagefolder

COLORS = {"blue": (30, 40, 200), "green": (30, 180, 60), "red": (210, 40, 30)}


def shapes(root: str, count: int = 4, classes: Sequence[str] = ("blue", "red"), suffix: str = ".png") -> Path:
    """A folder for each class with disks of its color, each a little different, of odd and unequal sizes."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        folder = Path(root, name)
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            height, width = 31 + i % 3, 41 + i % 2
            rows, columns = np.mgrid[:height, :width]
            image = np.full((height, width, 3), 255, np.uint8)
            color = COLORS.get(name, (label * 40 % 256, 99, 99))
            image[(rows - 15) ** 2 + (columns - 20) ** 2 < rng.integers(60, 200)] = color
            Image.fromarray(image).save(folder / f"{i:03}{suffix}")
    return Path(root)


def names(source: Source, part: str = "train") -> list[str]:
    return [str(one) for one in source.parts[part].ids]


def refusal(root: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        imagefolder(root=str(root))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- which folder is which split --------------------------------------------------------------------------------------


def test_a_name_too_long_for_a_folder_is_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"dataset=./{'a' * 300}"]) == 3
    assert capsys.readouterr().err == f"imgcls: error: no such folder: {tmp_path}/{'a' * 300}\n"


def test_flat_class_folders_are_all_train() -> None:
    source = imagefolder(root=str(shapes("photos", 2)))
    assert source.classes == ("blue", "red")
    assert names(source) == ["blue/000.png", "blue/001.png", "red/000.png", "red/001.png"]
    assert source.train.labels.tolist() == [0, 0, 1, 1]
    assert (source.val, source.test, source.notes, source.warnings) == (None, None, (), ())
    assert (source.augment, source.mirror) == ("standard", True)


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (["train", "val"], ["train", "val"]),
        (["train", "val", "test"], ["train", "val", "test"]),
        (["train", "test"], ["train", "test"]),
        (["training", "valid", "testing"], ["train", "val", "test"]),
        (["Train", "Validation"], ["train", "val"]),
        (["train", "dev"], ["train", "val"]),
        (["train"], ["train"]),
    ],
)
def test_split_folders_have_their_usual_names(folders: list[str], parts: list[str]) -> None:
    for i, folder in enumerate(folders):
        shapes(f"photos/{folder}", i + 1)
    source = imagefolder(root="photos")
    assert {name: len(part) for name, part in source.parts.items()} == {
        name: 2 * (i + 1) for i, name in enumerate(parts)
    }
    assert names(source)[0] == f"{folders[0]}/blue/000.png"


def test_classes_that_are_called_train_and_plane_are_classes() -> None:
    assert imagefolder(root=str(shapes("photos", 1, ["car", "plane", "train"]))).classes == ("car", "plane", "train")


def test_two_folders_for_one_split_are_refused() -> None:
    for folder in ("train", "val", "valid"):
        shapes(f"photos/{folder}", 1)
    assert "both val and valid are in photos; keep one as the val split" in refusal("photos")


def test_unused_folders_next_to_train_are_named() -> None:
    for folder in ("train", "val", "extra"):
        shapes(f"photos/{folder}", 1)
    assert imagefolder(root="photos").warnings[0] == "ignored the folder extra next to train/"


# --- what is passed over ---------------------------------------------------------------------------------------------


def test_hidden_folders_and_other_files_are_ignored_with_a_note() -> None:
    root = shapes("photos", 1)
    for hidden in (".ipynb_checkpoints", "__MACOSX"):
        shapes(f"photos/{hidden}", 1)
        shapes(f"photos/red/{hidden}", 1)
    for name in (".DS_Store", "._000.png", "notes.txt", "more.TXT", "clip.mp4", "README"):
        (root / "red" / name).write_text("no image")
    (root / "top.txt").write_text("no image")
    source = imagefolder(root="photos")
    assert names(source) == ["blue/000.png", "red/000.png"]
    assert source.notes == (
        "ignored  2 .txt, 1 .mp4, 1 without suffix (not image files by their suffix)",
        "ignored  hidden folders: .ipynb_checkpoints, __MACOSX",
    )


def test_images_at_any_depth_belong_to_their_class_and_suffixes_may_be_capitals() -> None:
    shapes("photos", 1)
    shapes("photos/red/2026", 1, ["may"], suffix=".JPG")
    assert "red/2026/may/000.JPG" in names(imagefolder(root="photos"))


def test_symlinks_to_folders_elsewhere_are_followed_once() -> None:
    shapes("photos", 1)
    shapes("elsewhere", 2, ["more"])
    Path("photos/red/first").symlink_to(Path("elsewhere/more").absolute())
    Path("photos/red/second").symlink_to(Path("elsewhere/more").absolute())
    Path("photos/pink").symlink_to(Path("elsewhere/more").absolute())
    source = imagefolder(root="photos")
    assert source.classes == ("blue", "pink", "red")
    assert [name for name in names(source) if name.startswith("red")] == [
        "red/000.png", "red/first/000.png", "red/first/001.png",
    ]  # fmt: skip


@pytest.mark.parametrize("target", [".", "..", "../blue/..", "../../photos"])
def test_a_symlink_to_a_parent_folder_is_a_loop(target: str) -> None:
    shapes("photos", 1)
    Path("photos/red/loop").symlink_to(target)
    assert "photos/red/loop is a symlink to" in refusal("photos")
    assert "a loop; remove it" in refusal("photos")


def test_a_class_folder_that_is_a_symlink_to_the_root_is_a_loop() -> None:
    shapes("photos", 1)
    Path("photos/all").symlink_to(".")
    assert "photos/all is a symlink to" in refusal("photos")


def test_a_symlink_from_elsewhere_back_to_the_root_is_a_loop() -> None:
    shapes("photos", 1)
    Path("elsewhere").mkdir()
    Path("elsewhere/back").symlink_to(Path("photos").absolute())
    Path("photos/red/out").symlink_to(Path("elsewhere").absolute())
    assert "photos/red/out/back is a symlink to" in refusal("photos")


def test_a_symlink_to_itself_is_no_folder_and_a_dangling_one_is_named() -> None:
    shapes("photos", 1)
    Path("photos/self").symlink_to("self")
    assert imagefolder(root="photos").classes == ("blue", "red")
    Path("photos/red/gone.png").symlink_to("nowhere.png")
    assert main(["train", "dataset=./photos", "epochs=1"]) == 3


def test_a_folder_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes("photos", 1)
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("red"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "cannot read the folder photos/red: Permission denied" in refusal("photos")


# --- classes ---------------------------------------------------------------------------------------------------------


def test_labels_of_val_match_by_name_if_it_lacks_a_class() -> None:
    shapes("photos/train", 1, ["blue", "green", "red"])
    shapes("photos/val", 2, ["blue", "red"])
    source = imagefolder(root="photos")
    assert source.val is not None
    assert source.val.labels.tolist() == [0, 0, 2, 2]
    assert source.warnings[0] == "photos/val has no folder for green"


def test_a_class_that_train_does_not_have_is_refused() -> None:
    shapes("photos/train", 1)
    shapes("photos/val", 1, ["blue", "pink"])
    message = refusal("photos")
    assert "photos/val has classes that train does not have: pink; train has blue, red" in message


@pytest.mark.parametrize(
    ("own", "others", "rename"),
    [
        (["blue", "red"], ["Blue", "red"], "{Blue: blue}"),
        (["blue", "red"], ["blues", "RED"], "{RED: red, blues: blue}"),
        (["0_blue", "1_red"], ["blue", "red"], "{blue: 0_blue, red: 1_red}"),
        (["light blue", "red"], ["Light-Blue", "red"], '{"Light-Blue": light blue}'),
        (["berries", "boxes"], ["berry", "box"], "{berry: berries, box: boxes}"),
        (["1", "2"], ["01", "2"], "{01: 1}"),
    ],
)
def test_classes_in_another_spelling_in_another_part_can_be_renamed(
    own: list[str], others: list[str], rename: str
) -> None:
    shapes("photos/train", 1, own)
    shapes("photos/val", 2, others)
    assert f"if they mean the same, add dataset.rename='{rename}'" in refusal("photos")
    source = imagefolder(root="photos", rename=rename)
    assert list(source.classes) == own
    assert "no folder for" not in " ".join(source.all_warnings())
    assert source.val is not None
    assert source.val.labels.tolist() == [0, 0, 1, 1]


def test_a_new_name_may_be_that_of_another_part() -> None:
    shapes("photos/train", 1, ["blue", "red"])
    shapes("photos/val", 1, ["azure", "blue", "red"])
    source = imagefolder(root="photos", rename={"blue": "sky", "azure": "sky"})
    assert source.classes == ("sky", "red")
    assert source.val is not None
    assert source.val.labels.tolist() == [0, 0, 1]
    with pytest.raises(ConfigError, match="no class is called 'zure'"):
        imagefolder(root="photos", rename={"azure": "blue", "zure": "blue"})


def test_an_empty_class_folder_is_named() -> None:
    shapes("photos", 1)
    Path("photos/pink").mkdir()
    assert "no images in the class folder photos/pink" in refusal("photos")


def test_a_single_class_causes_a_warning() -> None:
    assert imagefolder(root=str(shapes("photos", 1, ["red"]))).warnings == (
        "only one class (red): there is nothing to learn",
    )


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("café", unicodedata.normalize("NFD", "café"))])
def test_classes_that_look_alike_cause_a_warning(pair: tuple[str, str]) -> None:
    source = imagefolder(root=str(shapes("photos", 1, pair)))
    assert len(source.classes) == 2
    assert "differ only in case or Unicode normalization" in source.warnings[0]


def test_folders_without_class_folders_are_refused() -> None:
    Path("photos").mkdir()
    assert refusal("photos") == "no class folders in photos; put the images into one folder for each class"
    Image.new("RGB", (4, 4)).save("photos/a.png")
    assert refusal("photos").endswith("put the images into one folder for each class")
    shapes("split/train", 1)
    Path("split/test").mkdir()
    Image.new("RGB", (4, 4)).save("split/test/a.png")
    assert "no class folders in split/test" in refusal("split")


@pytest.mark.parametrize("root", ["photos", "./photos/", "photos/../photos", "link", "."])
def test_names_are_relative_to_the_root_however_it_is_given(root: str) -> None:
    shapes("photos/red", 1, ["deep"])
    shapes("photos", 1)
    os.symlink("photos", "link")
    if root == ".":
        os.chdir("photos")
    assert names(imagefolder(root=root)) == ["blue/000.png", "red/000.png", "red/deep/000.png"]
    assert names(imagefolder(root=os.path.abspath(root))) == ["blue/000.png", "red/000.png", "red/deep/000.png"]


def test_a_root_that_is_no_folder_is_named() -> None:
    assert refusal("gone") == "no such folder: gone"
    Path("file").touch()
    assert refusal("file") == "not a folder: file"


# --- size and channels -----------------------------------------------------------------------------------------------

OPTIONS = SplitOptions(
    image_size=None,
    channels=None,
    val_fraction=0.1,
    test_fraction=0.2,
    split_seed=0,
    classes=None,
    limit=None,
    test_limit=None,
    fit="crop",
    crop_share=None,
    background="white",
    depth="auto",
    exclude=None,
    relabel=None,
    positive=None,
    folds=None,
    fold=None,
)


def saved(*images: Image.Image) -> Source:
    Path("photos/a").mkdir(parents=True)
    for i, image in enumerate(images):
        image.save(f"photos/a/{i}.png")
    return imagefolder(root="photos")


def test_equal_sizes_are_kept_and_gray_is_found() -> None:
    source = saved(*(Image.new("L", (17, 11)) for _ in range(3)))
    assert geometry(source.train, OPTIONS, default_image_size("cpu", "resnet18")) == (11, 17, 1, "")


@pytest.mark.parametrize(
    ("device", "model", "side"),
    [
        *(("cpu", name, 32) for name in ("linear", "mlp", "lenet")),
        *(("cpu", "resnet18", 128), ("cpu", "auto", automatic.CPU.size)),
        *(("cuda", name, 224) for name in ("resnet18", "auto")),
    ],
)
def test_unequal_sizes_are_scaled_to_the_models_usual_size(device: str, model: str, side: int) -> None:
    source = saved(Image.new("L", (17, 11)), Image.new("L", (17, 11)), Image.new("L", (17, 12)))
    height, width, channels, resized_from = geometry(source.train, OPTIONS, default_image_size(device, model))
    assert (height, width, channels) == (side, side, 1)
    assert resized_from == "several sizes"


@pytest.mark.parametrize(("side", "channels", "found"), [(224, 3, 224), (225, 3, 128), (225, 1, 128), (225, 4, 225)])
def test_nothing_above_224_pixels_unless_it_cannot_be_resized(side: int, channels: int, found: int) -> None:
    images = Images([0, 1], pixels=np.zeros((2, side, side, channels), np.uint8))
    origin = "" if side == found else "225x225"
    assert geometry(images, OPTIONS, 128) == (found, found, channels, origin)


def test_one_image_in_color_makes_all_rgb() -> None:
    source = saved(Image.new("L", (8, 8)), Image.new("L", (9, 8)), Image.new("RGB", (8, 8)))
    assert geometry(source.train, OPTIONS, default_image_size("cpu", "lenet"))[2] == 3


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("odd", [5, 40, 199])
def test_the_one_odd_image_of_many_is_found(threads: int, odd: int) -> None:
    Image.new("L", (9, 8)).save("one.png")
    Image.new("RGB", (8, 9)).save("odd.png")
    torch.set_num_threads(threads)
    images = Images([0] * 200, paths=["odd.png" if row == odd else "one.png" for row in range(200)])
    assert geometry(images, OPTIONS, default_image_size("cpu", "lenet"))[:3] == (32, 32, 3)
    images = Images([0] * 200, paths=["one.png"] * 200)
    assert geometry(images, OPTIONS, default_image_size("cpu", "lenet"))[:3] == (8, 9, 1)


def test_no_more_headers_are_read_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def header(path: str) -> tuple[int, int, bool]:
        read.append(path)
        return len(read), 8, False

    monkeypatch.setattr("imgcls.data.geometry.header", header)
    images = Images([0] * 200, paths=["a.png"] * 200)
    geometry(images, OPTIONS, default_image_size("cpu", "lenet"))
    assert len(read) == FIRST_HEADERS
    read.clear()
    geometry(
        images, SplitOptions(**vars(OPTIONS) | {"image_size": 20, "channels": 3}), default_image_size("cpu", "lenet")
    )
    assert len(read) == 1


def test_images_are_decoded_once_for_statistics_and_training(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes("photos", 30)
    source = imagefolder(root="photos")
    data = prepare.SplitData("photos", source, split(source, OPTIONS), Geometry(9, 9, 3))
    train, shape = data.splits.train, prepare._preprocessing(data, OPTIONS, None, None)[0]
    pixels = decode_all(train.take(np.arange(len(train))), shape, threads=1)
    assert (shape.mean, shape.std) == statistics(pixels)
    monkeypatch.setattr(Preprocessing, "load", None)  # nothing is left to be read
    runtime = Runtime(torch.device("cpu"), "fp32", 2)
    fetcher = prepare.fetcher_for(train, shape, runtime, resident=True, workers=0)
    assert np.array_equal(next(iter(fetcher.batches([np.arange(len(train))]))).numpy(), pixels)


def test_a_given_size_is_used() -> None:
    source = saved(Image.new("L", (8, 8)), Image.new("RGB", (9, 8)))
    given = SplitOptions(**vars(OPTIONS) | {"image_size": 20, "channels": 1})
    assert geometry(source.train, given, default_image_size("cpu", "lenet")) == (20, 20, 1, "")


# --- training --------------------------------------------------------------------------------------------------------

FAST = ("model=lenet", "epochs=3", "batch_size=16", "threads=1", *QUIET, "run_dir=run")


@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_colored_shapes_are_learned_end_to_end(loader: str, capsys: pytest.CaptureFixture[str]) -> None:
    shapes("photos", 30, list(COLORS))
    assert main(["train", "dataset=./photos", *FAST, f"loader={loader}", "workers=0"]) == 0
    report = json.loads(Path("run/report.json").read_text())
    assert (report["dataset"], report["n"], report["accuracy"] > 0.9) == ("photos", 18, True)
    with np.load("run/predictions.npz", allow_pickle=False) as file:
        assert all(str(path).endswith(".png") for path in file["path"])
    assert "images resized from several sizes to 32x32" in capsys.readouterr().err


def test_streamed_and_resident_runs_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    shapes("photos", 12)
    weights = []
    for run, loader in (("a", "loader=resident"), ("b", "loader=stream")):
        assert main(["train", "dataset=./photos", *FAST[:-1], f"run_dir={run}", loader, "workers=2"]) == 0
        weights.append(imgcls.load(run).module.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_corrupt_image_is_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    root = shapes("photos", 12)
    for path in root.glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:-40])
    assert main(["train", "dataset=./photos", *FAST]) == 3
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert errors[0].startswith("imgcls: error: not a readable image: ")
    assert ".png (" in errors[0]
    assert "Traceback" not in errors[0]


def test_names_that_are_not_utf8_are_escaped_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    shapes("photos", 8)
    os.rename(b"photos/red", b"photos/r\xe9d")
    os.rename(b"photos/blue/000.png", b"photos/blue/\xff.png")
    assert main(["train", "dataset=./photos", *FAST[:1], "epochs=1", *FAST[2:]]) == 0
    report = json.loads(Path("run/report.json").read_text())
    assert [row["class"] for row in report["per_class"]] == ["blue", "r\\xe9d"]
    assert main(["predict", "run", "photos", "output=rows.csv"]) == 0
    assert "r\\xe9d/000.png" in Path("rows.csv").read_text()
    assert "accuracy" in capsys.readouterr().err


# --- archives as they are unpacked, and names that a terminal would obey ----------------------------------------------


def test_a_wrapper_folder_is_skipped() -> None:
    shapes("photos/photos")
    Path("photos/__MACOSX").mkdir()
    source = imagefolder(root="photos")
    assert source.classes == ("blue", "red")
    assert source.notes[0] == "folder   using photos/photos (the only folder inside its parent)"
    shapes("more/inner/deeper/train")
    shapes("more/inner/deeper/test")
    assert set(imagefolder(root="more").parts) == {"train", "test"}


def test_splits_are_recognized_by_a_word_in_their_folders_names() -> None:
    shapes("intel/seg_train/seg_train")
    shapes("intel/seg_test/seg_test", 2)
    Path("intel/seg_pred").mkdir()
    source = imagefolder(root="intel")
    assert source.classes == ("blue", "red")
    assert {part: len(one) for part, one in source.parts.items()} == {"train": 8, "test": 4}
    assert "ignored the folder seg_pred next to seg_train/" in source.warnings[0]
    shapes("sets/train_set")
    shapes("sets/validation_set")
    assert set(imagefolder(root="sets").parts) == {"train", "val"}
    shapes("rail", classes=("train_station", "test_tube"))
    assert imagefolder(root="rail").classes == ("test_tube", "train_station")


def test_a_split_with_one_class_is_not_a_wrapper() -> None:
    shapes("photos/train")
    shapes("photos/test/red", classes=("2020", "2021"))
    assert len(imagefolder(root="photos").parts["test"]) == 8


def test_images_in_no_class_folder_are_counted() -> None:
    shapes("photos")
    for i in range(3):
        Image.new("RGB", (9, 9)).save(f"photos/{i}.png")
    assert imagefolder(root="photos").warnings == ("ignored 3 images in photos that are in no class folder",)


def test_evaluating_on_training_images_causes_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    shapes("photos", 20)
    words = ["dataset=./photos", "model=linear", "dataset.image_size=8", "epochs=1", "threads=1", "run_dir=run"]
    assert main(["train", *words]) == 0
    assert main(["evaluate", "run"]) == 0
    assert "used in training" not in capsys.readouterr().err
    assert main(["evaluate", "run", "dataset=./photos", "split=all"]) == 0
    assert "warning: 29 of these 40 images were used in training" in capsys.readouterr().err
    Path("photos/red/000.png").unlink()
    assert main(["evaluate", "run", "dataset=./photos"]) == 0
    assert "images were used in training" in capsys.readouterr().err
    shapes("others", 20)
    assert main(["evaluate", "run", "dataset=./others", "split=all"]) == 0
    assert "used in training" not in capsys.readouterr().err


def test_the_message_about_a_corrupt_file_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    shapes("photos", 12)
    Path("photos/red/000.png").write_bytes(b"no image")
    words = ["dataset=./photos", "model=linear", "dataset.image_size=8", "dataset.channels=3", "epochs=1", "threads=1"]
    assert main(["train", *words]) == 3
    err = capsys.readouterr().err
    assert "; dataset.verify=true lists all such files, dataset.on_error=skip skips them" in err


def test_a_single_class_is_not_treated_as_a_wrapper_folder() -> None:
    shapes("alone", classes=("red",))
    assert imagefolder(root="alone").classes == ("red",)
    shapes("deep/red", classes=("2020",))
    assert imagefolder(root="deep").classes == ("red",)


def test_control_characters_in_the_names_of_classes_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    odd = ("bl\x1b[31mue", "re\nd", "tab\t")
    shapes("photos", 12, odd)
    assert imagefolder(root="photos").classes == ("bl\\x1b[31mue", "re\\nd", "tab\\t")
    words = ["dataset=./photos", "model=linear", "dataset.image_size=8", "epochs=1", "threads=1", "run_dir=run"]
    assert main(["train", *words]) == 0
    assert main(["evaluate", "run", "dataset=./photos", "split=all"]) == 0
    assert main(["predict", "run", *(f"photos/{name}" for name in odd)]) == 0
    assert main(["data", "./photos"]) == 3  # disks of nearly the same size are near duplicates
    (Path("photos") / odd[1] / "000.png").write_bytes(b"no image")
    assert main(["data", "./photos"]) == 3
    assert main(["train", *words[:-1], "dataset.verify=true"]) == 3
    captured = capsys.readouterr()
    assert "accuracy" in captured.err + captured.out
    assert "labels from the folder names" in captured.err + captured.out
    assert "\x1b" not in captured.out + captured.err
    assert "\t" not in captured.out + captured.err
    assert all("re\nd" not in text for text in (captured.out, captured.err))
