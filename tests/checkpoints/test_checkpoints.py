"""Checkpoint files: deterministic, verified before they are parsed, readable by the format's own library."""

from __future__ import annotations

import ast
import json
import os
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from imgcls.checkpoints import format as checkpoint_format
from imgcls.checkpoints import state as checkpoint_state
from imgcls.checkpoints.format import decode, read
from imgcls.checkpoints.state import State
from imgcls.errors import CheckpointError, RunError
from imgcls.files import write_whole

META = {"format_version": 1, "imgcls": "0.1.0", "classes": ["ä", '"sha256":"'], "step": 3}


def encode(tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> bytes:
    return b"".join(checkpoint_format.encode(tensors, meta))


def small_file() -> bytes:
    torch.manual_seed(0)
    return encode({"model.b": torch.randn(3, 4), "model.a": torch.arange(5)}, META)


def test_what_is_written_is_read_back() -> None:
    found = decode(small_file(), Path("x"))
    assert torch.equal(found.tensors["model.a"], torch.arange(5))
    assert {key: found.meta[key] for key in META} == META
    assert sorted(found.part("model.")) == ["a", "b"]


def test_the_formats_own_library_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes(small_file())
    with safetensors.safe_open(path, "pt") as file:
        assert sorted(file.keys()) == ["model.a", "model.b"]
        assert json.loads(file.metadata()["classes"]) == META["classes"]
        assert len(file.metadata()["sha256"]) == 64


def test_equal_content_gives_equal_bytes() -> None:
    assert len({small_file() for _ in range(8)}) == 1


def test_channels_last_tensors_keep_their_values() -> None:
    tensor = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert torch.equal(decode(encode({"x": tensor}, META), Path("x")).tensors["x"], tensor)


@pytest.mark.parametrize("dtype", list(checkpoint_format.TYPES), ids=str)
def test_every_type_and_shape_comes_back(dtype: torch.dtype) -> None:
    tensors = {
        "matrix": torch.arange(6).view(2, 3).to(dtype),
        "number": torch.tensor(1).to(dtype),
        "nothing": torch.empty(0, 3, dtype=dtype),
        "odd": torch.ones(3, dtype=torch.uint8),
    }
    found = decode(encode(tensors, META), Path("x")).tensors
    assert {name: (one.dtype, one.shape) for name, one in found.items()} == {
        name: (one.dtype, one.shape) for name, one in tensors.items()
    }
    assert all(torch.equal(found[name].double(), one.double()) for name, one in tensors.items())


def test_a_type_that_the_format_lacks_is_named() -> None:
    with pytest.raises(RunError, match=r"model\.x: it is of type torch\.complex128"):
        encode({"model.x": torch.zeros(1, dtype=torch.complex128)}, META)


def test_tied_weights_are_stored_separately() -> None:
    weight = torch.arange(6.0).view(2, 3)
    found = decode(encode({"a": weight, "b": weight, "c": weight[0]}, META), Path("x")).tensors
    assert torch.equal(found["a"], weight)
    assert torch.equal(found["b"], weight)
    assert torch.equal(found["c"], weight[0])


def test_no_bit_flip_and_no_truncation_passes() -> None:
    data = small_file()
    draw = random.Random(0)
    header = 8 + int.from_bytes(data[:8], "little")
    flips = [(byte, bit) for byte in range(header) for bit in range(8)][:: max(1, header * 8 // 1000)]
    flips += [(draw.randrange(len(data)), draw.randrange(8)) for _ in range(1000)]
    for byte, bit in flips:
        damaged = bytearray(data)
        damaged[byte] ^= 1 << bit
        with pytest.raises(CheckpointError):
            decode(bytes(damaged), Path("x"))
    for length in {
        0,
        1,
        7,
        8,
        9,
        16,
        header - 1,
        header,
        len(data) - 1,
        *(draw.randrange(len(data)) for _ in range(100)),
    }:
        with pytest.raises(CheckpointError):
            decode(data[:length], Path("x"))


@pytest.mark.parametrize(
    "data",
    [
        b"<html><body>404</body></html>" * 20,
        pickle.dumps({"a": 1}) + b"\0" * 100,
        (1 << 60).to_bytes(8, "little") + b"{" + b"x" * 50,
        safetensors.torch.save({"model.a": torch.zeros(3)}),
        safetensors.torch.save({"model.a": torch.zeros(3)}, {"sha256": "0" * 64}),
    ],
    ids=["html", "pickle", "huge header", "no checksum", "wrong checksum"],
)
def test_files_that_are_not_imgcls_checkpoints_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"one\.safetensors"):
        read(path)


def test_a_file_of_a_newer_imgcls_says_so() -> None:
    with pytest.raises(CheckpointError, match=r"newer imgcls \(9\.0"):
        decode(encode({"a": torch.zeros(1)}, META | {"format_version": 2, "imgcls": "9.0"}), Path("x"))


def test_missing_and_unreadable_files_are_a_one_line_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=str(path)):
            read(path)


def test_what_cannot_be_a_checkpoint_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="is not a regular file"):
            checkpoint_format.read(path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(5 << 30)
    with pytest.raises(CheckpointError, match="damaged, or not an imgcls checkpoint"):
        checkpoint_format.read(tmp_path / "large")


def test_a_large_file_is_verified_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_format, "READ_AT_ONCE", 64)
    monkeypatch.setattr(checkpoint_format, "LARGEST_HEADER", 2000)
    path, whole = tmp_path / "x", encode({"model.a": torch.arange(9000.0)}, META)
    write_whole(path, whole)
    assert torch.equal(checkpoint_format.read(path).tensors["model.a"], torch.arange(9000.0))
    bad = bytearray(path.read_bytes())
    bad[-1] ^= 1
    path.write_bytes(bad)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("read whole"))
    with pytest.raises(CheckpointError, match="SHA-256 does not match"):
        checkpoint_format.read(path)


