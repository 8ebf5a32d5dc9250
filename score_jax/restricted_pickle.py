"""Reads pickles of plain data without running anything that they name.

Python's unpickler calls whatever a file asks for. Here the names that NumPy arrays and Haiku's
mappings need are bound to small stand-ins of our own, every other name is refused, and the opcodes
are checked before the first of them runs, so that a forged file ends in an error and not in code
or in memory that it asked for.
"""

import io
import math
import mmap
import pickle
import pickletools
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

# What writing dicts, lists, integers, strings and arrays needs; nothing that makes instances.
ALLOWED_OPCODES = frozenset(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG1 "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "EMPTY_LIST APPEND APPENDS LIST EMPTY_DICT SETITEM SETITEMS DICT "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)
DTYPES = ("u1", "i4", "i8", "f2", "f4", "f8")
LONG = 1 << 14  # Bytes from which `load_outline` leaves a byte string where it is.
_LENGTHS = {"BINBYTES": "<I", "BINBYTES8": "<Q", "BINSTRING": "<i"}


class _Budget:
    """How much more one load may make from values that it refers to again and again."""

    __slots__ = ("left",)

    def __init__(self, size: int):
        self.left = size

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError("it unpacks to more than it holds")


@dataclass(frozen=True)
class LongBytes:
    """A byte string that was left where it is: `size` bytes from `offset` on."""

    offset: int
    size: int


class Array:
    """What `numpy._reconstruct` makes: filled by `__setstate__`, then read as `values`.

    Where `load_outline` left the values in the pickle, `values` is missing and `left` tells their
    offset, shape and type; else `left` is None.
    """

    __slots__ = ("_budget", "left", "values")

    def __init__(self, budget: _Budget):
        self._budget = budget
        self.left: tuple[int, tuple[int, ...], np.dtype] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, content = state
        if isinstance(content, LongBytes) and isinstance(dtype, _Dtype):
            self._leave(shape, dtype, column_major, content)
            return
        if not isinstance(dtype, _Dtype) or not isinstance(content, dtype.content):
            raise ValueError("an array whose content is not of its type")
        if dtype.content is list:
            self._budget.spend(len(content))
            values = np.empty(len(content), object)
            values[:] = content
        else:
            values = np.frombuffer(content, dtype.type)
        self.values = values.reshape(shape, order="F" if column_major else "C")

    def _leave(self, shape: Any, dtype: "_Dtype", column_major: Any, content: LongBytes) -> None:
        if dtype.content is not bytes or column_major:
            raise ValueError("a long array that is not of numbers in row order")
        if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError("an array whose shape is none")
        kind = np.dtype(dtype.type)
        if math.prod(shape) * kind.itemsize != content.size:
            raise ValueError(f"an array of shape {shape} in {content.size} bytes")
        self.left = (content.offset, shape, kind)


class _Dtype:
    """What `numpy.dtype` makes: the numbers of DTYPES, and objects of the kinds read here."""

    __slots__ = ("content", "type")

    def __init__(self, name: Any, align: Any = 0, copy: Any = 0):
        name = name.decode("latin1") if isinstance(name, bytes) else name
        if name not in (*DTYPES, "O", "O8"):
            raise ValueError(f"values of type {name!r} where numbers were expected")
        self.type = f"<{name}"
        self.content = list if name.startswith("O") else bytes

    def __setstate__(self, state: Any) -> None:
        if state[1] in (">", b">"):
            raise ValueError("values with their highest byte first")


class _Spender:
    """A stand-in that makes values of any size."""

    __slots__ = ("_budget",)

    def __init__(self, budget: _Budget):
        self._budget = budget

    def __setstate__(self, state: Any) -> None:
        # Without it the unpickler would set the slots to what the file says.
        raise ValueError("a name that is to be altered")


class _Reconstruct(_Spender):
    """`numpy._reconstruct`."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, typecode: Any) -> Array:
        if kind != NDARRAY or shape != (0,):
            raise ValueError("an array that is not made in NumPy's way")
        return Array(self._budget)


class _Encode(_Spender):
    """`_codecs.encode`, as Python 3 writes bytes into old pickles: only from latin1."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        self._budget.spend(len(text))
        return text.encode("latin1")


class _Mapping:
    """Haiku's immutable mappings, as the plain dict that they are written from.

    An instance without a `__dict__`, so that no file can alter it.
    """

    __slots__ = ()

    def __call__(self, values: Any) -> dict:
        if not isinstance(values, dict):
            raise ValueError("a mapping that is not made from a dict")
        return values


NDARRAY = "numpy.ndarray"  # Mentioned as an argument, never called.


def known_names(size: int) -> dict[tuple[str, str], Any]:
    """What the names that a file may mention are bound to, for one load of `size` bytes."""
    budget = _Budget(size)
    return {
        ("numpy", "ndarray"): NDARRAY,
        ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(budget),
        ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(budget),
        ("_codecs", "encode"): _Encode(budget),
        ("haiku._src.data_structures", "FlatMapping"): _Mapping(),
        ("haiku._src.data_structures", "FlatMap"): _Mapping(),
        ("haiku._src.data_structures", "frozendict"): _Mapping(),
    }


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, encoding: str, size: int, left: list[LongBytes]):
        super().__init__(io.BytesIO(content), encoding=encoding)
        self._names = known_names(size)
        self._left = left

    def persistent_load(self, pid: Any) -> LongBytes:
        return self._left[pid]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._names[module, name]


