"""The update: accumulation, clipping, the weights' moving average; and stopping early."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from imgcls import train
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints import state as checkpoint_state
from imgcls.config.schema import TrainConfig
from imgcls.errors import CheckpointError, ConfigError, RunError
from imgcls.inference import restore as inference
from imgcls.loggers.run_log import Row, RunLog
from imgcls.runtime.session import session
from imgcls.runtime.signals import Signals
from imgcls.training import callback, resume
from imgcls.training.checkpointer import Checkpointer
from imgcls.training.loop import ema_decay, follow
from imgcls.training.spec import RunSpec
from imgcls.training.validation import Best, is_exhausted, quality

Config = Callable[..., TrainConfig]


def weights(
    run: str, name: str = checkpoint_format.LAST, prefix: str = checkpoint_state.MODEL
) -> dict[str, torch.Tensor]:
    return checkpoint_format.read(Path(run, "checkpoints", name)).part(prefix)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "draw_test", lambda *args: None)


def test_accumulation_gives_the_update_of_the_whole_batch(config: Config) -> None:
    """Up to rounding: 32 images in three parts of unequal size, without batch norm or dropout."""
    words = ("model=mlp", "optimizer=sgd", "epochs=1")
    train.train(config(*words, "run_dir=whole"))
    train.train(config(*words, "run_dir=parts", "accumulate=3"))
    assert 0 < distance(weights("whole"), weights("parts")) < 1e-5
    rows = [json.loads(Path(run, "metrics.jsonl").read_text()) for run in ("whole", "parts")]
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=1e-5)
    assert rows[0]["train_accuracy"] == rows[1]["train_accuracy"]


def test_more_parts_than_images_are_as_many_as_there_are_images(config: Config) -> None:
    report = train.train(config("model=mlp", "batch_size=4", "accumulate=1000", "epochs=1", "dataset.limit=40"))
    assert report is not None


def test_clipping_bounds_the_step(config: Config) -> None:
    """Plain SGD: no weight moves further than lr times the norm, update by update."""
    words = ("model=linear", "optimizer=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0", "scheduler=constant")
    steps = ("epochs=1", "batch_size=1000")  # one update

    def change(run: str, *more: str) -> float:
        train.train(config(*words, *steps, *more, "optimizer.lr=0.1", f"run_dir={run}"))
        train.train(config(*words, *steps, "optimizer.lr=1e-30", f"run_dir={run}-start"))
        after, before = weights(run), weights(f"{run}-start")
        return float(torch.cat([(after[name] - before[name]).flatten() for name in after]).norm())

    free = change("free")
    assert change("clipped", "clip_grad=0.01") == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert free > 0.002
    assert change("loose", "clip_grad=1000") == pytest.approx(free, rel=1e-6)


def test_the_average_follows_by_the_rule() -> None:
    average, module = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        average.weight.fill_(1.0)
        module.weight.fill_(3.0)
        module.running_mean.fill_(4.0)  # type: ignore[union-attr]
        module.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    follow(average, module, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [1.0, 1.0]  # type: ignore[union-attr]
    assert int(average.num_batches_tracked) == 7  # type: ignore[arg-type]


def test_the_average_forgets_the_initial_weights_first() -> None:
    assert ema_decay(0.999, 1) == pytest.approx(2 / 11)
    assert ema_decay(0.999, 10**6) == 0.999


def test_the_average_is_what_is_validated_tested_and_restored(config: Config) -> None:
    report = train.train(config("model=mlp", "ema=0.9", "run_dir=run", "epochs=3"))
    last, best = weights("run", prefix=checkpoint_state.AVERAGE), weights("run", checkpoint_format.BEST)
    assert report is not None
    assert distance(last, weights("run")) > 0
    if report["epoch"] == 3:
        assert distance(last, best) == 0
    assert not weights("run", checkpoint_format.BEST, checkpoint_state.AVERAGE)
    stored = checkpoint_format.read(Path("run/checkpoints", checkpoint_format.LAST))
    with session("cpu", "fp32", 1) as runtime:
        restored = inference.restore(stored, runtime, frozenset()).module.state_dict()
    assert distance(last, restored) == 0


def row(epoch: int, accuracy: float | None, loss: float | None) -> Row:
    return {
        "epoch": epoch,
        "step": epoch,
        "lr": 0.1,
        "train_loss": 1.0,
        "train_accuracy": 0.5,
        "val_loss": loss,
        "val_accuracy": accuracy,
        "seconds": 1.0,
        "images_per_second": 1.0,
    }


def test_monitor_says_what_best_means() -> None:
    accurate, sure = row(1, 0.9, 0.5), row(2, 0.8, 0.3)
    assert quality(accurate) > quality(sure)
    assert quality(accurate, "val_loss") < quality(sure, "val_loss")
    assert quality(row(2, None, None), "val_loss") > quality(row(1, None, None), "val_loss")


def test_the_best_by_loss_is_kept(config: Config) -> None:
    """Smoothing with a large learning rate: the last epochs are not the best by loss."""
    train.train(config("model=mlp", "monitor=val_loss", "epochs=6", "optimizer.lr=0.05", "run_dir=run"))
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda one: one["val_loss"])["epoch"]
    assert checkpoint_format.read(Path("run/checkpoints", checkpoint_format.BEST)).meta["epochs_done"] == best


def test_the_loss_is_read_every_50_steps(config: Config) -> None:
    with session("cpu", "fp32", 1) as runtime:
        made = config("model=linear", "optimizer.lr=0.1")
        run = train.build(made, RunSpec.from_config(made), runtime, {})
    log = RunLog(is_main=False)
    checkpointer = Checkpointer(Path("run"), {}, runtime)
    watch = callback.TrainingCallback(made, runtime, log, Signals(), checkpointer, None, "")
    bad = torch.tensor(float("inf"))
    run.state.step = callback.INTERVAL - 1
    watch.after_step(run.state, bad, 16, 32, 0.1)
    run.state.step += 1
    with pytest.raises(RunError, match=r"step 50, epoch 1, learning rate 0\.1"):
        watch.after_step(run.state, bad, 16, 32, 0.1)


EARLY = ("model=linear", "epochs=50", "patience=2", "optimizer.lr=1e-9", "scheduler=constant")  # never gets better


def test_patience_stops_the_run_and_resuming_it_does_nothing(
    config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback, "quality", lambda line, monitor: (0.0, 0.0, 0))
    report = train.train(config(*EARLY, "run_dir=run"))
    assert report is not None
    assert report["epoch"] == 1
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 3
    assert "early stopping: val_accuracy has not improved for 2 epochs" in capsys.readouterr().err
    again = train.resume(config(*EARLY, "run_dir=run"), Path("run"), frozenset())
    assert again == report
    assert "already complete (epoch 3/50); early stopping ended it" in capsys.readouterr().err
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 3


def test_a_run_killed_after_its_early_stop_is_tested_and_not_trained(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback, "quality", lambda line, monitor: (0.0, 0.0, 0))
    train.train(config(*EARLY, "run_dir=run"))
    Path("run/report.json").unlink()
    report = train.resume(config(*EARLY, "run_dir=run"), Path("run"), frozenset())
    assert report is not None
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 3


def test_patience_without_validation_is_a_mistake(config: Config) -> None:
    with pytest.raises(ConfigError, match="patience: there is no validation split"):
        train.train(config("patience=1", "dataset.val_fraction=0", "run_dir=run"))
    assert not Path("run").exists()


def test_no_better_state_is_needed_to_know_that_it_is_enough() -> None:
    best = Best((0.9, -0.1, 0), 3)
    assert not is_exhausted(best, 4, 2)
    assert is_exhausted(best, 5, 2)
    assert not is_exhausted(best, 50, None)
    assert not is_exhausted(None, 50, 1)


def test_a_users_model_whose_head_was_replaced_is_trained_and_restored(config: Config) -> None:
    """It registers more numbers while it is made than it keeps."""
    Path("heads.py").write_text(
        "from torch import nn\n"
        "def net(channels, image_size, num_classes):\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size[0] * image_size[1], 999))\n"
        "    net[1] = nn.Linear(channels * image_size[0] * image_size[1], num_classes)\n"
        "    return net\n"
    )
    report = train.train(config("model.name=heads:net", "epochs=1", "run_dir=run"))
    assert report is not None
    stored = checkpoint_format.read(Path("run/checkpoints", checkpoint_format.BEST))
    with session("cpu", "fp32", 1) as runtime:
        inference.restore(stored, runtime, frozenset({"heads:net"}))


@pytest.mark.parametrize(
    ("stored", "best"),
    [(None, None), ([[0.9, -0.1, 0], 3], ((0.9, -0.1, 0), 3)), ([0.9, -0.1, 0], ((0.9, -0.1, 0), 7))],
)
def test_the_best_epoch_is_read_as_it_is_stored_and_was(stored: object, best: object) -> None:
    assert resume._stored_best({"best": stored, "epochs_done": 7}) == best


@pytest.mark.parametrize("stored", [3, "abc", [1, 2], [[1, 2], 3], {"a": 1}])
def test_a_best_epoch_that_makes_no_sense_is_a_damaged_checkpoint(stored: object) -> None:
    with pytest.raises(CheckpointError, match="best epoch"):
        resume._stored_best({"best": stored, "epochs_done": 7})