def test_writing_keeps_the_previous_version_and_leaves_nothing_else(tmp_path: Path) -> None:
    path, before = tmp_path / "c" / "last", tmp_path / "c" / "prev"
    write_whole(path, b"one", keep_as=before)
    write_whole(path, b"two", keep_as=before)
    assert (path.read_bytes(), before.read_bytes()) == (b"two", b"one")
    assert sorted(file.name for file in path.parent.iterdir()) == ["last", "prev"]


def test_a_full_disk_is_a_one_line_error_and_keeps_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last"
    write_whole(path, b"one")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        write_whole(path, b"two")
    assert path.read_bytes() == b"one"
    assert [file.name for file in tmp_path.iterdir()] == ["last"]


class TestState:
    def make(self) -> State:
        torch.manual_seed(1)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
        module = module.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, fused=True)
        return State(
            module, optimizer, torch.amp.GradScaler("cpu", init_scale=8.0), torch.zeros(3, dtype=torch.float64)
        )

    def step(self, state: State, seed: int) -> None:
        images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        state.optimizer.zero_grad()
        assert state.scaler is not None
        state.scaler.scale(state.module(images).square().mean()).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.step += 1

    def saved(self, state: State) -> checkpoint_format.Checkpoint:
        tensors, numbers = checkpoint_state.state_tensors(state)
        meta = META | {"step": state.step, "epochs_done": state.epochs, "optimizer_numbers": numbers}
        return decode(encode(tensors, meta), Path("x"))

    def test_a_loaded_state_goes_on_like_the_saved_one(self) -> None:
        one = self.make()
        for seed in range(3):
            self.step(one, seed)
        other = self.make()
        checkpoint_state.load_state(other, self.saved(one))
        for state in (one, other):
            self.step(state, 9)
        for name, tensor in checkpoint_state.state_tensors(one)[0].items():
            assert torch.equal(tensor, checkpoint_state.state_tensors(other)[0][name]), name
        assert (other.step, other.epochs) == (4, 0)

    def test_the_scaler_is_part_of_it(self) -> None:
        one = self.make()
        assert one.scaler is not None
        one.scaler._lazy_init_scale_growth_tracker(torch.device("cpu"))
        self.step(one, 0)
        one.scaler.update(2.0)
        other = self.make()
        checkpoint_state.load_state(other, self.saved(one))
        assert other.scaler is not None
        assert other.scaler.get_scale() == 2.0
        assert other.scaler.state_dict() == one.scaler.state_dict()

    @pytest.mark.parametrize(
        ("name", "tensor", "why"),
        [
            ("optimizer.0.weight.exp_avg", torch.zeros(3, 3), "exp_avg of shape"),
            ("optimizer.0.weight.exp_avg", torch.full((4, 3, 3, 3), float("nan")), "not finite"),
            ("optimizer.7.weight.exp_avg", torch.zeros(1), "7.weight.exp_avg of shape"),
            ("progress.sums", torch.zeros(1, dtype=torch.float64), "progress.sums"),
        ],
    )
    def test_a_state_that_does_not_fit_is_refused(self, name: str, tensor: torch.Tensor, why: str) -> None:
        one = self.make()
        self.step(one, 0)
        saved = self.saved(one)
        saved.tensors[name] = tensor
        with pytest.raises(checkpoint_format.CheckpointError, match=f"does not fit.*{why}"):
            checkpoint_state.load_state(self.make(), saved)

    def test_weights_only_is_refused_for_resume(self) -> None:
        state = self.make()
        found = decode(encode(checkpoint_state.model_tensors(state.module), META), Path("x"))
        with pytest.raises(CheckpointError, match="weights only"):
            checkpoint_state.load_state(state, found)

    def test_missing_extra_misshapen_and_infinite_tensors_are_named(self) -> None:
        state = self.make()
        good = checkpoint_state.model_tensors(state.module)
        weight = good["model.3.weight"]
        cases = {
            r"3\.weight \(missing\)": {key: value for key, value in good.items() if key != "model.3.weight"},
            r"extra \(unknown\)": good | {"model.extra": weight},
            r"3\.weight \(float32 \(2, 3\)": good | {"model.3.weight": torch.zeros(2, 3)},
            r"3\.weight \(float64": good | {"model.3.weight": weight.double()},
            r"3\.weight holds numbers that are not finite": good | {"model.3.weight": weight * float("nan")},
        }
        for message, tensors in cases.items():
            with pytest.raises(CheckpointError, match=message):
                checkpoint_state.load_module(state.module, decode(encode(tensors, META), Path("x")))


