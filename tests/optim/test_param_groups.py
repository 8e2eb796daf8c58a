"""Which parameters decay: weights only, as in timm."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints.format import Checkpoint
from imgcls.config.schema import TrainConfig
from imgcls.models.torchvision import TORCHVISION_MODELS
from imgcls.optim.param_groups import parameter_groups, undecayed
from imgcls.runtime.session import session
from imgcls.training.builder import build, checkpoint_metadata
from imgcls.training.resume import ResumePoint
from imgcls.training.spec import RunSpec

SHAPES = {
    "class_token": (1, 1, 8),
    "cls_token": (1, 1, 8),
    "mask_token": (1, 8),
    "reg_tokens": (1, 4, 8),
    "query_tokens": (4, 8),
    "pos_embed": (1, 5, 8),
    "pos_embedding": (1, 5, 8),
    "position_embedding": (5, 8),
    "positional_embedding": (5, 8),
    "pos_emb": (1, 5, 8),
    "absolute_pos_embed": (1, 5, 8),
    "relative_position_bias_table": (9, 2),
    "attention_biases": (2, 9),
    "rel_pos_h": (9, 8),
    "layer_scale": (8, 1, 1),
    "layer_scale_1": (1, 8, 1, 1),
    "gamma": (1, 8, 1, 1),
    "gamma_2": (8, 1),
    "logit_scale": (2, 1, 1),
    "temperature": (2, 1, 1),
    "scale": (1, 8, 1, 1),  # any scale of channels
}


class Net(nn.Module):
    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"proj": nn.Linear(3, 4), "squeeze": nn.Conv2d(8, 1, 1)})
        self.inner = nn.ParameterDict({name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()})


def decayed(module: nn.Module, **keys: Any) -> set[str]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = parameter_groups(module, **keys)
    return {names[id(one)] for group in groups if "weight_decay" not in group for one in group["params"]}


@pytest.mark.parametrize("name", SHAPES)
def test_tokens_embeddings_tables_and_scales_do_not_decay(name: str) -> None:
    module = Net(**{name: SHAPES[name]})
    weights = {"block.proj.weight", "block.squeeze.weight"}  # one of a single row too
    assert decayed(module) == weights
    assert decayed(module, decays_all=True) == weights | {f"inner.{name}"}


@pytest.mark.parametrize("name", ["weight", "tokens_proj", "position_net", "kernel", "gammas_mixer"])
def test_other_parameters_of_several_dimensions_decay(name: str) -> None:
    assert f"inner.{name}" in decayed(Net(**{name: (4, 5)}))


def test_a_layer_that_is_called_like_a_token_decays_unless_it_is_an_embedding() -> None:
    module = nn.ModuleDict({"pos_embed": nn.Embedding(5, 8), "words": nn.Embedding(5, 8), "tokens": nn.Linear(5, 8)})
    assert decayed(module) == {"words.weight", "tokens.weight"}


def test_a_module_may_name_its_own() -> None:
    module = Net(kernel=(4, 5))
    module.inner.no_weight_decay = lambda: {"kernel"}  # type: ignore[assignment, operator]
    assert "inner.kernel" not in decayed(module)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("vit_b_16", r"class_token|encoder\.pos_embedding"),
        ("swin_t", r".*\.relative_position_bias_table"),
        ("swin_v2_t", r".*\.logit_scale|.*\.cpb_mlp\.\d\.weight"),
        ("convnext_tiny", r".*\.layer_scale"),
        ("maxvit_t", r".*\.relative_position_bias_table"),
        ("efficientnet_b0", "none"),
    ],
)
def test_torchvisions_models(name: str, pattern: str) -> None:
    import torchvision

    assert name in TORCHVISION_MODELS
    with torch.device("meta"):
        module = torchvision.models.get_model(name, **({"input_size": (224, 224)} if name == "maxvit_t" else {}))
    several = {own for own, one in module.named_parameters() if one.ndim > 1}
    assert several & undecayed(module) == {own for own in several if re.fullmatch(pattern, own)}


@pytest.mark.parametrize("began", ["now", "earlier"])
def test_a_run_that_began_before_keeps_its_groups(began: str, config: Callable[..., TrainConfig]) -> None:
    chosen = config("model=linear")
    spec = RunSpec.from_config(chosen)
    with session("cpu", "fp32", 1) as runtime:
        first = build(chosen, spec, runtime, {})
        meta = checkpoint_metadata(first)
        if began == "earlier":
            for key in ("decays_all", "tokens_first", "keeps_statistics", "crop_share", "batch_size"):
                del meta["chosen"][key]
        checkpoint = Checkpoint(Path("last.safetensors"), {}, meta | {"step": 0, "epochs_done": 0})
        assert checkpoint_format.described(checkpoint)
        point = ResumePoint(Path("run"), checkpoint, None, None)
        second = build(chosen, spec, runtime, point.chosen)
    assert first.rules == {"decays_all": False, "tokens_first": True, "keeps_statistics": False}
    earlier = {"decays_all": True, "tokens_first": False, "keeps_statistics": False}
    assert second.rules == (earlier if began == "earlier" else first.rules)
    assert second.chosen == first.chosen | second.rules
