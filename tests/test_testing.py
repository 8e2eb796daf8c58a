"""imgcls.testing: imgcls's own parts pass the conformance tests, and each kind of broken part is caught."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from imgcls.config.options import option_node
from imgcls.data import DATASETS, Images, Source
from imgcls.data.transforms.augment import AUGMENTS, Augment
from imgcls.errors import ConfigError, DataError
from imgcls.losses import LOSSES
from imgcls.models import MODELS
from imgcls.optim import OPTIMIZERS
from imgcls.testing import check_augment, check_dataset, check_loss, check_model, check_optimizer
from tests.conftest import optimizer_node
from tests.models.test_torchvision_models import LIGHT

FAST_MODELS = ("linear", "mlp", "lenet", "convnet", "airbench", "squeezenet1_1", "shufflenet_v2_x0_5")
SLOW_MODELS = [name for name in ("resnet18", "resnet34", "resnet50", *LIGHT) if name not in FAST_MODELS]


def params(group: str, name: str, **changed: Any) -> dict[str, Any]:
    """The parameters of an option as in conf/."""
    node = (optimizer_node(name) if group == "optimizer" else option_node(group, name)) | changed
    return {key: value for key, value in node.items() if key != "name"}


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAST_MODELS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_MODELS)])
def test_our_models_pass(name: str) -> None:
    check_model(MODELS[name], **params("model", name))


@pytest.mark.parametrize("changed", [{"dropout": 0.5}, {"batch_norm": True}, {"activation": "gelu"}])
def test_our_models_pass_with_other_parameters(changed: dict[str, Any]) -> None:
    for name in ("mlp", "lenet", "convnet"):
        check_model(MODELS[name], **params("model", name, **changed))


def flat(channels: int, image_size: tuple[int, int], num_classes: int, *, width: int = 4) -> nn.Sequential:
    pixels = channels * image_size[0] * image_size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.Linear(width, num_classes))


class Wrapped(nn.Module):
    """A model with a flaw: ``after`` is done to the logits, ``before`` to the images."""

    def __init__(
        self,
        channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        *,
        before: Callable[[Tensor], Any] = lambda images: images,
        after: Callable[[Tensor], Any] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.inner = flat(channels, image_size, num_classes)
        self.before, self.after = before, after
        self.prepare()

    def prepare(self) -> None:
        """What a subclass adds."""

    def forward(self, images: Tensor) -> Any:
        return self.after(self.inner(self.before(images)))


class TwoHeads(Wrapped):
    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


class Unused(Wrapped):
    def prepare(self) -> None:
        self.spare = nn.Linear(2, 2)


class Counting(Wrapped):
    def prepare(self) -> None:
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Any:
        self.calls += 1
        return super().forward(images)


class Hidden(Wrapped):
    def prepare(self) -> None:
        self.factor = torch.rand(()) + 0.5  # neither a parameter nor a buffer

    def forward(self, images: Tensor) -> Any:
        return super().forward(images) * self.factor


class Complex(Wrapped):
    def prepare(self) -> None:
        self.register_buffer("phases", torch.zeros(2, dtype=torch.complex64))


def numpy_weights(channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    module = flat(channels, image_size, num_classes)
    nn.init.constant_(module[1].bias, float(np.random.default_rng().random()))
    return module


def gray_only(channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    if channels != 1:
        raise ValueError("one channel, please")
    return flat(channels, image_size, num_classes)


def too_small(channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    if min(image_size) < 40:
        raise ValueError("needs larger images")
    return flat(channels, image_size, num_classes)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (partial(Wrapped, after=lambda logits: logits[:, :1]), r"expected logits of shape \(2, 10\) .* got \(2, 1\)"),
        (partial(Wrapped, after=lambda logits: (logits * 1e3).long()), "expected .* float logits"),
        (partial(Wrapped, after=lambda logits: logits / 0), "the logits in training are not finite"),
        (partial(Wrapped, after=lambda logits: logits.detach()), "its logits have no gradient"),
        (partial(Wrapped, before=lambda images: images.mul_(2)), "it changes its input"),
        (partial(Wrapped, after=lambda logits: logits - logits.mean(0)), "depend on the others in its batch"),
        (partial(Wrapped, after=lambda logits: logits + torch.rand(())), "use no random numbers there"),
        (TwoHeads, r"expected \(4, 10\) float logits in training, got tuple"),
        (Unused, r"no gradient reaches 'spare\.weight'; use it in forward"),
        (Counting, "evaluation changes 'calls'"),
        (Hidden, "loading its state_dict into a new model gives different logits"),
        (Complex, r"a checkpoint cannot hold its phases \(torch\.complex64\)"),
        (numpy_weights, r"'1\.bias' differs between two models with the same seed"),
        (gray_only, "one channel, please"),
    ],
)
def test_a_broken_model_is_caught(broken: Callable[..., Any], message: str) -> None:
    with pytest.raises((AssertionError, ConfigError), match=message):
        check_model(broken)


def test_a_model_may_refuse_sizes_and_takes_its_parameters() -> None:
    check_model(too_small)
    check_model(flat, width=7)
    with pytest.raises(ConfigError, match=r"unknown key 'model\.widht'; did you mean 'model\.width'"):
        check_model(flat, widht=7)
    with pytest.raises(ConfigError, match=r"missing required value 'model\.widths'"):
        check_model(MODELS["lenet"])


def test_checks_leave_torchs_random_numbers_as_they_were() -> None:
    before = torch.get_rng_state()
    check_model(flat)
    assert torch.equal(torch.get_rng_state(), before)


# --- data sets -------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photos/cat and photos/dog, six small files each, and a table of them."""
    lines = ["path,label"]
    for i in range(12):
        file = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (20 * i, 3 * i, 9)).save(file)
        lines.append(f"{file.relative_to(tmp_path)},{file.parent.name}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize(("name", "root"), [("digits", None), ("imagefolder", "photos"), ("imagelist", "table.csv")])
def test_our_data_sets_pass(name: str, root: str | None, photos: Path) -> None:
    changed = {} if root is None else {"root": str(photos / root)}
    check_dataset(DATASETS[name], **params("dataset", name, **changed))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_downloaded_data_sets_pass(name: str, real_data: str) -> None:
    check_dataset(DATASETS[name], **params("dataset", name, root=real_data, download=False))


PIXELS = np.arange(60 * 4 * 4, dtype=np.uint8).reshape(60, 4, 4)
LABELS = np.arange(60) % 2


def source(*, classes: Any = ("a", "b"), **parts: Images) -> Source:
    return Source(classes, **({"train": Images(LABELS, pixels=PIXELS)} | parts))


def overlapping_arrays() -> Source:
    return source(
        train=Images(LABELS[:40], pixels=PIXELS[:40]),
        test=Images(LABELS[30:], pixels=PIXELS[30:]),
    )


def overlapping_rows() -> Source:
    whole = Images(LABELS, pixels=PIXELS)
    return source(train=whole.take(np.arange(40)), test=whole.take(np.arange(39, 60)))


def overlapping_files() -> Source:
    paths = []
    for i in range(12):
        Image.new("L", (4, 4), 20 * i).save(f"{i}.png")
        paths.append(f"{i}.png")
    return source(
        train=Images(LABELS[:8], paths=paths[:8]), val=Images(LABELS[:5], paths=[f"./{i}.png" for i in range(7, 12)])
    )


def different_every_time() -> Source:
    return source(train=Images(np.random.default_rng().permutation(LABELS), pixels=PIXELS))


def late_labels() -> Source:
    made = source()
    made.train.labels = made.train.labels + 1
    return made


def mixed_kinds() -> Source:
    return source(test=Images(LABELS, pixels=np.zeros((60, 5, 5, 3), np.uint8)))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: [1, 2], r"expected an imgcls\.data\.Source, got list"),
        (partial(source, classes=["a", "b"]), r"classes: expected a tuple of text, got \['a', 'b'\]"),
        (partial(source, classes=("a", "a")), r"expected distinct names, got \['a'\] more than once"),
        (partial(source, classes=("a", "b\n")), r"expected printable text, got \['b\\n'\]"),
        (partial(source, classes=("a",)), "labels from 0 to 1, but 1 classes"),
        (late_labels, "train: labels from 1 to 2; expected 0 to 1"),
        (overlapping_arrays, "train and test share images"),
        (overlapping_rows, "train and test share images"),
        (overlapping_files, "train and val share images"),
        (mixed_kinds, "expected all splits as files, or all as pixels of one shape"),
        (
            partial(source, train=Images([0, 1], paths=["no.png", "where.png"])),
            r"expected existing files, got \['no.png'\]",
        ),
        (different_every_time, "two calls return different data"),
        (partial(source, train=Images([1], pixels=PIXELS[:1])), "too few images to split"),
    ],
)
def test_a_broken_data_set_is_caught(broken: Callable[..., Any], message: str) -> None:
    with pytest.raises((AssertionError, DataError), match=message):
        check_dataset(broken)


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_our_losses_pass_and_are_never_negative(name: str) -> None:
    check_loss(LOSSES[name], **params("loss", name))
    loss = LOSSES[name](**params("loss", name))
    logits = 9 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert bool((loss(logits, torch.arange(50) % 4) >= 0).all())


