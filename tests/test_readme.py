"""What README.md and the pages under docs/ show works as written: commands, code, options, links."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgcls import train
from imgcls.cli.app import main
from imgcls.compose.composer import Composer
from imgcls.config.options import GROUPS, option_node, options
from imgcls.config.schema import TrainConfig
from imgcls.sweeps import local as sweep
from tests.conftest import QUIET, SMALL

Capture = pytest.CaptureFixture[str]

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
README = TEXTS["README.md"]
PYTHON = re.findall(r"```python\n(.*?)```", TEXTS["docs/python.md"], re.DOTALL)
YAML = re.findall(r"```yaml\n(.*?)```", TEXTS["docs/configuration.md"], re.DOTALL)
OWN_FILES = {
    "my_nets.py": next(code for code in PYTHON if "def scaled" in code),
    "my_data.py": next(code for code in PYTHON if "def stripes" in code),
    "configs/model/wide.yaml": next(text for text in YAML if "my_nets:scaled" in text),
    "configs/experiment/mine.yaml": next(text for text in YAML if "@package" in text),
}
QUICK = ("dataset.limit=200", "dataset.test_limit=60", "epochs=1", "threads=1", *QUIET)
QUICK_MODELS = ("auto", "linear", "mlp", "lenet", "convnet", "my_nets:scaled")
QUICK_DATA = ("digits", "imagefolder", "imagelist", "my_data:stripes")
MOST_LINES, MOST_BYTES = 200, 150_000  # of the README, of a picture


def code_lines(text: str) -> Iterator[str]:
    """The lines of indented and fenced code blocks, Python's and YAML's apart."""
    fence, before_is_blank, in_block = "", True, False
    for line in text.splitlines():
        if line.startswith("```"):
            fence = "" if fence else line
            in_block = False
        elif fence:
            if fence in ("```", "```sh", "```console"):
                yield line
        else:
            in_block = line.startswith("    ") and (before_is_blank or in_block)
            if in_block:
                yield line[4:]
        before_is_blank = not line.strip()


def commands(text: str) -> list[str]:
    """The commands of imgcls in a page's code blocks, comments removed."""
    lines = [line.removeprefix("$ ") for line in code_lines(text)]
    found = [shlex.join(shlex.split(line, comments=True)) for line in lines if line.startswith("imgcls ")]
    return list(dict.fromkeys(found))


COMMANDS = list(dict.fromkeys(command for text in TEXTS.values() for command in commands(text)))


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", TEXTS[page], re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page} has no section '{heading}'"
    return found[1]


# --- files that the commands name ------------------------------------------------------------------------------------


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands name: photos, tables, the user's own parts, runs."""
    folder = tmp_path_factory.mktemp("files")
    for i in range(40):
        picture(folder / "photos" / ("cat", "dog")[i % 2] / f"{i}.png", i)
        picture(folder / "frames" / ("cat", "dog")[i % 2] / f"video{i // 4}_{i}.png", i)
    rows = [f"photos/{('cat', 'dog')[i % 2]}/{i}.png,{('cat', 'dog')[i % 2]},{i // 4}" for i in range(40)]
    (folder / "labels.csv").write_text("\n".join(["path,label,patient_id", *rows]) + "\n")
    (folder / "findings.csv").write_text("path,kind,label\ncat/0.png,broken,cat\n")
    (folder / "labels-corrected.csv").write_text("path,label\ncat/2.png,dog\n")
    for i in range(20):
        picture(folder / "more_photos" / str(i % 10) / f"{i}.png", 100 + i)
    for i, name in enumerate(("photo.png", "folder/1.png", "folder/2.png", "scans/1.png")):
        picture(folder / name, 200 + i)
    for name, text in OWN_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    first = folder / "outputs" / "first"
    assert main(["train", *QUICK, f"run_dir={first}"]) == 0
    for name in sorted(set(re.findall(r"(?:resume=| )outputs/([\w-]+)", " ".join(COMMANDS)))):
        jobs = ("0", "1") if name.startswith("sweep") else (".",)
        for job in jobs:
            shutil.copytree(first, first.with_name(name) / job)
        if len(jobs) > 1:
            (first.with_name(name) / "sweep.json").write_text("{}")
    return folder


