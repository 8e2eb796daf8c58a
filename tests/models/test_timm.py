"""timm's models: by name, with their weights, at other sizes and in gray; checkpoints reach timm's registry only."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints.format import Checkpoint
from imgcls.cli.app import main
from imgcls.compose.composer import Composer
from imgcls.compose.overrides import read_all
from imgcls.config.components import select
from imgcls.config.options import option_node
from imgcls.config.parsing import parse
from imgcls.config.schema import TrainConfig
from imgcls.errors import CheckpointError, ConfigError, DataError
from imgcls.inference.restore import restore
from imgcls.models import models_for
from imgcls.models.build import MODEL_CONTEXT, build_model
from imgcls.models.finetune import depths, freeze
from imgcls.models.timm_weights import TimmWeights, timm_weights
from imgcls.runtime.session import session
from imgcls.training.builder import build as build_run
from imgcls.training.spec import RunSpec
from tests.conftest import QUIET, SMALL

timm = pytest.importorskip("timm")

Capture = pytest.CaptureFixture[str]
STEPS = ("epochs=1", "batch_size=16", "threads=1", *QUIET)


def build(
    name: str, channels: int = 3, side: int | tuple[int, int] = 64, num_classes: int = 7, **params: object
) -> nn.Module:
    """The model as the command line builds it."""
    name = f"timm/{name}"
    component = select(models_for(name), option_node("model", name) | params, "model", context=MODEL_CONTEXT)
    return build_model(component, channels, (side, side) if isinstance(side, int) else side, num_classes)


def composed(*words: str) -> dict[str, Any]:
    composer = Composer()
    return composer.table(read_all(words, composer.paths), "train")


def errors(capsys: Capture) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["model=timm/test_vit", "model=timm/test_vit.r160_in1k", "model.name=timm/test_vit"])
def test_a_model_is_named_on_the_command_line(word: str) -> None:
    node = composed(word, "model.dropout=0.1")["model"]
    assert (node["name"], node["dropout"]) == (word.partition("=")[2], 0.1)
    assert node["stochastic_depth"] is None


def test_a_model_is_named_in_a_configuration_file(tmp_path: Path) -> None:
    own = tmp_path / "own/experiment"
    own.mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /model: timm/test_vit\nmodel: {dropout: 0.3}\n"
    (own / "mine.yaml").write_text(text)
    composer = Composer(str(tmp_path / "own"))
    table = composer.table(read_all(["experiment=mine"], composer.paths), "train")
    assert (table["model"]["name"], table["model"]["dropout"]) == ("timm/test_vit", 0.3)
    (own / "mine.yaml").write_text(text.replace("dropout", "dropuot"))
    with pytest.raises(ConfigError, match=r"unknown key 'model.dropuot'; did you mean 'model.dropout'"):
        Composer(str(tmp_path / "own")).table(read_all(["experiment=mine"], composer.paths), "train")


@pytest.mark.slow
def test_a_sweep_goes_over_models() -> None:
    words = ["model=timm/test_vit,timm/test_resnet", "dataset.image_size=32", *SMALL, "sweep_dir=s"]
    assert main(["train", "-m", *words]) == 0
    jobs = json.loads(Path("s/sweep.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["finished"] * 2


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["model=timm/nasnetlarge"], "model: timm has no 'nasnetlarge'; did you mean 'timm/nasnetalarge'?"),
        (
            ["-m", "model=timm/test_vit,timm/test_vitt", "dataset.image_size=32"],
            "did you mean 'timm/test_vit'? (job 1: ",
        ),
        (["model=timm/zzz"], "model: timm has no 'zzz' (1,"),
        (["model=timm/test_vit.in21k"], "model: timm has no weights 'in21k' of test_vit (choices: r160_in1k)"),
        (["model=timm"], "timm/NAME for timm's"),
        (["model=timm/hf-hub:x/y"], "model: unknown 'timm/hf-hub:x/y'"),
        (["model=timm/local-dir:x"], "model: unknown 'timm/local-dir:x'"),
        (["model=timm/vgg11", "model.stochastic_depth=0.1"], "timm/vgg11 has no stochastic depth; leave model.st"),
        (["model=timm/test_vit", "model.stem=small"], "unknown key 'model.stem'"),
        (["model=timm/test_vit", "model.pretrained=in21k"], "unknown 'in21k' for timm/test_vit (choices: r160_in1k)"),
        (["model=timm/test_nfnet", "dataset.image_size=[8,9]", "model.freeze=[layer9]"], "no layer is called 'layer9'"),
        (["model=timm/convnext_atto"], "model=timm/convnext_atto: fails on images of shape (2, 1, 8, 8): "),
        (["model=timm/levit_128s"], "its own size is dataset.image_size=224"),
    ],
)
def test_mistakes_are_one_line(words: list[str], needle: str, capsys: Capture) -> None:
    assert main(["train", *words]) == 2
    assert needle in errors(capsys)
    assert not Path("outputs").exists()


def test_a_checkpoint_reaches_timms_registry_and_nothing_else() -> None:
    names = ["timm/hf-hub:x/y", "timm/local-dir:x", "timm/os", "timm/test_vit.zzz", "timm/../mlp", "timm/", "timm/a:b"]
    assert main(["train", "model=timm/test_vit", "dataset.image_size=32", *SMALL, "run_dir=a"]) == 0
    good = checkpoint_format.read(Path("a/checkpoints/best.safetensors"))
    with session("cpu", "fp32", 1) as runtime:
        assert restore(good, runtime, frozenset()).classes == tuple("0123456789")
        for name in names:
            bad = Checkpoint(good.path, good.tensors, good.meta | {"model": good.meta["model"] | {"name": name}})
            with pytest.raises(CheckpointError, match="invalid description of the model"):
                restore(bad, runtime, frozenset())


@pytest.mark.slow
def test_a_pruned_models_checkpoint_evaluates() -> None:
    assert main(["train", "model=timm/ecaresnet101d_pruned", "dataset.image_size=32", *SMALL, "run_dir=a"]) == 0
    assert main(["evaluate", "a"]) == 0


# --- building --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [
        ("resnet10t", 3, (64, 64)),
        ("resnet10t", 1, (40, 56)),
        ("vit_tiny_patch16_224", 1, (32, 32)),
        ("vit_tiny_patch16_224", 3, (48, 96)),
        ("convnext_atto", 1, (64, 64)),
        ("tf_efficientnet_lite0", 1, (32, 32)),
        ("test_vit2", 1, (64, 64)),
        ("deit_tiny_distilled_patch16_224", 3, (32, 32)),
        ("test_maxvit", 1, (128, 128)),
        pytest.param("swin_tiny_patch4_window7_224", 1, (96, 96), marks=pytest.mark.slow),
        pytest.param("nasnetalarge", 1, (96, 96), marks=pytest.mark.slow),
    ],
)
def test_models_take_gray_and_other_sizes(name: str, channels: int, size: tuple[int, int]) -> None:
    module = build(name, channels, size).train()
    logits = module(torch.randn(2, channels, *size))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(one.grad is not None for one in module.parameters())


def test_dropout_and_stochastic_depth_reach_the_model() -> None:
    module: Any = build("test_vit", dropout=0.4, stochastic_depth=0.3)
    assert max(getattr(one, "drop_prob", 0) or 0 for one in module.modules()) == pytest.approx(0.3)
    assert module.head_drop.p == 0.4
    plain: Any = build("test_vit")
    assert plain.head_drop.p == 0


@pytest.mark.parametrize("name", ["resnet10t", "test_convnext", "deit_tiny_distilled_patch16_224", "test_efficientnet"])
def test_freezing_all_leaves_the_heads(name: str) -> None:
    module: Any = build(name, side=32)
    freeze(module, True, 7)
    heads = [module.get_classifier()] if name[0] != "d" else [module.head, module.head_dist]
    left = {id(one) for one in module.parameters() if one.requires_grad}
    assert left == {id(one) for head in heads for one in head.parameters()}


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [
        ("vit_tiny_patch16_224", r"cls_token|pos_embed|patch_embed\..*", 14),
        ("vit_small_patch16_dinov3", r"cls_token|reg_token|patch_embed\..*", 14),
        ("deit_tiny_distilled_patch16_224", r"(cls|dist)_token|pos_embed|patch_embed\..*", 14),
        ("swin_tiny_patch4_window7_224", r"patch_embed\..*", 14),
        ("pit_ti_224", r"cls_token|pos_embed|patch_embed\..*", None),
        ("convnext_atto", r"stem\..*", 14),
        ("resnet10t", r"(conv1|bn1)\..*", 6),
    ],
)
def test_every_parameter_has_the_depth_of_its_block(name: str, first: str, count: int | None) -> None:
    with torch.device("meta"):
        module: Any = build(name, side=224)
    order = depths(module)
    assert list(order) == [key for key, _ in module.named_parameters()]
    assert {key for key, depth in order.items() if depth == 0} == {key for key in order if re.fullmatch(first, key)}
    assert {*order.values()} == set(range(max(order.values()) + 1))
    assert count in (None, max(order.values()) + 1)
    heads = {key for key in order if key.startswith(module.timm_heads)}
    assert {order[key] for key in heads} == {max(order.values())}
    if name.startswith(("vit", "deit")):
        assert all(depth == int(key.split(".")[1]) + 1 for key, depth in order.items() if key.startswith("blocks."))


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's folder of downloaded weights, empty, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def published(name: str, classes: int = 1000) -> dict[str, Tensor]:
    """Random weights as timm would publish them; no two numbers are the same."""
    torch.manual_seed(3)
    state: dict[str, Tensor] = timm.create_model(name, num_classes=classes).state_dict()
    return {key: torch.rand_like(one) if one.is_floating_point() else one for key, one in state.items()}


def weights(name: str, wanted: bool | str) -> TimmWeights:
    found = timm_weights(name, os.path.abspath(wanted) if isinstance(wanted, str) else wanted)
    assert found is not None
    return found


def features(module: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = module.eval().forward_features(images)
    return found


@pytest.mark.parametrize("classes", [1000, 7, 5])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_a_file_of_weights_is_loaded_except_for_the_last_layer(name: str, suffix: str, classes: int) -> None:
    state = published(name, classes)
    save_file(state, "w.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": one for key, one in state.items()}}, "w.pth")
    module = build(name, side=160)
    before = {key: one.clone() for key, one in module.state_dict().items()}
    draws = torch.random.get_rng_state()
    weights(f"timm/{name}", f"w.{suffix}").load(module, 7)
    assert torch.equal(draws, torch.random.get_rng_state())
    for key, one in module.state_dict().items():
        is_head = key.startswith(module.timm_heads)  # type: ignore[arg-type]
        assert torch.equal(one, before[key] if is_head else state[key]), key


def test_gray_images_and_other_sizes() -> None:
    state = published("test_vit")
    save_file(state, "w.safetensors")
    given = weights("timm/test_vit", "w.safetensors")
    gray: Any = build("test_vit", 1, 160)
    given.load(gray, 7)
    assert torch.allclose(gray.patch_embed.proj.weight, state["patch_embed.proj.weight"].sum(1, keepdim=True))
    larger: Any = build("test_vit", 3, 224)
    given.load(larger, 7)
    assert larger.pos_embed.shape[1] == 14**2 + 1
    cls, patches = larger.pos_embed[:, :1], larger.pos_embed[:, 1:]
    assert torch.equal(cls, state["pos_embed"][:, :1])
    assert float(patches.detach().mean()) == pytest.approx(state["pos_embed"][:, 1:].mean().item(), abs=0.01)
    overlay = {"file": "w.safetensors"}
    reference = timm.create_model("test_vit", pretrained=True, img_size=224, pretrained_cfg_overlay=overlay)
    images = torch.randn(2, 3, 224, 224)
    assert torch.allclose(features(larger, images), features(reference, images), atol=1e-5)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("owned"),)


def test_files_that_are_no_weights_of_the_model_are_refused() -> None:
    torch.save({"a": Evil()}, "evil.pth")
    torch.save({"a": 3}, "other.pth")
    Path("junk.safetensors").write_bytes(b"<html>")
    for name, needle in [
        ("evil.pth", "not a file of weights"),
        ("other.pth", "expected a dictionary of tensors"),
        ("junk.safetensors", "not a file of weights"),
        ("gone.pth", "gone.pth"),
    ]:
        with pytest.raises(DataError, match=needle):
            weights("timm/test_vit", name).load(build("test_vit", side=160), 7)
    assert not Path("owned").exists()
    save_file(published("test_resnet"), "resnet.safetensors")
    save_file({"x": torch.zeros(2)}, "x.safetensors")
    for file in ("resnet", "x"):
        with pytest.raises(ConfigError, match=rf"{file}.safetensors does not fit this timm/test_vit \("):
            weights("timm/test_vit", f"{file}.safetensors").load(build("test_vit", side=160), 7)


def test_published_weights_are_found_where_the_message_says(hub: Path, capsys: Capture) -> None:
    for row, shade in (("ants", 60), ("bees", 190)):
        Path("photos", row).mkdir(parents=True)
        for i in range(12):
            noise = np.random.default_rng(i).integers(-50, 50, (68 + i // 4, 90, 3))
            Image.fromarray((noise + shade).astype(np.uint8)).save(f"photos/{row}/{i}.png")
    words = ["model=timm/test_efficientnet", "model.pretrained=true", "dataset=./photos", *STEPS]
    assert main(["train", *words]) == 3
    file = hub / "test_efficientnet.r160_in1k.safetensors"
    message = (
        f"cannot download https://huggingface.co/timm/{file.stem}/resolve/main/model.safetensors (no route to host)"
    )
    assert f"{message}; put the file at {file}, or set model.pretrained=false" in errors(capsys)
    torch.manual_seed(3)
    save_file(timm.create_model("test_efficientnet").state_dict(), file)
    assert main(["train", *words, "model.freeze=true", "run_dir=a"]) == 0
    header = " ".join(capsys.readouterr().err.split())
    assert f"pretrained: {file.name}, new last layer, fitted first; all but the last layer frozen" in header
    assert "the center crop" not in header  # which is the weights', not the shape's
    assert "the middle 95.0% of each side, as the pretrained weights expect (dataset.crop_share)" in header
    kept = checkpoint_format.read(Path("a/checkpoints/best.safetensors"))
    assert torch.equal(kept.tensors["model.conv_stem.weight"], load_file(file)["conv_stem.weight"])
    given = timm.get_pretrained_cfg("test_efficientnet")
    seen = kept.meta["preprocessing"]
    assert (seen["height"], seen["crop_share"]) == (given.input_size[-1], given.crop_pct) == (160, 0.95)
    assert (tuple(seen["mean"]), tuple(seen["std"])) == (given.mean, given.std)
    again = [word for word in words if word != "model.pretrained=true"]
    assert main(["train", *again, "model.freeze=true", "dataset.image_size=80", "run_dir=b"]) == 0  # auto
    assert f"pretrained: {file.name}, new last layer, fitted first (auto" in " ".join(capsys.readouterr().err.split())
    assert checkpoint_format.read(Path("b/checkpoints/best.safetensors")).meta["chosen"]["pretrained"] == "r160_in1k"
    assert main(["train", *again, "model.pretrained=a", "run_dir=c"]) == 0  # a run of timm's model
    file.unlink()  # not needed again
    assert main(["train", "resume=b", "epochs=2"]) == 0
    assert main(["train", "resume=a", "epochs=2"]) == 0
    assert main(["evaluate", "a"]) == 0
    assert main(["predict", "a", "photos/ants/0.png"]) == 0
    again = checkpoint_format.read(Path("a/checkpoints/last.safetensors")).meta
    assert again["preprocessing"] == seen
    config = parse(TrainConfig, kept.meta["config"])
    earlier = {key: one for key, one in kept.meta["chosen"].items() if key != "crop_share"}
    with session("cpu", "fp32", 1) as runtime:  # earlier versions showed all of a picture, and did not store it
        assert build_run(config, RunSpec.from_config(config), runtime, earlier).data.preprocessing.crop_share == 1


def test_weights_in_the_cache_of_hugging_face_are_used(hub: Path) -> None:
    folder = hub.parents[2] / "hf/hub/models--timm--test_vit.r160_in1k/snapshots/abc"
    folder.mkdir(parents=True)
    save_file(published("test_vit"), folder / "model.safetensors")
    found = weights("timm/test_vit", True)
    assert found.path == folder / "model.safetensors"
    found.load(build("test_vit", side=160), 7)


@pytest.mark.parametrize("name", ["test_vit", "vit_base_patch16_384", "convnext_atto", "tf_efficientnet_lite0.in1k"])
def test_the_images_are_those_of_the_weights(name: str) -> None:
    found, config = weights(f"timm/{name}", "w.safetensors"), timm.get_pretrained_cfg(name)
    assert isinstance(found, TimmWeights)
    assert (found.size, found.mean, found.std) == (config.input_size[-1], config.mean, config.std)
    assert found.crop_share == config.crop_pct
