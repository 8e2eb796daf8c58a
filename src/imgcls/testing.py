"""Conformance tests for parts of your own: each runs a part through everything that imgcls expects of it.

    from imgcls.testing import check_model
    from my_nets import scaled

    check_model(scaled, width=128)

Every check takes the function (or class) and its parameters, as the command line does, and returns nothing if all is
well. It raises AssertionError, in one sentence, for a part that does not behave as imgcls expects; and ConfigError or
DataError for what the command line refuses too: an unknown or missing parameter, a value out of range, logits of the
wrong shape, missing data. imgcls's own parts pass the same checks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls import seeding
from imgcls.checkpoints.format import Checkpoint
from imgcls.checkpoints.state import State, load_state, state_tensors, unstorable
from imgcls.config.components import Component, own_component
from imgcls.config.options import option_node
from imgcls.config.parsing import parse
from imgcls.data.decoding import header, quiet_decoders
from imgcls.data.source import Images, Source
from imgcls.data.splits import SplitOptions, split
from imgcls.data.transforms.augment import Augment
from imgcls.errors import CheckpointError, ConfigError, RunError
from imgcls.models.build import MODEL_CONTEXT, build_model
from imgcls.optim import fast_step
from imgcls.optim.param_groups import parameter_groups, scale_rates

__all__ = ["check_augment", "check_dataset", "check_loss", "check_model", "check_optimizer"]

Shape = tuple[int, tuple[int, int], int]  # channels, (height, width), classes
SHAPES: tuple[Shape, ...] = ((1, (28, 28), 10), (3, (32, 32), 2), (3, (24, 40), 7))
LARGE: Shape = (3, (224, 224), 3)  # for models that take none of the others
STEPS = 60  # of an optimizer, on a quadratic
SIDE = 32  # pixels, of the image that shows whether it is mirrored
JUST_BELOW_1 = float(np.nextafter(np.float32(1), np.float32(0)))


def _require(is_fine: bool, part: Component, problem: str) -> None:
    if not is_fine:
        raise AssertionError(f"{part.name}: {problem}")


# --- models ----------------------------------------------------------------------------------------------------------


def check_model(function: Callable[..., Any], **params: Any) -> None:
    """Check a model: a function (channels, image_size, num_classes, ...) -> torch module, as behind ``model=``.

    It is built for gray and RGB images of several sizes and numbers of classes; a size may be refused by a ValueError
    that mentions the images. The module must map (B, channels, height, width) float images to finite (B, num_classes)
    float logits in training and evaluation, send gradients to every parameter that requires them, compute each image by
    itself in evaluation, start from the same weights for the same seed, and fit into a checkpoint.
    """
    part = own_component(function, "model", params, context=MODEL_CONTEXT)
    with torch.random.fork_rng(devices=[]):
        _check_model(part)


def _check_model(part: Component) -> None:
    modules = {shape: module for shape in SHAPES if (module := _built(part, shape)) is not None}
    if not modules:
        modules[LARGE] = build_model(part, *LARGE)
    for shape, module in modules.items():
        _check_training(part, module, shape)
        with torch.no_grad():
            _logits(part, module.eval(), _images(shape, 1), shape)
    shape, module = next(iter(modules.items()))
    _check_evaluation(part, module, shape)
    _check_weights(part, shape)


def _built(part: Component, shape: Shape) -> nn.Module | None:
    """The module with the weights of seed 0; None if it does not take such images."""
    seeding.seed_default(0, "weights")
    try:
        return build_model(part, *shape)
    except ConfigError as error:
        if isinstance(error.__cause__, ValueError) and "image" in str(error).lower():
            return None
        raise


def _images(shape: Shape, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, shape[0], *shape[1], generator=generator)


def _logits(part: Component, module: nn.Module, images: Tensor, shape: Shape) -> Tensor:
    """The module's output for these images, checked."""
    before = images.clone()
    logits = module(images)
    mode = "training" if module.training else "evaluation"
    expected = f"expected ({len(images)}, {shape[2]}) float logits in {mode}"
    _require(isinstance(logits, Tensor), part, f"{expected}, got {type(logits).__name__}")
    given = f"{logits.dtype} {tuple(logits.shape)}".replace("torch.", "")
    is_right = logits.is_floating_point() and tuple(logits.shape) == (len(images), shape[2])
    _require(is_right, part, f"{expected}, got {given}")
    _require(bool(logits.isfinite().all()), part, f"the logits in {mode} are not finite for normalized images")
    _require(torch.equal(images, before), part, "it changes its input; expected the images to be left as they are")
    return logits  # type: ignore[no-any-return]


