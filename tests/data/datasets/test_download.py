"""Downloads: resumed, checked, and one at a time."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from imgcls.data.datasets import download
from imgcls.data.datasets.download import Archive, fetch
from imgcls.errors import DataError, RunError
from imgcls.files import hold, holder_of, locked

CONTENT = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT under any name, whole or from a given byte."""

    asked: ClassVar[list[str | None]] = []
    knows_ranges = True
    most: int | None = None  # bytes before the connection breaks
    hangs: ClassVar[threading.Event | None] = None  # no answer before this

    def do_GET(self) -> None:
        if self.hangs is not None:
            self.hangs.wait(30)
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", "/file.gz")
            self.end_headers()
            return
        given = self.headers.get("Range")
        self.asked.append(given)
        start = int(given.removeprefix("bytes=").rstrip("-")) if given and self.knows_ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:][: self.most])

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


class Server(http.server.ThreadingHTTPServer):
    """One that ignores clients that hang up."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silence."""


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a server on this machine."""
    Handler.asked.clear()
    Handler.knows_ranges = True
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def archive(url: str, content: bytes = CONTENT) -> Archive:
    return Archive("file.gz", (url,), hashlib.md5(content).hexdigest())


def test_an_interrupted_download_is_resumed(url: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:1000])
    path = fetch(archive(url), tmp_path, "dataset=x", download=True)
    assert path.read_bytes() == CONTENT
    assert Handler.asked == ["bytes=1000-"]
    assert [one.name for one in tmp_path.iterdir()] == ["file.gz"]


def test_a_server_without_ranges_sends_the_whole_file(url: str, tmp_path: Path) -> None:
    Handler.knows_ranges = False
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:1000])
    assert fetch(archive(url), tmp_path, "dataset=x", download=True).read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"something else", CONTENT + b"more"])
def test_a_part_of_a_different_file_is_discarded(left: bytes, url: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(left)
    assert fetch(archive(url), tmp_path, "dataset=x", download=True).read_bytes() == CONTENT
    assert len(Handler.asked) == 2


def test_a_broken_connection_leaves_a_part_to_resume(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "most", 1000)
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch(archive(url), tmp_path, "dataset=x", download=True)
    assert (tmp_path / "file.gz.part").read_bytes() == CONTENT[:1000]
    monkeypatch.setattr(Handler, "most", None)
    assert fetch(archive(url), tmp_path, "dataset=x", download=True).read_bytes() == CONTENT
    assert Handler.asked == [None, "bytes=1000-"]


def test_a_wrong_checksum_leaves_nothing(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="checksum mismatch"):
        fetch(archive(url, b"other"), tmp_path, "dataset=x", download=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [b"", CONTENT[:1000]])
def test_no_more_than_the_expected_size_is_accepted(url: str, tmp_path: Path, left: bytes) -> None:
    if left:
        (tmp_path / "file.gz.part").write_bytes(left)
    wanted = Archive("file.gz", (url,), "0" * 32, 5000)
    with pytest.raises(DataError, match=r"could not be downloaded \(received more than the expected 5,000 bytes\)"):
        fetch(wanted, tmp_path, "dataset=x", download=True)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_stops_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        sent = 0

        def read(self, size: int = -1) -> bytes:
            self.sent += size
            return bytes(size)

    endless = Endless()
    monkeypatch.setattr(download, "_open", lambda request: endless)
    with pytest.raises(DataError, match="received more than the expected 5,000,000 bytes"):
        fetch(Archive("file.gz", ("http://x/",), "0" * 32, 5_000_000), tmp_path, "dataset=x", download=True)
    assert endless.sent < 7_000_000
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_failed_run_and_the_part_is_kept(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            super().write(content[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = Path.open

    def opened(path: Path, mode: str = "r") -> Any:
        return Full(path, mode) if path.suffix == ".part" and "r" not in mode else real(path, mode)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(RunError) as caught:
        fetch(archive(url), tmp_path, "dataset=x", download=True)
    assert (
        str(caught.value)
        == f"cannot download {tmp_path}/file.gz: No space left on device; the part downloaded so far is kept"
    )
    assert [(one.name, one.stat().st_size) for one in tmp_path.iterdir()] == [("file.gz.part", 1000)]


def test_a_server_that_does_not_answer_times_out(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    monkeypatch.setattr(Handler, "hangs", threading.Event())
    try:
        with pytest.raises(DataError, match=r"could not be downloaded \(.*timed out"):
            fetch(archive(url), tmp_path, "dataset=x", download=True)
    finally:
        Handler.hangs.set()  # type: ignore[union-attr]


def test_redirects_are_followed(url: str, tmp_path: Path) -> None:
    assert fetch(archive(f"{url}moved/"), tmp_path, "dataset=x", download=True).read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["http://b/file", "ftp://b/file", "HTTP://b/file"])
def test_redirects_from_https_to_anything_less_secure_are_refused(target: str) -> None:
    request = urllib.request.Request("https://a/file")
    handler = download._Redirects()
    with pytest.raises(urllib.error.URLError, match="refused: a redirects from https to"):
        handler.redirect_request(request, io.BytesIO(), 302, "", {}, target)
    assert handler.redirect_request(request, io.BytesIO(), 302, "", {}, "https://b/file").full_url == "https://b/file"


@pytest.mark.skipif(os.name != "posix", reason="locks")
def test_four_processes_at_once_download_once(url: str, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from imgcls.files import locked\n"
        "from imgcls.data.datasets.download import Archive, fetch\n"
        f"with locked(Path({str(tmp_path)!r})):\n"
        f"    fetch(Archive('file.gz', ({url!r},), {archive(url).md5!r}), Path({str(tmp_path)!r}), 'x', True)"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0, 0, 0, 0]
    assert len(Handler.asked) == 1
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


@pytest.mark.skipif(os.name != "posix", reason="locks")
def test_a_process_that_has_to_wait_says_so_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from imgcls.files import locked\n"
        "with locked(Path(sys.argv[1])) as is_locked: print(is_locked)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with locked(tmp_path):
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        assert said == f"waiting for another process that downloads or unpacks into {tmp_path}\n"
        assert waiting.poll() is None
    assert waiting.communicate(timeout=30) == ("True\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="locks")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_used_without_them(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    monkeypatch.setattr(fcntl, "lockf", fails)
    with locked(tmp_path) as is_locked:
        assert not is_locked
    hold(tmp_path).close()
    assert holder_of(tmp_path) is None


def test_a_folder_that_is_not_to_be_made_is_not_made(tmp_path: Path) -> None:
    with locked(tmp_path / "none", make=False) as is_locked:
        assert not is_locked
    assert list(tmp_path.iterdir()) == []
