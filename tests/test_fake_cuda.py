"""The CUDA path on a machine without a GPU: no operation mixes devices, and no step waits for the device.

Everything runs under fake tensors (``tests/fake_cuda.py``), so this is about where tensors are, not what they hold.
The options come from the package's tables: a new one is tested without an edit.
"""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imgcls import train
from imgcls.attacks import ATTACKS
from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints.state import State, load_state, state_tensors
from imgcls.config.components import select
from imgcls.config.options import SUCH_AS, option_node, options
from imgcls.config.schema import TrainConfig
from imgcls.config.types import Range
from imgcls.data.datamodule import cropped_view
from imgcls.data.fetchers import CudaCrops, Fetcher, Resident, Streamed
from imgcls.data.loader import BatchPlan, Loader
from imgcls.data.picture_store import store_of
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.data.source import Images
from imgcls.data.transforms.augment import AUGMENTS, Augment
from imgcls.inference import infer as inference
from imgcls.losses import LOSSES, weighted
from imgcls.models import MODELS
from imgcls.models.build import MODEL_CONTEXT, build_model
from imgcls.models.torchvision import TORCHVISION_MODELS
from imgcls.optim.optimizers import OPTIMIZERS
from imgcls.optim.param_groups import parameter_groups
from imgcls.runtime.device import Precision
from imgcls.runtime.session import Runtime
from imgcls.training import loop, spec
from imgcls.training.builder import build
from imgcls.training.callback import TrainingCallback
from imgcls.training.loop import Callback, Recipe, fit, follow, update
from imgcls.training.spec import RunSpec
from tests.conftest import optimizer_node
from tests.fake_cuda import CUDA, FakeCuda, MixedDevicesError, WaitError, fake_cuda

