"""What several tests need: a clean working folder, a small fast configuration, the command line in process."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two workers with two threads each wait for one another

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from imgcls.compose.composer import Composer
from imgcls.compose.overrides import read_all
from imgcls.config.parsing import parse
from imgcls.config.schema import TrainConfig
from imgcls.data.datasets.image_folder import imagefolder as class_folders
from imgcls.data.source import Source

SMALL = ("dataset.limit=200", "dataset.test_limit=60", "epochs=2", "batch_size=32", "threads=1")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs in a folder of its own and leaves torch's settings as they were."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def config() -> Callable[..., TrainConfig]:
    """A function from overrides to a small configuration: digits, 2 epochs of 6 updates."""

    def make(*words: str) -> TrainConfig:
        keys = {word.partition("=")[0] for word in words}
        composer = Composer()
        chosen = [*words, *(word for word in SMALL if word.partition("=")[0] not in keys)]
        return parse(TrainConfig, composer.table(read_all(chosen, composer.paths), "train"))

    return make


@pytest.fixture
def real_data() -> str:
    """The folder of the real MNIST and CIFAR-10 files; the test is skipped where there is none."""
    root = os.environ.get("IMGCLS_DATA")
    if not root:
        pytest.skip("IMGCLS_DATA is not set")
    return root


def imagefolder(**params: Any) -> Source:
    """Class folders, the knobs that are not given as in conf/."""
    return class_folders(**({"root": None, "follow_links": True, "verify": False, "on_error": "error"} | params))


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl, or a report, without what may differ between two equal runs."""
    return {
        key: value
        for key, value in row.items()
        if key not in ("seconds", "images_per_second", "train_seconds", "checkpoint")
    }
