"""IDX files: what is accepted, what is refused, and where a download goes."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import os
import struct
import tracemalloc
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgcls.cli.app import main
from imgcls.data.datasets import download
from imgcls.data.datasets import mnist as idx
from imgcls.data.datasets.mnist import FILES, fashion_mnist, mnist, read_idx
from imgcls.errors import DataError


def encode(array: np.ndarray[Any, Any]) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def arrays(count: int = 40, classes: int = 3, height: int = 9, width: int = 7) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, height, width), dtype=np.uint8)
    labels = (np.arange(count) % classes).astype(np.uint8)
    return dict(zip(FILES, (images, labels, images[::-1], labels[::-1]), strict=True))


def write(folder: Path, parts: dict[str, np.ndarray[Any, Any]], suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in parts.items():
        content = encode(array)
        (folder / f"{FILES[part]}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_four_files_are_found_in_any_of_the_usual_places(tmp_path: Path, place: str, suffix: str) -> None:
    parts = arrays()
    write(tmp_path / place, parts, suffix)
    source = mnist(root=str(tmp_path), download=False)
    assert source.test is not None
    assert source.train.pixels is not None
    assert np.array_equal(source.train.pixels[..., 0], parts["train images"])
    assert np.array_equal(source.test.labels, parts["test labels"])
    assert (source.classes, source.mirror) == (("0", "1", "2"), False)


@pytest.mark.parametrize("spelling", ["train-images.idx3-ubyte", "train-images-idx3-ubyte"])
def test_other_spellings_of_the_file_names_are_understood(tmp_path: Path, spelling: str) -> None:
    write(tmp_path, arrays())
    (tmp_path / FILES["train images"]).rename(tmp_path / spelling)
    (tmp_path / FILES["test labels"]).rename(tmp_path / "test-labels-idx1-ubyte")
    assert len(mnist(root=str(tmp_path), download=False).train) == 40


@pytest.mark.parametrize("classes", [1, 37, 256])
def test_the_labels_tell_how_many_classes_there_are(tmp_path: Path, classes: int) -> None:
    write(tmp_path, arrays(count=2 * classes, classes=classes))
    assert mnist(root=str(tmp_path), download=False).classes == tuple(str(i) for i in range(classes))


def test_fashion_mnist_names_its_ten_classes_and_may_be_mirrored(tmp_path: Path) -> None:
    write(tmp_path / "FashionMNIST" / "raw", arrays(classes=10))
    source = fashion_mnist(root=str(tmp_path), download=False)
    assert (source.classes[9], source.mirror) == ("Ankle boot", True)


def test_the_variable_imgcls_data_names_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGCLS_DATA", str(write(tmp_path / "MNIST" / "raw", arrays()).parents[1]))
    assert len(mnist(root=None, download=False).train) == 40


GOOD = encode(np.zeros((5, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "expected", "got"),
    [
        (b"", "magic number 00000803", "nothing"),
        (b"<html>not found</html>", "magic number 00000803", "3c68746d"),
        (encode(np.zeros(5, np.uint8)), "magic number 00000803", "00000801"),
        (bytes((0, 0, 13)) + GOOD[3:], "magic number 00000803", "00000d03"),
        (GOOD[:6], "header of 16 bytes", "6"),
        (GOOD[:-1], "76 bytes for shape (5, 4, 3)", "75"),
        (GOOD + b"x", "76 bytes for shape (5, 4, 3)", "77"),
        (GOOD[:4] + b"\xff" * 12, "bytes for shape (4294967295", "16"),
        (encode(np.zeros((0, 4, 3), np.uint8)), "no images", "(0, 4, 3)"),
    ],
)
def test_a_damaged_file_is_named_with_what_was_expected_and_found(
    tmp_path: Path, content: bytes, expected: str, got: str
) -> None:
    (path := tmp_path / "images").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path, 3)
    message = str(caught.value)
    assert str(path) in message
    assert expected in message
    assert got in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "content",
    [b"no gzip at all", gzip.compress(GOOD, mtime=0)[:-6], gzip.compress(GOOD, mtime=0)[:20] + b"\0" * 40],
    ids=["no gzip", "cut", "overwritten"],
)
def test_a_damaged_gz_is_named(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "images.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"images\.gz: cannot be read"):
        read_idx(path, 3)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD[:-1], "expected 76 bytes for shape (5, 4, 3), got 75"),
        (GOOD + bytes(100 << 20), "expected 76 bytes for shape (5, 4, 3), got more"),
        (
            GOOD[:4] + struct.pack(">3I", 100_000, 28, 28) + bytes(99),
            "would be 78,400,016 unpacked, for shape (100000,",
        ),
        (bytes(100 << 20), "expected magic number 00000803"),
    ],
    ids=["short", "long", "announced", "zeros"],
)
def test_a_gz_is_unpacked_no_further_than_its_header_states(tmp_path: Path, content: bytes, expected: str) -> None:
    (path := tmp_path / "images.gz").write_bytes(gzip.compress(content, 1))
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        read_idx(path, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{path}: " in str(caught.value)
    assert expected in str(caught.value)
    assert peak < 10 << 20


def test_a_plain_file_is_refused_by_its_header_before_it_is_read(tmp_path: Path) -> None:
    (path := tmp_path / "images").write_bytes(GOOD)
    os.truncate(path, 1 << 40)
    with pytest.raises(DataError, match=r"expected 76 bytes for shape \(5, 4, 3\), got 1,099,511,627,776"):
        read_idx(path, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs")
@pytest.mark.parametrize("place", [".", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("download", [True, False])
def test_a_fifo_is_refused_instead_of_waited_for(tmp_path: Path, place: str, suffix: str, download: bool) -> None:
    folder = write(tmp_path / place, arrays(), suffix)
    path = folder / f"{FILES['test images']}{suffix}"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=f"{path.name}: not a regular file"):
        mnist(root=str(tmp_path), download=download)


def test_folders_with_the_names_of_files_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, arrays(), ".gz")
    (tmp_path / FILES["train images"]).mkdir()
    assert len(mnist(root=str(tmp_path), download=False).train) == 40


def test_a_file_without_read_permission_is_bad_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, arrays())

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: cannot be read \(Permission denied\)"):
        mnist(root=str(tmp_path), download=False)


def test_a_root_whose_name_is_too_long_is_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for choice in ("true", "false"):
        words = ["dataset=mnist", f"dataset.root={tmp_path}/{'a' * 300}", f"dataset.download={choice}"]
        assert main(["train", *words]) == 3
        message = capsys.readouterr().err
        assert "train-images-idx3-ubyte.gz is missing" in message
        assert message.count("\n") == 1


def test_there_must_be_one_label_per_image(tmp_path: Path) -> None:
    parts = arrays()
    write(tmp_path, parts | {"test labels": parts["test labels"][:-1]})
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: expected 40 labels, one per image, got 39"):
        mnist(root=str(tmp_path), download=False)


def test_a_test_label_that_train_does_not_have_is_refused(tmp_path: Path) -> None:
    parts = arrays()
    write(tmp_path, parts | {"test labels": parts["test labels"] + 1})
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: label 3, but the training labels end at 2"):
        mnist(root=str(tmp_path), download=False)


def test_a_missing_file_is_named_with_where_it_belongs_and_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "dataset=mnist", f"dataset.root={tmp_path}/data", "dataset.download=false"]) == 3
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for part in ("train-images-idx3-ubyte.gz is missing", f"put it into {tmp_path}/data/MNIST/raw", "dataset=digits"):
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_a_users_data_set_is_never_completed_with_mnists_files(tmp_path: Path) -> None:
    write(tmp_path, arrays())
    (tmp_path / FILES["test labels"]).unlink()
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte \(or \.gz\) is missing in .*, which has train-images-idx3"
    ):
        mnist(root=str(tmp_path), download=True)


class Server:
    """A replacement for urllib: serves files by name, or refuses."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []

    def open(self, request: urllib.request.Request) -> io.BytesIO:
        self.asked.append(request.full_url)
        name = request.full_url.rpartition("/")[2]
        if name not in self.files:
            raise urllib.error.URLError("no route to host")
        return io.BytesIO(self.files[name])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server of small files under MNIST's names, whose checksums are made the expected ones."""
    files = {f"{FILES[part]}.gz": gzip.compress(encode(array), mtime=0) for part, array in arrays().items()}
    archives = idx.ARCHIVES["MNIST"]
    sums = {part: hashlib.md5(files[f"{name}.gz"]).hexdigest() for part, name in FILES.items()}
    monkeypatch.setitem(idx.ARCHIVES, "MNIST", {part: replace(one, md5=sums[part]) for part, one in archives.items()})
    serving = Server(files)
    monkeypatch.setattr(download, "_open", serving.open)
    return serving


