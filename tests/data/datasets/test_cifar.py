"""CIFAR's pickles: the real format is read, and nothing in them is executed."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import struct
import tarfile
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgcls.cli.app import main
from imgcls.data.datasets import cifar, download
from imgcls.data.datasets.cifar import cifar10, cifar100
from imgcls.data.datasets.download import Archive
from imgcls.errors import DataError, RunError
from imgcls.files import locked

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


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("count", [6, 60])
def test_batches_written_by_python_3_are_read(tmp_path: Path, protocol: int, count: int) -> None:
    content = batch(count) | {"labels": np.arange(count) % 3, "data": np.asfortranarray(batch(count)["data"])}
    folder = write_cifar10(tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol))
    source = cifar10(root=str(tmp_path), download=False)
    assert source.test is not None
    assert source.test.labels.tolist() == [0, 1, 2] * (count // 3)
    assert np.array_equal(source.test.pixels[-1, :, :, 0].ravel(), content["data"][-1, :1024])  # type: ignore[index]


def old_text(content: bytes) -> bytes:
    """As Python 2 pickles a str."""
    long = b"T" + struct.pack("<I", len(content))
    return (b"U" + bytes((len(content),)) if len(content) < 256 else long) + content


@pytest.mark.parametrize("count", [6, 60])
def test_batches_written_by_python_2_are_read(tmp_path: Path, count: int) -> None:
    pixels = batch(count)["data"]
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    shape = b"K" + bytes((count,)) + b"M\x00\x0c\x86"
    array = empty + b"(K\x01" + shape + dtype + b"\x89" + old_text(pixels.tobytes()) + b"tb"
    labels = b"](" + b"K\x00\x8a\x01\x01K\x02" * (count // 3) + b"e"
    folder = write_cifar10(tmp_path)
    content = b"\x80\x02}(" + old_text(b"data") + array + old_text(b"labels") + labels + b"u."
    (folder / "test_batch").write_bytes(content)
    source = cifar10(root=str(tmp_path), download=False)
    assert source.test is not None
    assert source.test.labels.tolist() == [0, 1, 2] * (count // 3)
    assert np.array_equal(source.test.pixels[-1, :, :, 1].ravel(), pixels[-1, 1024:2048])  # type: ignore[index]


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
        ({"data": batch()["data"][:5]}, "shape (6, 3072), one row per label, got uint8 (5, 3072)"),
        ({"data": batch()["data"][:, :3071]}, "got uint8 (6, 3071)"),
        ({"data": batch()["data"].astype(np.int16)}, "got int16 (6, 3072)"),
        ({"data": "pixels"}, "got str"),
        ({"labels": [0, 1, 2, 0, 1, 3]}, "labels from 0 to 2, got 3"),
        ({"labels": [0, 1, 2, 0, 1, -1]}, "labels from 0 to 2, got -1"),
        ({"labels": [0, 1, 2, 0, 1, "cat"]}, "labels from 0 to 2, got 'cat'"),
        ({"labels": [0, 1, 2, 0, 1, 1 << 2000]}, "labels from 0 to 2, got 1148"),
        ({"labels": [0, 1, [2], 0, 1, 2]}, "labels from 0 to 2, got list"),
        ({"labels": np.array([0, 1, 2, 0, 1, 3])}, "labels from 0 to 2, got 3"),
        ({"labels": np.zeros((6, 1), int)}, "labels from 0 to 2, got ndarray"),
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


def laughs(first: bytes, step: bytes, times: int = 60) -> bytes:
    """A value that holds the previous one twice, and so on: small until it is printed, compared or hashed."""
    return first + b"".join(b"r" + struct.pack("<I", i) + step % {b"i": struct.pack("<I", i)} for i in range(times))


HALF = b"c_codecs\nencode\n"
WHOLE = b"X\x00\x00\x10\x00" + b"a" * (1 << 20) + b"q\x00"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
TRILLION = b"\x8a\x06" + (10**12).to_bytes(6, "little")
HOSTILE = {
    "a memo of 32 GB": b"}r\xff\xff\xff\x7f.",
    "labels printed for years": b"}(U\x06labels](" + laughs(b"K\x07", b"]j%(i)sj%(i)s\x86a") + b"eU\x04dataNu.",
    "a key hashed for years": b"}" + laughs(b")", b"j%(i)s\x86") + b"Ns.",
    "a deep key": b"}" + b")" + b"\x85" * 300_000 + b"Ns.",
    "deep lists": b"]" * 400_000 + b"a" * 399_999 + b".",
    "deep arrays": HALF + (ARRAY + b"\x85R") * 100_000 + b"b" * 99_999 + b".",
    "many sets": b"\x8f" * 2_000_000 + b".",
    "many lists": b"]" * 2_000_000 + b".",
    "many dictionaries": b"(" + b"}" * 2_000_000 + b"l.",
    "many notes": b"]" + b"".join(b"r" + struct.pack("<I", i) for i in range(800_000)) + b".",
    "bytes of 1 TB": b"\x8e" + struct.pack("<Q", 10**12) + b".",
    "a bytearray of 1 TB": b"\x96" + struct.pack("<Q", 10**12) + b".",
    "an array of 1 TB": b"(" + ARRAY + TRILLION + b"\x85U\x01b\x87R.",
    "an ndarray of 1 TB": b"}(U\x06labels]U\x04datacnumpy\nndarray\n" + TRILLION + b"\x85\x85Ru.",
    "one text encoded many times": b"(" + WHOLE + (HALF + b"h\x00U\x06latin1\x86R") * 300 + b"l.",
    "doubled again and again": b"".join([HALF] * 40) + b"C\x01a" + b"U\x03hex\x86R" * 40 + b".",
    "a packed text": HALF + WHOLE + b"U\x04zlib\x86R.",
    "wide texts": b"(" + (b"X\x00\xff\x00\x00\xf0\x9f\x98\x80" + b"a" * 65_276) * 400 + b"l.",
    "a name that is printed for years": laughs(b"U\x01a", b"j%(i)sj%(i)s\x86") + b"U\x01a\x93.",
    "a name without end": b"c" + b"\x1b[31m" * 200_000,
    "a call of a text": b"U\x05dtype)R.",
    "a state for a list": b"])b.",
    "nothing": b".",
    "a mark that is missing": b"]e.",
    "a type in a shape": b"}(U\x06labels]U\x04data" + ARRAY + b"\x85R(K\x01]NNNtbu.",
}
LONG = ("many lists", "deep arrays", "a deep key", "deep lists", "many notes")  # a second or more


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(content, id=name, marks=pytest.mark.slow if name in LONG else [])
        for name, content in HOSTILE.items()
    ],
)
def test_a_hostile_pickle_takes_neither_memory_nor_time(tmp_path: Path, content: bytes) -> None:
    (write_cifar10(tmp_path / "cifar-10-batches-py") / "data_batch_2").write_bytes(b"\x80\x05" + content)
    start = time.process_time()
    tracemalloc.start()
    message = refusal(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "data_batch_2: " in message
    assert len(message) < 300 + len(str(tmp_path))
    assert "\x1b" not in message
    assert peak < 150 << 20
    assert time.process_time() - start < 20


@pytest.mark.parametrize("names", [3, [], [1, 2, 3], "cat"])
def test_class_names_must_be_a_list_of_names(tmp_path: Path, names: object) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py", batches__meta={"label_names": names})
    assert "batches.meta: expected a list of class names" in refusal(tmp_path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py", data_batch_1={"data": batch()["data"]})
    assert "data_batch_1: expected a dictionary with data, labels" in refusal(tmp_path)


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    (write_cifar10(tmp_path / "cifar-10-batches-py") / "data_batch_4").unlink()
    assert "data_batch_4 is missing" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs")
@pytest.mark.parametrize("file", ["data_batch_1", "batches.meta", "test_batch"])
@pytest.mark.parametrize("place", ["cifar-10-batches-py", "."])
def test_a_fifo_is_refused_instead_of_waited_for(tmp_path: Path, file: str, place: str) -> None:
    path = write_cifar10(tmp_path / place) / file
    path.unlink()
    os.mkfifo(path)
    assert f"{file}: not a regular file" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs")
@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-python.tar.gz.part"])
def test_a_fifo_in_place_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: not a regular file"):
        cifar10(root=str(tmp_path), download=True)


def test_a_folder_in_place_of_a_batch_is_refused(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path / "cifar-10-batches-py")
    (folder / "data_batch_1").unlink()
    (folder / "data_batch_1").mkdir()
    assert "data_batch_1: not a regular file" in refusal(tmp_path)


def test_a_batch_without_read_permission_is_bad_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path)

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "batches.meta: cannot be read (Permission denied)" in refusal(tmp_path)


def test_a_file_larger_than_any_of_cifars_is_not_read(tmp_path: Path) -> None:
    os.truncate(write_cifar10(tmp_path) / "data_batch_1", 1 << 40)
    assert "data_batch_1: larger than any CIFAR file" in refusal(tmp_path)


def test_a_root_whose_name_is_too_long_is_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cifar10", "cifar100"):
        root = f"dataset.root={tmp_path}/{'a' * 300}"
        assert main(["train", f"dataset={name}", root, "dataset.download=false"]) == 3
        message = capsys.readouterr().err
        assert "-python.tar.gz is missing" in message
        assert message.count("\n") == 1


def test_missing_data_is_named_with_what_to_do(tmp_path: Path) -> None:
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
    monkeypatch.setattr(cifar, "Archive", lambda name, urls, _, size: Archive(name, urls, md5, size))


def test_the_archive_is_downloaded_checked_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive(tmp_path / "made")
    serve(content, monkeypatch, md5=hashlib.md5(content).hexdigest())
    assert len(cifar10(root=str(tmp_path / "data"), download=True).train) == 30
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


def test_an_archive_with_a_wrong_checksum_is_neither_kept_nor_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(archive(tmp_path / "made"), monkeypatch, md5="0" * 32)
    with pytest.raises(DataError, match="checksum mismatch: expected MD5 0000"):
        cifar10(root=str(tmp_path / "data"), download=True)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("cut", [0.5, 0.0])
def test_an_archive_that_cannot_be_unpacked_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: float
) -> None:
    content = archive(tmp_path / "made")
    content = content[: int(len(content) * cut)]
    serve(content, monkeypatch, md5=hashlib.md5(content).hexdigest())
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: cannot be unpacked"):
        cifar10(root=str(tmp_path / "data"), download=True)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-python.tar.gz"]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with just the archive, whose checksum is made the expected one."""
    content = archive(tmp_path / "made")
    serve(b"", monkeypatch, md5=hashlib.md5(content).hexdigest())
    (folder := tmp_path / "data").mkdir()
    (folder / "cifar-10-python.tar.gz").write_bytes(content)
    return folder


