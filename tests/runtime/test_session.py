"""Devices, precision, threads, memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from imgcls.errors import ConfigError, DeviceError
from imgcls.runtime import device
from imgcls.runtime import session as runtime
from imgcls.runtime.device import choose_compile, choose_device, choose_precision
from imgcls.runtime.session import Runtime, session


def fake_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_takes_the_gpu_of_the_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, 2)
    assert choose_device("auto") == torch.device("cuda", 0)
    assert choose_device("cuda", local_rank=1, world=2) == torch.device("cuda", 1)
    assert choose_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("asked", "gpus", "rank", "world", "message"),
    [
        ("cuda", 0, 0, 1, "cuda is not available"),
        ("cuda:7", 1, 0, 1, r"there is no cuda:7 \(this machine has cuda:0\)"),
        ("cuda", 2, 2, 4, r"local rank 2 has no GPU \(this machine has cuda:0, cuda:1\); start at most 2 processes"),
        ("gpu", 1, 0, 1, "unknown 'gpu'"),
        ("cuda:x", 1, 0, 1, "unknown 'cuda:x'"),
    ],
)
def test_a_device_that_is_not_available(
    asked: str, gpus: int, rank: int, world: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpus(monkeypatch, gpus)
    with pytest.raises(ConfigError, match=message):
        choose_device(asked, rank, world)
    assert issubclass(DeviceError, ConfigError)


def test_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"
    with pytest.raises(ConfigError, match="precision=bf16"):
        choose_precision("fp16", torch.device("cpu"))
    for has_bf16, chosen in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has_bf16: has)
        assert choose_precision("auto", torch.device("cuda", 0)) == chosen


def test_bf16_computes_in_bf16_and_leaves_the_weights_alone() -> None:
    layer = torch.nn.Linear(3, 2)
    with Runtime(torch.device("cpu"), "bf16", 1).autocast():
        assert layer(torch.ones(1, 3)).dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32
    assert Runtime(torch.device("cpu"), "bf16", 1).scaler() is None


def test_fp16_has_a_scaler() -> None:
    assert isinstance(Runtime(torch.device("cpu"), "fp16", 1).scaler(), torch.amp.GradScaler)


def test_placed_weights_are_channels_last() -> None:
    module = Runtime(torch.device("cpu"), "fp32", 1).place(torch.nn.Conv2d(3, 4, 3))
    assert module.get_parameter("weight").is_contiguous(memory_format=torch.channels_last)


def test_threads_and_determinism_are_set() -> None:
    with session("cpu", "auto", 1, deterministic=True) as found:
        assert (found.threads, torch.get_num_threads()) == (1, 1)
        assert not torch.are_deterministic_algorithms_enabled()  # a CPU does not need it, and it costs a second
        assert found.describe().startswith("cpu, 1 thread, fp32")


def test_determinism_is_requested_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with session("cuda", "fp32", 1, deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark


def test_compile_auto_depends_on_the_number_of_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setenv("CXX", "sh")  # something that exists
    monkeypatch.setattr(device, "PAYS_OFF", {("cpu", "fp32", "mlp"): 1000})
    assert choose_compile("auto", cpu, "fp32", "mlp", 999) == (False, "auto: 999 updates, pays off after 1,000")
    assert choose_compile("auto", cpu, "fp32", "mlp", 1000)[0]
    assert choose_compile("auto", cpu, "fp32", "lenet", 10**9)[0] is False
    monkeypatch.setattr(device, "PAYS_OFF", {("cpu", "fp32", "mlp"): None})
    assert choose_compile("auto", cpu, "fp32", "mlp", 10**9) == (
        False,
        "auto: no gain was measured for mlp in fp32 on cpu",
    )
    assert choose_compile("auto", torch.device("cuda", 0), "fp32", "mlp", 10**9)[0] is False  # not measured
    assert choose_compile(False, cpu, "fp32", "mlp", 10**9)[0] is False
    assert choose_compile("auto", cpu, "bf16", "mlp", 10**9) == (
        False,
        "auto: no gain known for mlp in bf16 on cpu",
    )
    assert choose_compile(True, cpu, "fp32", "lenet", 1)[0]


def test_without_a_compiler_auto_is_false_and_true_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(device, "PAYS_OFF", {("cpu", "fp32", "mlp"): 1})
    assert choose_compile("auto", cpu, "fp32", "mlp", 10) == (
        False,
        "auto: it needs a C++ compiler, and 'no-such-compiler' was not found",
    )
    with pytest.raises(ConfigError, match=r"compile: it needs a C\+\+ compiler, .*compile=false"):
        choose_compile(True, cpu, "fp32", "mlp", 10)


def test_tf32_is_off_inside_and_restored_afterwards() -> None:
    before = torch.backends.cudnn.allow_tf32
    with runtime.exact_fp32():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_free_memory_is_credible() -> None:
    assert 1 << 20 < Runtime(torch.device("cpu"), "fp32", 1).free_memory() < 1 << 50


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc only")
def test_freed_blocks_of_a_few_megabytes_are_reused() -> None:
    """40 blocks of 24 MB, three at a time: 245,760 pages, of which few may be new ones once the heap has its size."""
    program = """
import resource, torch
from imgcls.runtime.session import keep_freed_memory
print(int(keep_freed_memory()))
for i in range(30):
    blocks = [torch.empty(6 << 20).fill_(1) for _ in range(4)]
    del blocks
    if i == 19:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    has_kept, faults = map(int, done.stdout.split())
    assert has_kept
    assert faults < 25_000


@pytest.mark.parametrize("missing", ["SC_AVPHYS_PAGES", "all"])
def test_free_memory_if_the_system_does_not_tell(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = runtime.os.sysconf

    def sysconf(name: str) -> int:
        if missing in (name, "all"):
            raise ValueError("unrecognized configuration name")
        return real(name)

    monkeypatch.setattr(runtime.os, "sysconf", sysconf)
    monkeypatch.setattr("builtins.open", lambda *args, **more: (_ for _ in ()).throw(OSError))
    expected = runtime.UNKNOWN_RAM if missing == "all" else real("SC_PHYS_PAGES") * real("SC_PAGE_SIZE") // 2
    assert runtime._free_ram() == expected