Config = Callable[..., TrainConfig]
COLOR = Preprocessing(3, 8, 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
GRAY = Preprocessing(1, 8, 8, (0.5,), (0.2,))
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
CLASSES = 3
DEEP = ("resnet34", "resnet50", "resnet101", "resnet152")  # a second or more each
READING = ("adafactor",)  # torch's reads two norms of each parameter in every step


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as watch:
        yield watch


# --- every option, and each of its parameters away from its default ---------------------------------------------------


def others(kind: Any, default: Any) -> list[Any]:
    """Other values of a parameter: all choices, a switch the other way, a number that switches a step on or off."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return [value for one in arguments for value in others(one, default)]
    if origin is Literal:
        return [value for value in arguments if value != default]
    if kind is bool:
        return [not default]
    if origin is Annotated and arguments[0] in (int, float):
        ranges = [one for one in arguments[1:] if isinstance(one, Range)]
        value = arguments[0](0) if default else (3 if arguments[0] is int else 0.25)
        return [value] if all(value in one for one in ranges) else []
    return []


def variants(group: str, table: dict[str, Callable[..., Any]]) -> list[Any]:
    """Each option as its node, then with each parameter at another value; functions that are in it twice once only."""
    found, seen = [], set()
    for name in table:
        node = optimizer_node(name) if group == "optimizer" else option_node(group, name)
        found.append(pytest.param(node, id=name))
        if table[name] not in seen:
            hints = get_type_hints(table[name], include_extras=True)
            for key in node.keys() - {"name"}:
                values = others(hints[key], node[key])
                found += [pytest.param({**node, key: value}, id=f"{name}-{key}={value}") for value in values]
        seen.add(table[name])
    return sorted(found, key=lambda one: str(one.id))


def test_variants_switch_every_stage_on() -> None:
    ids = [one.id for one in variants("augment", AUGMENTS)]
    assert {"none", "strong", "standard-degrees=0.25", "standard-policy=randaugment", "standard-cutmix=0.25"} <= {*ids}
    assert "sgd-momentum=0.0" in [one.id for one in variants("optimizer", OPTIMIZERS)]


# --- images: gather, augment, mix, normalize --------------------------------------------------------------------------


def images_of(shape: Preprocessing, count: int = 12) -> Images:
    return Images(np.arange(count) % CLASSES, pixels=np.zeros((count, *shape.shape), np.uint8))


def loader_of(fetcher: Fetcher, augment: Augment, shape: Preprocessing, **params: Any) -> Loader:
    labels = torch.from_numpy(images_of(shape).labels).to(CUDA)
    plan = BatchPlan(len(labels), 4, seed=0)
    return Loader(fetcher, labels, augment, shape.normalizer(CUDA), plan, num_classes=CLASSES, **params)


def serve(loader: Loader, cuda: FakeCuda) -> list[tuple[Tensor, Tensor]]:
    """An epoch: nothing is read, and after the first batch nothing copied."""
    batches = loader.epoch(0)
    cuda.may_read = False
    served = [next(batches)]
    with cuda.never_waits():
        served += list(batches)
    assert len(served) == len(loader) == 3
    for images, targets in served:
        assert images.device == targets.device == CUDA
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
    return served


def augment_of(node: dict[str, Any]) -> Augment:
    augment: Augment = select(AUGMENTS, node, "augment")((8, 8), True)
    return augment


@pytest.mark.parametrize("node", variants("augment", AUGMENTS))
def test_resident_color_images_are_served_without_a_wait(node: dict[str, Any], cuda: FakeCuda) -> None:
    serve_resident(node, COLOR, cuda)


@pytest.mark.parametrize("name", AUGMENTS)
def test_resident_gray_images_are_served_without_a_wait(name: str, cuda: FakeCuda) -> None:
    serve_resident(option_node("augment", name), GRAY, cuda)


def serve_resident(node: dict[str, Any], shape: Preprocessing, cuda: FakeCuda) -> None:
    fetcher = Resident(np.zeros((12, *shape.shape), np.uint8), CUDA)
    fetcher.at_once = 1  # each batch is gathered and augmented by itself
    augment = augment_of(node)
    assert fetcher.pixels.device == CUDA
    for _, targets in serve(loader_of(fetcher, augment, shape), cuda):
        assert targets.ndim == (2 if augment.mix(CLASSES) else 1)


def test_balanced_classes_are_served_without_a_wait(cuda: FakeCuda) -> None:
    fetcher = Resident(np.zeros((12, *GRAY.shape), np.uint8), CUDA, np.arange(12))
    serve(loader_of(fetcher, augment_of(option_node("augment", "standard")), GRAY, is_balanced=True), cuda)


@pytest.mark.parametrize("name", ["photo", "strong"])
def test_random_crops_are_gathered_without_a_wait(name: str, cuda: FakeCuda) -> None:
    node = option_node("augment", name) | {"area": [0.2, 1.0]}
    shape, augment = COLOR, augment_of(node)
    view = cropped_view(shape, augment.crop)
    assert view is not None
    pixels = np.zeros((12, 11, 13, 3), np.uint8)
    store = store_of(Images(np.arange(12) % CLASSES, pixels=pixels), view, 1)
    fetcher = CudaCrops(store, view, CUDA)
    serve(loader_of(fetcher, augment, shape), cuda)


def test_streamed_images_are_copied_while_the_device_computes(cuda: FakeCuda) -> None:
    fetcher = Streamed(images_of(COLOR), COLOR, CUDA, 0)
    serve(loader_of(fetcher, augment_of(option_node("augment", "standard")), COLOR), cuda)


# --- an update: forward, loss, attack, clip, accumulation, average, scaler, optimizer ---------------------------------


def net(channels: int = 3) -> nn.Module:
    """A little of everything that has its own kernels."""
    layers = (nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4 * 64, CLASSES))


@dataclass
class Bench:
    """A state on the device, and what is done to it."""

    cuda: FakeCuda
    state: State
    recipe: Recipe

    def step(self, targets: Tensor, images: Tensor | None = None) -> Tensor:
        """An update."""
        if images is None:
            images = torch.zeros(len(targets), 3, 8, 8, device=CUDA).to(memory_format=torch.channels_last)
        loop.set_lr(self.state.optimizer, self.recipe.base_lrs, 0.5)
        total = update(self.state, self.state.module, images, targets, len(targets), self.recipe)
        self.state.step += 1
        if self.state.average is not None:
            follow(self.state.average, self.state.module, 0.9)
        return total

    def steps(self, numbers: tuple[int, ...] = (2,), *, is_mixed: bool = False, reads: int = 0) -> None:
        """An update, then one for each of the numbers that may neither copy a tensor nor read values, but ``reads``.

        numbers: what is read from the CPU, such as how many steps there were.
        """
        labels = torch.zeros(6, dtype=torch.int64, device=CUDA)
        targets = torch.zeros(6, CLASSES, device=CUDA) if is_mixed else labels
        self.step(targets)
        for number in numbers:
            self.cuda.number = number
            before = self.cuda.reads
            with self.cuda.never_waits():
                self.cuda.may_read = reads > 0
                total = self.step(targets)
            assert self.cuda.reads - before == reads
        assert total.device == self.state.totals.device == CUDA
        for parameter in self.state.module.parameters():
            assert parameter.grad is not None
            assert parameter.grad.device == parameter.device == CUDA


def bench(
    cuda: FakeCuda,
    precision: Precision = "bf16",
    *,
    module: nn.Module | None = None,
    optimizer: dict[str, Any] | None = None,
    **recipe: Any,
) -> Bench:
    runtime = Runtime(CUDA, precision, 1)
    module = runtime.place(module or net())
    made = select(OPTIMIZERS, optimizer or optimizer_node("adamw"), "optimizer")(parameter_groups(module))
    state = State(module, made, runtime.scaler(), runtime.zeros(3))
    fixed = {
        "epochs": 1,
        "seed": 0,
        "schedule": lambda step: 1.0,
        "base_lrs": tuple(group["lr"] for group in made.param_groups),
        "loss": select(LOSSES, option_node("loss", "cross_entropy"), "loss")(),
        "autocast": runtime.autocast,
    }
    return Bench(cuda, state, Recipe(**{**fixed, **recipe}))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("params", [{}, {"accumulate": 2, "clip_grad": 1.0}], ids=["plain", "parts"])
def test_an_update_does_not_wait(params: dict[str, Any], precision: Precision, cuda: FakeCuda) -> None:
    one = bench(cuda, precision, **params)
    one.state.average = copy.deepcopy(one.state.module).requires_grad_(False)
    one.steps()


@pytest.mark.parametrize("is_mixed", [False, True], ids=["labels", "shares"])
@pytest.mark.parametrize("node", variants("loss", LOSSES))
def test_a_loss_does_not_wait(node: dict[str, Any], is_mixed: bool, cuda: FakeCuda) -> None:
    weights = torch.tensor([1.0] * CLASSES, device=CUDA)
    bench(cuda, loss=weighted(select(LOSSES, node, "loss")(), weights)).steps(is_mixed=is_mixed)


@pytest.mark.parametrize("node", variants("attack", ATTACKS))
def test_an_attack_does_not_wait(node: dict[str, Any], cuda: FakeCuda) -> None:
    attack = select(ATTACKS, node | {key: 2 for key in node if key == "steps"}, "attack")()
    bench(cuda, attack=attack and partial(attack, mean=COLOR.mean, std=COLOR.std)).steps()


def reads_of(state: State, name: str) -> int:
    """How many values torch itself reads in a step: GradScaler asks whether to call an optimizer that is not fused."""
    norms = 2 * len(list(state.module.parameters())) if name in READING else 0
    is_asked = state.scaler is not None and not getattr(state.optimizer, "_step_supports_amp_scaling", False)
    return norms + is_asked


@pytest.mark.parametrize("node", variants("optimizer", OPTIMIZERS))
def test_an_optimizer_does_not_wait(node: dict[str, Any], cuda: FakeCuda) -> None:
    one = bench(cuda, optimizer=node)
    one.steps((2, 100), reads=reads_of(one.state, node["name"]))  # some begin in another way


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_state_does_not_wait(name: str, cuda: FakeCuda) -> None:
    """With a scaler; NAdam's product of momenta, once on the device, is read in every step."""
    first, second = (bench(cuda, "fp16", optimizer=optimizer_node(name)) for _ in range(2))
    first.step(torch.zeros(6, dtype=torch.int64, device=CUDA))
    tensors, numbers = state_tensors(first.state)
    meta = {"format_version": 1, "imgcls": "1", "optimizer_numbers": numbers, "step": 1, "epochs_done": 0}
    data = b"".join(checkpoint_format.encode(tensors, meta))
    load_state(second.state, checkpoint_format.decode(data, Path("last.safetensors")))
    second.steps(reads=reads_of(second.state, name))


# --- models, evaluation ----------------------------------------------------------------------------------------------


def model_names() -> list[Any]:
    own = [name for name in options("model") if name in MODELS and name not in TORCHVISION_MODELS]
    deep = [pytest.param(name, marks=pytest.mark.slow) for name in (*DEEP, *SUCH_AS)]
    return [*(name for name in own if name not in DEEP), *deep]


@pytest.mark.parametrize("name", model_names())
def test_a_model_does_not_wait(name: str, cuda: FakeCuda) -> None:
    """Forward, backward and the step."""
    size = (224, 224) if name in SUCH_AS else (32, 32)
    node = option_node("model", name)
    module = build_model(select(MODELS, node, "model", context=MODEL_CONTEXT), 3, size, CLASSES)
    one = bench(cuda, module=module)
    images = torch.zeros(2, 3, *size, device=CUDA).to(memory_format=torch.channels_last)
    labels = torch.zeros(2, dtype=torch.int64, device=CUDA)
    with cuda.never_waits():
        one.step(labels, images)


@pytest.mark.parametrize("tta", inference.TTA_VIEWS)
def test_an_evaluation_reads_the_logits_once(tta: Any, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "evaluation_batch", lambda preprocessing, device: 4)
    runtime = Runtime(CUDA, "bf16", 1)
    module = runtime.place(net())
    seen: list[int] = []

    def between() -> None:
        cuda.may_copy, cuda.may_read = False, len(seen) == 2
        seen.append(cuda.reads)

    fetcher = Resident(np.zeros((12, *COLOR.shape), np.uint8), CUDA)
    logits = inference.infer(module, fetcher, 12, COLOR, runtime, between, tta=tta)
    assert logits.shape == (12, CLASSES)
    assert (seen, cuda.reads) == ([0, 0, 0], 1)


# --- whole runs ------------------------------------------------------------------------------------------------------

KEYS = (
    *("accumulate=3", "clip_grad=1", "ema=0.9", "sampler=balanced", "class_weights=auto", "layer_decay=0.5"),
    *("model.freeze=true", "loader=stream"),
)


class Counted(Callback):
    """No step of the epoch reads a value, and none but the first copies one."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.steps = 0
        cuda.may_read = False

    def after_step(self, state: State, loss_sum: Tensor, count: int, images: int, lr: float) -> None:
        self.cuda.may_copy = False
        self.steps += 1

    def after_epoch(self, state: State, images: int, started: float, lr: float) -> None:
        state.epochs += 1


@pytest.mark.parametrize("word", KEYS)
def test_an_epoch_with_a_key(word: str, config: Config, cuda: FakeCuda) -> None:
    made = config("dataset.limit=40", "batch_size=12", "epochs=1", "workers=0", word)
    run = build(made, RunSpec.from_config(made), Runtime(CUDA, "bf16", 1), {})
    callback = Counted(cuda)
    fit(run.state, run.forward, run.loader, run.recipe, callback)
    assert callback.steps == len(run.loader) > 1
    assert cuda.reads == (1 if word == "sampler=balanced" else 0)  # the labels, when the loader is made


@pytest.fixture
def whole(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Commands run on the device: no step of an epoch waits for it, what comes between the epochs may."""
    after_step, after_epoch = TrainingCallback.after_step, TrainingCallback.after_epoch

    def step(self: TrainingCallback, *args: Any) -> None:
        after_step(self, *args)
        cuda.may_copy = False

    def epoch(self: TrainingCallback, *args: Any) -> None:
        cuda.may_read = cuda.may_copy = True
        after_epoch(self, *args)
        cuda.may_read = False

    def training(*args: Any) -> None:
        with cuda.never_waits():
            cuda.may_copy = True
            fit(*args)

    def session(made: TrainConfig, precision: Any, threads: int | None) -> Any:
        return contextlib.nullcontext(Runtime(CUDA, precision, 1))

    monkeypatch.setattr(TrainingCallback, "after_step", step)
    monkeypatch.setattr(TrainingCallback, "after_epoch", epoch)
    monkeypatch.setattr(train, "fit", training)
    monkeypatch.setattr(train, "_session", session)
    for module in (train, spec):
        monkeypatch.setattr(module, "choose_device", lambda *args: CUDA)
    return cuda


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_a_run_is_trained_validated_saved_resumed_and_tested(precision: str, config: Config, whole: FakeCuda) -> None:
    words = (f"precision={precision}", "dataset.limit=40", "batch_size=12", "ema=0.9", "attack=fgsm", "model=linear")
    report = train.train(config("epochs=1", "run_dir=run", *words))
    assert report is not None
    assert report["attack"]["name"] == "fgsm"
    assert train.resume(config("epochs=2", "run_dir=run", *words), Path("run"), frozenset()) is not None
    saved = checkpoint_format.read(Path("run/checkpoints/last.safetensors"))
    assert saved.meta["epochs_done"] == 2
    assert saved.meta["chosen"]["device"] == "cuda"


# --- the tests can fail ----------------------------------------------------------------------------------------------


def reads_a_value(logits: Tensor, targets: Tensor) -> Tensor:
    losses = logits.square().sum(1)
    return losses if losses.sum().item() > 0 else -losses


def asks_a_condition(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.square().sum(1) if bool((logits > 0).any()) else logits.sum(1)


def copies_to_the_cpu(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.square().sum(1) * float(logits.detach().cpu().numpy().max())


def selects(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.square().sum(1)[(targets == 0).nonzero()[:, 0]]


def selects_by_a_mask(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.square().sum(1)[targets == 0]


def overwrites_by_a_mask(logits: Tensor, targets: Tensor) -> Tensor:
    losses = logits.detach().square().sum(1)
    losses[targets == 0] = losses
    return logits.sum(1) * losses


def makes_a_table(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits * torch.tensor([1.0, 2.0, 3.0], device=CUDA)).sum(1)


def has_a_table_on_the_cpu(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits * torch.ones(CLASSES)).sum(1)


def looks_up_on_the_cpu(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.sum(1) * torch.ones(CLASSES)[targets]


def looks_up_with_rows_on_the_cpu(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.sum(1)[torch.arange(len(logits))]


class Scaled(torch.autograd.Function):
    """Only its backward function mixes devices."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        return logits * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.ones(CLASSES)


def mixes_devices_in_backward(logits: Tensor, targets: Tensor) -> Tensor:
    result: Tensor = Scaled.apply(logits)
    return result.sum(1)


@pytest.mark.parametrize(
    "loss",
    [
        *(reads_a_value, asks_a_condition, copies_to_the_cpu, selects, selects_by_a_mask, overwrites_by_a_mask),
        *(makes_a_table, has_a_table_on_the_cpu, looks_up_on_the_cpu, looks_up_with_rows_on_the_cpu),
        mixes_devices_in_backward,
    ],
    ids=lambda loss: loss.__name__,
)
def test_a_loss_that_waits_is_caught(loss: Callable[[Tensor, Tensor], Tensor], cuda: FakeCuda) -> None:
    with pytest.raises((WaitError, MixedDevicesError)):
        bench(cuda, loss=loss).steps()


def test_a_value_read_in_the_loop_is_caught(config: Config, whole: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    take = loop.take_step
    monkeypatch.setattr(loop, "take_step", lambda state, clip: take(state, clip or float(state.totals[0])))
    with pytest.raises(WaitError, match="reads a value"):
        train.train(config("precision=bf16", "dataset.limit=60", "model=linear"))


def with_table(images: Tensor, draws: Tensor) -> Tensor:
    return (images + torch.ones(8, 8, 1)).to(torch.uint8)


def with_nonzero(images: Tensor, draws: Tensor) -> Tensor:
    chosen = (draws[:, 0] < 0.5).nonzero()[:, 0]
    return images.index_copy(0, chosen, images[chosen].flip(2))


def with_a_copy(images: Tensor, draws: Tensor) -> Tensor:
    return images + torch.tensor([1], dtype=torch.uint8).to(images.device)


@pytest.mark.parametrize("function", [with_table, with_nonzero, with_a_copy], ids=lambda one: one.__name__)
def test_an_augmentation_that_waits_is_caught(function: Callable[..., Tensor], cuda: FakeCuda) -> None:
    fetcher = Resident(np.zeros((12, *COLOR.shape), np.uint8), CUDA)
    fetcher.at_once = 1
    with pytest.raises((WaitError, MixedDevicesError)):
        serve(loader_of(fetcher, Augment(1, ("mutant",), function), COLOR), cuda)


def test_an_image_copied_without_pinning_is_caught(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    with pytest.raises(WaitError, match="is copied to the device"):
        serve(loader_of(Streamed(images_of(COLOR), COLOR, CUDA, 0), augment_of({"name": "none"}), COLOR), cuda)


def test_an_average_on_the_cpu_is_caught(cuda: FakeCuda) -> None:
    one = bench(cuda)
    one.state.average = net()
    with pytest.raises(MixedDevicesError):
        one.steps()
