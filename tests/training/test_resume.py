"""A run that is stopped anywhere and gone on with ends bit for bit as the one that was not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgcls import train
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints import state as checkpoint_state
from imgcls.checkpoints.state import State
from imgcls.cli.app import main
from imgcls.config.schema import TrainConfig
from imgcls.errors import Stopped
from imgcls.training import callback, validation
from imgcls.training.callback import TrainingCallback
from imgcls.training.checkpointer import Checkpointer
from imgcls.training.spec import RunSpec
from tests.conftest import SMALL, without_times

Config = Callable[..., TrainConfig]


class Killed(BaseException):
    """Ends the process's run at once, as SIGKILL would: nothing handles it."""


def same_bytes(one: Path, other: Path) -> None:
    """The checkpoints of two run folders are the same files."""
    for name in (checkpoint_format.LAST, checkpoint_format.BEST):
        assert (one / "checkpoints" / name).read_bytes() == (other / "checkpoints" / name).read_bytes()


def same_tensors(one: Path, other: Path) -> None:
    a, b = checkpoint_format.read(one), checkpoint_format.read(other)
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]), name


def same_runs(one: Path, other: Path) -> None:
    """Weights, optimizer state, metrics, predictions and report of two run folders are equal to the last bit."""
    for name in (checkpoint_format.LAST, checkpoint_format.BEST):
        same_tensors(one / "checkpoints" / name, other / "checkpoints" / name)
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    assert list(map(without_times, rows[0])) == list(map(without_times, rows[1]))
    reports = [json.loads((run / "report.json").read_text()) for run in (one, other)]
    assert without_times(reports[0]) == without_times(reports[1])
    with np.load(one / "predictions.npz") as a, np.load(other / "predictions.npz") as b:
        for name in a.files:
            assert np.array_equal(a[name], b[name]), name


