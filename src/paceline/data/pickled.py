"""Pickles that hold a dict of plain values and numpy arrays, read without the machine that runs pickles.

A pickle is a program. An allow-list of what it may name is no fence: numpy's own ``dtype`` and ``ndarray``, which the
published files name, take a state that says of bytes that they are objects, and with it any memory. Here its steps are
read one by one by the standard library's disassembler, and those that a published file takes are followed, on plain
Python values; nothing that a file names is ever looked up, called or given a state. Nested values, which need few bytes
and much time, cannot be made: lists hold scalars only, and keys are text.
"""

from __future__ import annotations

import math
import os
import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from paceline.errors import DataError

_ARRAY, _CLASS, _DTYPE = "_reconstruct", "ndarray", "dtype"
_NAMES: dict[tuple[str, str], Literal["_reconstruct", "ndarray", "dtype"]] = {
    ("numpy.core.multiarray", "_reconstruct"): "_reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "_reconstruct",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
}
_SCALARS = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
_MOST_STEPS = 1_000_000  # a published file of 128,117 images has 130,000
_LONGEST_TUPLE = 16
_ERRORS = (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError, EOFError)


class _Mark:
    """Where on the stack a list, tuple or dict begins."""


@dataclass(frozen=True)
class _Named:
    """One of the names that are allowed; nothing but a name."""

    name: str


@dataclass(eq=False, repr=False)
class _Pickled:
    """An array or a dtype in the making: what it is called with, and its state, which may lead back to it."""

    kind: str
    given: tuple[object, ...]
    state: tuple[object, ...] | None = None


class _Bounded:
    """A file that refuses to be asked for more than it holds, before memory is set aside for it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, os.fstat(file.fileno()).st_size

    def read(self, size: int) -> bytes:
        self.refuse_beyond_end(size)
        self._left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(256)  # names of modules are shorter
        self._left -= len(line)
        return line

    def tell(self) -> int:
        return self._file.tell()

    def refuse_beyond_end(self, size: int) -> None:
        if size > self._left:
            raise EOFError(f"it announces {size} bytes where {max(0, self._left)} are left")


class _Refused(Exception):  # noqa: N818 - a DataError is made of it
    """A pickle does what no published file does."""


def read_pickle(path: Path) -> dict[str, object]:
    """Read one file: a dict of scalars, lists of scalars, and numpy arrays of integers or floating point.

    An array uses the memory that its bytes were read into, and cannot be written to.
    Raises: DataError naming the file, if it cannot be read, is damaged, or holds or names anything else.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(_Bounded(file)).read()
            return {key: _array(item) if isinstance(item, _Pickled) else item for key, item in content.items()}
    except _Refused as error:
        raise DataError(
            f"{path}: refused: this pickle {error}. A published file needs only numpy's arrays. "
            "Fetch it again from its publisher"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _ERRORS as error:
        raise DataError(f"{path}: truncated or no pickle ({error or type(error).__name__}). Fetch it again") from error


class _Reader:
    """Follows the steps of one pickle: a stack of values, and a memo of those that are used again."""

    def __init__(self, file: _Bounded) -> None:
        self._file = file
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def read(self) -> dict[str, object]:
        """The dict that the pickle makes."""
        stream = cast(BinaryIO, self._file)
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number == _MOST_STEPS:
                raise _Refused(f"takes more than {_MOST_STEPS:,} steps")
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        (made,) = self._stack
        if not isinstance(made, dict):
            raise _Refused(f"holds a {type(made).__name__}, not a dict with 'data' and 'labels'")
        return made

    def _step(self, name: str, argument: object) -> None:
        if name in _SCALARS:
            self._stack.append(argument if argument is not None else {"NEWTRUE": True, "NEWFALSE": False}.get(name))
        elif name in _STEPS:
            _STEPS[name](self)
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[cast(int, argument)])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memoize(cast(int, argument))
        elif name == "GLOBAL":
            self.name(*str(argument).split(" ", 1))
        elif name == "FRAME":
            self._file.refuse_beyond_end(cast(int, argument))
        elif name != "PROTO":
            raise _Refused(f"takes a step that could run code or fill memory ({name})")

    def push(self, value: object) -> None:
        self._stack.append(value)

    def popped(self, count: int) -> list[object]:
        values = self._stack[-count:]
        if len(values) < count or any(isinstance(value, _Mark) for value in values):
            raise IndexError("too few values on its stack")
        del self._stack[-count:]
        return values

    def since_mark(self) -> list[object]:
        values = []
        while not isinstance(value := self._stack.pop(), _Mark):
            values.append(value)
        return values[::-1]

    def memoize(self, number: int | None) -> None:
        (value,) = self._stack[-1:]
        if not isinstance(value, _Mark):
            self._memo[len(self._memo) if number is None else number] = value

    def make_tuple(self, values: Sequence[object]) -> None:
        if len(values) > _LONGEST_TUPLE or not all(_is_plain(value) or _is_flat(value) for value in values):
            raise _Refused("nests tuples, or has one that is too long")
        self._stack.append(tuple(values))

    def append(self, values: list[object]) -> None:
        (target,) = self._stack[-1:]
        if not isinstance(target, list) or not all(map(_is_plain, values)):
            raise _Refused("has a list of other things than numbers and text")
        target += values

    def set_items(self, values: list[object]) -> None:
        (target,) = self._stack[-1:]
        keys, items = values[::2], values[1::2]
        if not isinstance(target, dict) or len(keys) != len(items) or not all(type(key) is str for key in keys):
            raise _Refused("has a dict with other keys than text")
        if any(isinstance(item, dict) for item in items):
            raise _Refused("has a dict inside a dict")
        target.update(zip(keys, items, strict=True))

    def name(self, module: object, name: object) -> None:
        known = _NAMES.get((str(module), str(name)))
        if known is None:
            raise _Refused(f"names the global {str(module)[:200]}.{str(name)[:200]}, which could run code")
        self._stack.append(_Named(known))

    def reduce(self) -> None:
        called, given = self.popped(2)
        if not isinstance(called, _Named) or called.name == _CLASS or not isinstance(given, tuple):
            raise _Refused("calls something that is no function of numpy's arrays")
        self._stack.append(_Pickled(called.name, given))

    def build(self) -> None:
        target, state = self.popped(2)
        if not isinstance(target, _Pickled) or not isinstance(state, tuple) or target.state is not None:
            raise _Refused("gives a state to something that is no array of numpy")
        self._stack.append(target)
        target.state = state


