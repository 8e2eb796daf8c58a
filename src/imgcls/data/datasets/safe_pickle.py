"""CIFAR's pickle files, read without executing anything."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


class _Dtype:
    """An array's type in a pickle: a code such as u1 and, in its state, the byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code
        self.state: Any = None


class StoredArray:
    """An array in a pickle: its state is (version, shape, type, is_fortran, content)."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None


def to_numpy(stored: StoredArray) -> NDArray[Any]:
    """The array, which must be of integers; its content is not copied."""
    _, shape, dtype, is_fortran, content = stored.state
    if dtype.code not in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8") or dtype.state[1] not in ("<", ">", "|"):
        raise ValueError("an array of something other than integers")
    flat = np.frombuffer(_encode(content) if isinstance(content, str) else content, dtype.state[1] + dtype.code)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Python 3 stores bytes for Python 2 as the Latin-1 text that they spell."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError("_codecs.encode of something other than Latin-1 text is not allowed in a data file")
    return text.encode("latin1")


SPARE = 64 << 20  # bytes that may be used in addition to twice the file's size; CIFAR-100 needs 30 MB
STEP = 128  # bytes, more than any opcode takes apart from its text
LONG = 1 << 16  # bytes: a longer text can only be pixels
GLOBALS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": StoredArray,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": StoredArray,
    "numpy._core.multiarray._reconstruct": StoredArray,
    "_codecs.encode": _encode,
}


class SafeUnpickler:
    """Builds the lists, dictionaries, texts, numbers and arrays in a pickle.

    pickle.Unpickler could be kept from running code (find_class), but not from taking gigabytes for a few bytes: here
    memory is counted, in ``left``, and opcodes that CIFAR does not use are refused. pickletools.genops parses without
    running anything, but takes four times as long and twice the memory.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.left = 2 * size + SPARE
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The content of the pickle. Raises ValueError, LookupError, TypeError or AttributeError if it is damaged."""
        read, stack = self.file.read, self.stack
        while (code := read(1)) != b".":
            self.take(STEP)
            if code in VALUES:
                stack.append(VALUES[code](self))
            elif code in STEPS:
                STEPS[code](self)
            else:
                raise ValueError(f"the opcode {code!r} is not allowed in a data file" if code else "it ends too early")
        return stack[-1]

    def take(self, count: int) -> None:
        """Count this many bytes of memory."""
        self.left -= count
        if self.left < 0:
            raise ValueError("it would take far more memory than its size")

    def read(self, count: int) -> bytes:
        """The next bytes of the file."""
        if count > self.size or len(content := self.file.read(count)) < count:
            raise ValueError("it ends too early")
        return content

    def number(self, count: int) -> int:
        """An unsigned integer of this many bytes."""
        return int.from_bytes(self.read(count), "little")

    def content(self, digits: int) -> bytes:
        """Bytes, preceded by their count as an integer of this many bytes."""
        count = self.number(digits)
        self.take(count)
        return self.read(count)

    def text(self, digits: int) -> str:
        """A UTF-8 text. One emoji makes each letter take four bytes, hence only Latin-1 if it is long."""
        content = self.content(digits)
        if len(content) <= LONG:
            self.take(3 * len(content))
        elif int(np.frombuffer(content, np.uint8).max()) > 0xC3:
            raise ValueError("a long text that is not Latin-1")
        return content.decode()

    def old_text(self, digits: int) -> str | bytes:
        """A Python 2 text, which may hold pixels."""
        content = self.content(digits)
        return content if len(content) > LONG else content.decode("latin1")

    def named(self, module: Any, name: Any) -> Any:
        """Our replacement for the class or function of that name."""
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is not text")
        if (full := f"{module}.{name}") not in GLOBALS:
            raise ValueError(f"{ascii(full[:80])[1:-1]} is not allowed in a data file")
        return GLOBALS[full]

    def line(self) -> str:
        """The next line of the file, without its line break."""
        return self.file.readline(LONG).decode("latin1").rstrip("\n")

    def call(self) -> Any:
        """Call the function below the arguments on top."""
        arguments = self.of(tuple)
        function = self.stack.pop()
        if not any(function is known for known in GLOBALS.values()):
            raise ValueError("a call of something other than a function")
        returned = function(*arguments)
        if isinstance(returned, bytes):
            self.take(len(returned))
        return returned

    def note(self, key: int) -> None:
        """Remember the topmost value under that number."""
        self.memo[key] = self.stack[-1]

    def build(self) -> None:
        """Give an array or its type the state on top of it."""
        state = self.stack.pop()
        self.of(StoredArray, _Dtype, keep=True).state = state

    def of(self, *kinds: type, keep: bool = False) -> Any:
        """The topmost value, which must be of one of these types."""
        if type(self.stack[-1]) not in kinds:
            raise ValueError(f"{type(self.stack[-1]).__name__} where {kinds[0].__name__} is needed")
        return self.stack[-1] if keep else self.stack.pop()

    def since_mark(self) -> list[Any]:
        """Pop everything since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def last(self, count: int) -> list[Any]:
        """Pop this many values."""
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def extend(self, items: list[Any]) -> None:
        """Append these to the list on top."""
        self.of(list, keep=True).extend(items)

    def update(self, items: list[Any]) -> None:
        """Add these, alternating keys and values, to the dictionary on top."""
        keys = items[::2]
        if any(type(key) not in (str, bytes) for key in keys):  # hashing tuples of tuples can take years
            raise ValueError("a key that is not text")
        self.of(dict, keep=True).update(zip(keys, items[1::2], strict=True))


VALUES: dict[bytes, Callable[[SafeUnpickler], Any]] = {  # opcodes that push a value
    b"K": lambda reader: reader.file.read(1)[0],  # by far the most common
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
STEPS: dict[bytes, Callable[[SafeUnpickler], Any]] = {  # and those that do not
    b"\x80": lambda reader: reader.read(1),  # the protocol
    b"\x95": lambda reader: reader.read(8),  # the length of the next frame
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
