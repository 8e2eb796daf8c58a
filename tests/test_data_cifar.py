"""CIFAR's pickles: the real format is read, and nothing in them is ever run."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgcls.data import cifar, download
from imgcls.data.cifar import cifar10, cifar100
from imgcls.data.download import Archive
from imgcls.errors import DataError

NAMES = ["cat", "dog", "ship"]
Batch = dict[str, Any]


def batch(count: int = 6, seed: int = 0, key: str = "labels") -> Batch:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    return {
        "batch_label": "a batch",
        key: [i % 3 for i in range(count)],
        "data": pixels,
        "filenames": ["x.png"] * count,
    }


def write_cifar10(folder: Path, **changed: Batch) -> Path:
    """Five training batches and a test batch as torchvision's archive holds them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"data_batch_{i}": batch(seed=i) for i in range(1, 6)}
    for name, content in (files | {"test_batch": batch(4), "batches.meta": {"label_names": NAMES}} | changed).items():
        (folder / name.replace("__", ".")).write_bytes(pickle.dumps(content, protocol=2))
    return folder


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        cifar10(root=str(root), download=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("place", ["cifar-10-batches-py", "."])
def test_cifar10_is_read_channels_last_in_the_order_of_its_batches(tmp_path: Path, place: str) -> None:
    write_cifar10(tmp_path / place)
    source = cifar10(root=str(tmp_path), download=False)
    assert source.test is not None
    assert source.train.pixels is not None
    assert (source.classes, source.mirror, source.augment) == (("cat", "dog", "ship"), True, "standard")
    assert source.train.pixels.shape == (30, 32, 32, 3)
    assert source.train.labels.tolist() == [0, 1, 2, 0, 1, 2] * 5
    assert len(source.test) == 4
    second = batch(seed=2)["data"]
    assert np.array_equal(source.train.pixels[6 + 1, :, :, 2].ravel(), second[1, 2048:])  # blue of its second image


def test_cifar100_uses_the_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, count in (("train", 6), ("test", 3)):
        content = batch(count, key="fine_labels") | {"coarse_labels": [0] * count}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES, "coarse_label_names": ["all"]}))
    source = cifar100(root=str(tmp_path), download=False)
    assert source.classes == ("cat", "dog", "ship")
    assert source.train.labels.tolist() == [0, 1, 2, 0, 1, 2]


class Gadget:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch sentinel",)


class Opener:
    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, ("sentinel", "w")


@pytest.mark.parametrize("gadget", [Gadget(), Opener(), {"data": Gadget()}, [Opener()]])
@pytest.mark.parametrize("file", ["test_batch", "batches__meta"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, gadget: object, file: str) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py", **{file: gadget})  # type: ignore[arg-type]
    message = refusal(tmp_path)
    assert file.replace("__", ".") in message
    assert "not allowed in a data file" in message
    assert not Path("sentinel").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": batch()["data"][:5]}, "shape (6, 3072), one row for each label, got uint8 (5, 3072)"),
        ({"data": batch()["data"][:, :3071]}, "got uint8 (6, 3071)"),
        ({"data": batch()["data"].astype(np.int16)}, "got int16 (6, 3072)"),
        ({"data": "pixels"}, "got str"),
        ({"labels": [0, 1, 2, 0, 1, 3]}, "labels from 0 to 2, got 3"),
        ({"labels": [0, 1, 2, 0, 1, -1]}, "labels from 0 to 2, got -1"),
        ({"labels": [0, 1, 2, 0, 1, "cat"]}, "labels from 0 to 2, got cat"),
        ({"labels": [0, 1, [2], 0, 1, 2]}, "labels from 0 to 2, got [2]"),
        ({"labels": {"a": 1}}, "labels from 0 to 2, got dict"),
        ({"labels": 3}, "labels from 0 to 2, got int"),
    ],
)
def test_a_batch_that_does_not_fit_is_named_with_what_was_expected(
    tmp_path: Path, changes: Batch, expected: str
) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py", data_batch_3=batch() | changes)
    message = refusal(tmp_path)
    assert "data_batch_3: expected" in message
    assert expected in message


