"""Run folders: readable names, never shared, never overwritten; and which one RUN on the command line means."""

from __future__ import annotations

import os
from pathlib import Path

from imgcls.checkpoints import format as checkpoint_format
from imgcls.errors import CheckpointError, ConfigError, RunError
from imgcls.files import LOCK, hold, holder_of, new_numbered_folder

OUTPUTS = Path("outputs")
RECORDS = (
    *("config.yaml", "report.json", "metrics.jsonl", "split.npz", "predictions.npz", "confusion_matrix.npz"),
    *("sweep.json", "checkpoints", "train.log", "provenance.json"),
)  # files of a run's or a sweep's folder, which only train writes
UNBEGUN = {
    *(LOCK, "split.npz", ".split.npz.tmp", "provenance.json", ".provenance.json.tmp", ".config.yaml.tmp"),
    *("exclude.csv", ".exclude.csv.tmp", "relabel.csv", ".relabel.csv.tmp"),
}  # what a kill may leave before there is a run


def check_new(run_dir: str | None) -> None:
    """Raises ConfigError or RunError, before any work is done, for a folder that cannot become a new run's."""
    if run_dir is None:
        return
    if run_dir == "latest":
        raise ConfigError(
            "run_dir: 'latest' is reserved for the newest run; choose a different name, or write ./latest"
        )
    folder = Path(os.path.expanduser(run_dir))
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ConfigError(f"run_dir: {folder} is a file; name a new folder")
    try:
        names = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    except OSError as error:
        raise RunError(f"cannot use the run folder {folder}: {error.strerror}") from error
    holder = holder_of(folder) if names else None
    if holder is not None:
        raise RunError(f"run_dir: {folder} is in use by process {holder}")
    if names - UNBEGUN or (names and LOCK not in names):  # a run locks its folder before it writes
        hint = f", or resume its run with resume={run_dir}" if "config.yaml" in names else ""
        raise ConfigError(f"run_dir: {folder} is not empty; name a new folder{hint}")


class RunFolder:
    """A folder that this process holds until ``close`` or until it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.lock = hold(path)
        except OSError as error:
            raise RunError(f"cannot write into the run folder {path}: {error.strerror}") from error

    def close(self) -> None:
        """Release the folder."""
        self.lock.close()


def claim(run_dir: str | None, name: str) -> RunFolder:
    """A new folder: run_dir itself, or outputs/NAME-1, -2, ... the first that no other process has made."""
    check_new(run_dir)
    try:
        if run_dir is None:
            return RunFolder(new_numbered_folder(OUTPUTS, name))
        folder = Path(os.path.expanduser(run_dir))
        folder.mkdir(parents=True, exist_ok=True)
        return RunFolder(folder)
    except OSError as error:
        raise RunError(f"cannot create the run folder {error.filename}: {error.strerror}") from error


def is_record(path: Path) -> bool:
    """Whether the path has the name of a run's or a sweep's record and lies in the folder of one."""
    folder = path.parent
    return path.name in RECORDS and any((folder / name).exists() for name in ("config.yaml", "sweep.json"))


def holds_records(folder: Path) -> bool:
    """Whether the folder is a run's or a sweep's, even if its configuration is gone."""
    kept = [f"checkpoints/{name}" for name in (checkpoint_format.BEST, checkpoint_format.LAST)]
    return any((folder / name).exists() for name in ("config.yaml", "sweep.json", "metrics.jsonl", *kept))


def latest() -> Path:
    """The newest run folder under outputs/, including those of sweeps."""
    configs = [*OUTPUTS.glob("*/config.yaml"), *OUTPUTS.glob("*/*/config.yaml")]
    if not configs:
        raise CheckpointError(f"there is no run under {OUTPUTS.resolve()} yet; start one with imgcls train")
    return max(configs, key=lambda path: (path.stat().st_mtime_ns, path.parent.name)).parent


def run_folder(run: str) -> Path:
    """The run's folder; RUN is a folder, one of its checkpoints, or ``latest``."""
    if run == "latest":
        return latest()
    path = Path(os.path.expanduser(run))
    if os.path.isfile(path):
        if path.name == checkpoint_format.BEST:
            raise CheckpointError(
                f"{path} has weights only, no optimizer state; use resume={path.resolve().parent.parent}"
            )
        path = path.resolve().parent.parent
    if not os.path.exists(path):
        raise CheckpointError(f"no such run: {run}; give a run folder or latest")
    if not (path / "config.yaml").is_file():
        raise CheckpointError(f"{run} is not a run folder (it has no config.yaml)")
    return path


def folder_of(path: Path) -> Path:
    """The run folder of a checkpoint file, or the file's folder if it is not in one."""
    folder = path.resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def best_checkpoint(run: str) -> checkpoint_format.Checkpoint:
    """The checkpoint that RUN means: the file itself, or the run's best one."""
    path = latest() if run == "latest" else Path(os.path.expanduser(run))
    if not os.path.exists(path):
        raise CheckpointError(f"no such run or checkpoint: {run}; give a run folder, a checkpoint file or latest")
    if path.is_dir():
        folder = path / "checkpoints"
        path = next(
            (folder / name for name in (checkpoint_format.BEST, checkpoint_format.LAST) if (folder / name).is_file()),
            path,
        )
        if path.is_dir():
            raise CheckpointError(f"{path}: not a run folder (there is no checkpoints/{checkpoint_format.BEST} in it)")
    return checkpoint_format.described(checkpoint_format.read(path))


def put_damaged_aside(folder: Path, used: checkpoint_format.Checkpoint) -> None:
    """Rename a damaged last checkpoint, so that the next save does not replace the good previous one by it."""
    last = folder / "checkpoints" / checkpoint_format.LAST
    if used.path.name == checkpoint_format.PREV and last.is_file():
        last.replace(last.with_name(f"damaged-{checkpoint_format.LAST}"))


def last_checkpoint(folder: Path) -> tuple[checkpoint_format.Checkpoint | None, list[str]]:
    """The newest undamaged checkpoint to resume from, by its step, and a warning for each damaged one."""
    found: list[checkpoint_format.Checkpoint] = []
    warnings: list[str] = []
    for name in (checkpoint_format.LAST, checkpoint_format.PREV):
        path = folder / "checkpoints" / name
        if path.is_file():
            try:
                found.append(checkpoint_format.described(checkpoint_format.read(path)))
            except CheckpointError as error:
                warnings.append(str(error))
    if not found and warnings:
        raise CheckpointError(warnings[0])
    if not found and (folder / "report.json").is_file():
        raise CheckpointError(
            f"{folder / 'checkpoints' / checkpoint_format.LAST} is missing, so this finished run cannot be resumed; "
            "evaluate and predict still work"
        )
    newest = max(found, key=lambda one: int(one.meta["step"]), default=None)
    return newest, [f"{warning}; resuming from {newest.path.name}" for warning in warnings] if newest else []


def folder_word(name: str) -> str:
    """A name in a form that is safe in a folder's name."""
    plain = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name.rpartition(":")[2])
    return plain.strip("-.")[:60] or "images"