def test_a_download_is_checked_and_kept(tmp_path: Path, server: Server) -> None:
    for _ in range(2):
        source = mnist(root=str(tmp_path), download=True)
        assert source.test is not None
        assert len(source.test) == 40
    assert len(server.asked) == 4
    assert sorted(path.name for path in (tmp_path / "MNIST" / "raw").iterdir()) == sorted(server.files)


def test_only_the_missing_files_are_downloaded(tmp_path: Path, server: Server) -> None:
    raw = write(tmp_path / "MNIST" / "raw", arrays())
    (raw / FILES["train labels"]).unlink()
    mnist(root=str(tmp_path), download=True)
    assert [url.rpartition("/")[2] for url in server.asked] == ["train-labels-idx1-ubyte.gz"]


def test_a_wrong_checksum_is_an_error_and_leaves_no_file(tmp_path: Path, server: Server) -> None:
    name = f"{FILES['test labels']}.gz"
    right = hashlib.md5(server.files[name]).hexdigest()
    server.files[name] = b"<html>not found</html>"
    got = hashlib.md5(server.files[name]).hexdigest()
    with pytest.raises(DataError, match=f"{name} is missing .* expected MD5 {right}, got {got}"):
        mnist(root=str(tmp_path), download=True)
    assert (
        server.asked.count(idx.ARCHIVES["MNIST"]["test labels"].urls[1] + name) == 1
    )  # the second mirror was tried too
    assert name not in [path.name for path in (tmp_path / "MNIST" / "raw").iterdir()]
    assert list(tmp_path.rglob("*.part")) == []