def _check_opcodes(content: bytes) -> None:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in ALLOWED_OPCODES:
            raise pickle.UnpicklingError(f"it holds the instruction {opcode.name}")
        # The unpickler's memo is as long as the largest index, whatever the file holds.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > count:
            raise pickle.UnpicklingError(f"it numbers a value {argument}")


def loads(content: bytes, encoding: str = "ASCII") -> Any:
    """What a pickle of dicts, lists, tuples, strings, integers and arrays holds.

    Arrays come as `Array`; read their `values`.

    Args:
      encoding: of the 8-bit strings of Python 2; 'bytes' leaves them as they are.

    Raises:
      Exception: of almost any type on damaged or forged input; MemoryError and RecursionError too.
    """
    _check_opcodes(content)
    return _Unpickler(content, encoding, len(content), []).load()


class _Cursor:
    """What pickletools reads arguments from: no more than `longest` bytes at once."""

    def __init__(self, content: bytes | mmap.mmap, longest: int):
        self._content, self._longest, self.position = content, longest, 0

    def read(self, size: int) -> bytes:
        if size > self._longest:
            raise ValueError(f"it holds a value of {size} bytes that is no byte string")
        part = self._content[self.position : self.position + size]
        self.position += len(part)
        return part

    def readline(self) -> bytes:
        end = self._content.find(b"\n", self.position, self.position + 4096)
        if end < 0:
            raise ValueError("it has a line that does not end")
        return self.read(end + 1 - self.position)


def load_outline(
    content: bytes | mmap.mmap, encoding: str = "ASCII", *, instructions: int, longest: int
) -> Any:
    """As `loads`, but byte strings of LONG bytes and more are left where they are.

    They come as `LongBytes`, and arrays of them as `Array`s with `left`; of a mapped file they are
    not even read.

    Args:
      instructions: the most that the pickle may have, which bounds the values that it makes.
      longest: the most bytes of any other value.
    """
    cursor, outline, left = _Cursor(content, longest), bytearray(), []
    for count in range(instructions):
        start = cursor.position
        code = cursor.read(1).decode("latin1")
        opcode = pickletools.code2op.get(code)
        if opcode is None or opcode.name not in ALLOWED_OPCODES:
            raise pickle.UnpicklingError(
                f"it holds the instruction {opcode.name}" if opcode else "it ends early"
            )
        long = _long_bytes(content, start + 1, _LENGTHS.get(opcode.name))
        if long:
            # Pickles refer to what is kept outside by BINPERSID, which files may not hold.
            outline += b"J" + struct.pack("<i", len(left)) + b"Q"
            left.append(long)
            cursor.position = long.offset + long.size
            continue
        argument = opcode.arg.reader(cursor) if opcode.arg else None  # type: ignore[arg-type]
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > count:
            raise pickle.UnpicklingError(f"it numbers a value {argument}")
        if opcode.name != "FRAME":  # It counts the bytes that were just left out.
            outline += content[start : cursor.position]
        if opcode.name == "STOP":
            return _Unpickler(bytes(outline), encoding, len(content), left).load()
    raise pickle.UnpicklingError(f"it has more than {instructions} instructions")


def _long_bytes(
    content: bytes | mmap.mmap, position: int, length_format: str | None
) -> LongBytes | None:
    if length_format is None:
        return None
    begin = position + struct.calcsize(length_format)
    if begin > len(content):
        raise pickle.UnpicklingError("it ends early")
    (size,) = struct.unpack(length_format, content[position:begin])
    if size < LONG:
        return None
    if begin + size > len(content):
        raise pickle.UnpicklingError(f"it ends early, in a string of {size} bytes")
    return LongBytes(begin, size)