@pytest.mark.parametrize("clip_grad", [None, 1.0])
def test_an_infinite_gradient_is_skipped_by_the_scaler(clip_grad: float | None) -> None:
    from imgcls.training.loop import take_step

    module = nn.Linear(2, 1)
    state = State(
        module,
        torch.optim.SGD(module.parameters(), lr=1.0),
        torch.amp.GradScaler("cpu", init_scale=4.0),
        torch.zeros(3),
    )
    assert state.scaler is not None
    before = module.weight.detach().clone()
    state.scaler.scale(module(torch.full((1, 2), float("inf"))).sum()).backward()
    take_step(state, clip_grad)
    assert torch.equal(module.weight, before)
    assert state.scaler.get_scale() == 2.0
    state.optimizer.zero_grad()
    state.scaler.scale(module(torch.ones(1, 2)).sum()).backward()
    take_step(state, clip_grad)
    moved = float(
        (module.weight.detach() - before).norm()
    )  # the gradient is (1, 1, 1 of the bias), unscaled before it is cut
    assert moved == pytest.approx(2**0.5 if clip_grad is None else (2 / 3) ** 0.5, rel=1e-4)


def test_no_module_but_cifars_reader_imports_pickle_and_none_calls_torch_load() -> None:
    for path in (Path(checkpoint_format.__file__).parent).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert "pickle" not in imported or path.name == "cifar.py", path
        attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not attributes & {"torch.load", "torch.save", "np.load(allow_pickle=True)"}, path


DESCRIPTION = {
    "step": 3,
    "epochs_done": 1,
    "model": {"name": "linear"},
    "classes": ["a", "b"],
    "preprocessing": {"channels": 1, "height": 8, "width": 8, "mean": [0.5], "std": [0.1]},
    "config": {},
    "chosen": {"threads": 1, "precision": "fp32", "loader": "resident"},
}


def test_valid_metadata_passes() -> None:
    checkpoint = decode(encode({"a": torch.zeros(1)}, META | DESCRIPTION), Path("x"))
    assert checkpoint_format.described(checkpoint) is checkpoint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", -1),
        ("preprocessing", {"channels": 1, "height": 8, "width": 8, "mean": [10**400], "std": [0.1]}),
        ("preprocessing", {"channels": 4000, "height": 8, "width": 8, "mean": [0.5] * 4000, "std": [0.1] * 4000}),
        ("epochs_done", "x"),
        ("positive", "c"),
        ("threshold", 1.5),
        ("threshold", "auto"),
        ("temperature", 0.0),
        ("model", {"name": 3}),
        ("classes", ["a", 1]),
        ("config", None),
        ("chosen", 7),
        ("chosen", {"threads": "many", "precision": "fp32", "loader": "resident"}),
        ("chosen", {"threads": -3, "precision": "fp32", "loader": "resident"}),
        ("chosen", {"threads": 1, "precision": "fp32", "loader": "resident", "compile": "yes"}),
        ("preprocessing", {"channels": 1, "height": -1, "width": 8, "mean": [0.5], "std": [0.1]}),
        ("preprocessing", {"channels": 1, "height": 10**7, "width": 8, "mean": [0.5], "std": [0.1]}),
        ("preprocessing", {"channels": 1, "height": 8, "width": 8, "mean": "x", "std": [0]}),
        ("preprocessing", {"channels": 3, "height": 8, "width": 8, "mean": [0.5], "std": [0.1]}),
    ],
)
def test_invalid_metadata_is_named(key: str, value: object) -> None:
    checkpoint = decode(encode({"a": torch.zeros(1)}, META | DESCRIPTION | {key: value}), Path("x"))
    with pytest.raises(CheckpointError, match=rf"metadata is damaged .*\({key}\)"):
        checkpoint_format.described(checkpoint)
