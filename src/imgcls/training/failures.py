"""What goes wrong while a run trains, as errors that say how to continue."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from imgcls.config.options import own_code
from imgcls.config.parsing import flatten
from imgcls.errors import ConfigError, DataError, RunError, Stopped, UnreadableImage, is_out_of_memory
from imgcls.training.builder import Run
from imgcls.training.spec import RunSpec


def resume_command(run: Run, folder: Path) -> str:
    """The command that resumes the run, the user's own code named again."""
    own = [f" {key}={name}" for key, name in own_code(flatten(vars(run.config))).items()]
    return f"imgcls train resume={shlex.quote(str(folder))}" + "".join(own)


@contextlib.contextmanager
def reading_explained(spec: RunSpec) -> Iterator[None]:
    """Inside, an unreadable image of the user's own data set says how to list or skip all such files."""
    try:
        yield
    except UnreadableImage as error:
        if "on_error" not in spec.data.source.params:
            raise
        ways = "dataset.verify=true lists all such files, dataset.on_error=skip skips them"
        raise DataError(f"{error}; {ways}") from error


@contextlib.contextmanager
def training_explained(run: Run, folder: Path) -> Iterator[None]:
    """Inside, interrupts and errors say how to resume, or what to change."""
    try:
        yield
    except KeyboardInterrupt as error:
        number = getattr(error, "signal_number", 2)
        raise Stopped(f"interrupted; resume with: {resume_command(run, folder)}", number) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        size = f"{run.data.preprocessing.width}x{run.data.preprocessing.height}"
        key = "accumulate: its micro-batches are" if run.config.accumulate > 1 else "batch_size:"
        raise ConfigError(f"{key} too small for the batch norm of {run.model.name} on {size} images") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        kept = f"the last checkpoint is kept; resume with: {resume_command(run, folder)}"
        raise RunError(f"{error.strerror or error}: {error.filename or folder}; {kept}") from error
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            what = f"out of memory with batch_size={run.loader.batch_size}"
            ways = "a smaller one, accumulate=4 (the same batch in four parts), dataset.image_size, loader=stream"
            raise RunError(f"{what}; try {ways}; the last checkpoint is kept") from error
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise RunError(f"torch.compile fails on {run.model.name} ({error}); try compile=false") from error