def _check_training(part: Component, module: nn.Module, shape: Shape) -> None:
    module.train()
    logits = _logits(part, module, _images(shape, 4), shape)
    _require(logits.requires_grad, part, "its logits have no gradient; compute them with torch alone, undetached")
    F.cross_entropy(logits.float(), torch.arange(4) % shape[2]).backward()  # type: ignore[no-untyped-call]
    trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
    for name, parameter in trained.items():
        gradient = parameter.grad
        if gradient is None:
            raise AssertionError(
                f"{part.name}: no gradient reaches '{name}'; use it in forward, or set its requires_grad to False"
            )
        _require(bool(gradient.isfinite().all()), part, f"the gradient of '{name}' is not finite")


def _check_evaluation(part: Component, module: nn.Module, shape: Shape) -> None:
    module.eval()
    images = _images(shape, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        logits = _logits(part, module, images, shape)
        again = _logits(part, module, images, shape)
        alone = _logits(part, module, images[:1], shape)
    is_same = torch.equal(logits, again)
    _require(is_same, part, "the same images give other logits in a second evaluation; use no random numbers there")
    is_alone = torch.allclose(logits[:1], alone, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
    _require(is_alone, part, "in evaluation an image's logits depend on the others in its batch")
    for name, value in module.state_dict().items():
        is_same = torch.equal(value, before[name])
        _require(is_same, part, f"evaluation changes '{name}'; expected only training to do so")


def _check_weights(part: Component, shape: Shape) -> None:
    """The same weights for the same seed; other weights can be put in; a checkpoint can hold them."""
    seeding.seed_default(0, "weights")
    module = build_model(part, *shape)
    seeding.seed_default(0, "weights")
    own, again = module.state_dict(), build_model(part, *shape).state_dict()
    for name, value in own.items():
        is_same = name in again and torch.equal(value, again[name])
        _require(is_same, part, f"'{name}' differs between two models of one seed; draw weights with torch's generator")
    if wrong := unstorable(module):
        raise AssertionError(f"{part.name}: a checkpoint cannot hold its {wrong}")
    seeding.seed_default(1, "weights")
    other = build_model(part, *shape)
    other.load_state_dict(own)
    images = _images(shape, 2)
    with torch.no_grad():
        is_restored = torch.equal(module.eval()(images), other.eval()(images))
    _require(is_restored, part, "loading its state_dict into a new model gives other logits; keep all state in tensors")


# --- data sets -------------------------------------------------------------------------------------------------------


def check_dataset(function: Callable[..., Any], **params: Any) -> None:
    """Check a data set: a function (...) -> imgcls.data.Source, as behind ``dataset=``.

    Class names must be distinct, printable text; labels within the classes; pixels uint8, or files that exist and are
    images; the splits of one kind and shape, with no image in two of them. Two calls must return the same data, and
    imgcls must be able to split it.
    """
    part = own_component(function, "dataset", params)
    source = part()
    _require(isinstance(source, Source), part, f"expected an imgcls.data.Source, got {type(source).__name__}")
    _check_classes(part, source)
    for name, images in source.parts.items():
        _check_images(part, name, images, len(source.classes))
    kinds = {None if images.whole is None else images.whole.shape[1:] for images in source.parts.values()}
    _require(len(kinds) == 1, part, "expected all splits as files, or all as pixels of one shape")
    for (first, one), (second, other) in combinations(source.parts.items(), 2):
        _require(not _overlap(one, other), part, f"{first} and {second} share images; expected each in one split")
    _check_equal(part, source, part())
    defaults = option_node("", "train")["dataset"]
    options = parse(SplitOptions, {field.name: defaults[field.name] for field in fields(SplitOptions)}, "dataset.")
    split(source, options)


def _check_classes(part: Component, source: Source) -> None:
    names = source.classes
    is_text = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
    _require(is_text, part, f"classes: expected a tuple of text, got {names!r}")
    unprintable = [name for name in names if not name or not name.isprintable()]
    _require(not unprintable, part, f"classes: expected printable text, got {unprintable[:3]!r}")
    twice = sorted({name for name in names if names.count(name) > 1}) if len({*names}) < len(names) else []
    _require(not twice, part, f"classes: expected distinct names, got {twice[:3]} more than once")


def _check_images(part: Component, name: str, images: Images, num_classes: int) -> None:
    count = len(images)
    _require(count > 0, part, f"{name}: expected at least one image")
    _require(len(images.ids) == count, part, f"{name}: {count} images but {len(images.ids)} ids")
    low, high = int(images.labels.min()), int(images.labels.max())
    is_within = low >= 0 and high < num_classes
    _require(is_within, part, f"{name}: labels from {low} to {high}; expected 0 to {num_classes - 1}")
    if images.paths is None:
        return
    missing = [path for path in images.paths if not os.path.isfile(path)]
    _require(not missing, part, f"{name}: expected existing files, got {missing[:1]}")
    with quiet_decoders():
        header(images.paths[0])


def _overlap(one: Images, other: Images) -> bool:
    """Whether the two have a file, or the memory of an image, in common."""
    if one.paths is not None and other.paths is not None:
        return not {*map(os.path.realpath, one.paths)}.isdisjoint(map(os.path.realpath, other.paths))
    if one.whole is None or other.whole is None:
        return False
    if one.whole is not other.whole:
        return np.shares_memory(one.whole, other.whole)
    mine, theirs = (np.arange(len(images)) if images.rows is None else images.rows for images in (one, other))
    return len(np.intersect1d(mine, theirs)) > 0


def _check_equal(part: Component, source: Source, again: Source) -> None:
    """Nothing differs between two calls."""
    is_same = (source.classes, [*source.parts]) == (again.classes, [*again.parts])
    for one, other in zip(source.parts.values(), again.parts.values(), strict=False):
        is_same = is_same and np.array_equal(one.labels, other.labels) and np.array_equal(one.ids, other.ids)
        is_same = is_same and one.paths == other.paths and np.array_equal(one.fingerprint(), other.fingerprint())
    _require(is_same, part, "two calls return different data; expected the same images in the same order")


# --- losses ----------------------------------------------------------------------------------------------------------


def check_loss(function: Callable[..., Any], **params: Any) -> None:
    """Check a loss: a function (...) -> loss, as behind ``loss=``; the loss maps (B, C) logits and targets to (B,).

    Targets are (B,) int64 labels or (B, C) float class shares. The values must be finite float32 (for huge logits and
    those computed in bfloat16, too), one for each image and of that image alone, the same for a label and its one-hot
    shares, lower for the right answer than for a wrong one; the gradient finite.
    """
    part = own_component(function, "loss", params)
    loss = part()
    labels = torch.arange(12) % 5
    logits = 3 * torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    for scale in (1.0, 100.0):
        _losses(part, loss, scale * logits, labels)
    _losses(part, loss, logits.bfloat16().float(), labels)
    values = _losses(part, loss, logits, labels)
    shares = F.one_hot(labels, 5).float()
    from_shares = _losses(part, loss, logits, shares)
    _require(torch.allclose(values, from_shares, atol=1e-4), part, "one-hot shares give another loss than their labels")
    _losses(part, loss, logits, 0.7 * shares + 0.3 * shares.flip(0))
    few = _losses(part, loss, logits[:4], labels[:4])
    _require(torch.allclose(values[:4], few, atol=1e-5), part, "an image's loss depends on the others in its batch")
    right = _losses(part, loss, 4 * shares, labels)
    wrong = _losses(part, loss, 4 * shares, (labels + 1) % 5)
    _require(bool((right < wrong).all()), part, "expected a lower loss for the right answer than for a wrong one")


def _losses(part: Component, loss: Any, logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) values, checked, and their gradient too."""
    logits = logits.detach().requires_grad_()
    values = loss(logits, targets)
    expected = f"expected a float32 loss for each image, shape ({len(logits)},), for {targets.ndim}-dimensional targets"
    _require(isinstance(values, Tensor), part, f"{expected}, got {type(values).__name__}")
    given = f"{values.dtype} {tuple(values.shape)}".replace("torch.", "")
    is_right = (tuple(values.shape), values.dtype) == ((len(logits),), torch.float32)
    _require(is_right, part, f"{expected}, got {given}")
    most = float(logits.detach().abs().max())
    _require(bool(values.isfinite().all()), part, f"the loss is not finite for logits of up to {most:.3g}")
    _require(values.requires_grad, part, "the loss has no gradient; compute it from the logits with torch alone")
    gradient = torch.autograd.grad(values.sum(), logits)[0]
    _require(bool(gradient.isfinite().all()), part, f"its gradient is not finite for logits of up to {most:.3g}")
    return values.detach()  # type: ignore[no-any-return]


# --- optimizers ------------------------------------------------------------------------------------------------------


def check_optimizer(function: Callable[..., Any], **params: Any) -> None:
    """Check an optimizer: a function or class (parameter groups, ...) -> torch optimizer, as behind ``optimizer=``.

    It must take parameter groups and keep their weight decay of 0, hold every parameter once, change all of them in a
    step and none at a learning rate of 0, lower a quadratic within 60 steps, keep a state that fits into a checkpoint,
    and go on from that checkpoint exactly as if it had not been interrupted.
    """
    part = own_component(function, "optimizer", params)
    state = _problem(part)
    _check_groups(part, state)
    before = _step(state)
    for name, parameter in state.module.named_parameters():
        _require(not torch.equal(parameter, before[name]), part, f"a step leaves '{name}' as it was; expected a change")
    first = _quadratic(state.module)
    for _ in range(STEPS):
        _step(state)
    last = _quadratic(state.module)
    is_lower = float(last.detach()) < float(first.detach())
    _require(is_lower, part, f"{STEPS} steps take a quadratic from {first:.3g} to {last:.3g}; expected it to fall")
    _check_resume(part, state)
    _check_rate_zero(part, state)


def _problem(part: Component) -> State:
    """A small module with a matrix, a convolution and biases, and the optimizer of its parameters."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    fast_step.spare_compiler()
    optimizer = part(parameter_groups(module))
    is_right = isinstance(optimizer, torch.optim.Optimizer)
    _require(is_right, part, f"expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
    scale_rates(optimizer)
    return State(module, optimizer, None, torch.zeros(3))


def _quadratic(module: nn.Module) -> Tensor:
    """The squared distance of all parameters from 0, halved; its gradient is the parameters themselves."""
    return 0.5 * torch.stack([one.square().sum() for one in module.parameters()]).sum()


def _step(state: State) -> dict[str, Tensor]:
    """One step down the quadratic; returns the parameters as they were."""
    before = {name: one.detach().clone() for name, one in state.module.named_parameters()}
    fast_step.clear_gradients(state.optimizer)
    _quadratic(state.module).backward()  # type: ignore[no-untyped-call]
    fast_step.step(state.optimizer)
    return before


def _check_groups(part: Component, state: State) -> None:
    groups = state.optimizer.param_groups
    held = sorted(id(one) for group in groups for one in group["params"])
    wanted = sorted(id(one) for one in state.module.parameters())
    _require(held == wanted, part, "expected every parameter in exactly one of the optimizer's groups")
    plain = [group for group in groups if any(one.ndim <= 1 for one in group["params"])]
    decays = [group["weight_decay"] for group in plain if "weight_decay" in group]
    _require(not any(decays), part, f"biases get weight decay {decays}; expected the groups' own 0")


def _check_resume(part: Component, state: State) -> None:
    """Three steps after a stop are those without it, to the last bit."""
    try:
        tensors, numbers = state_tensors(state)
        stored = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        meta = {"optimizer_numbers": dict(numbers), "step": STEPS, "epochs_done": 0}
        resumed = _problem(part)
        load_state(resumed, Checkpoint(Path("checkpoint"), stored, meta))
    except (CheckpointError, RunError) as error:
        raise AssertionError(f"{part.name}: its state does not survive a checkpoint ({error})") from error
    for one in (state, resumed):
        for _ in range(3):
            _step(one)
    for (name, parameter), other in zip(state.module.named_parameters(), resumed.module.parameters(), strict=True):
        is_same = torch.equal(parameter, other)
        _require(is_same, part, f"after a resume '{name}' differs; keep all state in optimizer.state or the groups")


def _check_rate_zero(part: Component, state: State) -> None:
    if not all("lr" in group for group in state.optimizer.param_groups):
        return
    for group in state.optimizer.param_groups:
        group["lr"] = 0.0
    before = _step(state)
    is_same = all(torch.equal(one, before[name]) for name, one in state.module.named_parameters())
    _require(is_same, part, "a step at lr=0 changes parameters; read group['lr'] at every step, the schedule sets it")


# --- augmentation ----------------------------------------------------------------------------------------------------


def check_augment(function: Callable[..., Any], **params: Any) -> None:
    """Check an augmentation: a function (image_size, can_mirror, ...) -> Augment, as behind ``augment=``.

    The Augment must map (B, H, W, C) uint8 images, gray or RGB, and (B, draws) numbers in [0, 1) to uint8 images of the
    same shape; depend on an image and its numbers alone, not on its batch or on another random generator; and, unless
    ``flip`` is set, not mirror images that can_mirror=False forbids.
    """
    part = own_component(function, "augment", params, context=("image_size", "can_mirror"))
    for size, channels in (((32, 32), 1), ((24, 40), 3)):
        augment = part(size, True)
        _require(isinstance(augment, Augment), part, f"expected an Augment, got {type(augment).__name__}")
        images = torch.randint(256, (9, *size, channels), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        draws = torch.rand(9, augment.draws, generator=torch.Generator().manual_seed(1))
        whole = _augmented(part, augment, images, draws)
        for extreme in (0.0, JUST_BELOW_1):
            _augmented(part, augment, images, torch.full_like(draws, extreme))
        again = _augmented(part, augment, images, draws)
        _require(torch.equal(whole, again), part, "the same images and draws give other results; use no other numbers")
        order = torch.tensor([5, 0, 8, 3, 1, 7, 2, 6, 4])
        parts = [_augmented(part, augment, images[rows], draws[rows]) for rows in order.split_with_sizes([1, 5, 3])]
        is_alone = torch.equal(torch.cat(parts), whole[order])
        _require(is_alone, part, "an image's augmentation depends on the others in its batch")
        _check_mix(part, augment, channels)
    if params.get("flip") is None:
        share = _mirrored_share(part((SIDE, SIDE), False))
        _require(share < 0.25, part, f"can_mirror=False, but {share:.0%} of the images are mirrored; expected none")


def _augmented(part: Component, augment: Augment, images: Tensor, draws: Tensor) -> Tensor:
    """The augmented images, checked; the images themselves stay as they are."""
    out = augment(images.clone(), draws.clone())
    given = f"{out.dtype} {tuple(out.shape)}".replace("torch.", "")
    is_right = (out.dtype, out.shape) == (torch.uint8, images.shape)
    _require(is_right, part, f"expected uint8 {tuple(images.shape)} images back, got {given}")
    return out


def _check_mix(part: Component, augment: Augment, channels: int) -> None:
    mix = augment.mix(3)
    if mix is not None:
        images, shares = mix(torch.randn(4, channels, 8, 8), torch.arange(4) % 3, seeding.rng(0, "mix"))
        is_right = images.shape == (4, channels, 8, 8) and shares.shape == (4, 3)
        _require(is_right, part, "mixing changes the shapes of the batch; expected (B, C, H, W) and (B, num_classes)")
        _require(torch.allclose(shares.sum(1), torch.ones(4)), part, "the shares of mixed images do not sum to 1")


def _mirrored_share(augment: Augment) -> float:
    """The share of 400 augmented images that are mirrored.

    The image grows brighter clockwise around its center: whatever turns, moves or shades it, most of the steps from one
    quadrant to the next go up, unless it is mirrored.
    """
    half = SIDE // 2
    rows, columns = torch.meshgrid(*[torch.arange(SIDE) - half + 0.5] * 2, indexing="ij")
    angle = torch.atan2(rows, columns)  # rows grow downward: clockwise
    image = ((angle / (2 * torch.pi) + 0.5) * 200 + 25).to(torch.uint8)
    images = image[None, :, :, None].repeat(400, 1, 1, 1)
    draws = torch.rand(400, augment.draws, generator=torch.Generator().manual_seed(2))
    out = augment(images, draws).float()[..., 0]
    top, bottom = out[:, :half], out[:, half:]
    clockwise = [top[..., :half], top[..., half:], bottom[..., half:], bottom[..., :half]]
    means = torch.stack([quadrant.mean((1, 2)) for quadrant in clockwise], 1)
    ups = (means.roll(-1, 1) > means).sum(1)
    return float((ups == 1).float().mean())
