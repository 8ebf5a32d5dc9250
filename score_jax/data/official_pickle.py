"""Reads the pickles of CIFAR-10's Python files without running anything that they name.

Python's unpickler calls whatever a file asks for. Here the five names that NumPy arrays need are
bound to small stand-ins of our own, every other name is refused, and the opcodes are checked
before the first of them runs, so that a forged file ends in an error and not in code or in
memory that it asked for.
"""

import io
import pickle
import pickletools
from typing import Any

import numpy as np

from score_jax.types import UserError

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


class _Array:
    """What `numpy._reconstruct` makes: filled by `__setstate__`, then turned into an array."""

    __slots__ = ("array",)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise ValueError("an array without plain bytes as its content")
        values = np.frombuffer(content, np.uint8)
        self.array = values.reshape(shape, order="F" if column_major else "C")


class _Dtype:
    """What `numpy.dtype` makes: only uint8 is let through."""

    __slots__ = ()

    def __init__(self, name: Any, align: Any = 0, copy: Any = 0):
        name = name.decode("latin1") if isinstance(name, bytes) else name
        if name != "u1":
            raise ValueError(f"values of type {name!r} where uint8 ('u1') was expected")

    def __setstate__(self, state: Any) -> None:
        """Byte order and flags say nothing about uint8."""


class _Reconstruct:
    """`numpy._reconstruct`; an instance without a `__dict__`, so that no file can alter it."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, typecode: Any) -> _Array:
        if kind != NDARRAY or shape != (0,):
            raise ValueError("an array that is not made in NumPy's way")
        return _Array()


class _Encode:
    """`_codecs.encode`, as Python 3 writes bytes into old pickles: only from latin1."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        return text.encode("latin1")


NDARRAY = "numpy.ndarray"  # Mentioned as an argument, never called.
KNOWN_NAMES = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("_codecs", "encode"): _Encode(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN_NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return KNOWN_NAMES[module, name]


def _check_opcodes(content: bytes) -> None:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in ALLOWED_OPCODES:
            raise pickle.UnpicklingError(f"it holds the instruction {opcode.name}")
        # The unpickler's memo is as long as the largest index, whatever the file holds.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > count:
            raise pickle.UnpicklingError(f"it numbers a value {argument}")


def load_batch(content: bytes, where: str) -> tuple[np.ndarray, list[Any]]:
    """The `data` array (uint8, shape as written) and the `labels` list of one batch file.

    Raises:
      UserError: the file is not a pickle of one CIFAR-10 batch, or names anything beyond that.
    """
    remedy = "take data_batch_1..5 and test_batch from the official cifar-10-python.tar.gz"
    try:
        _check_opcodes(content)
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        named = {
            key.decode("ascii") if isinstance(key, bytes) else key: value
            for key, value in batch.items()
        }
        data, labels = named["data"], named["labels"]
        if not isinstance(data, _Array) or not isinstance(labels, list):
            raise ValueError("its 'data' is not an array or its 'labels' is not a list")
        return data.array, labels
    except KeyError as error:
        raise UserError(f"{where} has no entry {error}; {remedy}") from None
    except (MemoryError, RecursionError):
        raise UserError(f"{where} asks for more memory than its size allows; {remedy}") from None
    except Exception as error:  # The unpickler raises almost any type on damaged input.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where} is not a CIFAR-10 batch: {reason[:200]}; {remedy}") from None
