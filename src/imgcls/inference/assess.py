"""A restored model on labeled images: logits, report, and accuracy under attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgcls import decisions, metrics
from imgcls.attacks import ATTACKS, Attack
from imgcls.config.components import NO_CHOICE, Choice, Component, select
from imgcls.config.options import Node, option_node
from imgcls.config.schema import TTA
from imgcls.data.datamodule import fetcher_for, is_resident
from imgcls.data.fetchers import Fetcher
from imgcls.data.source import Images, Indices
from imgcls.decisions import Decisions
from imgcls.errors import CheckpointError, ConfigError
from imgcls.inference.infer import TTAModel, check_finite, infer
from imgcls.inference.restore import RestoredModel
from imgcls.losses import cross_entropy
from imgcls.reports.report import Report
from imgcls.runtime.session import Runtime, exact_fp32
from imgcls.seeding import derive


def fetcher_of(trained: RestoredModel, images: Images, runtime: Runtime, *, loader: str, workers: int) -> Fetcher:
    """These images as the model's input, which can be read again and again."""
    resident = is_resident(images, trained.preprocessing, runtime, loader)
    return fetcher_for(images, trained.preprocessing, runtime, resident=resident, workers=workers)


def assess(
    trained: RestoredModel,
    images: Images,
    fetcher: Fetcher,
    runtime: Runtime,
    tta: TTA = "none",
    own: Decisions | None = None,
    *,
    is_calibrated: bool = False,
) -> tuple[Report, NDArray[np.float32]]:
    """The part of the report that follows from the logits of these images; and the logits, (N, C).

    own: the decisions, by default those of the checkpoint. is_calibrated: of the logits divided by the temperature,
    which are returned.
    """
    own = own or trained.decisions
    logits = logits_of(trained, images, fetcher, runtime, tta)
    report = decisions.report(logits, images.labels, trained.classes, own, is_calibrated=is_calibrated)
    return report, own.cooled(logits) if is_calibrated else logits


def check_calibrated(trained: RestoredModel) -> None:
    """Raises ConfigError if the checkpoint has no temperature."""
    if trained.decisions.temperature is None:
        raise ConfigError(
            "calibrated: the temperature is fitted on validation when a run saves its best checkpoint, and "
            f"{trained.checkpoint.path} has none (an earlier version, or no validation images); leave it out"
        )


def logits_of(
    trained: RestoredModel, images: Images, fetcher: Fetcher, runtime: Runtime, tta: TTA
) -> NDArray[np.float32]:
    """(N, C). Raises DataError if they are not finite."""
    with exact_fp32():
        logits = infer(trained.module, fetcher, len(images), trained.preprocessing, runtime, tta=tta)
    check_finite(logits, str(trained.checkpoint.path))
    return logits


def assess_attacked(
    trained: RestoredModel,
    images: Images,
    fetcher: Fetcher,
    runtime: Runtime,
    attack: Attack,
    node: Node,
    *,
    tta: TTA = "none",
) -> Report:
    """The accuracy on the same images, each perturbed by the attack so that the cross entropy rises."""
    shape, model = trained.preprocessing, TTAModel(trained.module, tta)
    labels = torch.from_numpy(images.labels).to(runtime.device)
    loss = cross_entropy(label_smoothing=0.0)

    def change(some: Tensor, rows: Indices) -> Tensor:
        targets = labels[torch.from_numpy(rows).to(runtime.device)]
        seed = derive(0, "attack", int(rows[0]))
        return attack(model, some, targets, loss, mean=shape.mean, std=shape.std, seed=seed)

    with exact_fp32():
        logits = infer(trained.module, fetcher, len(images), shape, runtime, change=change, tta=tta)
    check_finite(logits, str(trained.checkpoint.path))
    hits = int((logits.argmax(1) == images.labels).sum())
    accuracy = hits / len(images)
    eps = attack.radius(shape.channels, shape.height, shape.width)
    return {
        "robust_accuracy": accuracy,
        "robust_accuracy_ci95": list(metrics.wilson(accuracy, len(images))),
        "attack": {**node, "eps": eps, "step_size": attack.stride(eps)},
    }


def choose_attack(meta: Mapping[str, Any], given: Choice = NO_CHOICE) -> Component:
    """The attack that is named, else the one that the model was trained against, with its parameters."""
    attack, changes = given.node, given.changes
    try:
        own = meta["config"].get("attack") or option_node("attack", "none")
        chosen = select(ATTACKS, own, "attack")
    except (ConfigError, TypeError, AttributeError, KeyError) as error:
        if attack is not None:
            return select(ATTACKS, attack, "attack")
        raise CheckpointError(f"the checkpoint's attack is damaged ({error}); name one, or attack=none") from error
    if attack is not None and attack["name"] != chosen.name:
        return select(ATTACKS, attack, "attack")
    if changes and chosen.name == "none":
        raise ConfigError(f"attack.{next(iter(changes))}: the model was trained without an attack; add attack=pgd")
    if changes.get("norm", own.get("norm")) != own.get("norm"):  # sizes in one norm mean nothing in the other
        changes = {"eps": None, "step_size": None, **changes}
    return select(ATTACKS, {**own, **changes}, "attack") if changes else chosen
