"""The lines at the top of a run: every default that changes the result is printed."""

from __future__ import annotations

from imgcls.config.components import select
from imgcls.config.options import option_node
from imgcls.data import mirroring
from imgcls.data.datamodule import AUTO_BATCH
from imgcls.data.source import describe_parts
from imgcls.loggers.run_log import WARNING_PREFIX
from imgcls.models import MODELS, automatic
from imgcls.models.build import MODEL_CONTEXT
from imgcls.models.layers import SMALL, is_small
from imgcls.runtime.device import cpu_has_bf16
from imgcls.text import line
from imgcls.training.builder import Run
from imgcls.training.cost import seconds_per_image
from imgcls.training.earlier_run import EarlierRun

LARGER_ON_GPU = 320  # pixels per side


def summary(run: Run) -> list[str]:
    """The header of a run, under 80 columns but for the notes and warnings of its data set."""
    return [*_data(run), *_model(run), *_rate(run), *_epochs(run), *_attack(run), *_device(run)]


def _data(run: Run) -> list[str]:
    """Data set, splits, image size, augmentation, and the batch if it had to be cut."""
    data, shape = run.data, run.data.preprocessing
    kind = {1: "gray", 3: "RGB"}.get(shape.channels, f"{shape.channels} channels")
    what = f"{data.name}: {describe_parts(data.splits.parts)}"
    lines = [line("data", f"{what}; {data.num_classes} classes, {shape.width}x{shape.height} {kind}")]
    lines += [line("", text) for text in (*data.splits.how, _positive(run), _resized(run), _seen(run)) if text]
    lines += [*data.source.all_notes(), *(f"{WARNING_PREFIX}{warning}" for warning in data.source.all_warnings())]
    if "flip" in run.augment.stages and (mirrored := mirroring.warning(data.source.classes, "flip")):
        lines.append(f"{WARNING_PREFIX}{mirrored}; augment.flip=0 turns it off")
    is_default = run.config.augment["name"] == "default" and run.augment.words != "none"
    changed = ", changed" if len(run.config.augment) > 1 else ""
    why = f"  (the default for {data.name}{changed}; augment=none turns it off)" if is_default else ""
    return [*lines, line("augment", f"{run.augment.words}{why}"), *_batch(run)]


def _positive(run: Run) -> str:
    """Which of two classes the threshold is for."""
    if run.positive is None:
        return ""
    is_named = run.spec.data.options.positive is not None
    why = "" if is_named else f", the second of two (dataset.positive={run.data.source.classes[0]} for the other)"
    return f"positive class: {run.positive}{why}"


def _resized(run: Run) -> str:
    """Why the images are resized although no size was given, and what becomes of their shape."""
    shape, origin = run.data.preprocessing, run.data.geometry.resized_from
    size = f"{shape.width}x{shape.height}"
    how = {"crop": "", "pad": "padded to the shape of the input", "squash": "squashed to the shape of the input"}[
        shape.fit
    ]
    how = how and f"{how} (dataset.fit)"
    if not origin:
        return how and f"images {how}"
    source, why = ("", _expected(run)) if origin == "pretrained" else (f" from {origin}", "")
    return f"images resized{source} to {size}{why} (dataset.image_size)" + (how and f", {how}")


def _expected(run: Run) -> str:
    """Whose image size it is, if it is not the images' own."""
    if isinstance(run.spec.pretrained, EarlierRun):
        return f", as in {run.spec.pretrained}"
    return ", as the pretrained weights expect" if run.spec.model else " (auto)"


def _seen(run: Run) -> str:
    """What of each side is seen if the pretrained weights decide it."""
    shape, is_given = run.data.preprocessing, run.config.dataset.get("crop_share") is not None
    if shape.crop_share == 1 or is_given or shape.fit != "crop":
        return ""
    return f"the middle {shape.crop_share:.1%} of each side, as the pretrained weights expect (dataset.crop_share)"


def _batch(run: Run) -> list[str]:
    size, asked = run.data.batch_size, run.config.batch_size
    if asked == "auto":
        small = f"{size} (auto: at most {AUTO_BATCH}; {len(run.loader):,} updates an epoch)"
        return [line("batch", small)] if size < AUTO_BATCH else []
    return [line("batch", f"reduced from {asked} to {size}, the number of training images")] if size < asked else []


def _model(run: Run) -> list[str]:
    """Model and its size, optimizer, schedule, batch; the model's own note; the weights it starts with."""
    config, module = run.config, run.state.module
    count = sum(parameter.numel() for parameter in module.parameters())
    auto = " (auto)" if config.model["name"] == "auto" else ""
    lr = run.state.optimizer.param_groups[0].get("lr")
    rate = f" lr {lr:g}" if isinstance(lr, float) else ""
    method = f"{config.optimizer['name']}{rate}, {config.scheduler['name']}"
    batch = f"batch {run.data.batch_size}"
    batch += f" in {config.accumulate} micro-batches" if config.accumulate > 1 else ""
    texts = ["; ".join(_options(run)), getattr(module, "note", ""), "; ".join(filter(None, [run.start, run.frozen]))]
    first = line("model", f"{run.model.name}{auto}, {count:,} parameters; {method}; {batch}")
    warnings = [f"{WARNING_PREFIX}{warning}" for warning in _seen_before(run)]
    return [first, *(line("", text) for text in texts if text), *warnings]


