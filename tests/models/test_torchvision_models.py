"""torchvision's models: all of them, at small sizes and their own; weights, freezing, rates by depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from imgcls.checkpoints.format import Checkpoint
from imgcls.checkpoints.state import load_module
from imgcls.cli.app import main
from imgcls.config.torchvision_names import MODELS as TORCHVISION
from imgcls.errors import ConfigError, DataError
from imgcls.models.finetune import depths, freeze, head_of
from imgcls.models.pretrained import pretrained
from imgcls.models.resnet import RESNETS
from imgcls.models.torchvision import family_of
from imgcls.optim.param_groups import parameter_groups
from tests.conftest import QUIET
from tests.models.test_models import build, logits_of, parameters

Capture = pytest.CaptureFixture[str]

LIGHT = (  # one or two of each family
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "maxvit_t", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2",
)  # fmt: skip
HEAVY = ("vgg11_bn", "vit_b_32", "wide_resnet50_2")  # more than a second each
OWN_SIZE = {"inception_v3": 299, "vit_h_14": 224}
QUICK = ["dataset.limit=200", "dataset.test_limit=20", "epochs=1", "batch_size=50", "threads=1", *QUIET]


def place_of(name: str) -> str:
    """Where to build a model of which only names and shapes are needed; regnet computes its widths with tensors."""
    return "cpu" if name.startswith("regnet") else "meta"


def test_the_names_are_torchvisions() -> None:
    assert sorted([*TORCHVISION, *RESNETS]) == torchvision.models.list_models(module=torchvision.models)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param(
            name,
            side,
            id=f"{name}-{side}",
            marks=pytest.mark.slow if name in HEAVY or (side == 32 and name != "maxvit_t") else [],
        )
        for name in LIGHT
        for side in (28, 32)
    ],
)
def test_every_family_takes_small_images(name: str, side: int) -> None:
    if name == "maxvit_t" and side == 28:
        with pytest.raises(ConfigError, match=r"multiples of 32 .* pixels, got 28x28; set dataset.image_size=32"):
            build(name, 1, (side, side))
        return
    module = build(name, 1, (side, side), 7)
    logits_of(module, 1, (side, side)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters() if parameter.requires_grad)
    assert parameters(module) < 140e6
    assert "chosen for the image size" in str(module.note) or name.startswith("vgg")


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_every_model_builds_at_its_own_size(name: str) -> None:
    side = OWN_SIZE.get(name, 224)
    with torch.device(place_of(name)):
        module = build(name, 3, (side, side), 5)
        theirs = torchvision.models.get_model(name, weights=None, num_classes=5, **dict(family_of(name).more))
    assert module.eval().to("meta")(torch.empty(1, 3, side, side, device="meta")).shape == (1, 5)
    own = {key: value.shape for key, value in module.state_dict().items()}
    assert own == {key: value.shape for key, value in theirs.state_dict().items()}
    assert module.note == "" or str(module.note).startswith("batch-norm momentum 0.1 instead of ")


@pytest.mark.parametrize(("name", "least"), [("alexnet", 15), ("inception_v3", 75), ("densenet121", 8), ("vgg11", 2)])
def test_images_too_small_are_refused_with_the_least_size(name: str, least: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"{name} needs images of at least {least}x{least} pixels, got {least - 1}x30"
    ):
        build(name, 3, (30, least - 1))
    build(name, 3, (least, least)).eval()(torch.zeros(1, 3, least, least))


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [
        ("vit_b_16", 100, "vit_b_16 needs images of a multiple of 16 pixels, got 100; set dataset.image_size=96"),
        ("maxvit_t", 100, "multiples of 64 (or of 224) pixels, got 100x100; set dataset.image_size=128"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(name: str, side: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, 3, (side, side))
    assert words in str(caught.value)
    with pytest.raises(ConfigError, match="needs square images"):
        build("vit_b_16", 3, (32, 64))


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("vgg11", {"stochastic_depth": 0.1}, "vgg11 has no stochastic depth; leave model.stochastic_depth null"),
        ("regnet_x_400mf", {"dropout": 0.1}, "regnet_x_400mf has no dropout; leave model.dropout null"),
        ("inception_v3", {"stem": "small"}, "inception_v3 has no small stem; leave model.stem at auto"),
    ],
)
def test_parameters_that_a_model_does_not_have_are_refused(name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, 3, (96, 96), **params)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["mnasnet0_5", "mobilenet_v3_small", "efficientnet_b5"])
def test_batch_norm_statistics_adapt_within_a_short_run(name: str) -> None:
    module = build(name, 1, (32, 32))
    assert {one.momentum for one in module.modules() if isinstance(one, nn.BatchNorm2d)} == {0.1}
    assert "; batch-norm momentum 0.1 instead of 0.0" in str(module.note)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnasnet0_5", "mobilenet_v3_small"])
def test_slow_batch_norms_learn_digits(name: str) -> None:
    assert main(["train", f"model={name}", "epochs=12", "threads=1", "run_dir=a"]) == 0
    assert json.loads(Path("a/report.json").read_text())["accuracy"] > 0.5


def test_dropout_and_stochastic_depth_are_the_requested_ones() -> None:
    module = build("efficientnet_b0", 3, (32, 32), dropout=0.45, stochastic_depth=0.35)
    assert [layer.p for layer in module.modules() if isinstance(layer, nn.Dropout)] == [0.45]
    deepest = max(layer.p for layer in module.modules() if isinstance(layer, torchvision.ops.StochasticDepth))
    assert 0.3 < deepest < 0.35
    plain = build("efficientnet_b0", 3, (32, 32))
    assert [layer.p for layer in plain.modules() if isinstance(layer, nn.Dropout)] == [0.2]


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's folder of downloaded weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch/hub/checkpoints"


def place(name: str, hub: Path) -> dict[str, torch.Tensor]:
    """Weights of the name that torchvision would download; random ones."""
    torch.manual_seed(3)
    state: dict[str, torch.Tensor] = torchvision.models.get_model(name, weights=None).state_dict()
    found = pretrained(name, True)
    assert found is not None
    hub.mkdir(parents=True, exist_ok=True)
    torch.save(state, found.path)
    assert found.path.parent == hub
    return state


@pytest.mark.parametrize(
    "name",
    ["resnet18", "squeezenet1_1"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet_v3_small", "densenet121", "vit_b_32")],
)
def test_pretrained_weights_are_loaded_except_for_the_last_layer(name: str, hub: Path) -> None:
    state = place(name, hub)
    found = pretrained(name, True)
    assert found is not None
    params = {"stem": "large"}
    module = build(name, 3, (224, 224), 7, **params)
    found.load(module, 7)
    head = head_of(module, 7)
    for key, value in module.state_dict().items():
        assert key.startswith(head) or torch.equal(value, state[key])
    gray = build(name, 1, (224, 224), 7, **params)
    found.load(gray, 7)
    first = next(key for key, value in gray.state_dict().items() if value.ndim == 4)
    assert torch.equal(gray.state_dict()[first], state[first].sum(1, keepdim=True))


@pytest.mark.slow
def test_position_embeddings_are_interpolated(hub: Path) -> None:
    state = place("vit_b_32", hub)
    found = pretrained("vit_b_32", "IMAGENET1K_V1")
    assert found is not None
    module = build("vit_b_32", 3, (160, 160), 7)
    found.load(module, 7)
    own = module.state_dict()["encoder.pos_embedding"]
    assert own.shape == (1, 26, 768)
    assert torch.equal(own[:, 0], state["encoder.pos_embedding"][:, 0])


def test_a_run_starts_from_the_weights_and_their_normalization(hub: Path, capsys: Capture) -> None:
    state = place("squeezenet1_1", hub)
    words = ["model=squeezenet1_1", "model.pretrained=true", "model.freeze=true", "dataset.image_size=32", *QUICK]
    assert main(["train", *words, "run_dir=a"]) == 0
    err = capsys.readouterr().err
    assert "squeezenet1_1-b8a52dc0.pth, new last layer; " in " ".join(err.split())
    from safetensors import safe_open

    with safe_open("a/checkpoints/last.safetensors", "pt") as file:
        meta = file.metadata()
        kept = {key: file.get_tensor(f"model.{key}") for key in state if not key.startswith("classifier")}
    assert all(torch.equal(value, state[key]) for key, value in kept.items())
    preprocessing = json.loads(meta["preprocessing"])
    assert (preprocessing["channels"], preprocessing["mean"]) == (3, [0.485, 0.456, 0.406])
    (hub / "squeezenet1_1-b8a52dc0.pth").unlink()  # not needed again
    assert main(["train", "resume=a", "epochs=2"]) == 0
    assert main(["evaluate", "a"]) == 0


def test_unavailable_weights_are_one_line(hub: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    words = ["train", "model=resnet18", "model.pretrained=true", *QUICK]
    assert main(words) == 3
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cannot download https://download.pytorch.org/models/resnet18-f37072fd.pth (no route to host)" in err
    assert f"put the file at {hub}/resnet18-f37072fd.pth" in err
    hub.mkdir(parents=True, exist_ok=True)
    (hub / "resnet18-f37072fd.pth").write_bytes(b"<html>")
    assert main(words) == 3
    assert (
        "resnet18-f37072fd.pth: not a file of weights, or damaged; put the weights of resnet18 there"
        in capsys.readouterr().err
    )
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["model=lenet", "model.pretrained=true"], "model.pretrained: lenet has no pretrained weights"),
        (["model.pretrained=true"], "model.pretrained needs a named model; add model=resnet18, for example"),
        (
            ["model=resnet18", "model.pretrained=imagenet"],
            "unknown 'imagenet' for resnet18 (choices: true, false, IMAGENET1K_V1)",
        ),
        (["model=resnet18", "model.freeze=[layer9]"], "model.freeze: no layer is called 'layer9'"),
        (["model=linear", "model.freeze=['1']"], "model.freeze: nothing is left to train"),
        (["model=vgg"], "model: unknown 'vgg'; did you mean 'vgg1"),
        (["model=vgg11", "model.stochastic_depth=0.1"], "model: vgg11 has no stochastic depth; leave"),
        (["-m", "model=efficientnet_b0,vgg11", "model.stochastic_depth=0.1"], "model: vgg11 has no stochastic depth"),
        (["-m", "model=lenet", "model.widths=[6,16],[6]"], "model.widths: must be a list of 2, got [6]"),
        (["layer_decay=2"], "layer_decay: must be above 0 and at most 1, got 2"),
    ],
)
def test_bad_weights_and_layers_are_refused(words: list[str], needle: str, capsys: Capture) -> None:
    assert main(["train", *words]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert needle in err[-1]
    assert len(err[-1]) < 500
    assert not Path("outputs").exists()


def test_weights_for_another_stem_are_refused(hub: Path) -> None:
    place("resnet18", hub)
    found = pretrained("resnet18", True)
    assert found is not None
    with pytest.raises(ConfigError, match=r"resnet18-f37072fd.pth does not fit this resnet18 \(conv1.weight\)"):
        found.load(build("resnet18", 3, (32, 32), 7), 7)
    torch.save({"conv1.weight": 3}, found.path)
    with pytest.raises(DataError, match="expected a dictionary of tensors"):
        found.load(build("resnet18", 3, (32, 32), 7), 7)


# --- freezing, and rates by depth ------------------------------------------------------------------------------------


def test_frozen_layers_keep_weights_and_statistics() -> None:
    module = build("resnet18", 3, (32, 32), 7)
    words = freeze(module, ["conv1", "bn1", "layer1"], 7)
    assert words.startswith("conv1, bn1, layer1 frozen, ")
    module.train()
    assert not module.bn1.training  # type: ignore[union-attr]
    assert module.layer2.training  # type: ignore[union-attr]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(module), lr=0.1)
    logits_of(module, 3, (32, 32)).square().sum().backward()
    optimizer.step()
    changed = {key.split(".")[0] for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"layer2", "layer3", "layer4", "fc"}


@pytest.mark.parametrize("name", ["lenet", "mlp", "vgg11", "vit_b_32", "squeezenet1_0", "densenet121", "swin_t"])
def test_freezing_all_leaves_the_last_layer(name: str) -> None:
    with torch.device(place_of(name)):
        module = build(name, 3, (32, 32), 7)
    freeze(module, True, 7)
    trained = [key for key, parameter in module.named_parameters() if parameter.requires_grad]
    assert trained == [f"{head_of(module, 7)}.weight", f"{head_of(module, 7)}.bias"]


@pytest.mark.parametrize("name", [*LIGHT, "resnet18", "lenet", "mlp"])
def test_earlier_blocks_have_lower_learning_rates(name: str) -> None:
    with torch.device(place_of(name)):
        module = build(name, 3, (32, 32), 7)
    order = depths(module)
    assert list(order) == [key for key, _ in module.named_parameters()]
    assert len(set(order.values())) == max(order.values()) + 1
    groups = parameter_groups(module, 0.5)
    scales = [group["scale"] for group in groups]
    assert scales == sorted(scales, reverse=True)
    assert scales[0] == 1.0
    assert len(set(scales)) == max(order.values()) + 1
    assert sum(len(group["params"]) for group in groups) == len(order)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 10),
        ("vit_b_32", 14),
        ("swin_t", 17),
        ("densenet121", 63),
        ("googlenet", 13),
        ("vgg11_bn", 11),
        ("lenet", 5),
    ],
)
def test_a_block_is_what_a_person_would_count(name: str, count: int) -> None:
    with torch.device(place_of(name)):
        module = build(name, 3, (32, 32), 7, **({} if name in ("lenet", "vgg11_bn") else {"stem": "auto"}))
    order = depths(module)
    assert max(order.values()) + 1 == count
    if name == "vit_b_32":  # the class token and the position embeddings with the patches
        first = {"class_token", "conv_proj.weight", "conv_proj.bias", "encoder.pos_embedding"}
        assert {key for key, depth in order.items() if depth == 0} == first
        assert max(depths(module, tokens_first=False).values()) + 1 == 16  # as in earlier versions
    last = list(order)[-1]
    assert order[last] == count - 1


@pytest.mark.parametrize("name", ["mnasnet0_5", "swin_t"])
def test_a_checkpoint_of_the_odd_ones_is_loaded_again(name: str) -> None:
    module = build(name, 3, (32, 32), 7, stochastic_depth=0.3) if name == "swin_t" else build(name, 3, (32, 32), 7)
    if name == "swin_t":
        drops = [one.p for one in module.modules() if isinstance(one, torchvision.ops.StochasticDepth)]
        assert (drops[0], drops[-1]) == (0.0, 0.3)
    tensors = {f"model.{key}": value for key, value in module.state_dict().items()}
    found = Checkpoint(Path("x"), tensors, {})
    other = build(name, 3, (32, 32), 7)
    load_module(other, found)
    assert all(torch.equal(value, tensors[f"model.{key}"]) for key, value in other.state_dict().items())


def test_torchvisions_names_work_in_a_file_of_your_own(capsys: Capture) -> None:
    Path("own/experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /model: vgg11\n  - override /dataset: svhn\n"
    Path("own/experiment/mine.yaml").write_text(text)
    assert main(["train", "--config-dir=own", "experiment=mine", "--cfg", "job"]) == 0
    out = capsys.readouterr().out
    assert "name: vgg11" in out
    assert "name: svhn" in out


def test_layer_decay_scales_the_learning_rates(capsys: Capture) -> None:
    assert main(["train", "model=mlp", "layer_decay=0.5", "optimizer=sgd", *QUICK, "run_dir=a"]) == 0
    assert "layer-wise lr decay 0.5" in " ".join(capsys.readouterr().err.split())


# --- the last mile: through the command line -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_every_family_trains_and_is_evaluated_again(name: str, capsys: Capture) -> None:
    words = [f"model={name}", "dataset.image_size=32", *QUICK, "run_dir=a"]
    assert main(["train", *words]) == 0
    assert main(["evaluate", "a"]) == 0
    with np.load("a/predictions.npz") as own, np.load(next(Path("a/evaluations").glob("*/predictions.npz"))) as again:
        assert np.array_equal(own["probabilities"], again["probabilities"])
