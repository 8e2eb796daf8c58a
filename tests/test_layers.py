"""The layers of the package: imports only ever point down, and start-up stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import imgcls

ROOT = Path(imgcls.__file__).parent
CONTRIBUTING = ROOT.parents[1] / "CONTRIBUTING.md"
LAYERS = (
    {"errors", "version"},
    {"text", "files", "seeding", "metrics"},
    {"config", "parallel", "runtime", "loggers", "decisions"},
    {"models", "data", "losses", "compose"},
    {"optim", "attacks"},
    {"checkpoints"},
    {"runs"},
    {"reports"},
    {"inference", "sweeps"},
    {"training", "evaluate", "predict", "compare", "__init__"},
    {"train"},
    {"testing", "reproduce"},
    {"cli"},
    {"__main__"},
)  # lowest first; a room imports from lower layers and from itself
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(path for path in ROOT.rglob("*.py") if "conf" not in path.relative_to(ROOT).parts[:1])


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "imgcls":
            found |= {alias.name if alias.name in HEIGHT else "__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("imgcls."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("imgcls.")}
    return found - {room(path)}


def test_every_room_has_its_layer() -> None:
    missing = {room(path) for path in FILES} - set(HEIGHT)
    assert not missing, f"add {missing} to LAYERS here and to the map in CONTRIBUTING.md"
    assert {room(path) for path in FILES} == set(HEIGHT)


def test_contributing_has_the_same_map() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", CONTRIBUTING.read_text(encoding="utf-8"), re.MULTILINE)
    drawn = {int(number): set(re.findall(r"`(\w+)`", rooms)) for number, rooms in rows}
    assert drawn == dict(enumerate(LAYERS, start=1))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    here = HEIGHT.get(room(path), len(LAYERS))  # a room that no layer has fails the test above
    up = {other for other in imported_rooms(path) if HEIGHT.get(other, here) >= here}
    assert not up, f"{path.relative_to(ROOT)} must not import {up}"


def test_the_modules_of_a_package_import_one_another_in_one_direction() -> None:
    """No circles: each module can be read before those that use it."""
    graph = {}
    for path in FILES:
        name = ".".join(["imgcls", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        graph[name] = _imported_modules(path) - {name}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs & graph.keys() <= done}:
        done |= ready
    assert done == graph.keys(), f"in a circle: {sorted(graph.keys() - done)}"


def _imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "imgcls":
            for alias in node.names:
                inner = ROOT.parent / (node.module or "").replace(".", "/") / f"{alias.name}.py"
                found.add(f"{node.module}.{alias.name}" if inner.is_file() else str(node.module))
    return found


def test_only_compose_knows_hydra() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if room(path) != "compose":
            assert not re.search(r"^\s*(from|import) hydra\b", text, re.MULTILINE), path
            is_yaml = path.relative_to(ROOT).as_posix() == "config/yaml_files.py"
            assert is_yaml or not re.search(r"^\s*(from|import) omegaconf\b", text, re.MULTILINE), path


def test_the_plots_import_no_torch() -> None:
    code = "import sys, imgcls.reports.plots, imgcls.parallel.background; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_data_sets_are_read_without_torch() -> None:
    code = "import sys, imgcls.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LONGEST, MOST_ARGUMENTS = 45, 7  # lines of a function; arguments of a constructor that is no dataclass's


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_and_constructors_take_few_arguments(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LONGEST, f"{path.name}:{node.lineno} {node.name} has {lines} lines"
            arguments = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1
            assert node.name != "__init__" or arguments <= MOST_ARGUMENTS, f"{path.name}:{node.lineno} {arguments}"
