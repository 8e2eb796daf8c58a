"""CIFAR's pickle files, read without executing anything."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


class _Dtype:
    """What a pickle says of an array's type: a code like u1 and, in its state, the order of the bytes."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code
        self.state: Any = None


class StoredArray:
    """What a pickle says of an array: (version, shape, type, is_fortran, content)."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None


def to_numpy(stored: StoredArray) -> NDArray[Any]:
    """The array of whole numbers; its content is not copied."""
    _, shape, dtype, is_fortran, content = stored.state
    if dtype.code not in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8") or dtype.state[1] not in ("<", ">", "|"):
        raise ValueError("an array of something else than whole numbers")
    flat = np.frombuffer(_encode(content) if isinstance(content, str) else content, dtype.state[1] + dtype.code)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 stores bytes for Python 2: as the text that they are in Latin-1."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError("_codecs.encode of something else than Latin-1 text is not allowed in a data file")
    return text.encode("latin1")


class SafeUnpickler:
    """CIFAR's batches are pickles: this reads them, and can build lists, dictionaries, texts, numbers and arrays.

    Python's own would run what it is told to (which find_class can forbid), and takes gigabytes for some files of a
    few bytes (which it cannot): here the memory taken is counted, in ``left``, and what is not in CIFAR is not known.
    """

    SPARE = 64 << 20  # bytes that may be taken beside twice the file's size; CIFAR-100 needs 30 MB
    STEP = 128  # bytes, more than any step takes but for texts
    LONG = 1 << 16  # bytes of a text that can only be pixels
    GLOBALS = (
        ("numpy", "ndarray", StoredArray),
        ("numpy", "dtype", _Dtype),
        ("numpy.core.multiarray", "_reconstruct", StoredArray),
        ("numpy._core.multiarray", "_reconstruct", StoredArray),
        ("_codecs", "encode", _encode),
    )

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.left = 2 * size + self.SPARE
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """What the pickle holds. Raises ValueError, LookupError, TypeError or AttributeError where it is damaged."""
        read, stack = self.file.read, self.stack
        while (code := read(1)) != b".":
            self.take(self.STEP)
            if code in VALUES:
                stack.append(VALUES[code](self))
            elif code in STEPS:
                STEPS[code](self)
            else:
                raise ValueError(f"the step {code!r} is not allowed in a data file" if code else "it ends too early")
        return stack[-1]

    def take(self, count: int) -> None:
        """Count these bytes of memory."""
        self.left -= count
        if self.left < 0:
            raise ValueError("it would take far more memory than its size")

    def read(self, count: int) -> bytes:
        """So many bytes of the file."""
        if count > self.size or len(content := self.file.read(count)) < count:
            raise ValueError("it ends too early")
        return content

    def number(self, count: int) -> int:
        """An unsigned number of so many bytes."""
        return int.from_bytes(self.read(count), "little")

    def content(self, digits: int) -> bytes:
        """Bytes, after their number, which has that many digits."""
        count = self.number(digits)
        self.take(count)
        return self.read(count)

    def text(self, digits: int) -> str:
        """UTF-8 as a text: four bytes a letter if there is but one emoji in it, hence only Latin-1 if it is long."""
        content = self.content(digits)
        if len(content) <= self.LONG:
            self.take(3 * len(content))
        elif int(np.frombuffer(content, np.uint8).max()) > 0xC3:
            raise ValueError("a long text that is not Latin-1")
        return content.decode()

    def old_text(self, digits: int) -> str | bytes:
        """A text of Python 2, which may hold pixels."""
        content = self.content(digits)
        return content if len(content) > self.LONG else content.decode("latin1")

    def named(self, module: Any, name: Any) -> Any:
        """What stands here for a class or a function of that name."""
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        for own_module, own_name, meant in self.GLOBALS:
            if (module, name) == (own_module, own_name):
                return meant
        raise ValueError(f"{ascii(f'{module}.{name}'[:80])[1:-1]} is not allowed in a data file")

    def line(self) -> str:
        """The next line of the file, without its end."""
        return self.file.readline(self.LONG).decode("latin1").rstrip("\n")

    def call(self) -> Any:
        """What the function below its arguments returns."""
        arguments = self.of(tuple)
        function = self.stack.pop()
        if not any(function is meant for _, _, meant in self.GLOBALS):
            raise ValueError("a call of something else than a function")
        returned = function(*arguments)
        if isinstance(returned, bytes):
            self.take(len(returned))
        return returned

    def note(self, key: int) -> None:
        """Keep what is on top under that number, to be taken again."""
        self.memo[key] = self.stack[-1]

    def build(self) -> None:
        """Give an array or its type the state on top of it."""
        state = self.stack.pop()
        self.of(StoredArray, _Dtype, keep=True).state = state

    def of(self, *kinds: type, keep: bool = False) -> Any:
        """The topmost thing, which must be of one of these types."""
        if type(self.stack[-1]) not in kinds:
            raise ValueError(f"{type(self.stack[-1]).__name__} where {kinds[0].__name__} is needed")
        return self.stack[-1] if keep else self.stack.pop()

    def since_mark(self) -> list[Any]:
        """All that was pushed since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def last(self, count: int) -> list[Any]:
        """The topmost things."""
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def extend(self, items: list[Any]) -> None:
        """Put these at the end of the list on top."""
        self.of(list, keep=True).extend(items)

    def update(self, items: list[Any]) -> None:
        """Put these, each after its key, into the dictionary on top."""
        keys = items[::2]
        if any(type(key) not in (str, bytes) for key in keys):  # tuples of tuples can be hashed for years
            raise ValueError("a key that is no text")
        self.of(dict, keep=True).update(zip(keys, items[1::2], strict=True))


