"""Run folders: readable names, never shared, never overwritten; and how RUN on the command line finds one."""

from __future__ import annotations

import os
from pathlib import Path

from imgcls.checkpoints import format as checkpoint_format
from imgcls.errors import CheckpointError, ConfigError, RunError
from imgcls.files import LOCK, hold, holder_of, new_numbered_folder

OUTPUTS = Path("outputs")
UNBEGUN = {LOCK, "split.npz", ".split.npz.tmp", ".config.yaml.tmp"}  # what a kill may leave before there is a run


def check_new(run_dir: str | None) -> None:
    """Refuse a folder that cannot become a new run's, before any work is done."""
    if run_dir is None:
        return
    if run_dir == "latest":
        raise ConfigError(
            "run_dir: 'latest' means the newest run everywhere else; write ./latest, or name it otherwise"
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
    if names - UNBEGUN:
        raise ConfigError(
            f"run_dir: {folder} is not empty; name a new folder, or go on with its run by resume={run_dir}"
        )


class RunFolder:
    """A folder that this process holds until ``close`` or its end."""

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


def latest() -> Path:
    """The newest run folder under outputs/, those of sweeps included."""
    configs = [*OUTPUTS.glob("*/config.yaml"), *OUTPUTS.glob("*/*/config.yaml")]
    if not configs:
        raise CheckpointError(f"there is no run under {OUTPUTS.resolve()} yet; imgcls train makes one")
    return max(configs, key=lambda path: (path.stat().st_mtime_ns, path.parent.name)).parent


def run_folder(run: str) -> Path:
    """The folder of a run given as a folder, as one of its checkpoints, or as ``latest``."""
    if run == "latest":
        return latest()
    path = Path(os.path.expanduser(run))
    if os.path.isfile(path):
        if path.name == checkpoint_format.BEST:
            raise CheckpointError(
                f"{path} holds weights only, no optimizer state; resume={path.resolve().parent.parent}"
            )
        path = path.resolve().parent.parent
    if not os.path.exists(path):
        raise CheckpointError(f"no such run: {run}")
    if not (path / "config.yaml").is_file():
        raise CheckpointError(f"{run} is not a run folder (it has no config.yaml)")
    return path


def folder_of(path: Path) -> Path:
    """The run folder that a checkpoint file lies in, or just the file's folder."""
    folder = path.resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def best_checkpoint(run: str) -> checkpoint_format.Checkpoint:
    """The checkpoint that RUN means: the file itself, or the run's best one."""
    path = latest() if run == "latest" else Path(os.path.expanduser(run))
    if not os.path.exists(path):
        raise CheckpointError(f"no such run or checkpoint: {run}")
    if path.is_dir():
        folder = path / "checkpoints"
        path = next(
            (folder / name for name in (checkpoint_format.BEST, checkpoint_format.LAST) if (folder / name).is_file()),
            path,
        )
        if path.is_dir():
            raise CheckpointError(f"{path}: no checkpoint in it (checkpoints/{checkpoint_format.BEST})")
    return checkpoint_format.described(checkpoint_format.read(path))


def put_damaged_aside(folder: Path, used: checkpoint_format.Checkpoint) -> None:
    """Rename the last checkpoint, if the one before it had to be used: the next save must not put it in its place."""
    last = folder / "checkpoints" / checkpoint_format.LAST
    if used.path.name == checkpoint_format.PREV and last.is_file():
        last.replace(last.with_name(f"damaged-{checkpoint_format.LAST}"))


def last_checkpoint(folder: Path) -> tuple[checkpoint_format.Checkpoint | None, list[str]]:
    """The newest undamaged checkpoint to go on from, by the step inside it, and a warning for each damaged one."""
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
    return newest, [f"{warning}; going on from {newest.path.name}" for warning in warnings] if newest else []


def folder_word(name: str) -> str:
    """A name as part of a folder's name."""
    plain = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name.rpartition(":")[2])
    return plain.strip("-.")[:60] or "images"
