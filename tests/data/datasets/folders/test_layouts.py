"""Folders as people have them: how each is read, or what is asked. A new report is one more line in a table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.cli.app import main
from imgcls.data.datasets.folders.description import levels
from imgcls.data.datasets.folders.layout_names import is_junk, part_of, task_of_target
from imgcls.data.source import Source, in_order
from imgcls.errors import DataError
from tests.conftest import QUIET, imagefolder

IMAGES = (".png", ".jpg", ".jpeg", ".jfif", ".jpe")


def touch(paths: Iterable[str]) -> None:
    """Files of different contents; no images, as these are not decoded here."""
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(path)


def flat(*folders: str, count: int = 3, suffix: str = ".png") -> list[str]:
    return [f"{folder}/{i}{suffix}" for folder in folders for i in range(count)]


def classes(*folders: str, names: Sequence[str] = ("blue", "red")) -> list[str]:
    return flat(*(f"{folder}/{name}" for folder in folders for name in names))


def sizes(source: Source) -> dict[str, int]:
    return {part: len(images) for part, images in source.parts.items()}


def said(source: Source) -> str:
    return "\n".join([*source.all_notes(), *(f"warning: {line}" for line in source.all_warnings())])


def refusal(root: str) -> str:
    with pytest.raises(DataError) as caught:
        imagefolder(root=root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is read, and the words in the header that say so ------------------------------------------------------------

RUN = ["config.yaml", "checkpoints/best.safetensors", "plots/curves.png"]
READ = {  # name: files below d/, classes, sizes of the parts, words that are said
    "flat": (classes("d"), "blue red", {"train": 6}, ""),
    "unlabelled": (classes("d/train") + flat("d/unlabelled"), "blue red", {"train": 6}, "not used: unlabelled/"),
    "unlabeled_2": (
        classes("d/train") + flat("d/unlabeled_data", "d/extra"), "blue red", {"train": 6}, "extra/, unlabeled_data/",
    ),
    "one stranger": (classes("d/train") + flat("d/pool7"), "blue red", {"train": 6}, "not used: pool7/"),
    "trainset": (classes("d/trainset", "d/testset"), "blue red", {"train": 6, "test": 6}, "trainset/ is train"),
    "TrainData": (classes("d/TrainData", "d/ValData"), "blue red", {"train": 6, "val": 6}, "ValData/ is val"),
    "training_images": (
        classes("d/training_images", "d/test-images"), "blue red", {"train": 6, "test": 6}, "test-images/ is test",
    ),
    "numbered": (classes("d/01_train", "d/02_test"), "blue red", {"train": 6, "test": 6}, "01_train/ is train"),
    "capitals": (classes("d/TRAIN", "d/Val", "d/TEST"), "blue red", {"train": 6, "val": 6, "test": 6}, ""),
    "class first": (
        flat(*(f"d/{name}/{part}" for name in ("blue", "red") for part in ("train", "val", "test"))),
        "blue red", {"train": 6, "val": 6, "test": 6}, "test, train, val in each class folder",
    ),
    "class first, words": (
        flat(*(f"d/{name}/{part}" for name in ("blue", "red") for part in ("Training", "Testing"))),
        "blue red", {"train": 6, "test": 6}, "Testing, Training in each class folder",
    ),
    "images and masks in each class": (
        flat(*(f"d/{name}/{kind}" for name in ("blue", "red") for kind in ("images", "masks"))),
        "blue red", {"train": 6}, "only images/ is used, not masks/",
    ),
    "runs": (
        classes("d") + [f"d/outputs/{run}/{name}" for run in ("a", "b/0") for name in RUN],
        "blue red", {"train": 6}, "outputs (runs of imgcls)",
    ),
    "a run": (classes("d") + [f"d/first/{name}" for name in RUN], "blue red", {"train": 6}, "first (runs of imgcls)"),
    "a run in a class": (
        classes("d") + [f"d/red/out/r/{name}" for name in RUN], "blue red", {"train": 6}, "(runs of imgcls)",
    ),
    "a sweep": (
        [*classes("d"), "d/s/sweep.json", "d/s/0/config.yaml", "d/s/0/plots/a.png"],
        "blue red", {"train": 6}, "s (runs of imgcls)",
    ),
    "an interrupted run": (
        [*classes("d"), "d/outputs/x/config.yaml", "d/outputs/x/split.npz", "d/outputs/x/plots/train_batch.png"],
        "blue red", {"train": 6}, "outputs (runs of imgcls)",
    ),
    "outputs that are a class": (
        flat("d/inputs_a", "d/outputs"), "inputs_a outputs", {"train": 6}, "",
    ),
    **{
        f"masks {how}": (
            [*flat("d/blue", "d/red"), *(f"d/red/{how.format(i)}" for i in range(3))],
            "blue red", {"train": 6},
            f"not used: 3 images named like masks or copies of those beside them (red/{how.format(0)})",
        )
        for how in (
            "{}_mask.png", "{}_mask_1.png", "{}_label.bmp", "{}-seg.png", "mask_{}.jpg", "thumb_{}.jpg", "{}.thumb.jpg",
        )
    },
    "depth": (
        [f"d/{name}/{i}_{kind}.png" for name in ("blue", "red") for i in range(3) for kind in ("rgb", "depth", "mask")],
        "blue red", {"train": 6}, "not used: 12 images named like masks",
    ),
    "masks below the classes, in parts": (
        [f"d/{part}/{c}/x/{i}.png" for part in ("train", "test") for c in "ab" for i in ("1", "1_gt", "2", "2_gt")],
        "a b", {"train": 4, "test": 4}, "not used: 8 images named like masks",
    ),
    "one small copy": (
        [*classes("d"), "d/red/0_small.png"], "blue red", {"train": 7},
        "used with their classes: 1 image named like masks or copies of those beside them (red/0_small.png)",
    ),
    "classes of masks": (
        [f"d/{c}/{c}_{i}.png" for c in ("with_mask", "no_mask") for i in range(3)],
        "no_mask with_mask", {"train": 6}, "",
    ),
    "labels without what is labeled": (
        [f"d/{c}/{i}_label.png" for c in ("blue", "red") for i in range(3)], "blue red", {"train": 6}, "",
    ),
    **{
        f"a folder without a name: {name}": (
            classes("d", names=("blue", "green", "red")) + flat(f"d/{name}"), "blue green red", {"train": 9},
            f"not used: {name}/",
        )
        for name in ("New folder", "New Folder (2)", "untitled folder", "Neuer Ordner")
    },
    "an empty folder without a name": (
        [*classes("d"), "d/New folder/a.txt"], "blue red", {"train": 6}, "New folder/ (no images",
    ),
    "a folder without a name in a class": ([*classes("d"), "d/red/New folder/7.png"], "blue red", {"train": 7}, ""),
    "a background": (
        classes("d", names=("BACKGROUND_Google", "ant", "bee")), "BACKGROUND_Google ant bee", {"train": 9},
        "BACKGROUND_Google/ is read as a class; the others alone: 'dataset.classes=[ant,bee]'",
    ),
    "blanks": (flat("d/red-car", "d/red_car"), "red-car red_car", {"train": 6}, "differ only in case or Unicode"),
    **{
        f"{train}/ in {train}/": (
            classes(f"d/{train}/{train}", f"d/{test}/{test}"), "blue red", {"train": 6, "test": 6},
            f"d/{train}/{train}",
        )
        for train, test in (("train", "test"), ("training_set", "test_set"), ("Training", "Testing"))
    },
    "train/ in train/ alone": (classes("d/train/train"), "blue red", {"train": 6}, "d/train/train"),
    "train_data/ in train/": (
        classes("d/train/train_data", "d/test"), "blue red", {"train": 6, "test": 6}, "d/train/train_data",
    ),
    "photos of labels": (
        [f"d/{c}/{i}{kind}.jpg" for c in ("a", "b") for i in range(2) for kind in ("", "_label")],
        "a b", {"train": 8}, "",
    ),
    "crops of depth": (
        [f"d/{c}/1_{i}_{kind}crop.png" for c in ("a", "b") for i in range(2) for kind in ("", "depth", "mask")],
        "a b", {"train": 4}, "not used: 8 images named like masks",
    ),
    **{
        f"seldom a class: {name}": (
            classes("d", names=("blue", "green", "red")) + flat(f"d/{name}"),
            " ".join(sorted(("blue", "green", "red", name))), {"train": 12},
            f"{name}/ is read as a class; the others alone: 'dataset.classes=[blue,green,red]'",
        )
        for name in ("old", "assets", "_old", "-archive", "~x", "inbox")
    },
    "words of parts in names": (
        classes("d", names=("freight train", "test train", "train test", "test tube")),
        ["freight train", "test train", "test tube", "train test"], {"train": 12}, "",
    ),
    "grades": (classes("d", names=("A", "A+", "A-", "B")), "A A+ A- B", {"train": 12}, ""),
    "negative numbers": (classes("d", names=("-1", "0", "1")), "-1 0 1", {"train": 9}, ""),
    "marked classes": (classes("d", names=("_a", "_b", "c")), "_a _b c", {"train": 9}, ""),
    "last in the list": (
        classes("d", names=("blue", "green", "red")) + flat("d/zz_unsorted"), "blue green red", {"train": 9},
        "not used: zz_unsorted/",
    ),
    "masks of all classes in a folder": (
        [f"d/{c}/{c}_{i}.jpg" for c in ("Au", "Tp") for i in range(3)]
        + [f"d/CASIA 2 Groundtruth/{c}_{i}_gt.png" for c in ("Au", "Tp") for i in range(3)],
        "Au Tp", {"train": 6}, "not used: CASIA 2 Groundtruth/ (6 images, masks of those beside them by their names)",
    ),
    "masks that people wear": (
        [f"d/{c}/{c}_{i}.jpg" for c in ("mask", "no mask", "half mask") for i in range(3)],
        ["half mask", "mask", "no mask"], {"train": 9}, "",
    ),
    "two formats of each": (
        classes("d") + [f"d/{c}/{i}.jpg" for c in ("blue", "red") for i in range(3)], "blue red", {"train": 12},
        "most images in 2 folders differ from another one only in the suffix of their names (blue/0.jpg)",
    ),
    "one in two formats": ([*classes("d"), "d/red/0.jpg"], "blue red", {"train": 7}, ""),
    "in iCloud": (
        [*classes("d"), "d/red/.7.jpg.icloud", "d/red/.a.mov.icloud"], "blue red", {"train": 6},
        "1 image is in iCloud only",
    ),
    "several levels": (
        flat("d/low/a/x", "d/low/b/y", "d/up/a/z"), "low up", {"train": 9}, "the 3 folders below them (low/a, ...)",
    ),
    "thumbnails": (
        [*classes("d"), "d/red/@eaDir/0.png/SYNOPHOTO_THUMB_M.png", "d/@eaDir/red/0.png", "d/red/.@__thumb/0.png"],
        "blue red", {"train": 6}, "ignored  @eaDir (left by",
    ),
    "trash": (
        [*classes("d"), "d/lost+found/x", "d/$RECYCLE.BIN/desktop.ini", "d/#recycle/0.png", "d/RECYCLER/0.png"],
        "blue red", {"train": 6}, "ignored  #recycle, $RECYCLE.BIN, RECYCLER, lost+found (left by",
    ),
    "junk files": (
        [*classes("d"), "d/red/Thumbs.db", "d/red/desktop.ini", "d/red/0.png:Zone.Identifier"],
        "blue red", {"train": 6}, "0.png:Zone.Identifier, Thumbs.db, desktop.ini (left by",
    ),
    "code": (
        [*classes("d"), "d/__pycache__/a.pyc", "d/.git/config", "d/.ipynb_checkpoints/0.png", "d/scripts/a.py"],
        "blue red", {"train": 6}, "not used: scripts/ (no images in it)",
    ),
    "Stanford Dogs": (
        [*classes("d/Images", names=("n02-a", "n02-b")), "d/Annotation/n02-a/n02_1"],
        "n02-a n02-b", {"train": 6}, "not used: Annotation/",
    ),
    "images and meta": ([*classes("d/images"), "d/meta/a.txt"], "blue red", {"train": 6}, "not used: meta/"),
    "numbers": (flat(*(f"d/{i}" for i in range(12))), " ".join(map(str, range(12))), {"train": 36}, ""),
    "suffixes": (
        flat("d/blue", suffix=".jfif") + flat("d/red", suffix=".jpe"), "blue red", {"train": 6}, "",
    ),
    "years below": (
        flat(*(f"d/{name}/{year}" for name in ("blue", "red") for year in ("2019", "2020-05"))),
        "blue red", {"train": 12}, "pooled into these; for the classes of one of them type dataset=./d/blue",
    ),
    "other classes below": (
        classes("d/pets", names=("cat", "dog")) + classes("d/cars", names=("bmw", "vw")),
        "cars pets", {"train": 12}, "the 4 folders below them (cars/bmw, ...) are pooled",
    ),
    "train is a vehicle": (flat("d/car", "d/plane", "d/train"), "car plane train", {"train": 9}, "read as a class"),
    "thumbnails beside classes": (
        classes("d") + flat("d/thumbnails", "d/previews", "d/_thumbs"), "blue red", {"train": 6},
        "not used: _thumbs/, previews/, thumbnails/ (9 images, reduced copies by their names); dataset.layout=flat",
    ),
    "thumbs that repeat names": (
        [f"d/{one}/{name}{i}.png" for one, name in [("a", "x"), ("b", "y")] for i in range(3)]
        + [f"d/thumbs/{name}{i}_thumb.jpg" for name in "xy" for i in range(3)],
        "a b", {"train": 6}, "not used: thumbs/ (6 images",
    ),
    "thumbs of classes": (
        classes("d", "d/thumbs"), "blue red", {"train": 6}, "not used: thumbs/ (6 images, reduced copies by",
    ),
    "thumbs of wrapped classes": (
        classes("d/full", "d/thumbs"), "blue red", {"train": 6}, "not used: thumbs/ (6 images",
    ),
    "thumbs beside originals in classes": (
        flat(*(f"d/{name}/{size}" for name in ("blue", "red") for size in ("full", "thumbs"))),
        "blue red", {"train": 6}, "not used: blue/thumbs/, red/thumbs/ (6 images",
    ),
    "thumbnails of wrapped classes": (
        classes("d/photos", "d/thumbnails"), "blue red", {"train": 6}, "not used: thumbnails/ (6 images",
    ),
    "results": (
        classes("d") + flat("d/results", "d/my_visualizations", "d/Cache2", "d/checkpoints"), "blue red", {"train": 6},
        "warning: not used: Cache2/, checkpoints/, my_visualizations/, results/ (12 images, results by their names)",
    ),
    "results without images": (
        [*classes("d"), "d/visualizations/a.html"], "blue red", {"train": 6}, "not used: visualizations/ (no images",
    ),
    "plots by their names": (
        [*classes("d"), "d/plots/loss.png", "d/plots/confusion_matrix.png", "d/figures/RocCurve.jpg"],
        "blue red", {"train": 6}, "not used: figures/, plots/ (3 images",
    ),
    "runs by what lies beside": (
        [*classes("d"), "d/runs/a/img.png", "d/runs/a/events.out.tfevents.1.host", "d/logs/b.png", "d/logs/last.pt"],
        "blue red", {"train": 6}, "not used: logs/, runs/ (2 images",
    ),
    "set aside": (
        classes("d") + flat("d/to_check", "d/_rejected", "d/Deleted"), "blue red", {"train": 6},
        "warning: not used: Deleted/, _rejected/, to_check/ (9 images, set aside by their names)",
    ),
    "trash as a class": (
        flat("d/glass", "d/metal", "d/trash"), "glass metal trash", {"train": 9},
        "trash/ is read as a class; the others alone: 'dataset.classes=[glass,metal]'",
    ),
    "accepted and rejected": (flat("d/accepted", "d/rejected"), "accepted rejected", {"train": 6}, ""),
    "kinds of figures": (flat("d/maps", "d/photos", "d/plots", "d/figures"), "figures maps photos plots",
                         {"train": 12}, ""),
    "plots and photos": (flat("d/plots", "d/photos"), "photos plots", {"train": 6}, ""),
    "logs and planks": (flat("d/logs", "d/planks"), "logs planks", {"train": 6}, ""),
    "fingers": (flat("d/index", "d/middle", "d/thumb"), "index middle thumb", {"train": 9}, ""),
    "one class and results": (flat("d/cat", "d/results"), "cat results", {"train": 6}, "results/ is read as a class"),
    "results in the parts": (
        classes("d/train", "d/test") + flat("d/train/results"), "blue red", {"train": 6, "test": 6},
        "not used: results/ (3 images, results by their names); rename the folder to use it",
    ),
    "plots in a part": (
        classes("d/train", "d/test") + flat("d/train/plots"), "blue plots red", {"train": 9, "test": 6},
        "plots/ is read as a class; the others alone: 'dataset.classes=[blue,red]'",
    ),
    "thumbnails in classes": (
        classes("d") + flat("d/blue/thumbs", "d/red/Thumbnails"), "blue red", {"train": 6},
        "not used: blue/thumbs/, red/Thumbnails/ (6 images, reduced copies by their names)",
    ),
    "set aside in classes": (
        classes("d") + flat("d/blue/_rejected", "d/red/rejected", "d/red/2020/unsure", "d/red/2020"),
        "blue red", {"train": 9}, "warning: not used: blue/_rejected/, red/rejected/, red/2020/unsure/ (9 images",
    ),
    "set aside in the parts' classes": (
        classes("d/train", "d/test") + flat("d/test/red/trash"), "blue red", {"train": 6, "test": 6},
        "warning: not used: test/red/trash/ (3 images",
    ),
    "copies in classes": (
        classes("d") + flat("d/red/resized", "d/red/gray", suffix=".jpg"), "blue red", {"train": 6},
        "red/gray/, red/resized/ (6 images, copies of those beside by their names",
    ),
    "sub-categories": (
        flat("d/apple/good", "d/apple/bad", "d/pear/good"), "apple pear", {"train": 9},
        "used with their classes: apple/bad/",
    ),
    "all of a class below results": (
        flat("d/blue/results", "d/red"), "blue red", {"train": 6}, "",
    ),
    "tiny": (["d/blue/a.png", "d/red/b.png"], "blue red", {"train": 2}, ""),
    "wrapped parts": (classes("d/a/b/train", "d/a/b/test"), "blue red", {"train": 6, "test": 6}, "using d/a/b"),
    "wrapped train alone": (classes("d/d/train"), "blue red", {"train": 6}, "using d/d"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_it_is_read(name: str) -> None:
    files, names, parts, words = READ[name]
    touch(files)
    source = imagefolder(root="d")
    assert list(source.classes) == (names.split() if isinstance(names, str) else names)
    assert sizes(source) == parts
    assert words in said(source)
    assert words or not said(source)


# --- what is asked, and what to type ----------------------------------------------------------------------------------

ASKED = {  # name: files below d/, words of the message
    "flat parts of a name": (
        flat("d/bounding_box_train", "d/bounding_box_test", "d/query"),
        ["bounding_box_test/, bounding_box_train/ look like parts, not classes", "layout=flat"],
    ),
    "flat parts of dogs": (
        flat("d/dogs-train", "d/dogs-val"), ["dogs-train/, dogs-val/ look like parts", "layout=flat"],
    ),
    "test/test without labels": (
        classes("d/train/train") + flat("d/test/test"), ["no class folders in d/test", "dataset=./d/train/train"],
    ),
    "hidden folders": (classes("d", names=(".net", ".qt")), ["no class folders in d but hidden ones (.net, .qt)"]),
    "domains, each with a folder around its classes": (
        classes("d/amazon/images", "d/dslr/images"),
        ["amazon/, dslr/ all hold the folders blue, red", "dataset=./d/amazon/images", "layout=flat"],
    ),
    "folds, some with a folder around their classes": (
        classes("d/fold1/fold1", "d/fold2"),
        ["fold1/, fold2/ all hold the folders blue, red", "dataset=./d/fold1/fold1"],
    ),
    "test without labels": (classes("d/train") + flat("d/test"), ["no class folders in d/test", "dataset=./d/train"]),
    "dogs and cats": (
        [f"d/train/{name}.{i}.png" for name in ("cat", "dog") for i in range(4)] + flat("d/test1"),
        ["train/, test1/ are parts, not classes", "seem to say the class (cat, dog: cat.0.png)"],
    ),
    "flat parts": (flat("d/Train", "d/Valid"), ["no class folders in d/Train", "parts, not classes"]),
    "test alone": (flat("d/test"), ["test/ is a part, not a class"]),
    "folds": (classes("d/fold_0", "d/fold_1"), ["all hold the folders blue, red", "dataset=./d/fold_0", "layout=flat"]),
    "three folds, one short": (
        classes("d/k1", "d/k2", names="abcd") + classes("d/k3", names="abc"),
        ["all hold the folders a, b, c", "dataset=./d/k1", "layout=flat"],
    ),
    "folds of parts": (
        classes(*(f"d/fold{i}/{part}" for i in range(2) for part in ("train", "test"))),
        ["all hold the folders test, train", "dataset=./d/fold0"],
    ),
    "PlantVillage": (
        classes("d/color", "d/grayscale", "d/segmented"), ["the same images in several forms", "dataset=./d/color"],
    ),
    "resolutions": (classes("d/128x128", "d/256x256"), ["all hold the folders blue, red", "dataset=./d/128x128"]),
    "masks": (flat("d/images", "d/masks"), ["images/ and masks/ look like image segmentation", "layout=flat"]),
    "masks, other words": (flat("d/imgs", "d/GT"), ["imgs/ and GT/ look like image segmentation"]),
    "masks, parts in the names": (
        flat("d/train_images", "d/train_masks", "d/test_images"), ["train_images/ and train_masks/ look like"],
    ),
    "medical": (flat("d/imagesTr", "d/labelsTr", "d/imagesTs"), ["imagesTr/ and labelsTr/ look like"]),
    "masks below parts": (
        flat("d/train/images", "d/train/masks", "d/val/images", "d/val/masks"), ["look like image segmentation"],
    ),
    "masks of classes": (classes("d/images", "d/masks"), ["look like image segmentation", "dataset=./d/images"]),
    "YOLO": (
        [*flat("d/images/train", "d/images/val"), "d/labels/train/0.txt"],
        ["images/ and labels/ look like object detection"],
    ),
    "YOLO, parts first": (
        [*flat("d/train/images", "d/valid/images"), "d/train/labels/0.txt", "d/valid/labels/0.txt", "d/data.yaml"],
        ["images/ and labels/ look like object detection"],
    ),
    "YOLO, one folder": (flat("d") + flat("d", suffix=".txt"), ["a .txt file for each image looks like"]),
    "VOC": (flat("d/JPEGImages") + flat("d/Annotations", suffix=".xml"), ["Pascal VOC"]),
    "VOC, other words": (flat("d/pics") + flat("d/xmls", suffix=".xml"), ["look like object detection"]),
    "VOC, one folder": (flat("d") + flat("d", suffix=".xml"), ["a .xml file for each image looks like"]),
    "COCO": (
        [*flat("d/train2017", "d/val2017"), "d/annotations/instances_val2017.json"],
        ["annotations/ beside train2017/ looks like object detection"],
    ),
    "COCO, one folder": ([*flat("d"), "d/_annotations.coco.json"], ["looks like object detection (COCO)"]),
    "masks in the names": (["d/a.png", "d/a_mask.png", "d/b.png", "d/b_mask.png"], ["look like image segmentation"]),
    "super-resolution": (flat("d/HR", "d/LR"), ["HR/ and LR/ look like super-resolution"]),
    "CycleGAN": (flat("d/trainA", "d/trainB", "d/testA", "d/testB"), ["CycleGAN"]),
    "depth": (flat("d/rgb", "d/depth"), ["rgb/ and depth/ look like depth estimation"]),
    "Cityscapes": (flat("d/leftImg8bit/train/ulm", "d/gtFine/train/ulm"), ["Cityscapes"]),
    "no train": (classes("d/val", "d/test"), ["no train/", "dataset=./d/val", "dataset=./d/test"]),
    "a test among classes": (flat("d/cat", "d/dog", "d/test"), ["is test/ a class or a part?", "layout=flat"]),
    "classes beside their test": (classes("d", "d/test"), ["is test/ a class or a part?", "layout=flat"]),
    "two sets": (classes("d/train", "d/more"), ["more/ beside train/ holds the same class folders", "./d/train"]),
    "train or a train": (
        classes("d/train", names=("new", "old")) + flat("d/car", "d/plane"),
        ["is train/ a part or a class?", "dataset=./d/train", "layout=flat"],
    ),
    "a class that is not split": (
        flat("d/blue/train", "d/blue/test", "d/red"),
        ["blue/ is split into test, train, but red is not", "layout=flat"],
    ),
    "a class split in half": (
        flat("d/blue/train", "d/blue/test", "d/red/train", "d/red/test", "d/red"), ["but red is not"],
    ),
    "ignored suffixes": (
        flat("d/blue") + flat("d/red", suffix=".dcm"),
        ["no images in the class folder d/red (3 .dcm there are not image files by their suffix)"],
    ),
    "ignored suffixes, flat": (flat("d", suffix=".svg"), ["no class folders in d (3 .svg there are not image files"]),
    "archives": (["d/train.zip", "d/test.zip"], ["archives (test.zip, train.zip)", "unzip ./d/test.zip -d ./d/test"]),
    "a run": ([f"d/{name}" for name in RUN], ["d is a run of imgcls"]),
    "Pets": ([f"d/images/{name}_{i}.jpg" for name in ("Birman", "pug") for i in range(3)] + ["d/annotations/list.txt"],
             ["Oxford-IIIT Pet", "dataset=oxford_iiit_pet"]),
    "flat names": (
        [f"d/{name}_{i}.jpg" for name in ("Birman", "pug") for i in range(3)], ["(Birman, pug: Birman_0.jpg)"],
    ),
    "plots": (classes("d") + flat("d/plots"), ["is plots/ a class", "layout=flat 'dataset.classes=[blue,red]'"]),
    "outputs of all kinds": (
        classes("d") + flat("d/runs", "d/figures", "d/thumbs"),
        ["are figures/, runs/, thumbs/ classes", "=[blue,red]'"],
    ),
    "thumbs": (classes("d") + flat("d/thumbs"), ["is thumbs/ a class", "for the classes blue, red, thumbs add"]),
    "only images": (flat("d/images"), ["no class folders in d"]),
    "MNIST": (["d/train-images-idx3-ubyte.gz"], ["dataset=mnist dataset.root=./d"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_it_is_asked(name: str) -> None:
    files, words = ASKED[name]
    touch(files)
    message = refusal("d")
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize("name", [name for name, (_, words) in ASKED.items() if "layout=flat" in words])
def test_the_other_reading_can_be_typed(name: str) -> None:
    touch(ASKED[name][0])
    source = imagefolder(root="d", layout="flat")
    assert list(source.classes) == sorted(os.listdir("d"))


def test_many_classes_with_the_same_folders_below_are_classes() -> None:
    touch(classes(*(f"d/c{i:02}" for i in range(21)), names=("left", "right")))
    source = imagefolder(root="d")
    assert len(source.classes) == 21
    assert "are pooled into these" in said(source)


# --- tables in folders ------------------------------------------------------------------------------------------------


def table(path: str, *rows: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("\n".join(rows) + "\n")


def test_a_table_in_the_folder_of_its_images_is_read() -> None:
    touch(flat("d"))
    table("d/metadata.csv", "file_name,label", "0.png,a", "1.png,b", "2.png,a")
    source = imagefolder(root="d")
    assert (source.classes, sizes(source)) == (("a", "b"), {"train": 3})
    assert "the labels are from ./d/metadata.csv" in said(source)


def test_tables_in_the_parts_are_read() -> None:
    touch(flat("d/train", "d/test"))
    table("d/train/metadata.csv", "file_name,label", "0.png,a", "1.png,b", "2.png,a")
    table("d/test/metadata.csv", "file_name,label", "0.png,b", "1.png,a")
    source = imagefolder(root="d")
    assert sizes(source) == {"train": 3, "test": 2}
    assert source.parts["test"].ids.tolist() == ["test/0.png", "test/1.png"]
    assert source.parts["test"].labels.tolist() == [1, 0]
    table("d/test/metadata.csv", "file_name,label", "0.png,c")
    assert "test has classes that train does not have: c" in refusal("d")


@pytest.mark.parametrize("folder", ["", "images/", "train/", "HAM_images_part_1/"])
def test_a_table_beside_the_images_is_read(folder: str) -> None:
    touch(f"d/{folder}{i}.png" for i in range(3))
    table("d/train.csv", "id,breed", "0,a", "1,b", "2,a")
    table("d/sample_submission.csv", "id,a,b", "7,0,1")
    assert imagefolder(root="d").train.labels.tolist() == [0, 1, 0]


def test_tables_of_parts_beside_the_images_are_read() -> None:
    touch(flat("d/images"))
    table("d/train.csv", "id,label", "0,a", "1,b")
    table("d/test.csv", "id,label", "2,a")
    assert sizes(imagefolder(root="d")) == {"train": 2, "test": 1}
    table("d/test.csv", "id,width,height", "2,7,9")
    source = imagefolder(root="d")
    assert sizes(source) == {"train": 2}
    assert "not used: the table test.csv, which has no labels" in said(source)


def test_of_several_tables_one_is_to_be_named() -> None:
    touch(flat("d"))
    for name in ("x", "y"):
        table(f"d/{name}.csv", "path,label", "0.png,a")
    assert "which of the tables x.csv, y.csv has the labels? Type dataset=./d/x.csv" in refusal("d")


def test_a_table_that_cannot_be_read_is_named() -> None:
    touch(flat("d"))
    table("d/x.csv", "path,width,height", "0.png,7,9")
    assert "which column is the label?" in refusal("d")
    assert "dataset=./d/x.csv" in refusal("d")


def test_class_folders_win_over_a_table_that_agrees() -> None:
    touch(classes("d"))
    table("d/labels.csv", "path,label", *(f"{name}/{i}.png,{name}" for name in ("blue", "red") for i in range(3)))
    source = imagefolder(root="d")
    assert source.classes == ("blue", "red")
    assert "not used: the table labels.csv; the class folders have the labels" in said(source)
    table("d/labels.csv", "path,label", *(f"{name}/{i}.png,{name[0]}" for name in ("blue", "red") for i in range(3)))
    assert imagefolder(root="d").classes == ("blue", "red")  # the same classes under other names
    table("d/labels.csv", "name,price", "a,3")
    assert imagefolder(root="d").classes == ("blue", "red")


def test_class_folders_and_a_table_that_disagree_are_asked_about() -> None:
    touch(classes("d"))
    rows = [f"{name}/{i}.png,{'ab'[i % 2]}" for name in ("blue", "red") for i in range(3)]
    table("d/labels.csv", "path,label", *rows)
    message = refusal("d")
    assert "disagree" in message
    assert "dataset=./d/labels.csv dataset.images=./d" in message
    assert imagefolder(root="d", layout="flat").classes == ("blue", "red")


# --- layouts of published data sets -----------------------------------------------------------------------------------


def food() -> None:
    touch(flat("d/images/pie", "d/images/cake", suffix=".jpg"))
    table("d/meta/train.txt", "pie/0", "pie/1", "cake/0")
    table("d/meta/test.txt", "pie/2", "cake/2")


def tiny() -> None:
    touch(flat("d/train/n01/images", "d/train/n02/images", "d/val/images", "d/test/images", suffix=".JPEG"))
    table("d/val/val_annotations.txt", "0.JPEG\tn01\t0\t0\t62\t57", "2.JPEG\tn02\t0\t0\t62\t57")


def signs() -> None:
    touch([*flat(*(f"d/Train/{i}" for i in range(11)), count=1), "d/Test/00000.png", "d/Meta/0.png"])
    table("d/Test.csv", "Width,Height,Roi.X1,Roi.Y1,ClassId,Path", "9,9,1,1,10,Test/00000.png")


def birds() -> None:
    touch(flat("d/images/001.Crow", "d/images/002.Wren", count=2, suffix=".jpg"))
    table("d/images.txt", "1 001.Crow/0.jpg", "2 001.Crow/1.jpg", "3 002.Wren/0.jpg", "4 002.Wren/1.jpg")
    table("d/train_test_split.txt", "1 1", "2 0", "3 1", "4 1")
    table("d/classes.txt", "1 001.Crow", "2 002.Wren")


@pytest.mark.parametrize(
    ("make", "names", "parts", "words"),
    [
        (food, "cake pie", {"train": 3, "test": 2}, "the layout of Food-101: train by meta/train.txt"),
        (tiny, "n01 n02", {"train": 6, "val": 2}, "not used: test/"),
        (signs, "0 1 2 3 4 5 6 7 8 9 10", {"train": 11, "test": 1}, "test by Test.csv"),
        (birds, "001.Crow 002.Wren", {"train": 3, "test": 1}, "the layout of CUB-200"),
    ],
)
def test_published_layouts_are_read(make: object, names: str, parts: dict[str, int], words: str) -> None:
    make()  # type: ignore[operator]
    source = imagefolder(root="d")
    assert (list(source.classes), sizes(source)) == (names.split(), parts)
    assert words in said(source)


def test_a_list_with_a_missing_image_is_named() -> None:
    food()
    table("d/meta/test.txt", "pie/7")
    assert "d/meta/test.txt: no image pie/7 in images/" in refusal("d")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"), ("Training", "train"), ("TRAIN", "train"), ("train2017", "train"), ("trainset", "train"),
        ("train_data", "train"), ("TrainImages", "train"), ("01-train", "train"), ("training-set", "train"),
        ("val", "val"), ("valid_set", "val"), ("Validation", "val"), ("dev", "val"), ("evaluation_set", "val"),
        ("test1", "test"), ("Test Images", "test"), ("testset", "test"), ("test_photos", "test"),
        ("train_station", None), ("test_tube", None), ("trainer", None), ("rain", None), ("contest", None),
        ("train_test", None), ("seg_train", None), ("cat", None), ("valley", None), ("", None), ("2019", None),
    ],
)  # fmt: skip
def test_parts_by_name(name: str, part: str | None) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize("name", [
    "@eaDir", "lost+found", "$RECYCLE.BIN", "#recycle", "#snapshot", "System Volume Information", "__MACOSX",
    "Thumbs.db", "desktop.ini", "@Recently-Snapshot", "@Recycle", "Network Trash Folder", "Temporary Items",
    "__pycache__", "FOUND.000", "RECYCLER", "a.jpg:Zone.Identifier", "SYNOPHOTO_THUMB_XL.jpg", "$Extend", "~snapshot",
    "Icon\r",
])  # fmt: skip
def test_junk_is_known(name: str) -> None:
    assert is_junk(name)


@pytest.mark.parametrize("name", ["recycled", "recycler", "$1", "trash", "found", "snapshot", "cat", "temp"])
def test_classes_are_no_junk(name: str) -> None:
    assert not is_junk(name)


def test_numbers_are_sorted_by_value_and_only_if_all_are() -> None:
    assert list(in_order(["10", "2", "01"])) == ["01", "2", "10"]
    assert list(in_order(["10", "2", "a"])) == ["10", "2", "a"]
    assert list(in_order(["١٠", "2"])) == sorted(["١٠", "2"])


def test_names_of_targets() -> None:
    assert task_of_target("train_masks") == "image segmentation"
    assert task_of_target("with_mask") is None


def test_levels() -> None:
    assert levels(Path("a"), Path("a")) == [Path("a")]
    assert levels(Path("a"), Path("a/b/c")) == [Path("a"), Path("a/b"), Path("a/b/c")]


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("./photos.zip", "is an archive; unpack it first (unzip ./photos.zip -d ./photos), then dataset=./photos"),
        ("photos.zip", "is an archive"),
        ("./photos.tar.gz", "tar -xf ./photos.tar.gz -C ./photos"),
        ("./photos.7z", "7z x ./photos.7z -o./photos"),
        ("https://example.org/photos.zip", "https://example.org/photos.zip is an address; download it first"),
        ("s3://bucket/photos", "s3://bucket/photos is an address"),
        ("https://example.org/labels.csv", "https://example.org/labels.csv is an address; download it first"),
        ("./photso", "no such folder: {here}/photso; did you mean './photos'?"),
        ("./photso/red", "did you mean './photos'?"),
        ("./lables.csv", "did you mean './labels.csv'?"),
        ("./photos/red/0.png", "is one image"),
        ("./zzzz", "no such folder: {here}/zzzz"),
    ],
)
@pytest.mark.parametrize("command", [["train"], ["data"]])
def test_a_place_without_a_folder(
    command: list[str], given: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch([*classes("photos"), "photos.zip", "photos.tar.gz", "photos.7z", "labels.csv"])
    assert main([*command, f"dataset={given}"]) == 3
    assert words.format(here=tmp_path) in capsys.readouterr().err


def test_a_misspelled_name_is_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    touch(classes("photos"))
    assert main(["train", "dataset=photso"]) == 2
    assert "unknown 'photso'; did you mean dataset=./photos?" in capsys.readouterr().err


# --- commands ---------------------------------------------------------------------------------------------------------

FAST = ("model=linear", "dataset.image_size=4", "epochs=1", "threads=1", *QUIET)


def pictures(root: str, names: Sequence[str] = ("blue", "red"), count: int = 10) -> None:
    rng = np.random.default_rng(0)
    for path in flat(*(f"{root}/{name}" for name in names), count=count):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).save(path)


@pytest.mark.process
def test_runs_in_the_folder_of_the_images_are_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    pictures("photos")
    os.chdir("photos")
    plots = [word for word in FAST if word != "plots=false"]
    for _ in range(2):
        assert main(["train", "dataset=.", *plots]) == 0
    runs = sorted(os.listdir("outputs"))
    assert len(runs) == 2
    assert [path for run in runs for path in Path("outputs", run).rglob("*.png")]
    assert "ignored  outputs (runs of imgcls)" in capsys.readouterr().err
    assert main(["evaluate", f"outputs/{runs[0]}"]) == 0
    assert main(["train", f"resume=outputs/{runs[0]}", "epochs=2"]) == 0
    assert main(["predict", f"outputs/{runs[0]}", ".", "output=rows.json"]) == 0
    assert len(json.loads(Path("rows.json").read_text())) == 20
    capsys.readouterr()
    assert main(["data", "."]) == 0
    assert "data     photos: 20 train; 2 classes" in capsys.readouterr().out


def test_a_known_class_without_images_is_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    pictures("photos")
    pictures("hold", ["red"])
    Path("hold/blue").mkdir()
    assert main(["train", "dataset=./photos", *FAST, "run_dir=run"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "dataset=./hold", "split=all", "output=out"]) == 0
    report = json.loads(Path("out/report.json").read_text())
    assert [(row["class"], row["support"]) for row in report["per_class"]] == [("blue", 0), ("red", 10)]
    assert "warning: no images in the class folder" in capsys.readouterr().err
    assert main(["train", "dataset=./hold", *FAST]) == 3


def test_a_run_of_numbered_classes_keeps_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    """As version 0.1.0 stored it: without dataset.layout, and in the order of text."""
    pictures("photos", list(map(str, range(11))), count=6)
    Path("photos/@eaDir").mkdir()
    pictures("photos", ["@eaDir"], count=6)
    assert main(["train", "dataset=./photos", "dataset.layout=old", *FAST, "run_dir=run"]) == 0
    path = Path("run/config.yaml")
    path.write_text(path.read_text().replace("  layout: old\n", ""))
    with np.load("run/predictions.npz") as file:
        assert file["classes"].tolist() == ["0", "1", "10", *map(str, range(2, 10)), "@eaDir"]
    assert main(["evaluate", "run"]) == 0
    assert main(["train", "resume=run", "epochs=2"]) == 0
    assert "layout: old" in path.read_text()
    pictures("hold", list(map(str, range(11))), count=6)
    assert main(["evaluate", "run", "dataset=./hold", "split=all", "output=out"]) == 0
    rows = json.loads(Path("out/report.json").read_text())["per_class"]
    assert [row["support"] for row in rows] == [6] * 11 + [0]


def test_junk_is_passed_over_by_predict(linear_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures("photos", ["red", "red/@eaDir"], count=2)
    for given in ("photos", "photos/**/*.png"):
        assert main(["predict", str(linear_run), given]) == 0
        captured = capsys.readouterr()
        assert "ignored  @eaDir (left by" in captured.err
        assert "@eaDir" not in captured.out
    assert main(["predict", str(linear_run), "photos/red/@eaDir"]) == 0  # named on purpose
    assert "@eaDir" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["red", "blue", "augmented/red", "augmented/blue"], "augmented/ holds red, blue again"),
        (["red", "blue", "old/red"], "old/ holds red again"),
        (["red", "blue", "red - Copy"], "red - Copy/ looks like a copy of red/"),
        (["red", "blue", "copy of blue"], "copy of blue/ looks like a copy of blue/"),
        (["red", "blue", "red (2)"], "red (2)/ looks like a copy of red/"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_copies_of_classes_are_asked_about(folders: list[str], said: str) -> None:
    for folder in folders:
        pictures(f"set/{folder}", [""])
    with pytest.raises(DataError) as refused:
        imagefolder(root="set")
    assert said in str(refused.value).replace("blue, red", "red, blue")
    assert "dataset.layout=flat" in str(refused.value)
    assert len(imagefolder(root="set", layout="flat").classes) == len({one.split("/")[0] for one in folders})


def test_labeled_beside_unlabeled_is_train() -> None:
    pictures("set/labeled")
    pictures("set/unlabeled", [""])
    assert sorted(imagefolder(root="set").classes) == ["blue", "red"]