_STEPS: dict[str, Callable[[_Reader], None]] = {  # not bound to a reader, which would outlive its file
    "MARK": lambda reader: reader.push(_Mark()),
    "EMPTY_DICT": lambda reader: reader.push({}),
    "EMPTY_LIST": lambda reader: reader.push([]),
    "EMPTY_TUPLE": lambda reader: reader.push(()),
    "TUPLE1": lambda reader: reader.make_tuple(reader.popped(1)),
    "TUPLE2": lambda reader: reader.make_tuple(reader.popped(2)),
    "TUPLE3": lambda reader: reader.make_tuple(reader.popped(3)),
    "TUPLE": lambda reader: reader.make_tuple(reader.since_mark()),
    "MEMOIZE": lambda reader: reader.memoize(None),
    "APPEND": lambda reader: reader.append(reader.popped(1)),
    "APPENDS": lambda reader: reader.append(reader.since_mark()),
    "SETITEM": lambda reader: reader.set_items(reader.popped(2)),
    "SETITEMS": lambda reader: reader.set_items(reader.since_mark()),
    "STACK_GLOBAL": lambda reader: reader.name(*reader.popped(2)),
    "REDUCE": lambda reader: reader.reduce(),
    "BUILD": lambda reader: reader.build(),
}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str | bytes)


def _is_flat(value: object) -> bool:
    """What a tuple may hold besides: a tuple of scalars, and what an array is made of."""
    return isinstance(value, _Named | _Pickled) or (isinstance(value, tuple) and all(map(_is_plain, value)))


def _array(made: _Pickled) -> NDArray[np.generic]:
    """The array whose shape, dtype, order and bytes a state tells.

    Raises: _Refused if it is not of numbers; ValueError if the bytes are not as many as the shape needs.
    """
    if made.kind != _ARRAY or made.state is None:
        raise _Refused("holds something of numpy that is no array")
    _version, shape, dtype, is_fortran, content = made.state
    numbers = _dtype(dtype)
    if not isinstance(content, bytes):
        raise _Refused("holds an array of Python objects")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("the shape of an array is none")
    if math.prod(shape) * numbers.itemsize != len(content) or 0 in shape:
        raise ValueError(f"an array of shape {shape} and {numbers} has {len(content)} bytes")
    return np.frombuffer(content, numbers).reshape(shape, order="F" if is_fortran else "C")


def _dtype(made: object) -> np.dtype[np.generic]:
    """The dtype that a state tells: of its name and the order of its bytes."""
    if not isinstance(made, _Pickled) or made.kind != _DTYPE or made.state is None or len(made.state) < 2:
        raise _Refused("holds an array without a dtype")
    name, order = made.given[0], made.state[1]
    if name not in _TYPES or order not in ("<", ">", "|"):
        raise _Refused(f"holds an array of {name[:50] if isinstance(name, str) else 'something'!r}, not of numbers")
    return np.dtype(f"{order}{name}")
