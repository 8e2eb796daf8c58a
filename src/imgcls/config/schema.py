"""The keys of each command: types and ranges, written once. Their defaults are in conf/."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from imgcls.config.options import Node
from imgcls.config.parsing import convert
from imgcls.config.types import Count, Positive, Probability, Range, Seed, Share
from imgcls.errors import ConfigError
from imgcls.text import show

TTA = Literal["none", "flip", "shift"]  # test-time augmentation
Monitor = Literal["val_accuracy", "val_loss", "val_balanced_accuracy", "val_f1", "val_auc"]
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
WEIGHT = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)"|([^'",:{}][^,:{}]*))\s*:\s*([^\s,{}]+)\s*(?:,|$)""")  # name: number


RESUMABLE = (
    *("epochs", "device", "workers", "threads", "loader", "dataset.root", "dataset.images", "checkpoint_every"),
)  # keys that may change when a run is resumed
OF_A_SWEEP = ("sweep_dir", "job_timeout")  # keys of a sweep, not of its jobs
TYPED_ONLY = ("resume", *OF_A_SWEEP)  # keys that no file can set
OF_THE_COMMAND = ("run_dir", *TYPED_ONLY)  # keys of one command line, not of the run


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The keys of ``imgcls train``; conf/train.yaml explains each."""

    model: Node
    dataset: Node
    optimizer: Node
    scheduler: Node
    loss: Node
    augment: Node
    attack: Node
    experiment: str | None  # the recipe's name, for the record: its values are in the other keys
    epochs: Literal["auto"] | Count
    batch_size: Literal["auto"] | Count
    accumulate: Count
    sampler: Literal["shuffle", "balanced"]
    class_weights: Any  # "auto" | dict | None, see weights_of
    clip_grad: Positive | None
    ema: Annotated[float, Range(above=0, below=1)] | None
    layer_decay: Share | None
    patience: Count | None
    monitor: Monitor
    seed: Seed
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    deterministic: bool
    compile: Literal["auto"] | bool
    threads: Annotated[int, Range(low=1, high=1024)] | None
    loader: Literal["auto", "resident", "stream"]
    workers: Literal["auto"] | Annotated[int, Range(low=0, high=256)]
    test: bool
    plots: bool
    tensorboard: bool
    checkpoint_every: Any  # str | int | None, see every_of
    run_dir: str | None
    resume: str | None  # handled by the command line, null when a run starts
    sweep_dir: str | None  # same
    job_timeout: Positive | None  # same

    def __post_init__(self) -> None:
        every_of(self.checkpoint_every)
        object.__setattr__(self, "class_weights", weights_of(self.class_weights))  # class names are text
        if self.class_weights == "auto" and self.sampler == "balanced":
            raise ConfigError("class_weights: auto and sampler=balanced both favor rare classes; choose one")

    @property
    def passes(self) -> int:
        """``epochs`` of a run whose auto has become a number."""
        assert self.epochs != "auto"
        return self.epochs


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The keys of every command that opens a trained model."""

    checkpoint: str
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    threads: Annotated[int, Range(low=1, high=1024)] | None


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ModelConfig):
    """The keys of ``imgcls evaluate``."""

    split: Literal["train", "val", "test", "all"]
    tta: TTA
    calibrated: bool
    at_recall: Share | None
    at_precision: Share | None
    output: str | None

    def __post_init__(self) -> None:
        if self.at_recall is not None and self.at_precision is not None:
            raise ConfigError("at_recall: at_precision chooses the threshold too; leave one of them out")

    @property
    def aim(self) -> dict[str, float]:
        """What the threshold is to reach on validation: at_recall or at_precision, if one is given."""
        given = {"at_recall": self.at_recall, "at_precision": self.at_precision}
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ModelConfig):
    """The keys of ``imgcls predict``."""

    input: list[str]
    output: str | None
    overwrite: bool
    topk: Annotated[int, Range(low=1, high=1000)]
    tta: TTA
    threshold: Literal["auto"] | Probability | None
    calibrated: bool


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The keys of ``imgcls data``, besides the data set's."""

    output: str | None


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The keys of ``imgcls compare``."""

    checkpoint: list[str]
    output: str | None


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """The keys of ``imgcls reproduce``."""

    checkpoint: str
    run_dir: str | None
    device: str | None


def every_of(value: Any) -> tuple[int | None, float | None]:
    """checkpoint_every as (steps, seconds): 200 -> (200, None), "30s" -> (None, 30.0), null -> (None, None)."""
    if value is None:
        return None, None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value, None
    if isinstance(value, str) and value.endswith("s"):
        try:
            seconds = float(value[:-1])
        except ValueError:
            seconds = math.nan
        if 0 < seconds < math.inf:
            return None, seconds
    raise ValueError(f"checkpoint_every: expected steps (200) or seconds (30s), got {show(value)}")


def weights_of(value: Any) -> Literal["auto"] | dict[str, float] | None:
    """class_weights as "auto", None or {class: weight above 0}; text ("{cat: 2}") is parsed. Raises ConfigError."""
    if value is None or value == "auto":
        return value  # type: ignore[no-any-return]
    if isinstance(value, str) and value[:1] + value[-1:] == "{}" and not WEIGHT.sub("", value[1:-1]).strip():
        pairs = [(a or b or c, number) for a, b, c, number in WEIGHT.findall(value[1:-1])]
        value = {name.strip(): float(number) if NUMBER.fullmatch(number) else number for name, number in pairs}
    if not isinstance(value, dict):
        raise ConfigError(f"class_weights: expected auto, null or {{name: weight, ...}}, got {show(value)}")
    return {str(name): convert(weight, Positive, f"class_weights.{name}") for name, weight in value.items()}
