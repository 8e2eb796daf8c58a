"""The house's floors: a module imports from its own floor's allowance only, and start-up stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import imgcls

ROOT = Path(imgcls.__file__).parent
LEAVES = {
    "errors",
    "knobs",
    "seeding",
    "metrics",
    "losses",
    "schedules",
    "yamlcheck",
    "lean",
    "torchvision_names",
    "attacks",
    "muon",
    "models",
    "data",
    "signals",
    "wire",
}
PARTS = {"config", "confdir", "optim", "runtime", "checkpoint", "logbook", "rundir", "stored"}
STAGES = {
    "assembly",
    "prepare",
    "inference",
    "loop",
    "keeper",
    "header",
    "rehearsal",
}  # what several commands are made of
COMMANDS = {"train", "evaluate", "predict", "examine"}
SHELL = {"cli", "argv", "compose", "experiment", "help", "sweep", "__main__", "__init__"}
ASIDE = {"report", "studio"}

MAY = {
    "leaves": LEAVES,
    "parts": LEAVES | {"config", "confdir", "checkpoint"},  # rundir finds checkpoints
    "stages": LEAVES | PARTS | STAGES,
    "commands": LEAVES | PARTS | STAGES | ASIDE | {"evaluate"},  # train tests with what evaluate computes with
    "shell": LEAVES | PARTS | STAGES | COMMANDS | SHELL | ASIDE,
    "aside": {"wire"},  # the studio's
}
FLOORS = {"leaves": LEAVES, "parts": PARTS, "stages": STAGES, "commands": COMMANDS, "shell": SHELL, "aside": ASIDE}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms of imgcls that a file imports, wherever in the file (not those under TYPE_CHECKING)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "imgcls":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("imgcls."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("imgcls.")}
    return found - {"__version__", room(path)}


def test_every_module_has_its_floor() -> None:
    assert {room(path) for path in ROOT.rglob("*.py")} == set.union(*FLOORS.values())


def test_imports_go_down() -> None:
    for path in ROOT.rglob("*.py"):
        floor = next(name for name, rooms in FLOORS.items() if room(path) in rooms)
        assert imported_rooms(path) <= MAY[floor], (
            f"{path.relative_to(ROOT)} imports {imported_rooms(path) - MAY[floor]}"
        )


def test_only_compose_and_sweep_know_hydra() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not ("import hydra" in text or "from hydra" in text or "omegaconf" in text) or path.name == "compose.py"


def test_the_picture_module_imports_no_torch() -> None:
    code = "import sys, imgcls.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