VALUES: dict[bytes, Callable[[SafeUnpickler], Any]] = {  # what is pushed, by the codes of pickle
    b"K": lambda reader: reader.file.read(1)[0],  # by far the commonest
    b"M": lambda reader: reader.number(2),
    b"J": lambda reader: int.from_bytes(reader.read(4), "little", signed=True),
    b"\x8a": lambda reader: int.from_bytes(reader.content(1), "little", signed=True),
    b"G": lambda reader: struct.unpack(">d", reader.read(8))[0],
    b"N": lambda _: None,
    b"\x88": lambda _: True,
    b"\x89": lambda _: False,
    b"U": lambda reader: reader.old_text(1),
    b"T": lambda reader: reader.old_text(4),
    b"\x8c": lambda reader: reader.text(1),
    b"X": lambda reader: reader.text(4),
    b"\x8d": lambda reader: reader.text(8),
    b"C": lambda reader: reader.content(1),
    b"B": lambda reader: reader.content(4),
    b"\x8e": lambda reader: reader.content(8),
    b"]": lambda _: [],
    b"}": lambda _: {},
    b")": lambda _: (),
    b"t": lambda reader: tuple(reader.since_mark()),
    b"\x85": lambda reader: tuple(reader.last(1)),
    b"\x86": lambda reader: tuple(reader.last(2)),
    b"\x87": lambda reader: tuple(reader.last(3)),
    b"h": lambda reader: reader.memo[reader.number(1)],
    b"j": lambda reader: reader.memo[reader.number(4)],
    b"c": lambda reader: reader.named(reader.line(), reader.line()),
    b"\x93": lambda reader: reader.named(*reader.last(2)),
    b"R": SafeUnpickler.call,
}
STEPS: dict[bytes, Callable[[SafeUnpickler], Any]] = {  # and what pushes nothing
    b"\x80": lambda reader: reader.read(1),  # the protocol's number
    b"\x95": lambda reader: reader.read(8),  # how much follows, for those who read ahead
    b"(": lambda reader: reader.marks.append(len(reader.stack)),
    b"q": lambda reader: reader.note(reader.number(1)),
    b"r": lambda reader: reader.note(reader.number(4)),
    b"\x94": lambda reader: reader.note(len(reader.memo)),
    b"a": lambda reader: reader.extend(reader.last(1)),
    b"e": lambda reader: reader.extend(reader.since_mark()),
    b"s": lambda reader: reader.update(reader.last(2)),
    b"u": lambda reader: reader.update(reader.since_mark()),
    b"b": SafeUnpickler.build,
}