def test_without_a_network_the_message_says_what_to_do(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files.clear()
    assert main(["train", "dataset=mnist", f"dataset.root={tmp_path}"]) == 3
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for part in ("train-images-idx3-ubyte.gz", "no route to host", f"put it into {tmp_path}/MNIST/raw", "digits"):
        assert part in message


def test_a_damaged_archive_is_downloaded_again_or_named(tmp_path: Path, server: Server) -> None:
    name = f"{FILES['train images']}.gz"
    archive = download.Archive(name, ("https://example.org/",), hashlib.md5(server.files[name]).hexdigest())
    (tmp_path / name).write_bytes(server.files[name][:-5])
    with pytest.raises(DataError, match=r"is damaged \(checksum mismatch.*dataset.download is false"):
        download.fetch(archive, tmp_path, "dataset=mnist", download=False)
    path = download.fetch(archive, tmp_path, "dataset=mnist", download=True)
    assert path.read_bytes() == server.files[name]


TRUNCATED = {
    "cut": lambda content: content[:-20],
    "short": lambda content: content[:9],
    "empty": lambda _: b"",
    "a page": lambda _: b"<html>",
    "overwritten": lambda content: content[:20] + bytes(len(content) - 20),
}


@pytest.mark.parametrize("truncate", TRUNCATED.values(), ids=TRUNCATED.keys())
@pytest.mark.parametrize("others", ["whole", "truncated", "missing", "plain too"])
def test_what_an_aborted_download_left_is_downloaded_again(
    tmp_path: Path, server: Server, truncate: Any, others: str
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    name = f"{FILES['train images']}.gz"
    for other, content in server.files.items():
        if others != "missing" or other == name:
            (raw / other).write_bytes(truncate(content) if other == name or others == "truncated" else content)
        if others == "plain too" and other != name:
            (raw / other).with_suffix("").write_bytes(gzip.decompress(content))
    source = mnist(root=str(tmp_path), download=True)
    assert np.array_equal(source.train.pixels[..., 0], arrays()["train images"])  # type: ignore[index]
    assert {other: (raw / other).read_bytes() for other in server.files} == server.files
    assert len(server.asked) == (1 if others in ("whole", "plain too") else 4)


def test_what_an_aborted_download_left_is_named_without_a_network(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    mnist(root=str(tmp_path), download=True)
    path = tmp_path / "MNIST" / "raw" / f"{FILES['test labels']}.gz"
    path.write_bytes(path.read_bytes()[:-9])
    server.files.clear()
    assert main(["train", "dataset=mnist", f"dataset.root={tmp_path}"]) == 3
    message = capsys.readouterr().err.splitlines()[-1]
    for part in (f"{path} is damaged (checksum mismatch", "could not be downloaded (no route to host)"):
        assert part in message
    assert main(["train", "dataset=mnist", f"dataset.root={tmp_path}", "dataset.download=false"]) == 3
    assert f"{path}: cannot be read (Compressed file ended" in capsys.readouterr().err


@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
def test_a_truncated_file_of_a_users_data_set_is_never_replaced(tmp_path: Path, server: Server, place: str) -> None:
    folder = write(tmp_path / place, arrays(classes=2), ".gz")
    path = folder / f"{FILES['train images']}.gz"
    path.write_bytes(path.read_bytes()[:-9])
    before = {one.name: one.read_bytes() for one in folder.iterdir()}
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        mnist(root=str(tmp_path), download=True)
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == before
    assert server.asked == []


def test_other_files_with_mnists_names_are_never_replaced(tmp_path: Path, server: Server) -> None:
    floats = {part: array.astype(np.float32) for part, array in arrays().items()}
    folder = write(tmp_path / "MNIST" / "raw", floats, ".gz")
    for path in folder.iterdir():
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content[:2] + b"\x0d" + content[3:]))
    with pytest.raises(DataError, match="expected magic number 00000803"):
        mnist(root=str(tmp_path), download=True)
    assert server.asked == []


def test_an_aborted_answer_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: urllib.request.Request) -> io.BytesIO:
        raise http.client.IncompleteRead(b"abc", 100)

    monkeypatch.setattr(download, "_open", refuse)
    with pytest.raises(DataError, match=r"could not be downloaded \(IncompleteRead"):
        mnist(root=str(tmp_path), download=True)


def test_the_real_mnist_has_its_known_counts(real_data: str) -> None:
    source = mnist(root=real_data, download=False)
    assert source.test is not None
    assert source.train.pixels is not None
    assert source.train.pixels.shape == (60_000, 28, 28, 1)
    assert np.bincount(source.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_any_idx_files_train_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "mine", arrays(count=60, classes=3, height=13, width=18))
    assert main(["train", "dataset=mnist", "dataset.root=mine", "dataset.download=false", "epochs=1", "--json"]) == 0
    assert '"n": 60' in capsys.readouterr().out
