"""What goes through a pipe comes out as it was, and pickle has no part in it."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgcls.errors import DataError
from imgcls.parallel import ipc
from imgcls.reports import plots as report


def through(value: Any) -> Any:
    one, other = multiprocessing.Pipe()
    ipc.send(one, value)
    return ipc.receive(other)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -1.5,
        "ä\udcff",
        b"\0",
        [],
        (),
        {},
        [1, (2, [3, None]), {"a": (4,)}],
        {3: "x"},
        {(1, 2), "b"},
        Path("a/b"),
    ],
)
def test_plain_values(value: Any) -> None:
    found = through(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, bool])
@pytest.mark.parametrize("shape", [(), (0, 3), (4,), (2, 3, 1)])
def test_arrays(kind: Any, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).astype(kind).reshape(shape)
    found = through((array, [array.T]))
    assert np.array_equal(found[0], array)
    assert found[0].dtype == array.dtype
    assert np.array_equal(found[1][0], array.T)
    found[0][...] = 0


def test_numbers_of_numpy_and_functions() -> None:
    assert through([np.int64(3), np.float32(0.5)]) == [3, 0.5]
    assert through(report.curves) is report.curves


def test_errors_come_back_as_what_they_were() -> None:
    assert isinstance(through(DataError("x")), DataError)
    assert str(through(ValueError("why"))) == "why"
    assert isinstance(through(MemoryError()), MemoryError)
    missing = through(FileNotFoundError(2, "No such file", "a/b.png"))
    assert isinstance(missing, FileNotFoundError)
    assert missing.filename == "a/b.png"
    assert "ZeroDivisionError: by zero" in str(through(ZeroDivisionError("by zero")))


def test_what_cannot_be_sent_is_named() -> None:
    with pytest.raises(TypeError, match="a object cannot be sent"):
        through(object())


def test_pickle_has_no_part_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("pickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(multiprocessing.reduction.ForkingPickler, "loads", refuse)
    monkeypatch.setattr(multiprocessing.reduction.ForkingPickler, "dumps", refuse)
    assert through([1, np.zeros(2)])[0] == 1