def stop_at(steps: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The run gets SIGTERM right after each of these updates."""
    waiting = list(steps)
    after_step = TrainingCallback.after_step

    def patched(self: TrainingCallback, state: State, *step: Any) -> None:
        if waiting and state.step == waiting[0]:
            waiting.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self, state, *step)

    monkeypatch.setattr(TrainingCallback, "after_step", patched)


def interrupted(config: TrainConfig, steps: Sequence[int], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Run with stops after these updates, going on after each."""
    stop_at(steps, monkeypatch)
    first = True
    for step in steps:
        with pytest.raises(Stopped) as stopped:
            train.train(config) if first else train.resume(config, folder, frozenset())
        assert stopped.value.exit_code == 143
        assert checkpoint_format.read(folder / "checkpoints" / checkpoint_format.LAST).meta["step"] == step
        first = False
    train.resume(config, folder, frozenset())


TWO_CLASSES = ("monitor=val_auc", "dataset.classes=[3,8]", "dataset.limit=null")

CASES = {
    "lenet, adamw, onecycle": (),
    "sgd with momentum, cosine": ("optimizer=sgd", "scheduler=cosine", "scheduler.warmup_epochs=1"),
    "adam, step": ("optimizer=adam", "scheduler=step"),
    "adagrad, constant": ("optimizer=adagrad", "scheduler=constant"),
    "rmsprop": ("optimizer=rmsprop", "optimizer.momentum=0.5"),
    "dropout": ("model=mlp", "model.dropout=0.3"),
    "augmentation": ("augment=standard", "loss.label_smoothing=0.1"),
    "bf16": ("precision=bf16",),
    "no validation": ("dataset.val_fraction=0",),
    "deterministic": ("deterministic=true",),
    "moving average": ("ema=0.9", "model=mlp", "model.dropout=0.3"),
    "accumulation and clipping": ("accumulate=3", "clip_grad=0.5", "model=mlp", "model.dropout=0.3"),
    "best by loss": ("monitor=val_loss",),
    "best by AUC, of two classes": TWO_CLASSES,
    "early stopping": ("patience=1", "optimizer.lr=1e-9", "scheduler=constant"),
    "streamed": ("loader=stream", "workers=0"),
    **{name: (f"optimizer={name}",) for name in ("adadelta", "adamax", "nadam", "radam", "adafactor", "muon")},
    "airbench": ("model=airbench", "model.widths=[4,8]", "optimizer=muon", "scheduler=linear", "ema=0.9"),
    "batch norm and muon": ("optimizer=muon", "model=lenet", "model.batch_norm=true", "model.dropout=0.2"),
    "strong augmentation": ("augment=strong", "augment.mixup=0.4", "augment.cutmix=1.0", "augment.brightness=0.2"),
    "balanced": ("sampler=balanced", "augment=trivialaugment"),
    "class weights": ("class_weights={3:2.0,1:0.5}", "loss=focal"),
    "attacked": ("attack=pgd", "attack.steps=2", "attack.norm=l2"),
    "frozen, slower below": (
        "model=lenet",
        "model.freeze=[features.conv1]",
        "layer_decay=0.5",
        "model.activation=tanh",
    ),
}


FAST_CASES = {
    "lenet, adamw, onecycle": (),
    "muon, batch norm, dropout": CASES["batch norm and muon"],
    "moving average, accumulation, clipping": ("ema=0.9", *CASES["accumulation and clipping"]),
    "strong augmentation": CASES["strong augmentation"],
    "balanced, class weights": ("sampler=balanced", *CASES["class weights"]),
    **{name: CASES[name] for name in ("streamed", "bf16", "early stopping", "frozen, slower below")},
    "best by AUC, of two classes": TWO_CLASSES,
}


def check_stops(
    words: tuple[str, ...], config: Config, monkeypatch: pytest.MonkeyPatch, stops: Callable[[int], list[int]]
) -> None:
    """A run that is stopped after these updates, of so many, is the run that is not."""
    train.train(config(*words, "run_dir=whole"))
    total = checkpoint_format.read(Path("whole/checkpoints/last.safetensors")).meta["step"]
    interrupted(config(*words, "run_dir=parts"), stops(total), monkeypatch, Path("parts"))
    same_runs(Path("whole"), Path("parts"))
    same_bytes(Path("whole"), Path("parts"))


@pytest.mark.parametrize("words", FAST_CASES.values(), ids=FAST_CASES.keys())
def test_a_run_stopped_twice_ends_like_the_uninterrupted_one(
    words: tuple[str, ...], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_stops(words, config, monkeypatch, lambda total: [1, total // 2])


@pytest.mark.slow
@pytest.mark.parametrize("words", CASES.values(), ids=CASES.keys())
def test_a_stopped_run_ends_like_the_uninterrupted_one(
    words: tuple[str, ...], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*words, "plots=true", "tensorboard=true")
    check_stops(words, config, monkeypatch, lambda total: [1, total // 2, total // 2 + 2, total])


@pytest.mark.skipif(sys.platform != "linux", reason="processes that decode are forked")
def test_streamed_photos_go_on_with_another_number_of_workers(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    for name in ("light", "dark"):
        Path("photos", name).mkdir(parents=True)
        for i in range(60):
            pixels = np.random.default_rng(i).integers(0, 200, (14, 12, 3), np.uint8) + 50 * (name == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(f"photos/{name}/{i}.png")
    words = ("dataset=./photos", "model=mlp", "model.dropout=0.2", "augment=standard", "loader=stream")
    own = ("dataset.limit=null", "dataset.test_limit=null")
    train.train(config(*words, *own, "workers=0", "run_dir=whole"))
    stop_at([2, 4], monkeypatch)
    for i, workers in enumerate((2, 0, 1)):
        changed = config(*words, *own, f"workers={workers}", "run_dir=parts")
        with pytest.raises(Stopped) if i < 2 else contextlib.nullcontext():
            train.resume(changed, Path("parts"), frozenset()) if i else train.train(changed)
    same_runs(Path("whole"), Path("parts"))


def test_a_signal_within_validation_stops_it_at_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train.train(config("run_dir=whole"))
    infer = validation.infer

    def signalled(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return infer(*args)

    monkeypatch.setattr(validation, "infer", signalled)
    with pytest.raises(Stopped) as stopped:
        train.train(config("run_dir=parts"))
    assert stopped.value.exit_code == 143
    meta = checkpoint_format.read(Path("parts/checkpoints/last.safetensors")).meta
    assert (meta["step"], meta["epochs_done"]) == (6, 0)
    assert not Path("parts/checkpoints/best.safetensors").exists()
    monkeypatch.setattr(validation, "infer", infer)
    train.resume(config("run_dir=parts"), Path("parts"), frozenset())
    same_runs(Path("whole"), Path("parts"))


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="processes that decode are forked")
def test_a_signal_to_the_whole_group_ends_the_decoders_and_is_saved_all_the_same() -> None:
    from PIL import Image

    for name in ("light", "dark"):
        Path("photos", name).mkdir(parents=True)
        for i in range(40):
            Image.new("RGB", (16, 16), (i, 99, 200 if name == "light" else 20)).save(f"photos/{name}/{i}.png")
    words = ["dataset=./photos", "model=linear", "loader=stream", "workers=2", "epochs=100000", "run_dir=run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "imgcls", "train", *words, "threads=1"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(600):
        if Path("run/checkpoints/last.safetensors").exists():
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    step = checkpoint_format.read(Path("run/checkpoints/last.safetensors")).meta["step"]
    assert f"saved at step {step:,}; resume with: imgcls train resume=run" in said


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no SIGUSR1")
def test_sigusr1_saves_and_goes_on(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(config("run_dir=whole"))
    saved, after_step, save_last = [], TrainingCallback.after_step, TrainingCallback.save_last

    def signalled(self: TrainingCallback, state: State, *step: Any) -> None:
        if state.step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)
        after_step(self, state, *step)

    def noted(self: TrainingCallback, state: State) -> None:
        saved.append(state.step)
        save_last(self, state)

    monkeypatch.setattr(TrainingCallback, "after_step", signalled)
    monkeypatch.setattr(TrainingCallback, "save_last", noted)
    before = signal.getsignal(signal.SIGUSR1)
    train.train(config("run_dir=parts"))
    assert signal.getsignal(signal.SIGUSR1) == before
    assert saved == [4, 6, 12]
    assert "checkpoint saved at step 4 (SIGUSR1)" in capsys.readouterr().err
    same_runs(Path("whole"), Path("parts"))


@pytest.mark.slow
def test_a_compiled_run_ends_like_the_uninterrupted_one(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes of batch, each compiled by itself, in whatever order a run meets them."""
    if shutil.which(os.environ.get("CXX") or "g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    words = ("model=mlp", "compile=true", "model.dropout=0.3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's compiler, about itself
        train.train(config(*words, "run_dir=whole"))
        interrupted(config(*words, "run_dir=parts"), [1, 5], monkeypatch, Path("parts"))
    same_runs(Path("whole"), Path("parts"))
    assert checkpoint_format.read(Path("parts/checkpoints/last.safetensors")).meta["chosen"]["compile"] is True


@pytest.mark.slow
def test_resume_with_batch_norm_channels_last_weights_and_a_fused_optimizer(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("model=resnet18", "optimizer=sgd", "dataset.limit=64", "batch_size=16", "dataset.channels=3", "epochs=2")
    train.train(config(*words, "run_dir=whole"))
    interrupted(config(*words, "run_dir=parts"), [2, 4, 5], monkeypatch, Path("parts"))
    same_runs(Path("whole"), Path("parts"))


def test_optimizer_state_is_loaded_in_its_parameters_memory_format(config: Config) -> None:
    made = config(
        "model=resnet18", "optimizer=sgd", "dataset.limit=32", "dataset.channels=3", "epochs=1", "run_dir=run"
    )
    train.train(made)
    checkpoint = checkpoint_format.read(Path("run/checkpoints/last.safetensors"))
    from imgcls.runtime.session import session

    with session("cpu", "fp32", 1) as runtime:
        state = train.build(made, RunSpec.from_config(made), runtime, {}).state
    checkpoint_state.load_state(state, checkpoint)
    parameter = state.module.get_parameter("layer1.0.conv1.weight")
    momentum = state.optimizer.state[parameter]["momentum_buffer"]
    assert parameter.is_contiguous(memory_format=torch.channels_last)
    assert momentum.stride() == parameter.stride()
    assert torch.equal(momentum, checkpoint.tensors["optimizer.layer1.0.conv1.weight.momentum_buffer"])


def test_saves_within_an_epoch_do_not_change_the_result_and_are_gone_on_from(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.train(config("run_dir=whole"))
    made = config("checkpoint_every=4", "run_dir=parts")

    def die(self: TrainingCallback, *args: object) -> None:  # as SIGKILL would: nothing is saved
        raise Killed

    after_epoch = TrainingCallback.after_epoch
    monkeypatch.setattr(TrainingCallback, "after_epoch", die)
    with pytest.raises(Killed):
        train.train(made)
    assert checkpoint_format.read(Path("parts/checkpoints/last.safetensors")).meta["step"] == 4
    monkeypatch.setattr(TrainingCallback, "after_epoch", after_epoch)
    train.resume(made, Path("parts"), frozenset())
    same_runs(Path("whole"), Path("parts"))


def test_a_kill_between_the_row_and_the_checkpoint_leaves_no_row_twice(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.train(config("run_dir=whole"))
    save = Checkpointer._save

    def die(self: Checkpointer, name: str, *args: object) -> None:
        rows = Path("parts/metrics.jsonl").read_text().splitlines()
        if len(rows) == 2:
            raise Killed
        save(self, name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpointer, "_save", die)
    with pytest.raises(Killed):
        train.train(config("run_dir=parts"))
    assert len(Path("parts/metrics.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(Checkpointer, "_save", save)
    train.resume(config("run_dir=parts"), Path("parts"), frozenset())
    same_runs(Path("whole"), Path("parts"))


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(config("run_dir=whole"))
    stop_at([9], monkeypatch)
    with pytest.raises(Stopped):
        train.train(config("run_dir=parts"))
    last = Path("parts/checkpoints/last.safetensors")
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    train.resume(config("run_dir=parts"), Path("parts"), frozenset())
    assert "damaged" in capsys.readouterr().err
    same_runs(Path("whole"), Path("parts"))


def test_a_damaged_last_checkpoint_does_not_take_the_good_ones_place(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config("checkpoint_every=2", "run_dir=run")
    train.train(made)
    folder = Path("run/checkpoints")
    good = (folder / checkpoint_format.PREV).read_bytes()
    (folder / checkpoint_format.LAST).write_bytes(b"damaged")
    Path("run/report.json").unlink()

    def killed(*args: Any, **more: Any) -> None:
        raise Killed

    go = train._execute
    monkeypatch.setattr(train, "_execute", killed)
    with pytest.raises(Killed):
        train.resume(made, Path("run"), frozenset())
    monkeypatch.setattr(train, "_execute", go)
    assert (folder / checkpoint_format.PREV).read_bytes() == good
    assert not (folder / checkpoint_format.LAST).exists()
    assert (folder / f"damaged-{checkpoint_format.LAST}").read_bytes() == b"damaged"
    train.resume(made, Path("run"), frozenset())


def test_a_changed_configuration_of_the_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "model=linear", "run_dir=run"]) == 0
    path = Path("run/config.yaml")
    text = path.read_text()
    path.write_text(text.replace("batch_size: 32", "batch_size: 16"))
    assert path.read_text() != text
    capsys.readouterr()
    assert main(["train", "resume=run", "epochs=3"]) == 2
    assert (
        "batch_size is 16 in run/config.yaml, but the run was trained with 32; change it back"
        in capsys.readouterr().err
    )
    path.write_text(text)
    assert main(["train", "resume=run", "epochs=3"]) == 0


def test_equal_runs_in_other_folders_have_equal_bytes() -> None:
    for name in ("a", "b"):
        assert main(["train", *SMALL, "model=linear", f"run_dir={name}"]) == 0
    same_bytes(Path("a"), Path("b"))


def test_files_of_another_size_under_the_same_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for name in ("light", "dark"):
        Path("photos", name).mkdir(parents=True)
        for i in range(30):
            Image.new("L", (12, 12), 20 + i if name == "dark" else 200 + i).save(f"photos/{name}/{i}.bmp")
    assert main(["train", "dataset=./photos", "model=linear", "epochs=1", "threads=1", "run_dir=run"]) == 0
    Image.new("L", (14, 14), 9).save("photos/dark/3.bmp")
    capsys.readouterr()
    assert main(["train", "resume=run", "epochs=2"]) == 3
    assert "has changed since run was trained: of the " in capsys.readouterr().err


def test_two_equal_runs_write_equal_bytes(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        train.train(config("run_dir=same"))
        Path("same").rename(name)
    for file in ("checkpoints/last.safetensors", "checkpoints/best.safetensors", "predictions.npz"):
        assert Path("a", file).read_bytes() == Path("b", file).read_bytes(), file


def test_another_seed_gives_another_run_on_the_same_splits(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (0, 1):
        train.train(config(f"seed={seed}", f"run_dir={seed}"))
    a, b = (checkpoint_format.read(Path(f"{seed}/checkpoints/last.safetensors")) for seed in (0, 1))
    assert not torch.equal(a.tensors["model.features.conv1.weight"], b.tensors["model.features.conv1.weight"])
    with np.load("0/split.npz") as one, np.load("1/split.npz") as other:
        assert all(np.array_equal(one[part], other[part]) for part in ("train", "val", "test"))


def test_resuming_a_finished_run_does_nothing_and_more_epochs_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "run_dir=run"]) == 0
    before = {
        path: path.stat().st_mtime_ns for path in Path("run").rglob("*") if path.name != ".lock" and path.is_file()
    }
    capsys.readouterr()
    assert main(["train", "resume=run"]) == 0
    assert "already complete (epoch 2/2)" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert main(["train", "resume=run", "epochs=3"]) == 0
    assert [json.loads(line)["epoch"] for line in Path("run/metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


@pytest.mark.process
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_prints_the_command_that_goes_on(number: signal.Signals, code: int) -> None:
    command = [
        sys.executable,
        "-m",
        "imgcls",
        "train",
        "epochs=100000",
        "dataset.limit=200",
        "threads=1",
        "run_dir=my run",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if line.lstrip().startswith("3 "):  # the third epoch's row
                process.send_signal(number)
        assert process.wait(30) == code
    assert "imgcls train resume='my run'" in lines[-1]
    step = checkpoint_format.read(Path("my run/checkpoints/last.safetensors")).meta["step"]
    assert f"step {step:,}" in lines[-1]
    assert not Path("my run/report.json").exists()


def test_a_run_that_was_made_longer_and_killed_before_its_test_is_tested(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(config("run_dir=run", "epochs=1"))
    test = train._test

    def die(*args: object, **keys: object) -> None:
        raise Killed

    monkeypatch.setattr(train, "_test", die)
    with pytest.raises(Killed):
        main(["train", "resume=run", "epochs=3"])
    monkeypatch.setattr(train, "_test", test)
    capsys.readouterr()
    assert main(["train", "resume=run"]) == 0  # the longer configuration is the run's own now
    assert json.loads(Path("run/report.json").read_text())["epoch"] > 1
    assert main(["train", "resume=run"]) == 0
    assert "already complete (epoch 3/3)" in capsys.readouterr().err


def test_a_torn_report_is_made_again(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train.train(config("run_dir=run"))
    whole = Path("run/report.json").read_text()
    Path("run/report.json").write_text(whole[:300])
    assert main(["train", "resume=run"]) == 0
    assert without_times(json.loads(Path("run/report.json").read_text())) == without_times(json.loads(whole))


def test_lost_rows_do_not_make_a_worse_epoch_the_best(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(config("run_dir=run"))
    before = Path("run/checkpoints/best.safetensors").read_bytes()
    Path("run/metrics.jsonl").write_text("")
    quality = callback.quality
    monkeypatch.setattr(
        callback, "quality", lambda row, monitor: (-1.0, *quality(row)[1:])
    )  # all that follows is worse
    train.resume(config("run_dir=run", "epochs=3"), Path("run"), frozenset())
    assert "has lost rows" in capsys.readouterr().err
    assert Path("run/checkpoints/best.safetensors").read_bytes() == before


def test_a_data_set_that_has_changed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    draw = np.random.default_rng(0)

    def add(first: int, count: int) -> None:
        for name in ("light", "dark"):
            Path("photos", name).mkdir(parents=True, exist_ok=True)
            for i in range(first, first + count):
                pixels = draw.integers(0, 100, (8, 8), dtype=np.uint8) + (100 if name == "light" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(f"photos/{name}/{i:03}.png")

    add(0, 30)
    assert main(["train", "dataset=./photos", "epochs=1", "threads=1", "run_dir=run"]) == 0
    add(30, 10)
    for command in (["train", "resume=run", "epochs=2"], ["evaluate", "run"]):
        assert main(command) == 3
        assert "the data set has changed since" in capsys.readouterr().err.splitlines()[-1]
    assert main(["evaluate", "run", "dataset=./photos"]) == 0


OWN_OPTIMIZER = """
import torch

class Counting(torch.optim.SGD):
    \"\"\"Keeps a counter in its groups and a double-precision sum in its state, uses both, and adds noise.\"\"\"

    def __init__(self, groups, lr=0.01):
        super().__init__(groups, lr=lr)
        for group in self.param_groups:
            group["count"] = 0

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] += 1
            for parameter in group["params"]:
                total = self.state[parameter].setdefault("total", torch.zeros_like(parameter, dtype=torch.float64))
                total += parameter.grad
                parameter.data -= (group["lr"] / group["count"] * total).float()
                parameter.data += 1e-4 * torch.randn_like(parameter)
"""


def test_a_users_own_optimizer_goes_on_as_exactly(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my_counting.py").write_text(OWN_OPTIMIZER)
    monkeypatch.syspath_prepend(".")
    words = ("optimizer.name=my_counting:Counting", "optimizer.lr=0.1")
    train.train(config(*words, "run_dir=whole"))
    stop_at([3, 8], monkeypatch)
    trusted = frozenset({"my_counting:Counting"})
    made = config(*words, "run_dir=parts")
    for go in (lambda: train.train(made), lambda: train.resume(made, Path("parts"), trusted)):
        with pytest.raises(Stopped, match=r"resume=parts optimizer\.name=my_counting:Counting"):
            go()
    train.resume(made, Path("parts"), trusted)
    same_runs(Path("whole"), Path("parts"))


@pytest.mark.parametrize("damage", ["epochs: many", "model: [1]", "dataset: null", "epochs: 3"])
def test_a_damaged_configuration_of_the_run_is_named(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text(damage + "\n")
    assert main(["train", "resume=run", "epochs=2"]) == 3
    assert "run/config.yaml: damaged" in capsys.readouterr().err


def test_a_damaged_split_file_is_named(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train.train(config("run_dir=run"))
    Path("run/split.npz").write_bytes(Path("run/split.npz").read_bytes()[:100])
    assert main(["train", "resume=run", "epochs=3"]) == 3
    assert main(["evaluate", "run"]) == 3


def test_rows_that_are_none_are_passed_over(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train.train(config("run_dir=run"))
    Path("run/metrics.jsonl").write_text('[1, 2]\n{"epoch": 1}\n')
    assert main(["evaluate", "run"]) == 0
