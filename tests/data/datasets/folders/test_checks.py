"""Corrupt files, duplicates across splits, symlinks out of the data folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.cli.app import main
from imgcls.data.datasets.folders.checks import broken, leaks
from imgcls.errors import DataError
from tests.conftest import imagefolder


def noise(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos() -> Path:
    """photos/: two classes of 20 images of noise."""
    for label, name in enumerate(("blue", "red")):
        for i in range(20):
            noise(Path(f"photos/{name}/{i:02}.png"), 100 * label + i)
    return Path("photos")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def test_verify_names_every_corrupt_file(photos: Path) -> None:
    cut(photos / "blue/03.png")
    (photos / "red/07.png").write_text("<html>")
    imagefolder(root="photos")  # not decoded here
    with pytest.raises(DataError) as error:
        imagefolder(root="photos", verify=True)
    assert str(error.value).startswith("2 corrupt files: not a readable image: photos/blue/03.png")
    assert "photos/red/07.png" in str(error.value)
    assert "dataset.on_error=skip" in str(error.value)


def test_ten_of_many_corrupt_files_are_named(photos: Path) -> None:
    for path in sorted(photos.rglob("*.png"))[:15]:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"15 corrupt files: .*; \.\.\. \(15 in all\); "):
        imagefolder(root="photos", verify=True)


def test_skip_leaves_corrupt_files_out_and_counts_them(photos: Path) -> None:
    cut(photos / "blue/03.png")
    source = imagefolder(root="photos", on_error="skip")
    assert (len(source.train), source.skipped) == (39, 1)
    assert "blue/03.png" not in source.train.ids
    assert np.bincount(source.train.labels).tolist() == [19, 20]
    assert any("left out: not a readable image: photos/blue/03.png" in line for line in source.warnings)


def test_a_class_of_corrupt_files_only_is_an_empty_class(photos: Path) -> None:
    for path in (photos / "red").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no images in the class folder photos/red"):
        imagefolder(root="photos", on_error="skip")


def test_all_of_many_files_are_checked_by_several_processes(photos: Path) -> None:
    paths = [noise(photos / f"blue/more-{i}.png", i) for i in range(150)]
    for path in paths[::10]:
        cut(path)
    source = imagefolder(root="photos")
    found = broken(source.train)
    assert sorted(source.train.ids[row] for row in found) == sorted(f"blue/{path.name}" for path in paths[::10])


def test_the_report_counts_what_was_left_out(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut(photos / "blue/03.png")
    words = ["dataset=./photos", "model=linear", "epochs=1", "threads=1"]
    assert main(["train", *words, "dataset.verify=true", "run_dir=refused"]) == 3
    assert "photos/blue/03.png" in capsys.readouterr().err
    assert not Path("refused").exists()
    assert main(["train", *words, "dataset.on_error=skip", "run_dir=run"]) == 0
    assert json.loads(Path("run/report.json").read_text())["skipped"] == 1
    assert main(["evaluate", "run"]) == 0
    (again,) = Path("run/evaluations").glob("*/report.json")
    assert json.loads(again.read_text())["skipped"] == 1


# --- files in two splits ----------------------------------------------------------------------------------------------


def test_files_in_two_splits_cause_a_warning(photos: Path) -> None:
    shutil.copytree(photos, "split/train")
    for name in ("blue", "red"):
        noise(Path(f"split/test/{name}/own.png"), 999)
    shutil.copy(photos / "blue/05.png", "split/test/blue/renamed.png")
    assert any("1 file is in both train and test" in line for line in imagefolder(root="split").warnings)
    Path("split/test/blue/renamed.png").unlink()
    assert not any("in both train and test" in line for line in imagefolder(root="split").warnings)


def test_files_of_equal_size_and_different_content_are_no_duplicates(photos: Path) -> None:
    one, other = (imagefolder(root="photos").train.take(np.array([row])) for row in (0, 1))
    sizes = {os.path.getsize(images.paths[0]) for images in (one, other) if images.paths}
    for images in (one, other):
        assert images.paths
        path = Path(images.paths[0])
        path.write_bytes(path.read_bytes() + b"\0" * (max(sizes) - path.stat().st_size))
    assert leaks({"train": one, "val": other}) == []
    assert leaks({"train": one, "val": one})


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "folder", "class"])
def test_symlinks_out_of_the_folder_are_refused_on_request(photos: Path, what: str) -> None:
    noise(Path("elsewhere/one.png"), 7)
    link = {"file": photos / "red/link.png", "folder": photos / "red/more", "class": photos / "green"}[what]
    link.symlink_to(Path("elsewhere/one.png" if what == "file" else "elsewhere").resolve())
    assert "one" in str(imagefolder(root="photos").train.ids) or what == "file"
    with pytest.raises(DataError, match=f"{link} is a symlink out of the data folder, to .*dataset.follow_links=true"):
        imagefolder(root="photos", follow_links=False)


def test_symlinks_within_the_folder_are_always_followed(photos: Path) -> None:
    (photos / "red/link.png").symlink_to((photos / "blue/00.png").resolve())
    assert "red/link.png" in imagefolder(root="photos", follow_links=False).train.ids
