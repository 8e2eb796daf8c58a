"""Checkpoints: one self-contained safetensors file each, with a checksum over the whole file, and no pickle.

Tensors: ``model.*``, ``ema.*``, ``optimizer.PARAMETER.SLOT``, ``progress.*``, ``scaler.*``. Metadata: JSON strings
(format, step, config, classes, preprocessing, ...) and ``sha256``: the SHA-256 of the file with these 64 digits set
to zeros. Two runs of the same configuration write the same bytes: there is no time of day in it.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from imgcls.errors import CheckpointError, RunError

FORMAT = 1
NO_DIGEST = "0" * 64
DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
PLAIN = ("format", "imgcls", "sha256")  # metadata that is text, not JSON
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}  # their names in the format
LARGEST_SIDE, MOST_THREADS = 4096, 1024
LARGEST_HEADER = 100 << 20  # bytes, as in the format's specification
READ_AT_ONCE = 1 << 28  # bytes: a larger file is verified in chunks before it is read
MOST_CHANNELS, LARGEST_NUMBER = 64, 1e9  # in the preprocessing
LAST, PREV, BEST = "last.safetensors", "prev.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: verified, not yet loaded into a model."""

    path: Path
    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with the prefix, by the rest of their names."""
        return {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def encode(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> list[bytes | memoryview]:
    """The file's bytes, the same for the same content, in parts: the header and each tensor, none copied twice.

    Write the parts before the tensors change. Raises RunError for a tensor of a type that the format lacks.
    """
    if sys.byteorder != "little":
        raise RunError("checkpoints can only be written on little-endian machines, as the format is little-endian")
    strings = {key: value if key in PLAIN else json.dumps(value, sort_keys=True) for key, value in sorted(meta.items())}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "sha256": NO_DIGEST, **strings}}
    parts: list[memoryview] = []
    offset = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):  # hence aligned
        if tensor.dtype not in TYPES:
            raise RunError(f"a checkpoint cannot hold {name}: it is of type {tensor.dtype}")
        end = offset + tensor.nbytes
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        parts.append(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head)
    for part in parts:
        digest.update(part)
    return [head.replace(NO_DIGEST.encode(), digest.hexdigest().encode(), 1), *parts]


def decode(data: bytes, path: Path) -> Checkpoint:
    """The checkpoint in these bytes; its checksum is verified before anything is parsed. Raises CheckpointError."""
    start, end, sealed = _sealed(data, path)
    digest = hashlib.sha256(data[:start])
    digest.update(NO_DIGEST.encode())
    digest.update(memoryview(data)[end:])
    if digest.hexdigest().encode() != sealed:
        raise CheckpointError(f"{path}: damaged (its SHA-256 does not match)")
    try:
        strings = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        version, maker = int(strings["format_version"]), strings["imgcls"]
        if version > FORMAT:
            raise CheckpointError(
                f"{path}: made by a newer imgcls ({maker}, format {version}); update imgcls to read it"
            )
        meta = {key: text if key in PLAIN else json.loads(text) for key, text in strings.items()}
        tensors = safetensors.torch.load(data)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: not an imgcls checkpoint ({type(error).__name__}: {error})") from error
    return Checkpoint(path, tensors, meta)


def described(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, if its metadata makes sense. Raises CheckpointError that names what does not."""
    meta = checkpoint.meta
    shape, chosen = meta.get("preprocessing"), meta.get("chosen")
    sides: list[Any] = [shape.get(key) for key in ("channels", "height", "width")] if isinstance(shape, dict) else []
    statistics: list[Any] = [shape.get(key) for key in ("mean", "std")] if isinstance(shape, dict) else []
    sound = {
        "step": _is_count(meta.get("step")),
        "epochs_done": _is_count(meta.get("epochs_done")),
        "model": isinstance(meta.get("model"), dict) and isinstance(meta["model"].get("name"), str),
        "classes": isinstance(meta.get("classes"), list) and all(isinstance(name, str) for name in meta["classes"]),
        "preprocessing": all(_is_count(side) and 1 <= side <= LARGEST_SIDE for side in sides)
        and sides[:1] <= [MOST_CHANNELS]
        and all(_are_numbers(values, sides[0]) for values in statistics)
        and len(sides) == 3,
        "config": isinstance(meta.get("config"), dict),
        "chosen": isinstance(chosen, dict)
        and _is_count(chosen.get("threads"))
        and 1 <= chosen["threads"] <= MOST_THREADS
        and chosen.get("precision") in ("fp32", "bf16", "fp16")
        and chosen.get("loader") in ("resident", "stream")
        and isinstance(chosen.get("compile", False), bool)
        and isinstance(chosen.get("crop_share", 1.0), float)
        and 0 < chosen.get("crop_share", 1.0) <= 1
        and isinstance(chosen.get("pretrained", False), bool | str),
        "positive": meta.get("positive") is None
        or (
            isinstance(meta.get("classes"), list) and len(meta["classes"]) == 2 and meta["positive"] in meta["classes"]
        ),
        "threshold": meta.get("threshold") is None or _is_between(meta["threshold"], 0, 1),
        "temperature": meta.get("temperature") is None or _is_between(meta["temperature"], 1e-6, 1e6),
    }
    if wrong := [key for key, is_sound in sound.items() if not is_sound]:
        raise CheckpointError(
            f"{checkpoint.path}: its metadata is damaged or not from an imgcls run ({', '.join(wrong)})"
        )
    return checkpoint


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_between(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and low <= value <= high


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER for value in values)
    )


def is_checkpoint(path: Path) -> bool:
    """Whether the file begins as one of our checkpoints does; other safetensors files have no checksum."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            head = file.read(min(LARGEST_HEADER, int.from_bytes(start, "little")))
    except OSError:
        return False
    return head[:1] == b"{" and DIGEST.search(head) is not None


def read(path: Path) -> Checkpoint:
    """The verified checkpoint in that file. Raises CheckpointError."""
    try:
        kind = path.stat()
        if stat.S_ISDIR(kind.st_mode):
            raise CheckpointError(f"{path} is a folder, not a checkpoint")
        if not stat.S_ISREG(kind.st_mode):
            raise CheckpointError(f"{path} is not a regular file")
        with path.open("rb") as file:
            data = file.read(min(kind.st_size, 8 + LARGEST_HEADER if kind.st_size > READ_AT_ONCE else kind.st_size))
            if len(data) < kind.st_size:  # verify it before it takes the memory
                start, end, digest = _sealed(data, path)
                sha = hashlib.sha256(data[:start] + NO_DIGEST.encode() + data[end:])
                while part := file.read(1 << 24):
                    sha.update(part)
                if sha.hexdigest().encode() != digest:
                    raise CheckpointError(f"{path}: damaged (its SHA-256 does not match)")
                data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    return decode(data, path)


def _sealed(data: bytes, path: Path) -> tuple[int, int, bytes]:
    """Start, end and value of the checksum in a file that begins like this."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 16 or not 2 <= size <= min(LARGEST_HEADER, len(data) - 8) or data[8:9] != b"{":
        raise CheckpointError(f"{path}: damaged, or not an imgcls checkpoint")
    found = DIGEST.search(data, 8, 8 + size)
    if found is None:
        raise CheckpointError(f"{path}: not an imgcls checkpoint (it has no checksum)")
    return *found.span(1), found[1]
