"""Downloads: gone on with, checked, and one at a time."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from imgcls.data.download import Archive, fetch
from imgcls.errors import DataError

CONTENT = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT under any name, the parts that are asked for too."""

    asked: ClassVar[list[str | None]] = []
    knows_ranges = True
    most: int | None = None  # bytes before the connection breaks off

    def do_GET(self) -> None:
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


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a server on this machine."""
    Handler.asked.clear()
    Handler.knows_ranges = True
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def archive(url: str, content: bytes = CONTENT) -> Archive:
    return Archive("file.gz", (url,), hashlib.md5(content).hexdigest())


def test_what_a_broken_connection_left_is_gone_on_with(url: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:1000])
    path = fetch(archive(url), tmp_path, "dataset=x", download=True)
    assert path.read_bytes() == CONTENT
    assert Handler.asked == ["bytes=1000-"]
    assert [one.name for one in tmp_path.iterdir()] == ["file.gz"]


def test_a_server_that_knows_no_ranges_sends_it_all(url: str, tmp_path: Path) -> None:
    Handler.knows_ranges = False
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:1000])
    assert fetch(archive(url), tmp_path, "dataset=x", download=True).read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"something else", CONTENT + b"more"])
def test_a_part_of_something_else_is_thrown_away(left: bytes, url: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(left)
    assert fetch(archive(url), tmp_path, "dataset=x", download=True).read_bytes() == CONTENT
    assert len(Handler.asked) == 2


def test_a_connection_that_breaks_off_leaves_what_has_come_for_the_next_time(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "most", 1000)
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch(archive(url), tmp_path, "dataset=x", download=True)
    assert (tmp_path / "file.gz.part").read_bytes() == CONTENT[:1000]
    monkeypatch.setattr(Handler, "most", None)
    assert fetch(archive(url), tmp_path, "dataset=x", download=True).read_bytes() == CONTENT
    assert Handler.asked == [None, "bytes=1000-"]


def test_a_wrong_sum_leaves_nothing(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="checksum mismatch"):
        fetch(archive(url, b"other"), tmp_path, "dataset=x", download=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="locks")
def test_four_processes_at_once_download_once(url: str, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from imgcls.data.download import Archive, alone, fetch\n"
        f"with alone(Path({str(tmp_path)!r})):\n"
        f"    fetch(Archive('file.gz', ({url!r},), {archive(url).md5!r}), Path({str(tmp_path)!r}), 'x', True)"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0, 0, 0, 0]
    assert len(Handler.asked) == 1
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
