"""Hundreds of folder layouts, made of parts, classes, junk, depth, spellings: none is read wrongly without a word.

The unambiguous ones (what most people have) are to be read without a question or a warning.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgcls.errors import DataError
from tests.conftest import imagefolder

PARTS = {  # the folders of train, val and test; a star: unusual, so that a question is allowed
    "none": {"": "train"},
    "usual": {"train": "train", "val": "val", "test": "test"},
    "two": {"train": "train", "test": "test"},
    "longer": {"training": "train", "validation": "val"},
    "sets": {"trainset": "train", "testset": "test"},
    "words": {"train_images": "train", "test_images": "test"},
    "numbers": {"train1": "train", "test1": "test"},
    "seg": {"seg_train": "train", "seg_test": "test"},
    "*folds": {"fold_0": "", "fold_1": ""},
    "*forms": {"color": "", "gray": ""},
    "*sources": {"phone": "", "camera": ""},
    "*no train": {"val": "val", "test": "test"},
}
CLASSES = {
    "two": ("cat", "dog"),
    "three": ("a b", "ü", "日本"),
    "numbers": tuple(map(str, range(11))),
    "capitals": ("Cat", "Dog"),
    "parts as classes": ("car", "plane", "ship"),
}
JUNK = {
    "none": (),
    "nas": ("@eaDir/cat/a.png", "{first}/@eaDir/a.png/SYNOPHOTO_THUMB_M.png", "#recycle/a.png", "lost+found/"),
    "windows": ("$RECYCLE.BIN/a.png", "System Volume Information/x", "Thumbs.db", "desktop.ini"),
    "mac": ("__MACOSX/cat/._a.png", ".DS_Store", "Network Trash Folder/a.png", ".Trashes/a.png"),
    "tools": (".git/config", "__pycache__/a.pyc", ".ipynb_checkpoints/a.png"),
    "runs": ("outputs/r/config.yaml", "outputs/r/checkpoints/best.safetensors", "outputs/r/plots/a.png"),
    "files": ("README.md", "LICENSE", "docs/a.md", "prices.csv"),
}
DEPTHS = ("{part}/{name}/{file}", "{part}/{name}/2020/{file}", "{name}/{part}/{file}", "photos/{part}/{name}/{file}")
SPELLINGS = (str, str.upper, str.title)


@dataclass(frozen=True)
class Case:
    """A layout: keys of the tables above, and how names are spelled."""

    parts: str
    classes: str
    junk: str
    depth: int
    spelling: int

    @property
    def is_clear(self) -> bool:
        """Whether there is only one likely reading."""
        return not self.parts.startswith("*")

    def files(self) -> Iterator[tuple[str, str, str]]:
        """(path, part, class) of each image."""
        spell = SPELLINGS[self.spelling]
        for folder, part in PARTS[self.parts].items():
            for name, i in itertools.product(CLASSES[self.classes], range(2)):
                path = DEPTHS[self.depth].format(part=spell(folder), name=name, file=f"{i}.png")
                yield str(Path(path.lstrip("/"))), part, name  # never an absolute path: it is joined to the root


def every_case() -> list[Case]:
    return [
        Case(*values)
        for values in itertools.product(PARTS, CLASSES, JUNK, range(len(DEPTHS)), range(len(SPELLINGS)))
        if values[0] != "none" or (values[3] != 2 and values[4] == 0)
    ]


def make(case: Case, root: Path) -> None:
    images = [path for path, _, _ in case.files()]
    for path in [*images, *(name.format(first=Path(images[0]).parent) for name in JUNK[case.junk])]:
        assert (root / path).is_relative_to(root), path
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_text(path)


def outcome(case: Case, root: Path) -> str:
    """fine, said (with a warning), asked; or wrong: read differently from what it is, without a warning."""
    make(case, root)
    try:
        source = imagefolder(root=str(root))
    except DataError:
        return "asked"
    finally:
        shutil.rmtree(root)
    if source.all_warnings():
        return "said"
    found = {
        (str(path), part, source.classes[label])
        for part, images in source.parts.items()
        for path, label in zip(images.paths or (), images.labels.tolist(), strict=True)
    }
    return "fine" if found == {(str(root / path), part, name) for path, part, name in case.files()} else "wrong"


def check(cases: list[Case], root: Path) -> None:
    outcomes = {case: outcome(case, root) for case in cases}
    assert [case for case, found in outcomes.items() if found == "wrong"] == []
    clear = [case for case in cases if case.is_clear]
    odd = [case for case in clear if outcomes[case] != "fine"]
    assert len(odd) <= 0.05 * len(clear), odd[:5]
    assert {outcomes[case] for case in cases if not case.is_clear} <= {"asked", "said"}


def test_a_sample_of_layouts(tmp_path: Path) -> None:
    check(random.Random(0).sample(every_case(), 120), tmp_path / "photos")


@pytest.mark.slow
def test_all_layouts(tmp_path: Path) -> None:
    cases = every_case()
    assert len(cases) > 3000
    check(cases, tmp_path / "photos")