def test_only_what_a_killed_process_has_half_unpacked_is_removed(local: Path) -> None:
    for name in (".cifar-10-batches-py-x1y_z9ab", ".cifar-10-batches-py-mine", ".cifar-100-python-x1y_z9ab"):
        (local / name / "cifar-10-batches-py").mkdir(parents=True)
        (local / name / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half")
    assert len(cifar10(root=str(local), download=False).train) == 30
    assert sorted(path.name for path in local.iterdir()) == [
        ".cifar-10-batches-py-mine",
        ".cifar-100-python-x1y_z9ab",
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
    ]


@pytest.mark.skipif(os.name != "posix", reason="locks")
@pytest.mark.parametrize("download", [True, False])
def test_an_archive_is_unpacked_by_one_process_at_a_time(local: Path, download: bool) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(len(cifar10(root=str(local), download=download).train)))
    with locked(local) as is_locked:
        assert is_locked
        thread.start()
        thread.join(0.3)
        assert [path.name for path in local.iterdir()] == ["cifar-10-python.tar.gz"]
    thread.join(30)
    assert found == [30]


@pytest.mark.parametrize(
    ("number", "kind", "expected"),
    [(errno.ENOSPC, RunError, "No space left on device"), (errno.EACCES, DataError, "Permission denied")],
)
def test_a_disk_that_takes_no_files_is_named(
    local: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], expected: str
) -> None:
    def extractall(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tarfile.TarFile, "extractall", extractall)
    with pytest.raises(kind) as caught:
        cifar10(root=str(local), download=False)
    assert str(caught.value) == f"{local}/cifar-10-python.tar.gz: cannot be unpacked into {local} ({expected})"
    assert [path.name for path in local.iterdir()] == ["cifar-10-python.tar.gz"]


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