def _seen_before(run: Run) -> list[str]:
    """That images of val or test were used to train the run that this one goes on from."""
    source, root = run.spec.pretrained, run.spec.data.source.params.get("root")
    if not isinstance(source, EarlierRun) or run.state.step:
        return []
    parts = {name: images for name, images in run.data.splits.parts.items() if name != "train" and images is not None}
    seen = {name: source.trained_on(images, root) for name, images in parts.items()}
    what = " and ".join(f"{count:,} of the {len(parts[name]):,} {name} images" for name, count in seen.items() if count)
    return [f"{what} were used to train {source}: the accuracy will look too high"] if what else []


def _rate(run: Run) -> list[str]:
    """The learning rate that auto chose and by which row of its table."""
    return [line("lr", f"{run.config.optimizer['lr']:g} (auto: {run.rate_why})")] if run.rate_why else []


def _epochs(run: Run) -> list[str]:
    """How many epochs auto chose and for what; what a larger choice would cost."""
    (height, width), images = run.data.image_size, len(run.data.splits.train.labels)
    where = "CPU" if run.runtime.device.type == "cpu" else "GPU"
    what = f"images of up to {SMALL} pixels" if is_small((height, width)) else f"{images:,} photos on a {where}"
    cost = _cost(run, images * run.config.passes)
    if not (run.is_auto or cost):
        return []
    why = f" (auto: {what})" if run.is_auto else ""
    return [line("epochs", f"{run.config.passes}{why}{cost and f'; {cost}'}")]


def _cost(run: Run, images: int) -> str:
    """How long the run takes and what more would cost. images: those of all epochs together."""
    (height, width), is_cpu = run.data.image_size, run.runtime.device.type == "cpu"
    larger = automatic.PHOTO_SIZE if is_cpu else LARGER_ON_GPU
    if is_cpu and run.spec.model is None and not is_small((height, width)):
        return _measured_cost(run, images, larger)
    times = larger**2 / (height * width)
    if is_small((height, width)) or run.data.geometry.resized_from in ("", "pretrained") or times < 1.5:
        return ""
    return f"dataset.image_size={larger} takes about {times:.0f} times as long"


def _measured_cost(run: Run, images: int, larger: int) -> str:
    """The minutes of auto's choice on this CPU, and those of a larger one, unless the run is over in a moment."""
    size, channels = run.data.image_size, run.data.preprocessing.channels
    if automatic.cpu_minutes("auto", images, size) < 0.5:
        return ""
    words = f"dataset.image_size={larger}"
    model, name = run.model, run.model.name
    if run.spec.pretrained is None:
        name = "resnet18"
        words = f"model={name} {words}"
        model = select(MODELS, option_node("model", name), "model", context=MODEL_CONTEXT)
    shapes = ((run.model, (*size, channels)), (model, (larger, larger, channels)))
    own, other = (
        seconds_per_image(one, shape, run.data.num_classes, run.runtime) * images / 60 for one, shape in shapes
    )
    return f"about {_rounded(own)} here; {name} at {larger}x{larger} {_rounded(other)} ({words})"


def _rounded(minutes: float) -> str:
    return f"{max(1, round(minutes))} min" if minutes < 100 else f"{minutes / 60:.0f} h"


def _options(run: Run) -> list[str]:
    """What differs from plain training."""
    config, loss = run.config, run.spec.loss
    options = {
        "loss {}": None if loss.name == "cross_entropy" else loss.name,
        "label smoothing {:g}": loss.params.get("label_smoothing") or None,
        "class weights": config.class_weights,
        "balanced sampling": "" if config.sampler == "balanced" else None,
        "EMA {:g}": config.ema,
        "gradient clipping {:g}": config.clip_grad,
        "layer-wise lr decay {:g}": config.layer_decay,
        "early stopping, patience {}": _patience(run),
        "best by {}": None if config.monitor == "val_accuracy" else config.monitor,
    }
    return [text.format(value) for text, value in options.items() if value is not None]


def _patience(run: Run) -> str | None:
    """5, or '5 from epoch 4, after the rise of the learning rate'."""
    if run.config.patience is None:
        return None
    after = f" from epoch {run.rise}, after the rise of the learning rate" if run.rise else ""
    return f"{run.config.patience}{after}"


def _attack(run: Run) -> list[str]:
    shape, attack = run.data.preprocessing, run.spec.attack
    if attack is None:
        return []
    return [line("attack", f"{attack.words(shape.channels, shape.height, shape.width)}, on every batch")]


def _device(run: Run) -> list[str]:
    """Device, precision, where the images are kept; what compile and deterministic mean, if they were asked for."""
    config, runtime, data = run.config, run.runtime, run.data
    megabytes = data.train_bytes / 1e6
    where = (
        f"images in memory, {megabytes:,.0f} MB"
        if data.is_resident
        else f"images streamed by {data.workers} workers ({megabytes:,.0f} MB in all)"
    )
    lines = [line("device", f"{runtime.describe()}; {where}")]
    is_cpu = runtime.device.type == "cpu"
    if config.precision == "auto" and is_cpu and run.model.name.startswith("resnet") and cpu_has_bf16():
        lines.append(line("", "precision=bf16 is about twice as fast on this CPU, with different rounding"))
    if config.compile is not False:
        is_compiled, why = run.compiled
        lines.append(line("compile", f"{'yes' if is_compiled else 'no'} ({why})"))
    if config.deterministic:
        cost = "free on a CPU, where every run is bit-exact"
        slower = "no cuDNN autotuning, and slower kernels wherever the fast one is not deterministic"
        lines.append(line("", f"deterministic: {cost if is_cpu else slower}"))
    return lines