@pytest.mark.parametrize("content", [b"", b"<html>", pickle.dumps(batch(), protocol=2)[:-200]])
def test_a_file_that_is_no_pickle_is_named(tmp_path: Path, content: bytes) -> None:
    (write_cifar10(tmp_path / "cifar-10-batches-py") / "data_batch_2").write_bytes(content)
    assert "data_batch_2: not a CIFAR file" in refusal(tmp_path)


@pytest.mark.parametrize("names", [3, [], [1, 2, 3], "cat"])
def test_class_names_must_be_a_list_of_names(tmp_path: Path, names: object) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py", batches__meta={"label_names": names})
    assert "batches.meta: expected a list of class names" in refusal(tmp_path)


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py", data_batch_1={"data": batch()["data"]})
    assert "data_batch_1: expected a dictionary with data, labels" in refusal(tmp_path)


def test_a_batch_that_is_missing_is_named(tmp_path: Path) -> None:
    (write_cifar10(tmp_path / "cifar-10-batches-py") / "data_batch_4").unlink()
    assert "data_batch_4 is missing" in refusal(tmp_path)


def test_missing_data_is_named_with_the_way_out(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    for part in ("cifar-10-python.tar.gz is missing", f"put it into {tmp_path}", "dataset=digits"):
        assert part in message


def archive(folder: Path) -> bytes:
    """cifar-10-python.tar.gz with small batches."""
    write_cifar10(folder / "cifar-10-batches-py")
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as tar:
        tar.add(folder / "cifar-10-batches-py", "cifar-10-batches-py")
    return memory.getvalue()


def serve(content: bytes, monkeypatch: pytest.MonkeyPatch, *, md5: str) -> None:
    monkeypatch.setattr(download, "_open", lambda request: io.BytesIO(content))
    monkeypatch.setattr(cifar, "Archive", lambda name, urls, _: Archive(name, urls, md5))


def test_the_archive_is_downloaded_checked_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive(tmp_path / "made")
    serve(content, monkeypatch, md5=hashlib.md5(content).hexdigest())
    assert len(cifar10(root=str(tmp_path / "data"), download=True).train) == 30
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


def test_an_archive_of_another_checksum_is_neither_kept_nor_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(archive(tmp_path / "made"), monkeypatch, md5="0" * 32)
    with pytest.raises(DataError, match="checksum mismatch: expected MD5 0000"):
        cifar10(root=str(tmp_path / "data"), download=True)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("cut", [0.5, 0.0])
def test_an_archive_that_cannot_be_unpacked_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: float
) -> None:
    content = archive(tmp_path / "made")
    content = content[: int(len(content) * cut)]
    serve(content, monkeypatch, md5=hashlib.md5(content).hexdigest())
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: cannot be unpacked"):
        cifar10(root=str(tmp_path / "data"), download=True)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-python.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, "large"])
def test_links_special_files_and_bombs_in_an_archive_are_refused(
    kind: bytes | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        if isinstance(kind, bytes):
            member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    if kind == "large":
        monkeypatch.setattr(cifar, "LARGEST", -1)
    content = memory.getvalue()
    serve(content, monkeypatch, md5=hashlib.md5(content).hexdigest())
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: refused, "):
        cifar10(root=str(tmp_path / "data"), download=True)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-python.tar.gz"]


def test_the_real_cifar10_has_its_known_counts(real_data: str) -> None:
    if not Path(real_data, "cifar-10-batches-py").is_dir():
        pytest.skip("no CIFAR-10 in IMGCLS_DATA")
    source = cifar10(root=real_data, download=False)
    assert source.test is not None
    assert source.test.pixels is not None
    assert np.bincount(source.train.labels).tolist() == [5000] * 10
    assert (source.classes[3], len(source.test)) == ("cat", 10_000)
    assert source.test.pixels[0, 0, 0].tolist() == [158, 112, 49]  # the first pixel of test image 0, a cat
    assert source.classes[source.test.labels[0]] == "cat"