@pytest.mark.parametrize(("name", "changed"), [("focal", {"gamma": 0.5}), ("cross_entropy", {"label_smoothing": 0.2})])
def test_our_losses_pass_with_other_parameters(name: str, changed: dict[str, Any]) -> None:
    check_loss(LOSSES[name], **params("loss", name, **changed))


def with_loss(function: Callable[[Tensor, Tensor], Any]) -> Callable[[], Any]:
    return lambda: function


def each(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (F.cross_entropy, r"expected a float32 loss for each image, shape \(12,\).* got float32 \(\)"),
        (lambda logits, targets: each(logits, targets).double(), r"got float64 \(12,\)"),
        (lambda logits, targets: each(logits, targets).detach(), "the loss has no gradient"),
        (lambda logits, targets: each(logits, targets) / 0, "the loss is not finite"),
        (lambda logits, targets: -each(logits, targets), "expected a lower loss for the right answer"),
        (lambda logits, targets: each(logits - logits.mean(0), targets), "depends on the others in its batch"),
        (lambda logits, targets: each(logits, targets) * targets.ndim, "one-hot shares give a different loss"),
        (lambda logits, targets: each(logits.exp(), targets), "is not finite for logits of up to"),
        (lambda logits, targets: each(logits, targets).tolist(), "got list"),
    ],
)
def test_a_broken_loss_is_caught(broken: Callable[[Tensor, Tensor], Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_loss(with_loss(broken))


# --- optimizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_our_optimizers_pass(name: str) -> None:
    check_optimizer(OPTIMIZERS[name], **params("optimizer", name))


@pytest.mark.parametrize("own", [torch.optim.SGD, torch.optim.NAdam, torch.optim.Adagrad])
def test_torchs_optimizers_pass(own: type[torch.optim.Optimizer]) -> None:
    check_optimizer(own, lr=0.01)


class Descent(torch.optim.Optimizer):
    """Plain gradient descent, with a flaw in each subclass."""

    def __init__(self, groups: Any, lr: float = 0.01) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

    def change(self, parameter: Tensor, lr: float) -> None:
        parameter.add_(parameter.grad, alpha=-lr)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                self.change(parameter, group["lr"])


class Ascent(Descent):
    def change(self, parameter: Tensor, lr: float) -> None:
        parameter.add_(parameter.grad, alpha=lr)


class NoBiases(Descent):
    def change(self, parameter: Tensor, lr: float) -> None:
        if parameter.ndim > 1:
            super().change(parameter, lr)


class FixedRate(Descent):
    def change(self, parameter: Tensor, lr: float) -> None:
        super().change(parameter, 0.01)


class Forgetful(Descent):
    """Momentum in an attribute that no checkpoint sees."""

    def __init__(self, groups: Any) -> None:
        super().__init__(groups)
        self.averages: dict[int, Tensor] = {}

    def change(self, parameter: Tensor, lr: float) -> None:
        average = self.averages.setdefault(id(parameter), torch.zeros_like(parameter))
        parameter.sub_(average.mul_(0.9).add_(parameter.grad), alpha=lr)


class History(Descent):
    def change(self, parameter: Tensor, lr: float) -> None:
        self.state[parameter].setdefault("norms", []).append(float(parameter.norm()))
        super().change(parameter, lr)


def one_group(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW([one for group in groups for one in group["params"]], lr=0.01, weight_decay=0.1)


def first_group(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups[:1], lr=0.01)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda groups: groups, r"expected a torch\.optim\.Optimizer, got list"),
        (Ascent, "60 steps take a quadratic from .* expected it to fall"),
        (NoBiases, r"a step leaves '0\.bias' as it was"),
        (FixedRate, r"a step at lr=0 changes parameters"),
        (torch.optim.Rprop, r"a step at lr=0 changes parameters"),
        (Forgetful, r"after a resume '0\.weight' differs"),
        (History, r"its state does not survive a checkpoint \(the optimizer keeps a list in its state \('norms'\)"),
        (one_group, r"biases get weight decay \[0\.1\]"),
        (first_group, "expected every parameter in exactly one of the optimizer's groups"),
    ],
)
def test_a_broken_optimizer_is_caught(broken: Callable[..., Any], message: str) -> None:
    check_optimizer(Descent)
    with pytest.raises(AssertionError, match=message):
        check_optimizer(broken)


