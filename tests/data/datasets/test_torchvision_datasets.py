"""torchvision's data sets by name, read from files in its layouts: their formats, not their data."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image

from imgcls.cli.app import main
from imgcls.config.torchvision_names import DATASETS as NAMES
from imgcls.data import DATASETS
from imgcls.data.datasets.torchvision import NAMED, TORCHVISION_DATASETS
from imgcls.data.source import Source
from imgcls.errors import DataError
from tests.conftest import QUIET

RNG = np.random.default_rng(0)


def idx(path: str, array: np.ndarray[Any, Any]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    kind = {"uint8": 8, "int32": 12}[array.dtype.name]
    head = bytes((0, 0, kind, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    content = head + array.astype(array.dtype.newbyteorder(">")).tobytes()
    Path(path).write_bytes(gzip.compress(content) if path.endswith(".gz") else content)


def photo(path: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


def text(path: str, content: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)


def kmnist() -> None:
    for part, count in (("train", 20), ("t10k", 10)):
        idx(f"data/KMNIST/raw/{part}-images-idx3-ubyte", RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        idx(f"data/KMNIST/raw/{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))


def emnist() -> None:
    for part, count in (("train", 94), ("test", 47)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 3, 20] = 255
        idx(f"data/EMNIST/raw/emnist-balanced-{part}-images-idx3-ubyte", images)
        idx(f"data/EMNIST/raw/emnist-balanced-{part}-labels-idx1-ubyte", (np.arange(count) % 47).astype(np.uint8))


def qmnist() -> None:
    for part, count in (("train", 20), ("test", 10)):
        labels = np.zeros((count, 8), np.int32)
        labels[:, 0] = np.arange(count) % 10
        idx(f"data/QMNIST/raw/qmnist-{part}-images-idx3-ubyte", RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        idx(f"data/QMNIST/raw/qmnist-{part}-labels-idx2-int", labels)


def svhn() -> None:
    from scipy.io import savemat

    Path("data").mkdir()
    for part, count in (("train", 20), ("test", 10)):
        labels = (np.arange(count) % 10 + 1).reshape(-1, 1)  # 10 stands for 0
        savemat(f"data/{part}_32x32.mat", {"X": RNG.integers(0, 256, (32, 32, 3, count), dtype=np.uint8), "y": labels})


def stl10() -> None:
    Path("data/stl10_binary").mkdir(parents=True)
    for part, count in (("train", 20), ("test", 10), ("unlabeled", 1)):
        RNG.integers(0, 256, count * 3 * 96 * 96, dtype=np.uint8).tofile(f"data/stl10_binary/{part}_X.bin")
        (np.arange(count) % 10 + 1).astype(np.uint8).tofile(f"data/stl10_binary/{part}_y.bin")
    text("data/stl10_binary/class_names.txt", "\n".join(f"thing{i}" for i in range(10)))
    text("data/stl10_binary/fold_indices.txt", "0")


def food101() -> None:
    for part in ("train", "test"):
        names = {kind: [f"{kind}/{part}{i}" for i in range(6)] for kind in ("pie", "soup")}
        for name in (one for several in names.values() for one in several):
            photo(f"data/food-101/images/{name}.jpg")
        text(f"data/food-101/meta/{part}.json", json.dumps(names))


def oxford_iiit_pet() -> None:
    for part in ("trainval", "test"):
        rows = [(f"{kind}_{part}{i}", label) for label, kind in ((1, "Abyssinian"), (2, "beagle")) for i in range(6)]
        text(f"data/oxford-iiit-pet/annotations/{part}.txt", "".join(f"{name} {label} 1 1\n" for name, label in rows))
        for name, _ in rows:
            photo(f"data/oxford-iiit-pet/images/{name}.jpg")


def eurosat() -> None:
    for kind in ("Forest", "River"):
        for i in range(10):
            photo(f"data/eurosat/2750/{kind}/{kind}_{i}.jpg")


def gtsrb() -> None:
    for kind in ("00000", "00001"):
        for i in range(8):
            photo(f"data/gtsrb/GTSRB/Training/{kind}/{i}.ppm")
    rows = [{"Filename": f"{i}.ppm", "ClassId": str(i % 2)} for i in range(6)]
    for row in rows:
        photo(f"data/gtsrb/GTSRB/Final_Test/Images/{row['Filename']}")
    with Path("data/gtsrb/GT-final_test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["Filename", "ClassId"], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


def dtd() -> None:
    for part in ("train", "val", "test"):
        names = [f"{kind}/{kind}_{part}{i}.jpg" for kind in ("banded", "dotted") for i in range(6)]
        text(f"data/dtd/dtd/labels/{part}1.txt", "\n".join(names) + "\n")
        for name in names:
            photo(f"data/dtd/dtd/images/{name}")


def fgvc_aircraft() -> None:
    base = "data/fgvc-aircraft-2013b/data"
    text(f"{base}/variants.txt", "707\n747\n")
    for part in ("train", "val", "test"):
        rows = [(f"{part}{kind}{i}", kind) for kind in ("707", "747") for i in range(6)]
        text(f"{base}/images_variant_{part}.txt", "".join(f"{name} {kind}\n" for name, kind in rows))
        for name, _ in rows:
            photo(f"{base}/images/{name}.jpg")


def country211() -> None:
    for part in ("train", "valid", "test"):
        for kind in ("AD", "ZW"):
            for i in range(6):
                photo(f"data/country211/{part}/{kind}/{i}.jpg")


def usps() -> None:
    for name, count in (("usps.bz2", 20), ("usps.t.bz2", 10)):
        numbers = " ".join(f"{i + 1}:{RNG.uniform(-1, 1):.3f}" for i in range(256))
        Path("data").mkdir(exist_ok=True)
        Path(f"data/{name}").write_bytes(
            bz2.compress("".join(f"{i % 10 + 1} {numbers}\n" for i in range(count)).encode())
        )


def flowers102() -> None:
    from scipy.io import savemat

    count = 3 * 102
    Path("data/flowers-102").mkdir(parents=True)
    savemat("data/flowers-102/imagelabels.mat", {"labels": np.arange(count) % 102 + 1})
    parts = {key: np.arange(i * 102, (i + 1) * 102) + 1 for i, key in enumerate(("trnid", "valid", "tstid"))}
    savemat("data/flowers-102/setid.mat", parts)
    for i in range(count):
        photo(f"data/flowers-102/jpg/image_{i + 1:05d}.jpg")


def imagenette() -> None:
    for part in ("train", "val"):
        for kind in ("n01440764", "n03000684"):
            for i in range(6):
                photo(f"data/imagenette2-320/{part}/{kind}/{i}.JPEG")


def rendered_sst2() -> None:
    for part in ("train", "valid", "test"):
        for kind in ("negative", "positive"):
            for i in range(6):
                photo(f"data/rendered-sst2/{part}/{kind}/{i}.png")


def semeion() -> None:
    rows = np.concatenate([RNG.integers(0, 2, (30, 256)), np.eye(10, dtype=np.int64)[np.arange(30) % 10]], axis=1)
    text("data/semeion.data", "".join(" ".join(map(str, row)) + " \n" for row in rows.tolist()))


MADE: dict[str, tuple[Callable[[], None], int, tuple[str, ...]]] = {
    "kmnist": (kmnist, 10, ("train", "test")),
    "emnist": (emnist, 47, ("train", "test")),
    "qmnist": (qmnist, 10, ("train", "test")),
    "svhn": (svhn, 10, ("train", "test")),
    "stl10": (stl10, 10, ("train", "test")),
    "usps": (usps, 10, ("train", "test")),
    "flowers102": (flowers102, 102, ("train", "val", "test")),
    "food101": (food101, 2, ("train", "test")),
    "oxford_iiit_pet": (oxford_iiit_pet, 2, ("train", "test")),
    "eurosat": (eurosat, 2, ("train",)),
    "gtsrb": (gtsrb, 2, ("train", "test")),
    "dtd": (dtd, 2, ("train", "val", "test")),
    "fgvc_aircraft": (fgvc_aircraft, 2, ("train", "val", "test")),
    "imagenette": (imagenette, 2, ("train", "test")),
    "rendered_sst2": (rendered_sst2, 2, ("train", "val", "test")),
    "semeion": (semeion, 10, ("train",)),
    "country211": (country211, 2, ("train", "val", "test")),
}


def test_every_name_is_an_option_and_a_class_of_torchvisions() -> None:
    assert set(MADE) == set(NAMES)
    assert set(NAMES) == set(NAMED) == set(TORCHVISION_DATASETS) <= set(DATASETS)
    assert all(hasattr(torchvision.datasets, named.kind) for named in NAMED.values())


@pytest.mark.parametrize("name", MADE)
def test_every_set_is_read_as_torchvision_lays_it_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, classes, parts = MADE[name]
    make()
    for module in ("svhn", "stl10", "semeion", "flowers102"):  # their checksums are of the real files
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *_: True)
    source: Source = TORCHVISION_DATASETS[name](root="data", download=False)
    assert tuple(source.parts) == parts
    assert len(source.classes) == classes
    assert all(set(part.labels.tolist()) == set(range(classes)) for part in source.parts.values())
    if name == "emnist":
        assert source.train.whole is not None
        assert source.train.whole[0, 20, 3, 0] == 255  # upright again
    if name == "stl10":
        assert source.classes[3] == "thing3"
    if name == "imagenette":
        assert source.classes == ("tench", "chain saw")
    words = [
        "model=linear",
        f"dataset={name}",
        "dataset.root=data",
        "dataset.download=false",
        "epochs=1",
        "threads=1",
        *QUIET,
    ]
    assert main(["train", *words, "dataset.image_size=16", "run_dir=run"]) == 0
    assert main(["evaluate", "run"]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught:
        TORCHVISION_DATASETS[name](root="nowhere", download=False)
    assert f"dataset={name}: cannot be read in nowhere and dataset.download is false (" in str(caught.value)
    assert "digits, which needs no download" in str(caught.value)
    assert not Path("nowhere").exists()
    assert "\n" not in str(caught.value)
