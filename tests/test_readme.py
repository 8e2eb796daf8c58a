"""What the README shows works as it is written there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgcls.cli.app import main
from imgcls.config.options import options
from tests.conftest import SMALL

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path) -> Iterator[None]:
    """The README's own model and data set, in files of the working folder."""
    before = list(sys.path)
    for name, text in {"my_nets": BLOCKS[0], "my_data": BLOCKS[1]}.items():
        Path(f"{name}.py").write_text(text, encoding="utf-8")
    yield
    sys.path[:] = before
    for name in ("my_nets", "my_data"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "words",
    [
        ["model.name=my_nets:scaled", "model.width=128"],
        ["dataset.name=my_data:stripes", "dataset.count=500"],
        ["optimizer.name=torch.optim:NAdam", "optimizer.lr=0.002"],
    ],
    ids=["model", "data set", "optimizer"],
)
def test_a_users_own_part_trains(words: list[str]) -> None:
    assert f"imgcls train {' '.join(words)}" in README
    assert main(["train", *words, *SMALL, "run_dir=run"]) == 0


def test_an_own_part_in_an_own_yaml_file_and_its_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    Path("configs/model").mkdir(parents=True)
    Path("configs/model/wide.yaml").write_text("name: my_nets:scaled\nwidth: 128\n")
    assert "imgcls train --config-dir configs model=wide" in README
    assert main(["train", "--config-dir", "configs", "model=wide", *SMALL, "run_dir=run"]) == 0
    assert main(["evaluate", "run"]) == 2
    assert "add model.name=my_nets:scaled" in capsys.readouterr().err
    assert main(["evaluate", "run", "model.name=my_nets:scaled"]) == 0


def test_the_tables_of_options_are_those_of_conf() -> None:
    for group in ("dataset", "optimizer", "scheduler", "augment"):
        row = re.search(rf"^\| `{group}` \| (.*) \|$", README, re.MULTILINE)
        assert row is not None
        missing = [name for name in options(group) if f"`{name}`" not in row[1]]
        assert not missing, (group, missing)