def test_an_optimizer_that_ends_the_program_or_lacks_a_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.name=.*: "):
        check_optimizer(lambda: None)
    with pytest.raises(ConfigError, match=r"missing required value 'optimizer\.lr'"):
        check_optimizer(OPTIMIZERS["sgd"], momentum=0.9, nesterov=False, weight_decay=0.0)


# --- augmentation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUGMENTS)
def test_our_augmentations_pass(name: str) -> None:
    check_augment(AUGMENTS[name], **params("augment", name))


@pytest.mark.parametrize(
    "changed",
    [{"flip": 1.0}, {"degrees": 180.0, "shift": 0.2, "scale": 0.2}, {"mixup": 0.2, "cutmix": 1.0}, {"saturation": 0.5}],
)
def test_our_augmentations_pass_with_other_parameters(changed: dict[str, Any]) -> None:
    check_augment(AUGMENTS["standard"], **params("augment", "standard", **changed))


def augment_of(function: Callable[[Tensor, Tensor], Tensor], draws: int = 1, **more: Any) -> Callable[..., Augment]:
    return lambda image_size, can_mirror: Augment(draws, ("own",), function, **more)


def brighten(images: Tensor, draws: Tensor) -> Tensor:
    return (images.float() * (0.5 + draws[:, 0])[:, None, None, None]).clamp(0, 255).to(torch.uint8)


def flip(images: Tensor, draws: Tensor) -> Tensor:
    return torch.where((draws[:, 0] < 0.5)[:, None, None, None], images.flip(2), images)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda image_size, can_mirror: brighten, "expected an Augment, got function"),
        (augment_of(lambda images, draws: images.float()), "expected uint8 .* images back, got float32"),
        (augment_of(lambda images, draws: images[:, 1:]), r"expected uint8 \(9, 32, 32, 1\) images back"),
        (augment_of(lambda images, draws: images ^ torch.randint_like(images, 256)), "use no other random numbers"),
        (augment_of(lambda images, draws: brighten(images, draws.roll(1, 0))), "depends on the others in its batch"),
        (augment_of(flip), r"can_mirror=False, but \d+% of the images are mirrored"),
    ],
)
def test_a_broken_augmentation_is_caught(broken: Callable[..., Any], message: str) -> None:
    check_augment(augment_of(brighten))
    with pytest.raises(AssertionError, match=message):
        check_augment(broken)