@pytest.fixture
def _in_files(files: Path) -> Iterator[None]:
    """The working folder is a copy of these files, and what was imported from there is forgotten afterwards."""
    before = list(sys.path)
    shutil.copytree(files, ".", dirs_exist_ok=True)
    yield
    sys.path[:] = before
    for name in ("my_nets", "my_data"):
        sys.modules.pop(name, None)


# --- commands --------------------------------------------------------------------------------------------------------


def with_quick_keys(words: list[str]) -> list[str]:
    """The words with the keys that make a run small, in place of their own."""
    keys = {word.partition("=")[0] for word in QUICK}
    return [*(word for word in words if word.partition("=")[0] not in keys), *QUICK]


def attempt(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command, or as much of it as takes no time and no download; returns its exit code.

    Every configuration of a training run is checked as a whole, its models and data sets are used if they are small.
    A sweep is planned, that is, all its jobs are checked.
    """
    if words[0] == "train" and not {"--help", "--cfg"} & {*words}:
        if "-m" in words:
            monkeypatch.setattr(sweep, "run", lambda *plan, **flags: 0)
            return main(words)
        if any(word.startswith("resume=") for word in words):
            return main([word if not word.startswith("epochs=") else "epochs=2" for word in words])
        configs: list[TrainConfig] = []

        def note(config: TrainConfig, **flags: Any) -> None:
            train.check(config)
            configs.append(config)

        with monkeypatch.context() as patch:
            patch.setattr(train, "train", note)
            if code := main(words):
                return code
        model, data = configs[0].model, configs[0].dataset
        has_weights = model.get("pretrained", False) not in (False, "auto")
        is_quick = model["name"] in QUICK_MODELS and data["name"] in QUICK_DATA and not has_weights
        return main(with_quick_keys(words)) if is_quick else 0
    if words[:2] == ["data", "mnist"]:
        return main([*words, "--cfg", "job"])
    return main(words)


def test_the_pages_have_commands_of_every_kind() -> None:
    assert len(COMMANDS) > 40
    assert {command.split()[1] for command in COMMANDS} >= {"train", "evaluate", "predict", "data"}
    for name in TEXTS.keys() - {"docs/limits.md", "docs/speed.md"}:
        assert commands(TEXTS[name]), name


@pytest.mark.usefixtures("_in_files")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works(command: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    if "timm/" in command:
        pytest.importorskip("timm")
    assert attempt(shlex.split(command)[1:], monkeypatch) == 0, capsys.readouterr().err


@pytest.mark.usefixtures("_in_files")
@pytest.mark.parametrize(
    "command",
    [
        "imgcls train epochz=3",
        "imgcls train dataset=cifar10 model=lenet model.depth=3",
        "imgcls train dataset=./photos scheduler.peak=3",
        "imgcls train -m model=mlp,lenet model.width=3",
        "imgcls train resume=latest momentum=3",
        "imgcls evaluate latest attack=pgd attack.epsilon=3",
        "imgcls predict latest photo.png top=3",
        "imgcls data ./photos dataset.check=true",
    ],
)
def test_a_command_with_an_unknown_key_would_be_noticed(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert commands(f"text\n\n    {command}  # and a comment\n") == [command]
    assert attempt(shlex.split(command)[1:], monkeypatch) == 2
    assert "key" in capsys.readouterr().err


def test_keys_named_in_the_text_are_known() -> None:
    known = {key for command in ("train", "evaluate", "predict") for key in option_node("", command)} | {*GROUPS}
    for group in (one for one in GROUPS if one != "experiment"):
        nodes = [option_node("", "train").get(group) or {}, *(option_node(group, one) for one in options(group))]
        known |= {f"{group}.{key}" for node in nodes for key in node}
    own = {"model.width", "dataset.count"}  # of the examples
    for page, text in TEXTS.items():
        named = re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)?)=[^`\s]*`", text)
        named += re.findall(rf"`((?:{'|'.join(GROUPS)})\.[a-z_0-9]+)`", text)
        unknown = {*named} - known - own - {"a", "key", "group", "device"}
        assert not unknown, (page, unknown)


def test_every_key_of_train_is_described() -> None:
    everything = "".join(TEXTS.values())
    for key, value in option_node("", "train").items():
        for name in [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]:
            assert key == "defaults" or f"`{name}`" in everything or f"`{name}=" in everything, name


# --- the user's own parts --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_in_files")
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
    assert f"imgcls train {' '.join(words)}" in COMMANDS
    assert main(["train", *words, *SMALL, "run_dir=run"]) == 0


@pytest.mark.usefixtures("_in_files")
def test_an_own_part_in_an_own_yaml_file_and_its_checkpoint(capsys: Capture) -> None:
    assert "imgcls train --config-dir configs model=wide" in COMMANDS
    assert main(["train", "--config-dir", "configs", "model=wide", *SMALL, "run_dir=run"]) == 0
    assert main(["evaluate", "run"]) == 2
    assert "add model.name=my_nets:scaled" in capsys.readouterr().err
    assert main(["evaluate", "run", "model.name=my_nets:scaled"]) == 0


@pytest.mark.usefixtures("_in_files")
def test_the_python_example_works() -> None:
    """Each line of it, in order."""
    code = next(code for code in PYTHON if "imgcls.load" in code)
    space: dict[str, Any] = {}
    exec(code, space)
    assert space["model"].classes == tuple("0123456789")
    assert list(space["model"].predict(["photo.png"], topk=3)[0]) == ["path", "label", "probability", "topk"]


@pytest.mark.usefixtures("_in_files")
def test_the_conformance_tests_run_as_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [code for text in TEXTS.values() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    checks = [code for code in shown if "imgcls.testing" in code]
    assert checks
    monkeypatch.syspath_prepend(str(Path.cwd()))
    for code in checks:
        exec(code, {})


# --- options, links, set-up ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "page", "heading"),
    [
        ("dataset", "docs/data.md", "Built-in data sets"),
        ("model", "docs/models.md", "Models"),
        ("optimizer", "docs/models.md", "Optimizers"),
        ("scheduler", "docs/models.md", "Schedules"),
        ("augment", "docs/models.md", "Augmentation"),
        ("loss", "docs/models.md", "Losses"),
        ("attack", "docs/models.md", "Attacks"),
        ("experiment", "docs/models.md", "Experiments"),
    ],
)
def test_the_tables_of_options_are_those_of_conf(group: str, page: str, heading: str) -> None:
    rows = re.findall(r"^\| (`.*?`[^|]*) \|", section(page, heading), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w]+)`", row)}
    every = {*options(group)}
    wanted = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} if group == "model" else every
    assert not wanted - named, (group, wanted - named)
    assert not named - every, (group, named - every)
    assert f"| option of `{group}` |" in section(page, heading)
    defaults = [entry for entry in option_node("", "train")["defaults"] if isinstance(entry, dict)]
    default = next(entry[group] for entry in defaults if group in entry)
    assert default in (None, "default") or f"`{default}` (default)" in section(page, heading)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", plain, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    plain = re.sub(r"```.*?```", "", TEXTS[page], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", plain):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (PAGES[page].parent / name).resolve() if name else PAGES[page]
        assert file.is_file(), f"{page}: {target}"
        assert file.is_relative_to(ROOT), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_files_of_the_repository_that_a_page_names_are_there(page: str) -> None:
    for name in re.findall(r"\b(?:src|benchmarks|conf|tests|docs)/[\w./-]*[\w/]", TEXTS[page]):
        assert (ROOT / name).exists(), f"{page}: {name}"


def test_the_readme_leads_to_every_page_and_is_short() -> None:
    assert len(README.splitlines()) < MOST_LINES
    for name in PAGES.keys() - {"README.md"}:
        assert f"]({name})" in README, name


def test_the_set_up_commands_are_those_of_the_makefile() -> None:
    lines = [line.strip() for line in code_lines(README)]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [line for line in lines if line.startswith("make ")] == ["make demo", "make test"]
    assert {"demo", "test"} <= {*targets}
    assert "```\n$ imgcls train\n" in README


def test_pictures_are_small() -> None:
    pictures = [*(ROOT / "docs" / "images").iterdir()]
    assert pictures
    for path in pictures:
        assert path.stat().st_size <= MOST_BYTES, path.name
        assert any(path.name in text for text in TEXTS.values()), path.name


def test_the_experiment_of_the_pages_is_listed_by_help(capsys: Capture) -> None:
    for name, text in OWN_FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    assert "mine" in Composer("configs").options("experiment")
    assert main(["train", "--config-dir", "configs", "--help"]) == 0
    assert "The first comment line appears in --help." in " ".join(capsys.readouterr().out.split())
