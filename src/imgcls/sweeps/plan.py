"""The jobs of a sweep, composed and checked before the first one starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, get_type_hints

from imgcls.config.options import as_yaml, own_code
from imgcls.config.parsing import convert, flatten, parse
from imgcls.config.schema import OF_A_SWEEP, OF_THE_COMMAND, TrainConfig
from imgcls.errors import ConfigError
from imgcls.optim.automatic import SMALL_NETS
from imgcls.sweeps.jobs import Plan, digest

if TYPE_CHECKING:
    from imgcls.compose.composer import Composer
    from imgcls.compose.overrides import Override

NEWER_KEYS = ("plots", "tensorboard")  # true by default, and not in the digests of earlier versions' sweeps
EPOCHS_BEFORE = 20  # the default in the digests of earlier versions' sweeps
NEWER_OF_DATASET = {
    "background": "white",
    "depth": "auto",
    "group": None,
    "folds": None,
    "fold": None,
}  # the same, with their defaults


def plan(
    composer: Composer, words: Sequence[str], check: Callable[[TrainConfig], None]
) -> tuple[list[Plan], str | None, float | None]:
    """(the jobs, each composed and checked; sweep_dir; job_timeout). Raises ConfigError, naming the job."""
    jobs = composer.expand(words)
    folders = {composer.paths.restore(one.value) for job in jobs for one in job if one.key == "sweep_dir"}
    if len(folders) > 1:
        raise ConfigError("sweep_dir: one folder for the whole sweep, got several")
    if key := next((one.key for one in jobs[0] if one.key in OF_THE_COMMAND and one.key not in OF_A_SWEEP), None):
        raise ConfigError(f"{key} cannot be used with --multirun; sweep_dir= sets the folder of all its runs")
    timeout = _job_timeout(jobs, composer)
    plans = []
    for i, job in enumerate([[one for one in job if one.key not in OF_A_SWEEP] for job in jobs]):
        try:
            table = composer.table(job, "train")
            check(parse(TrainConfig, table))
            own = [f"{key}={name}" for key, name in own_code(flatten(table)).items()]
            known = {key: value for key, value in table.items() if key not in NEWER_KEYS or value is not True}
            known["dataset"] = {
                key: one for key, one in table["dataset"].items() if NEWER_OF_DATASET.get(key, ...) != one
            }
            if table["model"].get("pretrained") == "auto":  # earlier versions' default was false
                known["model"] = {**table["model"], "pretrained": False}
            if table["optimizer"].get("lr") == "auto":  # earlier versions had one rate for each optimizer
                known["optimizer"] = table["optimizer"] | {"lr": SMALL_NETS.get(table["optimizer"]["name"], "auto")}
            known["epochs"] = EPOCHS_BEFORE if table["epochs"] == "auto" else table["epochs"]
            plans.append(Plan(composer.words(job), own, digest(as_yaml(known))))
        except ConfigError as error:
            which = f" (job {i}: {' '.join(composer.words(job))})" if len(jobs) > 1 else ""
            raise type(error)(f"{error}{which}") from error
    return plans, next(iter(folders), None), timeout


def _job_timeout(jobs: list[list[Override]], composer: Composer) -> float | None:
    """Seconds that a job may take, None for no limit."""
    key = "job_timeout"
    given = [composer.values([one])[key] for job in jobs for one in job if one.key == key]
    if any(value != given[0] for value in given):
        raise ConfigError(f"{key}: one value for the whole sweep, got several")
    kind = get_type_hints(TrainConfig, include_extras=True)[key]
    seconds: float | None = convert(given[0] if given else None, kind, key)
    return seconds
